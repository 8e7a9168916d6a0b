"""Which examples a user gives and what is in them: the events of one bucket -> pointers -> records.

A *pointer* is a place in a user's past at which a prediction is made (see `features`). Everything it may see lies
strictly before its time, equal times left out, so a label never reaches its own input. All frames are ordered by user
and time.

    pasts = Pasts.of(watches, searches, users, vocabularies)
    pointers = draw_labels(pasts, draw).pointers        # or serving_pointers, holdout_pointers
    frame = records(pointers, pasts, max_sequence=1_000)

Withheld from a label's input are the searches that led to it (`LED_TO_A_WATCH`), or the model would learn to give back
the last search page (paper, 3.4). Logs do not say what led to a watch, so it is decided by time: a search led to the
watches that came next, at most 30 minutes later.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from transforms.contracts.example_spec import MISSING
from transforms.core.frames import id_digests, mix
from transforms.examples.histories import WATCH_CATEGORIES, UserHistories
from transforms.logs.event_window import Holdout
from transforms.logs.schemas import TIME

USER_CATEGORIES = ("gender",)
BIRTH_YEAR, AGE = "birth_year", "age"
_DRAW_OF_LABELS = 0x6C6162656C73  # "labels"
_MICROSECONDS_A_DAY = 86_400_000_000
_NONE = pl.Series(dtype=pl.String)
_NO_AGE = (pl.lit(0.0, pl.Float32).alias("example_age"), pl.lit(0, pl.Int64).alias("label_days"))
LED_TO_A_WATCH = dt.timedelta(minutes=30)  # a search and the next watch further apart are two visits


def category_counts(
    watches: pl.DataFrame, users: pl.DataFrame, user_categories: Sequence[str]
) -> dict[str, dict[str, int]]:
    """For each category a model may have, its non-null values with their counts: watches, or active users, that have
    it."""
    frames = [watches.select(pl.col(*WATCH_CATEGORIES).cast(pl.String)), active_users(watches, users)]
    counts: dict[str, dict[str, int]] = {}
    for name in dict.fromkeys((*WATCH_CATEGORIES, *USER_CATEGORIES, *user_categories)):
        found = pl.concat([frame[name].drop_nulls() for frame in frames if name in frame.columns] or [_NONE])
        if found.len():
            counts[name] = dict(found.value_counts(name="n").iter_rows())
    return counts


def active_users(watches: pl.DataFrame, users: pl.DataFrame) -> pl.DataFrame:
    """The rows of the users table whose users have a watch."""
    return users.join(watches.select("user_id").unique(), on="user_id", how="semi")


@dataclass(frozen=True, kw_only=True)
class LabelDraw:
    """Which completed, in-vocabulary watches become training labels."""

    per_user: int  # 0: all
    seed: int
    holdout: Holdout
    newest: dt.datetime  # newest completed watch of the training data: example age counts back from here
    end: dt.datetime  # of the window: label days count back from here, those of held-out users from `holdout.start`
    max_sequence: int
    watch_history: int
    search_history: int
    withhold_last_search: bool


@dataclass(frozen=True, kw_only=True)
class DrawnLabels:
    """Training pointers, and how many watches are none and why: each is counted where it was first left out."""

    pointers: pl.DataFrame
    not_completed: int
    out_of_vocabulary: int
    held_out: int
    out_of_reach: int
    not_drawn: int


def draw_labels(pasts: UserHistories, draw: LabelDraw) -> DrawnLabels:
    """One pointer a label: the `per_user` learnable watches of each user with the smallest digest of (seed, user,
    video, time).

    Not among them are labels so far back that a sequence, cut to its last `max_sequence` events, no longer holds their
    input, of watches or of tokens. Columns: user_id, time, label, and those of `_inputs`.
    """
    completed = pasts.watches.filter("completed")
    known = completed.filter(pl.col("id") > 0)
    labels = draw.holdout.learnable(known).select("user_id", "time", "video_id", label="id")
    pointers = _inputs(labels, pasts, withhold=draw.withhold_last_search)
    reached = pointers.filter(
        _within_reach("watches_end", draw.watch_history, draw.max_sequence),
        _within_reach("tokens_end", draw.search_history, draw.max_sequence),
    )
    drawn = reached.with_columns(days_before(draw.newest), label_days=_label_days(reached, draw))
    if draw.per_user:
        drawn = drawn.with_columns(digest=_label_digests(drawn, draw.seed))
        drawn = drawn.filter(pl.col("digest").rank("ordinal").over("user_id") <= draw.per_user).drop("digest")
    return DrawnLabels(
        pointers=drawn.drop("video_id"),
        not_completed=pasts.watches.height - completed.height,
        out_of_vocabulary=completed.height - known.height,
        held_out=known.height - labels.height,
        out_of_reach=labels.height - reached.height,
        not_drawn=reached.height - drawn.height,
    )


def _within_reach(end: str, history: int, max_sequence: int) -> pl.Expr:
    """Whether the sequence up to a user's last label, at most `max_sequence` long, holds a label's whole input."""
    return pl.max_horizontal(pl.col(end) - history, 0) >= pl.col(end).max().over("user_id") - max_sequence


def _label_days(labels: pl.DataFrame, draw: LabelDraw) -> pl.Series:
    """Whole days from each label to the end of what is learned of its user.

    Of held-out users the last days are learned a night later than of others, and are new then: so they count from where
    the held-out days begin.
    """
    held_out = draw.holdout.contains(labels["user_id"])
    ends = pl.when(held_out).then(_moment(draw.holdout.start)).otherwise(_moment(draw.end))
    left = (ends - pl.col("time")).dt.total_microseconds() - 1  # a day's first moment belongs to it
    return labels.select(left.floordiv(_MICROSECONDS_A_DAY)).to_series()


def _label_digests(labels: pl.DataFrame, seed: int) -> pl.Series:
    users, videos = (id_digests(labels[name]).to_numpy() for name in ("user_id", "video_id"))
    return pl.Series(mix(seed, _DRAW_OF_LABELS, users, videos, labels["time"].to_physical().to_numpy()))


def serving_pointers(pasts: UserHistories, end: dt.datetime) -> pl.DataFrame:
    """One pointer for every user with a watch or a search in the window, at its end; `label` empty, example age 0."""
    at = pasts.active.to_frame().select("user_id", time=_moment(end), label=pl.lit([], pl.List(pl.Int64)))
    return _inputs(at, pasts).with_columns(*_NO_AGE)


def holdout_pointers(pasts: UserHistories, holdout: Holdout) -> pl.DataFrame:
    """One pointer for every held-out user who completed a video in the held-out days, at their start.

    `label` holds all distinct videos completed then, in id order, 0 once for each that is out of vocabulary.
    """
    watches = pasts.watches.filter(pl.col("completed") & (pl.col("time") >= holdout.start))
    held_out = watches.filter(holdout.contains(watches["user_id"])).unique(["user_id", "video_id"])
    labels = held_out.sort("user_id", "id", "video_id").group_by("user_id", maintain_order=True).agg(label="id")
    return _inputs(labels.with_columns(time=_moment(holdout.start)), pasts).with_columns(*_NO_AGE)


def _inputs(at: pl.DataFrame, pasts: UserHistories, *, withhold: bool = False) -> pl.DataFrame:
    """`at` (ordered by user_id and time) with what lies strictly before: watches_end, tokens_end, the context, the age.

    withhold: without the searches from the user's last watch on, equal times included, that came at most
    `LED_TO_A_WATCH` before.
    """
    context = pasts.watches.select("user_id", "time", "watches_end", *WATCH_CATEGORIES, last_watch="time")
    found = _strictly_before(at, context, on="time")
    led = pl.max_horizontal(pl.col("time") - LED_TO_A_WATCH, "last_watch")
    found = found.with_columns(asked=led if withhold else "time")
    found = _strictly_before(found, pasts.searches.rename({"time": "asked"}), on="asked").drop("asked", "last_watch")
    found = found.with_columns(pl.col("watches_end", "tokens_end").fill_null(0))
    found = found.join(pasts.users, on="user_id", how="left", suffix="_of_user", maintain_order="left")
    if "country_of_user" in found.columns:
        found = found.with_columns(country=pl.coalesce("country", "country_of_user")).drop("country_of_user")
    if BIRTH_YEAR in found.columns:
        age = ((pl.col("time").dt.year() - pl.col(BIRTH_YEAR)) / 100).clip(0, 1).fill_null(MISSING)
        found = found.with_columns(age.cast(pl.Float32).alias(AGE)).drop(BIRTH_YEAR)
    return found


def _strictly_before(at: pl.DataFrame, events: pl.DataFrame, *, on: str) -> pl.DataFrame:
    """Each row of `at` with the columns of the user's last event whose time `on` is smaller; equal times do not
    count."""
    return at.join_asof(
        events, on=on, by="user_id", strategy="backward", allow_exact_matches=False, check_sortedness=False
    )


def _moment(time: dt.datetime) -> pl.Expr:
    return pl.lit(time).cast(TIME)


def days_before(newest: dt.datetime) -> pl.Expr:
    """`example_age`: days from an event's `time` to the newest of the training data (paper, 3.3)."""
    age = (pl.lit(newest).cast(TIME) - pl.col("time")).dt.total_microseconds() / _MICROSECONDS_A_DAY
    return age.cast(pl.Float32).alias("example_age")


