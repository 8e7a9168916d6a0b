"""The tables of JOB.toml: every setting, its default, its meaning, and which values it may have.

A setting lives in the table of the stage that uses it. `[model]` and `[training]` are in trainer/config.py, those of
the sinks beside what reads them, the bounds of gates in gate_settings.py.
"""

from __future__ import annotations

from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from pipelines.config.sink_settings import BigQuerySettings, BigtableSettings, EnvironmentVariable, RedisSettings
from trainer.ranker.config import RankerSettings
from transforms.logs import schemas
from transforms.search.candidates import parse_condition

MOST_DAYS = 36_500  # that a setting may count back from a night: more would lie before all calendars


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


TABLES = ("watches", "searches", "videos", "users", "hidden", "impressions")
COLUMNS = {
    table.name: (*table.required, *table.optional)
    for table in (
        schemas.WATCHES,
        schemas.SEARCHES,
        schemas.VIDEOS,
        schemas.USERS,
        schemas.HIDDEN,
        schemas.IMPRESSIONS,
    )
}

# Columns that any column of the logs may give, also one that gives another of ours: a page may be its moment.
NAMES = {"page_id", "country", "device", "title", "channel", "language", "countries", "gender", "query"}
# Names that tables of users and training records use for other things than a category of a user.
RESERVED = {
    *COLUMNS["watches"],
    *COLUMNS["users"],
    *("row", "reason", "text", "table", "file", "bucket", "day", "token", "count", "age", "year", "example_age"),
    *("watches", "watches_end", "tokens", "tokens_end", "label", "label_days"),
} - {"gender", "country", "language", "device", "signed_in"}


class Logs(Table):
    """The `[logs]` table: where the logs are and when a watch counts as completed (stage ingest)."""

    watches: str = Field(
        description="watch events: a file, a folder or a glob; `{date}` where paths have one; on Dataflow also "
        "`bigquery:project.dataset.table`"
    )
    searches: str | None = Field(None, description="search events")
    videos: str | None = Field(None, description="the catalogue")
    users: str | None = Field(None, description="what is known of users")
    hidden: str | None = Field(None, description="videos that are never to be shown to some users: user_id, video_id")
    impressions: str | None = Field(
        None,
        description="videos that were shown, page by page, and which of them were clicked: stage ranking",
    )
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
        description="our column name -> yours, for all tables; or a table of those for one: `[logs.columns.watches]`, "
        "`[logs.columns.forget]` of the list of users to forget",
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
            if isinstance(value, dict) and name not in (*TABLES, "forget"):
                raise ValueError(f"{name} is no log table; they are {', '.join((*TABLES, 'forget'))}")
            for ours, theirs in value.items() if isinstance(value, dict) else [(name, value)]:
                if not theirs:
                    raise ValueError(f"the name of your column for {ours} is empty: leave it out if it is the same")
        return columns

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ValueError, KeyError, OSError) as error:
            raise ValueError(f"{name!r} is no IANA time zone such as UTC or Europe/Berlin") from error
        return name


class Examples(Table):
    """The `[examples]` table: the window, the vocabularies, and which examples are drawn (stages vocabulary,
    examples)."""

    window_days: PositiveInt = Field(28, le=MOST_DAYS, description="days before DATE whose events are used")
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
        description="watches and searches of a user and day above which none of them counts; 0: no limit",
    )

    @field_validator("user_categories")
    @classmethod
    def _categories_have_names_of_their_own(cls, names: list[str]) -> list[str]:
        for at, name in enumerate(names):
            if not name.strip() or name in names[:at]:
                raise ValueError(f"{name!r} is given twice" if name in names[:at] else "a name is empty")
            if name in RESERVED:
                raise ValueError(
                    f"{name!r} is reserved: watchnext has a column of its own under this name; give the category "
                    f"another one, such as user_{name}, and name your column in [logs.columns.users]"
                )
        return names

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


class Index(Table):
    """The `[index]` table: nearest-neighbour search (stage index)."""

    recall: float = Field(0.95, gt=0, lt=1, description="recall@k against exact search that the index is tuned to")
    only: str | None = Field(
        None,
        description="SQL condition on the catalogue's columns and on `age_days`, whole days from upload to DATE, that "
        "videos must fulfil to be shown, such as `age_days < 1`; what is not known is not fulfilled; it may call "
        "functions of texts and numbers, such as `LOWER`, and none that reads anything else",
    )
    shard_videos: PositiveInt = Field(
        4_000_000, description="videos a shard of an index holds at most: above, it is built and searched in several"
    )

    @field_validator("only")
    @classmethod
    def _is_a_condition(cls, only: str | None) -> str | None:
        if only is not None:
            parse_condition(only)
        return only


