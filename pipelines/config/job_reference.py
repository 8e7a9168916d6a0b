"""Generate docs/job.md from the classes of `jobs`: python -m pipelines.config.job_reference > docs/job.md"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic.fields import FieldInfo

from pipelines.config.jobs import Job, table_of
from trainer.config import accepts_auto

HEAD = """\
# JOB.toml

All settings with their defaults. `make docs` generates this page from the classes in `pipelines/config/jobs.py` and
`trainer/config.py`. An unknown setting is an error, which names the nearest known setting. Paths may be relative to the
folder of the job file, or on any file system that Beam supports.
"""


def reference() -> str:
    """Return the page, with the tables in the order of the job file."""
    return "\n".join([HEAD, *(line for name, table in Job.model_fields.items() for line in _table(name, table))])


def _table(name: str, table: FieldInfo) -> Iterator[str]:
    kind = table_of(table)
    assert kind is not None
    summary = " ".join((kind.__doc__ or "").split(": ", 1)[-1].split())
    yield from (f"## [{name}]", "", summary[:1].upper() + summary[1:], "")
    if automatic := [f"`{setting}`" for setting, field in kind.model_fields.items() if accepts_auto(field)]:
        rules = "[follow from the logs](operations.md#settings-that-follow-from-the-logs)"
        yield from (f'These settings {rules} if they are `"auto"`: {", ".join(automatic)}.', "")
    yield from ("| setting | default | meaning |", "|---|---|---|")
    tables = {setting: field for setting, field in kind.model_fields.items() if table_of(field)}
    for setting, field in kind.model_fields.items():
        if setting not in tables:
            yield f"| `{setting}` | {_default(field)} | {field.description} |"
    yield ""
    for setting, field in tables.items():
        yield from _table(f"{name}.{setting}", field)


def _default(field: FieldInfo) -> str:
    value: Any = field.default
    if field.is_required():
        return "required"
    return "none" if value is None else f"`{json.dumps(value)}`"


if __name__ == "__main__":
    print(reference(), end="")
