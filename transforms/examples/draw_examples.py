"""Select the training, holdout and serving examples of the users of one bucket, and build their records.

A *pointer* is a time in a user's history at which a prediction is made. Its input consists of the events strictly
before this time, so a label never is part of its own input. All frames are sorted by user and time.

    histories = UserHistories.from_events(watches, searches, users, vocabularies)
    pointers = draw_labels(histories, draw).pointers        # or serving_pointers, holdout_pointers
    records = build_records(pointers, histories, max_sequence=1_000)

Searches that led to a label are withheld from its input, or the model would learn to reproduce the last search page
(paper, 3.4). Logs do not say which search led to a watch, so it is inferred from times: a search led to the next
watches of the user within `MAX_SEARCH_TO_WATCH`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from transforms.contracts.example_spec import MISSING
from transforms.core.digests import event_digests
from transforms.examples.histories import WATCH_CATEGORIES, UserHistories
from transforms.logs.event_window import BucketFiles, Holdout, Window
from transforms.logs.schemas import TIME

USER_CATEGORIES = ("gender",)
BIRTH_YEAR, AGE = "birth_year", "age"
_LABELS_SEED = 0x6C6162656C73  # "labels"
_MICROSECONDS_PER_DAY = 86_400_000_000
_NO_VALUES = pl.Series(dtype=pl.String)
_NO_AGE = (pl.lit(0.0, pl.Float32).alias("example_age"), pl.lit(0, pl.Int64).alias("label_days"))
MAX_SEARCH_TO_WATCH = dt.timedelta(minutes=30)  # a watch later than this after a search belongs to another visit
_SEQUENCES = ("watches", "tokens")


def category_counts(
    watches: pl.DataFrame, users: pl.DataFrame, user_categories: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Count the non-null values of each category that a model may use, over watches or active users."""
    frames = [watches.select(pl.col(*WATCH_CATEGORIES).cast(pl.String)), active_users(watches, users)]
    counts: dict[str, dict[str, int]] = {}
    for name in dict.fromkeys((*WATCH_CATEGORIES, *USER_CATEGORIES, *user_categories)):
        values = pl.concat([frame[name].drop_nulls() for frame in frames if name in frame.columns] or [_NO_VALUES])
        if values.len():
            counts[name] = dict(values.value_counts(name="n").iter_rows())
    return counts


