"""The tables of JOB.toml: all settings with their defaults, meanings and allowed values.

A setting is in the table of the stage that uses it. `[model]` and `[training]` are in trainer/config.py, the tables of
the sinks in sink_settings.py, and `[gates]` in gate_settings.py.
"""

from __future__ import annotations

from typing import Annotated, Literal
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

from pipelines.config.sink_settings import (
    BigQuerySettings,
    BigtableSettings,
    EnvironmentVariable,
    RedisSettings,
    SecretVersion,
)
from trainer.auto import FEW_SHARE, MANY_COMPLETED, MANY_SHARE
from trainer.config import AUTO, OrAuto
from trainer.ranker.config import RankerSettings
from transforms.logs import schemas
from transforms.search.candidates import parse_condition

MOST_DAYS = 36_500  # upper limit of settings in days: dates further back may be out of range
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]


class Table(BaseModel):
    """A table of the job file. Unknown settings are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


_SCHEMAS = (schemas.WATCHES, schemas.SEARCHES, schemas.VIDEOS, schemas.USERS, schemas.HIDDEN, schemas.IMPRESSIONS)
COLUMNS = {table.name: (*table.required, *table.optional) for table in _SCHEMAS}
TABLES = tuple(COLUMNS)
# Columns that may share a column of the logs with another one of ours: a time may identify a page.
NAMES = {"page_id", "country", "device", "title", "channel", "language", "countries", "gender", "query"}
# Names that are not allowed for user categories, because tables of users and training records use them.
RESERVED = {
    *COLUMNS["watches"],
    *COLUMNS["users"],
    *("row", "reason", "text", "table", "file", "bucket", "day", "token", "count", "age", "year", "example_age"),
    *("watches", "watches_end", "tokens", "tokens_end", "label", "label_days", "as_of_days", "impression_weight"),
} - {"gender", "country", "language", "device", "signed_in"}


class Logs(Table):
    """The `[logs]` table: the paths of the logs, and when a watch counts as completed (stage ingest)."""

    watches: str = Field(
        description="watch events: a file, a folder or a glob; may contain `{date}`; on Dataflow also "
        "`bigquery:project.dataset.table`"
    )
    searches: str | None = Field(None, description="search events")
    videos: str | None = Field(None, description="the video catalogue")
    users: str | None = Field(None, description="user attributes")
    hidden: str | None = Field(None, description="pairs (user_id, video_id) of videos that a user must never be shown")
    impressions: str | None = Field(
        None, description="videos that were shown, by page, and which of them were clicked; needed by stage ranking"
    )
    completed_fraction: PositiveShare = Field(
        0.5, description="share of the video's length from which a watch counts as completed"
    )
    completed_seconds: PositiveFloat = Field(
        30, description="watch seconds from which a watch counts as completed if the video's length is not known"
    )
    max_reject_fraction: Share = Field(0.001, description="share of rejected rows above which the night fails")
    allow_missing_days: bool = Field(
        False, description="for paths with `{date}`: whether a day without a file has no events, instead of an error"
    )
    time_zone: str = Field("UTC", description="IANA time zone in which days begin, and of times without an offset")
    batch_bytes: PositiveInt = Field(
        256_000_000,
        description="bytes of raw files (whole files) ingested at a time; on one machine, ingest uses about 12 times "
        "as much memory",
    )
    columns: dict[str, str | dict[str, str]] = Field(
        {},
        description="watchnext's column name -> the name in your files, for all tables; or for one table, as in "
        "`[logs.columns.watches]`, or `[logs.columns.forget]` for the list of users to forget",
    )

    def renamed(self, table: str) -> dict[str, str]:
        """Return our column names -> the names in the files of one log table, for columns that are renamed."""
        general = {ours: theirs for ours, theirs in self.columns.items() if isinstance(theirs, str)}
        special = self.columns.get(table, {})
        return general | (special if isinstance(special, dict) else {})

    @field_validator("columns")
    @classmethod
    def _tables_are_known(cls, columns: dict[str, str | dict[str, str]]) -> dict[str, str | dict[str, str]]:
        for name, value in columns.items():
            if isinstance(value, dict) and name not in (*TABLES, "forget"):
                raise ValueError(f"{name} is not a log table; the tables are {', '.join((*TABLES, 'forget'))}")
            for ours, theirs in value.items() if isinstance(value, dict) else [(name, value)]:
                if not theirs:
                    raise ValueError(f"the name of your column for {ours} is empty: omit it if it is the same")
        return columns

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ValueError, KeyError, OSError) as error:
            raise ValueError(f"{name!r} is not an IANA time zone such as UTC or Europe/Berlin") from error
        return name


class Examples(Table):
    """The `[examples]` table: the window, the vocabularies, and how examples are sampled (stages vocabulary,
    examples)."""

    window_days: PositiveInt = Field(28, le=MOST_DAYS, description="days before DATE whose events are used")
    watch_vocabulary: PositiveInt = Field(
        1_000_000, description="size of the video vocabulary: the videos with the most completed watches"
    )
    search_vocabulary: PositiveInt = Field(
        1_000_000, description="size of the token vocabulary: the most frequent search tokens"
    )
    watch_history: PositiveInt = Field(50, description="most recent watches in the input")
    partial_watches: OrAuto[bool] = Field(
        AUTO,
        description="whether the input also contains watches that were not completed, which have embedding rows of "
        'their own; they are never labels; `"auto"`: if they are at least a third of all watches, and '
        "2 million or fewer are completed",
    )
    search_history: PositiveInt = Field(50, description="most recent search tokens in the input")
    per_user: OrAuto[NonNegativeInt] = Field(
        AUTO,
        description='training examples per user; 0: all; `"auto"`: all, or as many as give about 10 million in total',
    )
    max_sequence: PositiveInt = Field(
        1_000, description="maximum number of events of a user in a record, the last ones"
    )
    holdout_days: NonNegativeInt = Field(1, description="number of last days before DATE that are held out; 0: none")
    holdout_users: OrAuto[PositiveShare] = Field(
        AUTO,
        description='share of users held out in those days; 1.0: all; `"auto"`: about 2,000 of the users who completed '
        "a watch in those days, at least 5 % and at most half of them. What these users watched in those days is "
        "learned a night later",
    )
    user_categories: list[str] = Field([], description="further columns of the users table to embed")
    seed: NonNegativeInt = Field(1, description="random seed of the sampling of examples and held-out users")
    withhold_last_search: bool = Field(
        True, description="whether the searches that led to a training label are excluded from its input"
    )
    long_tail: Literal["zero", "hash"] = Field(
        "zero",
        description="out-of-vocabulary videos in the watch history: `zero` ignores them; `hash` maps them to shared "
        "embedding rows",
    )
    long_tail_rows: PositiveInt = Field(10_000, description="number of shared rows with `hash`")
    max_events_per_day: NonNegativeInt = Field(
        1_000,
        description="watches and searches of a user on one day above which all events of that user and day are ignored "
        "as those of a robot; 0: no limit",
    )

    @field_validator("user_categories")
    @classmethod
    def _names_are_usable(cls, names: list[str]) -> list[str]:
        for position, name in enumerate(names):
            if not name.strip() or name in names[:position]:
                raise ValueError(f"{name!r} is given twice" if name in names[:position] else "a name is empty")
            if name in RESERVED:
                raise ValueError(
                    f"{name!r} is reserved for another column of watchnext; give the category another name, such as "
                    f"user_{name}, and name your column in [logs.columns.users]"
                )
        return names

    @model_validator(mode="after")
    def _lengths_agree(self) -> Examples:
        longest = max(self.watch_history, self.search_history)
        if self.max_sequence < longest:
            raise ValueError(
                f"max_sequence must be at least watch_history and search_history ({longest}), so that a record can "
                f"contain the whole input of a label, but is {self.max_sequence}"
            )
        if self.holdout_days >= self.window_days:
            raise ValueError(f"holdout_days must be below window_days ({self.window_days}), but is {self.holdout_days}")
        return self


class Index(Table):
    """The `[index]` table: nearest-neighbour search (stage index)."""

    recall: float = Field(0.95, gt=0, lt=1, description="target recall@k of the index compared with exact search")
    only: str | None = Field(
        None,
        description="SQL condition that videos must meet to be recommended, on the catalogue's columns and on "
        "`age_days` (whole days from upload to DATE), such as `age_days < 1`. A condition on a missing value is not "
        "met. Only functions of text and numbers, such as `LOWER`, are allowed",
    )
    shard_videos: PositiveInt = Field(
        4_000_000, description="maximum videos per shard; a larger index is built and searched in several shards"
    )

    @field_validator("only")
    @classmethod
    def _is_a_condition(cls, only: str | None) -> str | None:
        if only is not None:
            parse_condition(only)
        return only


class Neighbours(Table):
    """The `[neighbours]` table: the candidate list of each user (stage neighbours)."""

    k: PositiveInt = Field(200, description="videos per user")
    exclude: Literal["completed", "watched", "none"] = Field(
        "completed", description="which of the user's own watches are excluded from the list"
    )
    exclude_days: int | None = Field(
        None,
        ge=0,
        le=MOST_DAYS,
        description="days before DATE whose watches are excluded; none: the window; 0: all days in the store",
    )
    max_share_per_channel: PositiveShare = Field(
        1.0, description="maximum share of k for videos of one channel; 1.0: no limit"
    )
    transitions: OrAuto[Annotated[float, Field(ge=0, lt=1)]] = Field(
        AUTO,
        description="share of a user's next watches that is predicted from the last ones, by how often other users "
        "completed a video soon after another (transforms/contracts/transitions.py); the model predicts the others. "
        f"`auto`: {FEW_SHARE}, {MANY_SHARE} above {MANY_COMPLETED:,} completed watches, and 0 with "
        '`preset = "paper"`. 0: none',
    )
    diversity: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="weight of differing from the videos before in the list, by cosine; 0: lists are in the order of "
        "scores. Above 0, 2k candidates are re-ranked by marginal relevance, and the report gives the cost in recall",
    )
    new_videos: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="share of k reserved for new videos: available, uploaded in the last `new_days` days, and without "
        "a completed watch. Their vectors follow from channel, language, length and title; the report gives the effect "
        "on recall, and what became of them on the next day. 0: none",
    )
    new_days: PositiveInt = Field(
        2, le=MOST_DAYS, description="days from upload in which a video without a completed watch is new"
    )
    similar: NonNegativeInt = Field(20, description="number of similar videos listed for each video; 0: none")


class Ranking(RankerSettings):
    """The `[ranking]` table: re-ranking of lists by expected watch time, if there are impressions (stage ranking)."""

    candidates: NonNegativeInt = Field(
        50, description="first videos of each list that are re-ranked; 0: off, lists keep the order of neighbours"
    )
    video_vocabulary: PositiveInt = Field(
        100_000, description="size of the video vocabulary of the ranker: the most clicked videos"
    )
    channel_vocabulary: PositiveInt = Field(
        10_000, description="size of the channel vocabulary of the ranker: the most clicked channels"
    )
    watch_history: PositiveInt = Field(50, description="most recent watches in the input")
    unclicked: OrAuto[PositiveShare] = Field(
        AUTO,
        description="share of the unclicked impressions to learn from; each counts as often as the impressions that it "
        "stands for",
    )
    cut: PositiveInt = Field(
        10,
        description="number of first videos whose watch time and recall are compared between the two orders, and by "
        "which `order_weight` is chosen",
    )
    order_weight: Literal["auto", "neighbours"] | Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        AUTO,
        description="weight of the neighbours' scores in the order of the lists: the score of a video is log(expected "
        "seconds) + weight * its score among the neighbours. `auto`: the weight with the most watch time of held-out "
        "users in the first `cut` videos, of those that lose no recall there; 0: expected seconds alone, the paper's "
        "order; `neighbours`: their order",
    )


class Storage(Table):
    """The `[storage]` table: the storage root, what is kept, and the databases to serve from."""

    root: str = Field("runs", description="folder of the store and the nights, on any Beam file system")
    buckets: int = Field(
        0, ge=0, le=4096, description="user buckets of a new store, a power of two; 0: chosen from its first data"
    )
    keep_days: int = Field(
        0, ge=0, le=MOST_DAYS, description="days before DATE whose events are kept in the store; 0: all days"
    )
    keep_nights: NonNegativeInt = Field(
        14, description="nights whose files are all kept; older nights keep reports and figures; 0: all nights"
    )
    keep_examples: bool = Field(False, description="whether the training records of published nights are kept")
    check_space: bool = Field(
        True,
        description="whether a night stops if a local disk has less free space than the night is estimated to need",
    )
    redis: RedisSettings | None = Field(None, description="a Redis server to serve from, see below")
    bigtable: BigtableSettings | None = Field(None, description="a Bigtable table to serve from, see below")
    bigquery: BigQuerySettings | None = Field(None, description="a BigQuery view to serve from, see below")

    @field_validator("root")
    @classmethod
    def _has_a_name(cls, root: str) -> str:
        if not root.strip():
            raise ValueError('it is empty: give a folder, such as "runs"')
        return root

    @field_validator("buckets")
    @classmethod
    def _power_of_two(cls, buckets: int) -> int:
        if buckets and (buckets < 8 or buckets & (buckets - 1)):
            raise ValueError("buckets must be 0 or a power of two from 8 to 4096")
        return buckets


class Privacy(Table):
    """The `[privacy]` table: users to forget, and pseudonymisation of user ids (stage ingest)."""

    forget: str | None = Field(
        None, description="a table of `user_id`s, as in the logs, whose data is removed from everything that is stored"
    )
    pseudonym_key_env: EnvironmentVariable | None = Field(
        None,
        description="environment variable, also on workers, with the key for the keyed digests that replace user ids; "
        "none: ids are not replaced",
    )
    pseudonym_key_secret: SecretVersion | None = Field(
        None,
        description="secret of Google Secret Manager with that key, used by workers on which the variable is not set: "
        "`projects/PROJECT/secrets/NAME/versions/VERSION`",
    )


class NotifySettings(Table):
    """The `[notify]` table: notifications about how a night ended."""

    on: Literal["failure", "always"] = Field(
        "failure", description="whether to notify only of failures or of all nights"
    )
    command: str | list[str] | None = Field(
        None, description="a shell command line, or a list of words; receives a JSON object on its standard input"
    )
    webhook_env: EnvironmentVariable | None = Field(
        None, description="environment variable with a URL to which the same JSON object is sent by POST"
    )
    timeout_seconds: PositiveFloat = Field(10, description="time limit of each, in seconds")
