"""docs/job.md from the classes of `jobs`: python -m pipelines.job_reference > docs/job.md"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipelines.jobs import Job

HEAD = """\
# JOB.toml

Every setting with its type and default; `make docs` writes this page from the classes in `pipelines/jobs.py` and
`trainer/config.py`. An unknown setting is an error that names the nearest known one. Paths may be relative to the job
file's own folder, or lie on any file system Beam knows.
"""


def reference() -> str:
    """The page, in the order of the job file's tables."""
    return "\n".join([HEAD, *(line for name, table in Job.model_fields.items() for line in _table(name, table))])


def _table(name: str, table: FieldInfo) -> Iterator[str]:
    kind = table.annotation
    assert isinstance(kind, type) and issubclass(kind, BaseModel)
    summary = (kind.__doc__ or "").split(": ", 1)[-1].strip().replace("\n", " ")
    yield from (f"## [{name}]", "", summary[:1].upper() + summary[1:], "")
    yield from ("| setting | default | what |", "|---|---|---|")
    for setting, field in kind.model_fields.items():
        yield f"| `{setting}` | {_default(field)} | {field.description} |"
    yield ""


def _default(field: FieldInfo) -> str:
    value: Any = field.default
    if field.is_required():
        return "must be given"
    return "none" if value is None else f"`{json.dumps(value)}`"


if __name__ == "__main__":
    print(reference(), end="")