def active_users(watches: pl.DataFrame, users: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of the users table whose users have a watch."""
    return users.join(watches.select("user_id").unique(), on="user_id", how="semi")


@dataclass(frozen=True, kw_only=True)
class LabelDraw:
    """The rules that select training labels among completed watches in vocabulary."""

    per_user: int  # maximal number of labels per user; 0: all
    seed: int
    holdout: Holdout
    newest: dt.datetime  # time of the newest completed watch of the training data, at which example age is 0
    end: dt.datetime  # end of the window: label days count back from here, or `holdout.start` for held-out users
    max_sequence: int
    watch_history: int
    search_history: int
    withhold_last_search: bool


@dataclass(frozen=True, kw_only=True)
class DrawnLabels:
    """Training pointers, and the numbers of other watches by the first rule that excluded them."""

    pointers: pl.DataFrame
    not_completed: int
    out_of_vocabulary: int
    held_out: int
    out_of_reach: int
    not_drawn: int


def draw_labels(histories: UserHistories, draw: LabelDraw) -> DrawnLabels:
    """Draw at most `per_user` labels of each user: learnable watches with the smallest digests of (seed, user, video,
    time).

    Labels are excluded if their input is not contained in the last `max_sequence` watches or tokens before the user's
    last label. The pointers have the columns user_id, time, label, example_age, label_days,
    as_of_days and those of `_add_inputs`.
    """
    completed = histories.watches.filter("completed")
    known = completed.filter(pl.col("id") > 0)
    labels = draw.holdout.learnable(known).select("user_id", "time", "video_id", label="id")
    pointers = _add_inputs(labels, histories, withhold=draw.withhold_last_search)
    reached = pointers.filter(
        _within_reach("watches_end", draw.watch_history, draw.max_sequence),
        _within_reach("tokens_end", draw.search_history, draw.max_sequence),
    )
    drawn = reached.with_columns(
        example_age(draw.newest), label_days=_label_days(reached, draw), as_of_days=_days_before(draw.end) + 1
    )
    if draw.per_user:
        drawn = drawn.with_columns(digest=event_digests(drawn, draw.seed, _LABELS_SEED))
        drawn = drawn.filter(pl.col("digest").rank("ordinal").over("user_id") <= draw.per_user).drop("digest")
    return DrawnLabels(
        pointers=drawn.drop("video_id"),
        not_completed=histories.watches.height - completed.height,
        out_of_vocabulary=completed.height - known.height,
        held_out=known.height - labels.height,
        out_of_reach=labels.height - reached.height,
        not_drawn=reached.height - drawn.height,
    )


def _within_reach(end: str, history: int, max_sequence: int) -> pl.Expr:
    """Return whether the sequence of at most `max_sequence` events before a user's last label contains an input."""
    return pl.max_horizontal(pl.col(end) - history, 0) >= pl.col(end).max().over("user_id") - max_sequence


def _label_days(labels: pl.DataFrame, draw: LabelDraw) -> pl.Series:
    """Return the whole days from each label to the end of the user's learnable events.

    The last days of held-out users are learned in a later night, and are new then. So the days of these users are
    counted from the start of the holdout.
    """
    held_out = draw.holdout.contains(labels["user_id"])
    days = pl.when(held_out).then(_days_before(draw.holdout.start)).otherwise(_days_before(draw.end))
    return labels.select(days).to_series()


def _days_before(end: dt.datetime) -> pl.Expr:
    """Return the whole days from `time` to `end`, which starts a day; midnight belongs to the day that it starts."""
    microseconds = (_time_literal(end) - pl.col("time")).dt.total_microseconds() - 1
    return microseconds.floordiv(_MICROSECONDS_PER_DAY)


def serving_pointers(histories: UserHistories, end: dt.datetime) -> pl.DataFrame:
    """Return a pointer at the window's end for each user with a watch or search; `label` is empty, example age 0."""
    no_label = pl.lit([], pl.List(pl.Int64))
    pointers = histories.active.to_frame().select("user_id", time=_time_literal(end), label=no_label)
    return _add_inputs(pointers, histories).with_columns(*_NO_AGE, pl.lit(0, pl.Int64).alias("as_of_days"))


def holdout_pointers(histories: UserHistories, holdout: Holdout, *, days: int) -> pl.DataFrame:
    """Return a pointer at the start of the holdout for each held-out user who completed a video afterwards.

    `label` contains the ids of all distinct videos completed then, in ascending order, with a 0 for each video that is
    out of vocabulary. days: those of the holdout.
    """
    watches = histories.watches.filter(pl.col("completed") & (pl.col("time") >= holdout.start))
    held_out = watches.filter(holdout.contains(watches["user_id"])).unique(["user_id", "video_id"])
    labels = held_out.sort("user_id", "id", "video_id").group_by("user_id", maintain_order=True).agg(label="id")
    pointers = _add_inputs(labels.with_columns(time=_time_literal(holdout.start)), histories)
    return pointers.with_columns(*_NO_AGE, pl.lit(days, pl.Int64).alias("as_of_days"))


def count_measurable(bucket: BucketFiles, days: Window) -> int:
    """Return how many users of a bucket have a holdout pointer if all are held out. `days`: the held-out days."""
    watches = days.unordered_events(bucket, ("user_id", "time", "completed"), ("user_id", "time")).watches
    return watches.filter("completed")["user_id"].n_unique()


def _add_inputs(pointers: pl.DataFrame, histories: UserHistories, *, withhold: bool = False) -> pl.DataFrame:
    """Add the inputs of pointers (sorted by user_id and time): watches_end, tokens_end, the context and the user.

    withhold: exclude the searches that led to the watch: those at or after the user's previous watch and at most
    `MAX_SEARCH_TO_WATCH` before the pointer.
    """
    context = histories.watches.select("user_id", "time", "watches_end", *WATCH_CATEGORIES, last_watch="time")
    rows = _join_last_before(pointers, context, on="time")
    visit_start = pl.max_horizontal(pl.col("time") - MAX_SEARCH_TO_WATCH, "last_watch")
    rows = rows.with_columns(searches_before=visit_start if withhold else "time")
    searches = histories.searches.rename({"time": "searches_before"})
    rows = _join_last_before(rows, searches, on="searches_before").drop("searches_before", "last_watch")
    return _add_users(rows.with_columns(pl.col("watches_end", "tokens_end").fill_null(0)), histories.users)


def _add_users(pointers: pl.DataFrame, users: pl.DataFrame) -> pl.DataFrame:
    """Add the users table's columns: `country` only if it is null, and `birth_year` as `age` (centuries, 0 to 1)."""
    rows = pointers.join(users, on="user_id", how="left", suffix="_of_user", maintain_order="left")
    if "country_of_user" in rows.columns:
        rows = rows.with_columns(country=pl.coalesce("country", "country_of_user")).drop("country_of_user")
    if BIRTH_YEAR in rows.columns:
        age = ((pl.col("time").dt.year() - pl.col(BIRTH_YEAR)) / 100).clip(0, 1).fill_null(MISSING)
        rows = rows.with_columns(age.cast(pl.Float32).alias(AGE)).drop(BIRTH_YEAR)
    return rows


def _join_last_before(pointers: pl.DataFrame, events: pl.DataFrame, *, on: str) -> pl.DataFrame:
    """Join each pointer with the user's last event whose time `on` is strictly smaller."""
    return pointers.join_asof(
        events, on=on, by="user_id", strategy="backward", allow_exact_matches=False, check_sortedness=False
    )


def _time_literal(time: dt.datetime) -> pl.Expr:
    return pl.lit(time).cast(TIME)


def example_age(newest: dt.datetime) -> pl.Expr:
    """Return `example_age`: the days from an event's `time` to the newest event of the training data (paper, 3.3)."""
    age = (pl.lit(newest).cast(TIME) - pl.col("time")).dt.total_microseconds() / _MICROSECONDS_PER_DAY
    return age.cast(pl.Float32).alias("example_age")


def build_records(pointers: pl.DataFrame, histories: UserHistories, *, max_sequence: int) -> pl.DataFrame:
    """Build one record per user from pointers: user_id, a list for each feature of the pointers, watches and tokens.

    `watches` and `tokens` contain the `input` of at most `max_sequence` events before the user's last pointer, and
    `watches_end` and `tokens_end` count from their start. The other features keep their names and types.
    """
    rows = _group_by_user(relative_ends(pointers, max_sequence))
    events = {"watches": histories.watches.filter(pl.col("input").is_not_null()), "tokens": histories.tokens}
    for name in _SEQUENCES:
        inputs = events[name].group_by("user_id", maintain_order=True).agg(pl.col("input").alias(name))
        rows = rows.join(inputs, on="user_id", how="left", maintain_order="left")
        sequence = pl.col(name).fill_null([]).list.head(pl.col(f"{name}_last")).list.tail(max_sequence)
        rows = rows.with_columns(sequence).drop(f"{name}_last")
    return rows.with_columns(pl.col("user_id").cast(pl.String))


def relative_ends(pointers: pl.DataFrame, max_sequence: int) -> pl.DataFrame:
    """Add `watches_last` and `tokens_last`, the user's largest ends, and make the ends relative to the record.

    A record's sequence starts at most `max_sequence` events before the user's largest end.
    """
    ends = {name: pl.col(f"{name}_end") for name in _SEQUENCES}
    largest = {f"{name}_last": end.max().over("user_id") for name, end in ends.items()}
    starts = {name: (pl.col(f"{name}_last") - max_sequence).clip(lower_bound=0) for name in _SEQUENCES}
    relative = [(ends[name] - starts[name]).clip(lower_bound=0) for name in _SEQUENCES]
    return pointers.with_columns(**largest).with_columns(relative)


def _group_by_user(pointers: pl.DataFrame) -> pl.DataFrame:
    """Collect each feature of a user's pointers in a list; `label` stays as it is if it is a list already."""
    last = [f"{name}_last" for name in _SEQUENCES]
    features = [name for name in pointers.columns if name not in ("user_id", "time", *last)]
    one_pointer = isinstance(pointers.schema["label"], pl.List)
    return pointers.group_by("user_id", maintain_order=True).agg(
        *(pl.col(name).first() if name == "label" and one_pointer else pl.col(name) for name in features),
        *(pl.col(name).first() for name in last),
    )
