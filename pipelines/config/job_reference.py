"""docs/job.md from the classes of `jobs`: python -m pipelines.config.job_reference > docs/job.md"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic.fields import FieldInfo

from pipelines.config.jobs import Job, table_of

HEAD = """\
# JOB.toml

Every setting with its type and default; `make docs` writes this page from the classes in `pipelines/config/jobs.py` and
`trainer/config.py`. An unknown setting is an error that names the nearest known one. Paths may be relative to the job
file's own folder, or lie on any file system Beam knows.
"""


def reference() -> str:
    """The page, in the order of the job file's tables."""
    return "\n".join([HEAD, *(line for name, table in Job.model_fields.items() for line in _table(name, table))])


def _table(name: str, table: FieldInfo) -> Iterator[str]:
    kind = table_of(table)
    assert kind is not None
    summary = (kind.__doc__ or "").split(": ", 1)[-1].strip().replace("\n", " ")
    yield from (f"## [{name}]", "", summary[:1].upper() + summary[1:], "")
    yield from ("| setting | default | what |", "|---|---|---|")
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
        return "must be given"
    return "none" if value is None else f"`{json.dumps(value)}`"


if __name__ == "__main__":
    print(reference(), end="")
