"""The sink of BigQuery: Beam's own sink runs, over a dataset and a Cloud Storage in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from bigqueries import StandIn, stand_in
from google.auth.exceptions import DefaultCredentialsError
from memory_files import MemoryFileSystem
from night_files import LISTS, night_files
from nights import night, write_job

from pipelines.config.jobs import JobError
from pipelines.config.sink_settings import BigQuerySettings
from pipelines.night.errors import StageError
from pipelines.night.night import Night
from pipelines.night.sink_protocol import NightFiles
from pipelines.serving import publication
from pipelines.sinks import bigquery_sink
from pipelines.sinks.bigquery_sink import BigQuerySink
from transforms.sinks import SinkError

pytestmark = pytest.mark.usefixtures("without_plots")

PLACE = '[storage.bigquery]\nproject = "my-project"\ndataset = "recs"\ntable = "lists"\n'
TEMP = 'temp = "gs://bucket/temp"\n'


@pytest.fixture
def bigquery(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return stand_in(monkeypatch)


def sink_of(folder: Path, more: str = TEMP, flags: tuple[str, ...] = ()) -> BigQuerySink:
    of = night(write_job(folder, 'watches = "w"', PLACE + more))
    assert of.job.storage.bigquery is not None
    return BigQuerySink(Night(of.job, of.date, flags=flags), of.job.storage.bigquery)


def switched(sink: BigQuerySink, dataset: StandIn, files: NightFiles) -> str:
    """The version of a night whose tables are there, without a pipeline's time, and that is switched to."""
    version = sink.version(files)
    dataset.tables[f"lists_{version}"] = pl.concat(map(pl.read_parquet, files.lists)).to_dicts()
    if sink.settings.videos:
        dataset.tables[f"lists_{version}_videos"] = [{"video_id": "v1", "vector": [1.0]}]
    sink.switch(version)
    return version


def video_vectors(sink: BigQuerySink) -> None:
    """The video vectors of the night's model, with the columns that stay at home."""
    folder = Path(sink.night.folder("train"))
    folder.mkdir(parents=True)
    rows = pl.DataFrame({"id": [1, 2], "video_id": ["v1", "v2"], "label_count": [5, 3], "vector": [[1.5, 2], [0, 1]]})
    rows.write_parquet(folder / "video_vectors.parquet", row_group_size=1)


