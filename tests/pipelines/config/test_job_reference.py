"""docs/job.md says what the config classes say."""

from __future__ import annotations

from nights import REPOSITORY
from pydantic import BaseModel

from pipelines.config.job_reference import reference
from pipelines.config.jobs import Job


def test_the_page_is_up_to_date() -> None:
    page = REPOSITORY / "docs" / "job.md"
    assert page.read_text(encoding="utf-8") == reference(), "docs/job.md is stale: make docs"


def test_every_setting_is_described() -> None:
    for name, table in Job.model_fields.items():
        assert isinstance(table.annotation, type) and issubclass(table.annotation, BaseModel)
        for setting, field in table.annotation.model_fields.items():
            assert field.description, f"{name}.{setting} has no description"
