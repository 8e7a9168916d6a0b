"""JOB.toml: every setting, its default, its meaning, and the errors a mistake in the file gets.

A setting lives in the table of the stage that uses it. Paths may be relative to the job file's own folder.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from pipelines.paths import below
from trainer.config import ModelSettings, TrainingSettings
from transforms import schemas


class JobError(ValueError):
    """A mistake in a job file: which setting, its value, the rule."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


TABLES = ("watches", "searches", "videos", "users", "impressions")
_COLUMNS = {
    table.name: (*table.required, *table.optional)
    for table in (schemas.WATCHES, schemas.SEARCHES, schemas.VIDEOS, schemas.USERS)
} | {"impressions": ("user_id", "video_id", "time", "page_id", "clicked", "watch_seconds")}


class Logs(_Table):
    """The `[logs]` table: where the logs are and when a watch counts as completed (stage ingest)."""

    watches: str = Field(
        description="watch events: a file, a folder or a glob; `{date}` where paths have one; on Dataflow also "
        "`bigquery:project.dataset.table`"
    )
    searches: str | None = Field(None, description="search events")
    videos: str | None = Field(None, description="the catalogue")
    users: str | None = Field(None, description="what is known of users")
    impressions: str | None = Field(None, description="shown videos, for ranking")
    completed_fraction: float = Field(
        0.5, gt=0, le=1, description="share of the video's seconds that completes a watch"
    )
    completed_seconds: PositiveFloat = Field(30, description="the same where the video's length is not known")
    max_reject_fraction: float = Field(
        0.001, ge=0, le=1, description="share of refused rows above which the night fails"
    )
    allow_missing_days: bool = Field(
        False, description="whether a day without a file, of paths with `{date}`, is a day without events, not an error"
    )
    time_zone: str = Field("UTC", description="where days begin, and of times without an offset")
    batch_bytes: PositiveInt = Field(
        256_000_000,
        description="raw bytes ingested at a time, whole files: on one machine about 12 times as much memory is used",
    )
    columns: dict[str, str | dict[str, str]] = Field(
        {},
        description="our column name -> yours, for all tables; or a table of those for one: `[logs.columns.watches]`",
    )

    def renamed(self, table: str) -> dict[str, str]:
        """Our column names -> those in the files of one log table, where they differ."""
        general = {ours: theirs for ours, theirs in self.columns.items() if isinstance(theirs, str)}
        special = self.columns.get(table, {})
        return general | (special if isinstance(special, dict) else {})

    @field_validator("columns")
    @classmethod
    def _tables_are_known(cls, columns: dict[str, str | dict[str, str]]) -> dict[str, str | dict[str, str]]:
        for name, value in columns.items():
            if isinstance(value, dict) and name not in TABLES:
                raise ValueError(f"{name} is no log table; they are {', '.join(TABLES)}")
        return columns

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ValueError, KeyError, OSError) as error:
            raise ValueError(f"{name!r} is no IANA time zone such as UTC or Europe/Berlin") from error
        return name


class Examples(_Table):
    """The `[examples]` table: the window, the vocabularies, and which examples are drawn (stages vocabulary,
    examples)."""

    window_days: PositiveInt = Field(28, description="days before DATE whose events are used")
    watch_vocabulary: PositiveInt = Field(1_000_000, description="most completed videos that get an embedding")
    search_vocabulary: PositiveInt = Field(1_000_000, description="most frequent search tokens that get an embedding")
    watch_history: PositiveInt = Field(50, description="most recent completed watches in the input")
    search_history: PositiveInt = Field(50, description="most recent search tokens in the input")
    per_user: int = Field(20, ge=0, description="training examples a user; 0: all")
    max_sequence: PositiveInt = Field(1_000, description="events of a user that a record holds, the last ones")
    holdout_days: int = Field(1, ge=0, description="the last days before DATE, held out; 0: none")
    holdout_users: float = Field(0.05, gt=0, le=1, description="share of users held out in those days; 1.0: all")
    user_categories: list[str] = Field([], description="further columns of the users table to embed")
    seed: int = Field(1, ge=0, description="of the draw of examples and of held-out users")
    withhold_last_search: bool = Field(
        True, description="whether the searches that led to a training label are kept out of its input"
    )
    long_tail: Literal["zero", "hash"] = Field(
        "zero",
        description="videos out of vocabulary in the watch history: `zero` leaves them out of its summary; `hash` "
        "gives them rows that several share",
    )
    long_tail_rows: PositiveInt = Field(10_000, description="how many rows they share, with `hash`")
    max_events_per_day: int = Field(
        1_000,
        ge=0,
        description="watches and searches of a user and UTC day above which none of them counts; 0: no limit",
    )

    @model_validator(mode="after")
    def _sequence_holds_an_input(self) -> Examples:
        longest = max(self.watch_history, self.search_history)
        if self.max_sequence < longest:
            raise ValueError(
                f"max_sequence must be at least watch_history and search_history ({longest}), or a record could not "
                f"hold the input of any label, but is {self.max_sequence}"
            )
        return self

    @model_validator(mode="after")
    def _holdout_fits(self) -> Examples:
        if self.holdout_days >= self.window_days:
            raise ValueError(f"holdout_days must be below window_days ({self.window_days}), but is {self.holdout_days}")
        return self


