"""Read and validate JOB.toml. The tables are in settings.py.

Relative paths in a job file are resolved against the folder of the job file.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError, model_validator
from pydantic.fields import FieldInfo

from pipelines.base import raw_files
from pipelines.base.paths import Root, escape_pattern, join, resolve
from pipelines.config.gate_settings import Gates
from pipelines.config.settings import (
    COLUMNS,
    NAMES,
    TABLES,
    Examples,
    Index,
    Logs,
    Neighbours,
    NotifySettings,
    Privacy,
    Ranking,
    Storage,
    Table,
)
from pipelines.config.sink_settings import SECRET
from trainer.config import ModelTable, TrainingTable
from transforms.logs.schemas import BIGQUERY_PREFIX


class JobError(ValueError):
    """A mistake in a job file. The message names the setting, its value and the rule."""


class OptionError(ValueError):
    """An unknown Beam option, or a runner config that cannot be read."""


class Job(Table):
    """A whole job file."""

    logs: Logs
    examples: Examples = Examples()
    model: ModelTable = ModelTable()
    training: TrainingTable = TrainingTable()
    index: Index = Index()
    neighbours: Neighbours = Neighbours()
    ranking: Ranking = Ranking()
    gates: Gates = Gates()
    storage: Storage = Storage()
    privacy: Privacy = Privacy()
    notify: NotifySettings = NotifySettings()

    @model_validator(mode="after")
    def _has_a_catalogue_if_needed(self) -> Job:
        share = self.neighbours.max_share_per_channel
        if self.index.only is not None and not self.logs.videos:
            raise ValueError(f"index.only = {self.index.only!r} needs a catalogue: set logs.videos")
        if share < 1 and not self.logs.videos:
            raise ValueError(
                f"neighbours.max_share_per_channel = {share:g} needs the channels in the catalogue: set logs.videos"
            )
        return self

    @model_validator(mode="after")
    def _kept_days_suffice(self) -> Job:
        kept, excluded = self.storage.keep_days, self.neighbours.exclude_days or 0
        needed = self.examples.window_days + self.examples.holdout_days
        if 0 < kept < needed:
            raise ValueError(
                f"storage.keep_days must be 0 (all days) or at least window_days + holdout_days ({needed}), but is "
                f"{kept}"
            )
        if 0 < kept < excluded:
            raise ValueError(
                f"neighbours.exclude_days = {excluded} exceeds storage.keep_days ({kept}): use a lower value, or 0 for "
                "all days that are kept"
            )
        return self

    @model_validator(mode="after")
    def _columns_are_not_shared(self) -> Job:
        """Two of our columns may be read from one column of a table only if one of them is an identifier or a label: a
        page, for example, may be identified by its time."""
        for table in TABLES:
            if getattr(self.logs, table) is None:
                continue
            renamed, readers = self.logs.renamed(table), dict[str, list[str]]()
            for name in COLUMNS[table]:
                if name not in NAMES:
                    readers.setdefault(renamed.get(name, name), []).append(name)
            for theirs, names in readers.items():
                if len(names) > 1:
                    raise ValueError(
                        f"logs.columns: {' and '.join(names)} of {table} are read from the same column, {theirs!r}: "
                        "name another column for one of them, or a name that does not occur if the logs have no such "
                        "column"
                    )
        return self

    @model_validator(mode="after")
    def _columns_are_known(self) -> Job:
        users = (*COLUMNS["users"], *self.examples.user_categories)
        known = COLUMNS | {"users": users, "forget": ("user_id",)}
        every = [name for names in known.values() for name in names]
        uses = [(ours, every, "") for ours, theirs in self.logs.columns.items() if isinstance(theirs, str)]
        for table, names in self.logs.columns.items():
            uses += [(ours, list(known[table]), f"{table}.") for ours in (names if isinstance(names, dict) else ())]
        for ours, allowed, table in uses:
            if ours not in allowed:
                nearest = difflib.get_close_matches(ours, allowed, 1, cutoff=0)[0]
                setting = f"logs.columns.{table}"
                raise ValueError(f"unknown setting {setting}{ours}; did you mean {setting}{nearest}?")
        return self


def load_job(path: str) -> Job:
    """Read a job file. Raises JobError, which names the file, the setting, its value and the rule."""
    file = Path(path)
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8-sig"))  # Notepad and PowerShell write a byte order mark
    except FileNotFoundError as error:
        raise JobError(f"{path}: no such job file") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise JobError(f"{path}: cannot be read as TOML: {error}") from error
    try:
        job = _absolute(Job.model_validate(content), str(file.resolve().parent))
    except ValidationError as error:
        lines = [f"{path}: {_explain(problem)}" for problem in error.errors()]
        raise JobError("\n".join(lines)) from error
    try:
        overlap = _root_in_logs(job)
    except ValueError as error:  # Beam has no such file system, or its package is not installed
        raise JobError(f"{path}: storage.root = {job.storage.root!r}, or a path of [logs]: {error}") from error
    if overlap:
        raise JobError(f"{path}: {overlap}")
    return job


def _root_in_logs(job: Job) -> str:
    """Return how the storage root and the logs overlap; empty if they do not."""
    root = Root(job.storage.root)
    written = (root.published, join(root.snapshots, "1.json"), join(root.store, "watches/2000-01-01/1.parquet"))
    logs = [(f"logs.{table}", getattr(job.logs, table)) for table in TABLES]
    for setting, pattern in [*logs, ("privacy.forget", job.privacy.forget)]:
        if pattern is None or pattern.startswith(BIGQUERY_PREFIX):
            continue
        if any(raw_files.would_read(pattern, path) for path in written):
            return (
                f"storage.root = {job.storage.root!r} lies within {setting}, so a night would read its own files as "
                "logs: use another folder as the root, or a folder that contains only logs"
            )
        if any(raw_files.lies_within(pattern, folder) for folder in (root.store, root.nights)):
            return (
                f"{setting} lies within storage.root = {job.storage.root!r}, where nights write and remove files: move "
                "the logs to another folder"
            )
    return ""


def _absolute(job: Job, folder: str) -> Job:
    """Return the job with the paths of its logs and its root resolved against the folder of the job file."""
    logs = {name: resolve(escape_pattern(folder), path) for name in TABLES if (path := getattr(job.logs, name))}
    update: dict[str, Table] = {"logs": job.logs.model_copy(update=logs)}
    redis = job.storage.redis
    if redis and redis.ca_file:
        redis = redis.model_copy(update={"ca_file": resolve(folder, redis.ca_file)})
    update["storage"] = job.storage.model_copy(update={"root": resolve(folder, job.storage.root), "redis": redis})
    if job.privacy.forget:
        forget = resolve(escape_pattern(folder), job.privacy.forget)
        update["privacy"] = job.privacy.model_copy(update={"forget": forget})
    return job.model_copy(update=update)


def _explain(problem: Any) -> str:
    """Return one validation error of pydantic as one sentence."""
    location = [str(part) for part in problem["loc"]]
    name = ".".join(location)
    if problem["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(location[-1], _known(location[:-1]), 1, cutoff=0)
        suggestion = f"; did you mean {'.'.join([*location[:-1], nearest[0]])}?" if nearest else ""
        return f"unknown setting {name}{suggestion}"
    if problem["type"] == "missing":
        return f"{name} is missing and has no default"
    if problem["type"] == SECRET:
        return f"{name} {problem['msg']}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{name} = {problem['input']!r}: {message}" if name else message


def _known(tables: list[str]) -> list[str]:
    """Return the names of the settings of one table of the job file."""
    kind: type[BaseModel] = Job
    for table in tables:
        kind = table_of(kind.model_fields[table]) or kind
    return list(kind.model_fields)


def table_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the class of a setting that is a table, optional or not; None for other settings."""
    kinds = get_args(field.annotation) or (field.annotation,)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
