from __future__ import annotations

from pathlib import Path

from nights import commit, night, write_job

from pipelines.reports.report import auto_settings


def test_settings_that_were_auto_are_those_of_the_model_and_of_earlier_stages(tmp_path: Path) -> None:
    of = night(write_job(tmp_path, 'watches = "w.parquet"'))
    info = {"model": {"history": "recency", "loss": "nce"}, "training": {"epochs": 3}, "auto": {"history": "by order"}}
    assert auto_settings(of, info) == {"history": "recency (by order)"}
    commit(of, "vocabulary", counts={"auto": {"holdout_users": "0.5 (few users)"}, "cover": {}})
    commit(of, "examples", counts={"auto": {"per_user": "0 (few watches)"}})
    assert auto_settings(of, info) == {
        "history": "recency (by order)",
        "holdout_users": "0.5 (few users)",
        "per_user": "0 (few watches)",
    }