class Neighbours(Table):
    """The `[neighbours]` table: what each user's list holds (stage neighbours)."""

    k: PositiveInt = Field(200, description="videos a user")
    exclude: Literal["completed", "watched", "none"] = Field(
        "completed", description="what a user has had and is left out"
    )
    exclude_days: int | None = Field(
        None,
        ge=0,
        le=MOST_DAYS,
        description="of how many days before DATE; none: of the window; 0: of all days the store keeps",
    )
    max_share_per_channel: float = Field(
        1.0, gt=0, le=1, description="share of k that videos of one channel may take of a list; 1.0: no limit"
    )
    similar: int = Field(20, ge=0, description="nearest videos kept of each video; 0: none")


class Ranking(RankerSettings):
    """The `[ranking]` table: lists by expected watch time, where impressions are given (stage ranking)."""

    candidates: NonNegativeInt = Field(
        50, description="first videos of each list that are put in order; 0: none, lists stay as neighbours left them"
    )
    video_vocabulary: PositiveInt = Field(100_000, description="most clicked videos that get an embedding")
    channel_vocabulary: PositiveInt = Field(10_000, description="most clicked channels that get an embedding")
    watch_history: PositiveInt = Field(50, description="most recent watches in the input")
    cut: PositiveInt = Field(
        10, description="first videos of a list, in either order, whose watch time the two are compared by"
    )


class Storage(Table):
    """The `[storage]` table: where everything is kept."""

    root: str = Field("runs", description="folder of the store and the nights, on any Beam file system")
    buckets: int = Field(
        0, ge=0, le=4096, description="user buckets of a new store, a power of two; 0: by its first data"
    )
    keep_days: int = Field(
        0, ge=0, le=MOST_DAYS, description="days before DATE whose events stay in the store; 0: all days"
    )
    keep_nights: int = Field(
        14, ge=0, description="nights that stay whole; of older ones reports and figures stay; 0: all stay whole"
    )
    keep_examples: bool = Field(False, description="whether the training records of a published night stay")
    check_space: bool = Field(
        True, description="whether a night is refused where a local disk has less room than it is estimated to need"
    )
    redis: RedisSettings | None = Field(None, description="a Redis server to serve from, see below")
    bigtable: BigtableSettings | None = Field(None, description="a Bigtable table to serve from, see below")
    bigquery: BigQuerySettings | None = Field(None, description="a BigQuery view to serve from, see below")

    @field_validator("root")
    @classmethod
    def _has_a_name(cls, root: str) -> str:
        if not root.strip():
            raise ValueError('it is empty: name a folder, such as "runs"')
        return root

    @field_validator("buckets")
    @classmethod
    def _power_of_two(cls, buckets: int) -> int:
        if buckets and (buckets < 8 or buckets & (buckets - 1)):
            raise ValueError("buckets must be 0 or a power of two from 8 to 4096")
        return buckets


class Privacy(Table):
    """The `[privacy]` table: who is to be forgotten, and under which names users are kept (stage ingest)."""

    forget: str | None = Field(
        None, description="a table with the `user_id`s, as in the logs, that are removed from all that is kept"
    )
    pseudonym_key_env: EnvironmentVariable | None = Field(
        None,
        description="environment variable, of workers too, with the key of the digests that user ids are replaced by; "
        "none: ids stay",
    )
    pseudonym_key_secret: str | None = Field(
        None,
        pattern=r"^projects/[^/]+/(locations/[^/]+/)?secrets/[^/]+/versions/[^/]+$",
        description="secret of Google Secret Manager with that key, for workers where the variable is not set: "
        "`projects/PROJECT/secrets/NAME/versions/VERSION`",
    )


class NotifySettings(Table):
    """The `[notify]` table: who is told how a night ended."""

    on: Literal["failure", "always"] = Field("failure", description="whether nights that went well are told too")
    command: str | list[str] | None = Field(
        None, description="a command line for the shell, or a list of words; gets a JSON object on its standard input"
    )
    webhook_env: EnvironmentVariable | None = Field(
        None, description="environment variable with the URL that the same JSON object is sent to by POST"
    )
    timeout_seconds: PositiveFloat = Field(10, description="seconds each of them may take")