class Index(_Table):
    """The `[index]` table: nearest-neighbour search (stage index)."""

    recall: float = Field(0.95, gt=0, lt=1, description="recall@k against exact search that the index is tuned to")


class Neighbours(_Table):
    """The `[neighbours]` table: what each user's list holds (stage neighbours)."""

    k: PositiveInt = Field(200, description="videos a user")
    exclude: Literal["completed", "watched", "none"] = Field("completed", description="what of the window is left out")
    similar: int = Field(20, ge=0, description="nearest videos kept of each video; 0: none")


class Storage(_Table):
    """The `[storage]` table: where everything is kept."""

    root: str = Field("runs", description="folder of the store and the nights, on any Beam file system")
    buckets: int = Field(
        0, ge=0, le=4096, description="user buckets of a new store, a power of two; 0: by its first data"
    )
    keep_days: int = Field(0, ge=0, description="days before DATE whose events stay in the store; 0: all days")

    @field_validator("buckets")
    @classmethod
    def _power_of_two(cls, buckets: int) -> int:
        if buckets and (buckets < 8 or buckets & (buckets - 1)):
            raise ValueError("buckets must be 0 or a power of two from 8 to 4096")
        return buckets


class Privacy(_Table):
    """The `[privacy]` table: who is to be forgotten, and under which names users are kept (stage ingest)."""

    forget: str | None = Field(
        None, description="a table with the `user_id`s, as in the logs, that are removed from all that is kept"
    )
    pseudonym_key_env: str | None = Field(
        None,
        description="environment variable with the key of the digests that user ids are replaced by; none: ids stay",
    )


class Job(_Table):
    """A whole job file."""

    logs: Logs
    examples: Examples = Examples()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    index: Index = Index()
    neighbours: Neighbours = Neighbours()
    storage: Storage = Storage()
    privacy: Privacy = Privacy()

    @model_validator(mode="after")
    def _kept_days_hold_the_window(self) -> Job:
        needed = self.examples.window_days + self.examples.holdout_days
        if 0 < self.storage.keep_days < needed:
            raise ValueError(
                f"storage.keep_days must be 0 (all days) or at least window_days + holdout_days ({needed}), but is "
                f"{self.storage.keep_days}"
            )
        return self

    @model_validator(mode="after")
    def _columns_are_known(self) -> Job:
        known = _COLUMNS | {"users": (*_COLUMNS["users"], *self.examples.user_categories)}
        every = [name for names in known.values() for name in names]
        given = [(ours, every, "") for ours, theirs in self.logs.columns.items() if isinstance(theirs, str)]
        for table, names in self.logs.columns.items():
            given += [(ours, list(known[table]), f"{table}.") for ours in (names if isinstance(names, dict) else ())]
        for ours, there, table in given:
            if ours not in there:
                nearest = difflib.get_close_matches(ours, there, 1, cutoff=0)[0]
                setting = f"logs.columns.{table}"
                raise ValueError(f"unknown setting {setting}{ours}; did you mean {setting}{nearest}?")
        return self


def load_job(path: str) -> Job:
    """Read a job file; JobError names the file, the setting, its value and the rule."""
    file = Path(path)
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise JobError(f"{path}: no such job file") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise JobError(f"{path}: cannot be read as TOML: {error}") from error
    try:
        return _absolute(Job.model_validate(content), str(file.resolve().parent))
    except ValidationError as error:
        lines = [f"{path}: {_explain(problem)}" for problem in error.errors()]
        raise JobError("\n".join(lines)) from error


def _absolute(job: Job, folder: str) -> Job:
    """The job with the paths of its logs and its root made absolute, against the job file's folder."""
    given = {name: below(folder, path) for name in TABLES if (path := getattr(job.logs, name))}
    update: dict[str, _Table] = {"logs": job.logs.model_copy(update=given)}
    update["storage"] = job.storage.model_copy(update={"root": below(folder, job.storage.root)})
    if job.privacy.forget:
        update["privacy"] = job.privacy.model_copy(update={"forget": below(folder, job.privacy.forget)})
    return job.model_copy(update=update)


def _explain(problem: Any) -> str:
    """One problem of pydantic's as one sentence."""
    where = [str(part) for part in problem["loc"]]
    name = ".".join(where)
    if problem["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(where[-1], _known(where[:-1]), 1, cutoff=0)
        return f"unknown setting {name}" + (f"; did you mean {'.'.join([*where[:-1], nearest[0]])}?" if nearest else "")
    if problem["type"] == "missing":
        return f"{name} is missing and has no default"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{name} = {problem['input']!r}: {message}" if name else message


def _known(tables: list[str]) -> list[str]:
    """Names of the settings of one table of the job file."""
    kind: type[BaseModel] = Job
    for table in tables:
        kind = kind.model_fields[table].annotation  # type: ignore[assignment]
    return list(kind.model_fields)