def by_key(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    return sorted(rows, key=lambda row: (str(row["user_id"]), str(row["country"])))


WANTED: list[dict[str, Any]] = [
    {"user_id": None, "country": None, "video_ids": ["v9"], "scores": [1.0], "expected_seconds": [], "vector": []},
    {
        "user_id": None,
        "country": "SE",
        "video_ids": ["v8", "v9"],
        "scores": [2.0, 1.0],
        "expected_seconds": [],
        "vector": [],
    },
    {
        "user_id": "ann",
        "country": None,
        "video_ids": ["v1", "v2"],
        "scores": [2.0, 1.0],
        "expected_seconds": [],
        "vector": [],
    },
    {"user_id": "bob", "country": None, "video_ids": [], "scores": [], "expected_seconds": [], "vector": []},
    {
        "user_id": "用户",
        "country": None,
        "video_ids": ["v3"],
        "scores": [0.5],
        "expected_seconds": [],
        "vector": [0.25, 1.0],
    },
]


def test_a_night_is_loaded_and_only_then_switched_to(bigquery: StandIn, tmp_path: Path) -> None:
    sink, files = sink_of(tmp_path, f"{TEMP}vectors = true\nvideos = true\n"), night_files(tmp_path)
    video_vectors(sink)
    sink.ready()
    version = sink.version(files)
    assert version.startswith("20261121_") and len(version) == 17
    assert sink.load(files) == {"version": version, "users": 3, "rows": 7}
    assert by_key(bigquery.tables[f"lists_{version}"]) == WANTED
    videos = [{"video_id": "v1", "vector": [1.5, 2.0]}, {"video_id": "v2", "vector": [0.0, 1.0]}]
    assert sorted(bigquery.tables[f"lists_{version}_videos"], key=str) == sorted(videos, key=str)
    assert bigquery.views == {} and sink.served() is None
    sink.switch(version)
    assert by_key(bigquery.view("lists")) == [{"night": "2026-11-21", "version": version, **row} for row in WANTED]
    assert [row["version"] for row in bigquery.view("lists_videos")] == [version] * 2
    assert [statement.split(" AS ")[0] for statement in bigquery.statements] == [
        "CREATE OR REPLACE VIEW `my-project.recs.lists_videos`",
        "CREATE OR REPLACE VIEW `my-project.recs.lists`",
    ]
    assert MemoryFileSystem.content == {} and sink.served() == version


def test_files_are_loaded_from_a_folder_of_the_version_s_own(bigquery: StandIn, tmp_path: Path) -> None:
    sink = sink_of(tmp_path, "", ("--temp_location=gs://other/place",))
    version = str(sink.load(night_files(tmp_path))["version"])
    (load,) = bigquery.loads
    assert all(path.startswith(f"gs://other/place/watchnext-lists_{version}/bq_load/") for path in load["files"])
    assert (load["write_disposition"], load["create_disposition"]) == ("WRITE_TRUNCATE", "CREATE_IF_NEEDED")
    assert (load["source_format"], load["additional_load_parameters"]["clustering"]) == (
        "AVRO",
        {"fields": ["user_id"]},
    )


def test_what_is_loaded_is_not_loaded_again_and_half_of_it_is_replaced(bigquery: StandIn, tmp_path: Path) -> None:
    sink, files = sink_of(tmp_path), night_files(tmp_path)
    version = sink.load(files)["version"]
    sink.load(files)
    assert len(bigquery.loads) == 1
    del bigquery.tables[f"lists_{version}"][1:]
    sink.load(files)
    assert len(bigquery.loads) == 2 and len(bigquery.tables[f"lists_{version}"]) == 5


def test_the_night_before_stays_and_older_tables_are_dropped(bigquery: StandIn, tmp_path: Path) -> None:
    sink = sink_of(tmp_path)
    bigquery.tables |= {"lists_2026": [], "other_20261101_00000000": [], "lists_20261101_00000000_videos": []}
    first, second, third = (
        switched(sink, bigquery, night_files(tmp_path, f"2026-11-{day}", lists))
        for day, lists in ((19, LISTS), (20, LISTS), (21, LISTS[1:]))
    )
    sink.settle({second, third})
    assert first not in (second, third)
    kept = {f"lists_{second}", f"lists_{third}", "lists_2026", "other_20261101_00000000"}
    assert set(bigquery.tables) == kept
    assert {row["user_id"] for row in bigquery.view("lists")} == {"bob", "用户"}
    sink.switch(second)
    assert {row["user_id"] for row in bigquery.view("lists")} == {"ann", "bob", "用户"}
    assert bigquery.view("lists")[0]["night"] == "2026-11-20"


def test_a_switch_is_undone_and_what_was_loaded_for_it_is_dropped(bigquery: StandIn, tmp_path: Path) -> None:
    sink = sink_of(tmp_path)
    before, after = (
        switched(sink, bigquery, night_files(tmp_path, "2026-11-20")),
        switched(sink, bigquery, night_files(tmp_path)),
    )
    sink.drop(after)
    assert f"lists_{after}" in bigquery.tables  # the view is over it
    sink.switch(before)
    sink.drop(after)
    sink.drop("20260101_00000000")
    assert set(bigquery.tables) == {f"lists_{before}"} and sink.served() == before
    sink.switch(None)
    assert bigquery.views == {} and sink.served() is None
    sink.settle(set())
    assert bigquery.tables == {}


def test_a_version_that_is_not_there_is_not_switched_to(bigquery: StandIn, tmp_path: Path) -> None:
    sink = sink_of(tmp_path)
    version = switched(sink, bigquery, night_files(tmp_path))
    with pytest.raises(SinkError, match=r"^BigQuery my-project.recs: 404 Not found: Table .*lists_20260101_00000000$"):
        sink.switch("20260101_00000000")
    assert sink.served() == version


def test_a_night_without_video_vectors_takes_their_view_away(bigquery: StandIn, tmp_path: Path) -> None:
    with_videos = sink_of(tmp_path, f"{TEMP}videos = true\n")
    switched(with_videos, bigquery, night_files(tmp_path, "2026-11-20"))
    assert set(bigquery.views) == {"lists", "lists_videos"}
    switched(sink_of(tmp_path), bigquery, night_files(tmp_path))
    assert set(bigquery.views) == {"lists"}


def test_users_are_forgotten_in_all_tables(bigquery: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bigquery_sink, "USERS_A_STATEMENT", 2)
    sink = sink_of(tmp_path)
    versions = [switched(sink, bigquery, night_files(tmp_path, f"2026-11-{day}")) for day in (20, 21)]
    bigquery.statements.clear()
    sink.forget(pl.Series(["ann", "never seen", "用户"]))
    assert len(bigquery.statements) == 4
    for version in versions:
        assert [row["user_id"] for row in bigquery.tables[f"lists_{version}"]] == ["bob"]


def test_a_version_is_of_the_files_and_of_what_of_them_is_loaded(tmp_path: Path) -> None:
    files = night_files(tmp_path)
    texts = ("", "vectors = true\n", "videos = true\n", TEMP)
    plain, vectors, videos, temp = (sink_of(tmp_path, more).version(files) for more in texts)
    assert len({plain, vectors, videos}) == 3 and plain == temp
    assert sink_of(tmp_path).version(replace(files, attempt="bb")) != plain


def test_without_a_folder_on_cloud_storage_the_setting_is_named(bigquery: StandIn, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"a folder on Cloud Storage for load files, but the folder is None"):
        sink_of(tmp_path, "").ready()
    with pytest.raises(StageError, match=r"but the folder is '/tmp/here': set storage.bigquery.temp"):
        sink_of(tmp_path, 'temp = "/tmp/here"\n').ready()
    sink_of(tmp_path, "", ("--temp_location=gs://other/place",)).ready()


def test_a_refusal_of_bigquery_is_an_error(bigquery: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = replace(sink_of(tmp_path), settings=sink_of(tmp_path).settings.model_copy(update={"dataset": "none"}))
    with pytest.raises(SinkError, match=r"^BigQuery my-project.none: 404 Not found: Dataset my-project.none$"):
        elsewhere.ready()
    sink, files = sink_of(tmp_path), night_files(tmp_path)
    bigquery.failing = "quota exceeded"
    with pytest.raises(SinkError, match=r"^BigQuery my-project.recs: quota exceeded"):
        sink.load(files)
    assert MemoryFileSystem.content == {}
    bigquery.failing, bigquery.lost = None, 1
    bigquery.tables.clear()
    with pytest.raises(SinkError, match=r": lists_20261121_\w+ has 4 rows after the load, but 5 were expected$"):
        sink.load(files)
    bigquery.tables["lists"] = []
    with pytest.raises(SinkError, match=r"^BigQuery my-project.recs: 400 lists is not allowed .* currently a TABLE"):
        sink.switch(sink.version(files))

    def refuse(project: str) -> None:
        raise DefaultCredentialsError("none were found")

    monkeypatch.setattr("google.cloud.bigquery.Client", refuse)
    with pytest.raises(SinkError, match=r"no credentials \(none were found\): set GOOGLE_APPLICATION_CREDENTIALS or"):
        sink_of(tmp_path).ready()


def test_the_settings_have_defaults_and_rules(tmp_path: Path) -> None:
    of = night(write_job(tmp_path, 'watches = "w"', '[storage.bigquery]\nproject = "p"\ndataset = "d"\n'))
    assert of.job.storage.bigquery == BigQuerySettings(project="p", dataset="d")
    for more, message in (
        (
            '[storage.bigquery]\nproject = "p`"\ndataset = "d"\n',
            r"storage.bigquery.project = 'p`': String should match",
        ),
        ('[storage.bigquery]\nproject = "p"\ndataset = "d.t"\n', r"storage.bigquery.dataset = 'd.t': String should"),
        (f'{PLACE}tabel = "x"\n', r"unknown setting storage.bigquery.tabel; did you mean storage.bigquery.table\?"),
        ('[storage.bigquery]\nproject = "p"\n', r"storage.bigquery.dataset is missing and has no default"),
    ):
        with pytest.raises(JobError, match=message):
            night(write_job(tmp_path, 'watches = "w"', more))


def test_a_job_that_names_it_has_it_among_its_sinks(tmp_path: Path) -> None:
    sink = sink_of(tmp_path)
    assert publication.configured_sinks(sink.night) == [sink]