def records(pointers: pl.DataFrame, pasts: UserHistories, *, max_sequence: int) -> pl.DataFrame:
    """Pointers and pasts -> one row a user with the features of `features`: user_id, and a list for each of the others.

    `watches` and `tokens` reach to the user's last pointer, at most `max_sequence` events back; the ends count from
    there. Features keep their names and types: whatever columns of the pointers are not the user's or the time's.
    """
    events = {"watches": pasts.watches.filter("completed"), "tokens": pasts.tokens}
    ends = {name: pl.col(f"{name}_end") for name in events}
    last = {f"{name}_last": end.max().over("user_id") for name, end in ends.items()}
    shown = pointers.with_columns(**last).with_columns(
        (ends[name] - (pl.col(f"{name}_last") - max_sequence).clip(lower_bound=0)).clip(lower_bound=0)
        for name in events
    )
    features = [name for name in pointers.columns if name not in ("user_id", "time")]
    one = isinstance(pointers.schema["label"], pl.List)  # one pointer a user, with a list of labels
    rows = shown.group_by("user_id", maintain_order=True).agg(
        *(pl.col(name).first() if name == "label" and one else pl.col(name) for name in features),
        *(pl.col(name).first() for name in last),
    )
    for name, rows_of in events.items():
        past = rows_of.group_by("user_id", maintain_order=True).agg(pl.col("input").alias(name))
        rows = rows.join(past, on="user_id", how="left", maintain_order="left")
        reached = pl.col(name).fill_null([]).list.head(pl.col(f"{name}_last")).list.tail(max_sequence)
        rows = rows.with_columns(reached).drop(f"{name}_last")
    return rows.with_columns(pl.col("user_id").cast(pl.String))
