"""`evaluation/metrics.json`: the metrics of a night, for the gates, the report and comparisons of nights.

| key            | content                                                                                            |
|----------------|----------------------------------------------------------------------------------------------------|
| format_version | 1; `read` returns None for any other                                                               |
| k, gate        | length of lists; the figure that nights and systems are compared by: recall@k                      |
| holdout        | start and end of the held-out days (ISO 8601, UTC) and number of users; null: there are none       |
| systems        | system -> measured: `ranking` if the lists are ranked, `neighbours`, and the baselines             |
| served_system  | `ranking` if the lists are ranked; absent: `neighbours`. The system of the lists to serve          |
| beside         | every other system, except `neighbours` -> difference of the gate figure, served lists minus       |
|                | baseline: value, low, high                                                                         |
| differences    | every other system -> recall at each cut, and map -> served lists minus system: value, low, high   |
| slices         | kind -> value -> system -> measured, of these users (or, for the kind `upload`, of these labels)   |
| shown          | system, or `watched` for the labels -> statistics of its videos (`list_statistics`); for systems   |
|                | also coverage (share of candidates in any list) and popularity_bias (mean log2 of the popularity   |
|                | rank of the videos watched, minus that of the videos shown); by_day: the freshness curve;          |
|                | by_length: `list_statistics.length_shares`                                                         |
| ann_loss       | index: its kind; if it is approximate, for a sample of users: `neighbours` and `exact search`,     |
|                | both measured; difference of the gate figure; `overlap`: figures of the true list's videos found   |
| served         | date of the previous publication, start and end of the day; measured on the videos completed on    |
|                | that day; with_a_list: users who had a list, share: of users; new_videos: absent if the lists had  |
|                | no new videos, else their places (`ServedPlaces`) in the lists of these users, and of_new, the     |
|                | lists measured on the new videos watched (null: none was); null: there is no such night            |
| diversity      | absent if `neighbours.diversity` is 0; else setting: its value; by_score: the lists before the     |
|                | re-ranking, measured; difference, neighbours minus these: recall@cut -> value, low, high           |
| new_videos     | absent if no place is reserved for new videos; else setting: their share of places; videos:        |
|                | number of new videos at the start of the held-out days; without_new: the lists without reserved    |
|                | places, measured; difference, neighbours minus these: recall@cut -> value, low, high; of_new:      |
|                | neighbours measured on the new videos watched (null: none was)                                     |
| ranking        | if lists were ranked: `MeasuredRanking` of the held-out users' lists, and cut, the number of first |
|                | videos that count; null: they were not                                                             |

The lists of `ranking` and `neighbours` have the same videos in another order: they have the same recall@k, `slices`,
and statistics in `shown`.

Measured is: figures (name -> value), intervals (name -> [low, high], 95 %, bootstrap over users) and, if nights or
systems are compared by it, replicates (name -> values, null for a replicate without users); see `user_metrics`. Nights
are compared by the served lists and `most popular`. These and `neighbours` have the replicates of recall at every k, so
that nights with lists of different lengths can be compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field, ValidationError

from transforms.core.bootstrap import PairedDifference
from transforms.core.json_model import JsonModel
from transforms.core.messages import invalid_fields
from transforms.evaluation.user_metrics import Measured, MeasuredFigures, Number, paired_difference
from transforms.ranking.watch_time_recall import MeasuredRanking

FORMAT_VERSION = 1
FILE = "metrics.json"
NEIGHBOURS, EXACT_SEARCH = "neighbours", "exact search"
MOST_POPULAR, LAST_DAY, ITEM_TO_ITEM = "most popular", "most popular of the last day", "item to item"
RANKING = "ranking"  # the lists of neighbours in the order of stage ranking
SYSTEMS = (RANKING, NEIGHBOURS, MOST_POPULAR, LAST_DAY, ITEM_TO_ITEM)
WATCHED, OVERLAP, ALL_USERS, WITH_A_LIST = "watched", "overlap", "everybody", "with a list"
BY_SCORE = "by score"  # the lists of neighbours before their re-ranking for diversity
WITHOUT_NEW, OF_NEW = "without new", "of new"  # lists without reserved places; lists measured on labels of new videos
PLACES = "places"
_ORDER = ("users", "pairs", "recall", "hit", "ndcg", "map", "mrr")

Key = tuple[str, ...]  # path of a value in the file: its top-level key, and the keys below


@dataclass(frozen=True)
class MeasuredRecord:
    """The figures of a key: ("systems", SYSTEM), ("slices", KIND, VALUE, SYSTEM), ("ann_loss", SYSTEM or `OVERLAP`),
    ("diversity", `BY_SCORE`), ("new_videos", `WITHOUT_NEW` or `OF_NEW`), ("served", `ALL_USERS` or `WITH_A_LIST`)."""

    key: Key
    measured: MeasuredFigures


@dataclass(frozen=True, kw_only=True)
class ShownRecord:
    """Statistics of the videos in a system's lists, or of the videos `WATCHED`: `list_statistics`, and coverage."""

    system: str
    figures: dict[str, Number]
    by_day: list[float]
    by_length: list[float]


@dataclass(frozen=True, kw_only=True)
class ServedPlaces:
    """Places of the lists of users who completed anything on the next day, and how many of their videos the users
    completed: those of new videos, and the others."""

    new: int
    new_completed: int
    others: int
    others_completed: int

    def merge(self, other: ServedPlaces) -> ServedPlaces:
        """Return the places of the lists of both."""
        return ServedPlaces(**{name: count + getattr(other, name) for name, count in vars(self).items()})


class MeasuredHoldout(JsonModel):
    """The held-out days and the number of users measured."""

    start: str
    end: str
    users: int


class MeasuredAnnLoss(JsonModel):
    """The loss of approximate search."""

    index: str
    neighbours: MeasuredFigures | None = None
    exact_search: MeasuredFigures | None = Field(None, alias=EXACT_SEARCH)
    difference: PairedDifference | None = None
    overlap: MeasuredFigures | None = None


class MeasuredDiversity(JsonModel):
    """The cost of re-ranking for diversity: the figures of the same lists in the order of scores."""

    setting: float
    by_score: MeasuredFigures
    difference: dict[str, PairedDifference | None]  # neighbours minus `by_score`: recall at each cut -> difference


class MeasuredNewVideos(JsonModel):
    """The effect of the places that are reserved for new videos, as of the start of the held-out days."""

    setting: float
    videos: int  # number of new videos
    without_new: MeasuredFigures  # the same lists without reserved places
    difference: dict[str, PairedDifference | None]  # neighbours minus `without_new`: recall at each cut -> difference
    of_new: MeasuredFigures | None = None  # neighbours, only new videos as labels; None: no user completed one


class ServedNewVideos(JsonModel):
    """What became of the new videos in published lists on the next day."""

    places: ServedPlaces
    of_new: MeasuredFigures | None = None  # the lists, only new videos as labels; None: no user completed one


class MeasuredServed(MeasuredFigures):
    """The previously published lists on the day after; the figures are those of all users."""

    date: str = ""
    start: str = ""
    end: str = ""
    with_a_list: MeasuredFigures | None = None
    share: float | None = None
    new_videos: ServedNewVideos | None = None


class NightMetrics(JsonModel):
    """The content of the file, as `read` returns it."""

    format_version: int
    k: int = 0
    gate: str = ""
    holdout: MeasuredHoldout | None = None
    systems: dict[str, MeasuredFigures]
    served_system: str = NEIGHBOURS
    beside: dict[str, PairedDifference | None] = Field(default_factory=dict)
    differences: dict[str, dict[str, PairedDifference | None]] = Field(default_factory=dict)
    slices: dict[str, dict[str, dict[str, MeasuredFigures]]] = Field(default_factory=dict)
    shown: dict[str, dict[str, Number | list[float]]] = Field(default_factory=dict)
    ann_loss: MeasuredAnnLoss | None = None
    diversity: MeasuredDiversity | None = None
    new_videos: MeasuredNewVideos | None = None
    ranking: MeasuredRanking | None = None
    served: MeasuredServed | None = None

    @property
    def cut_figure(self) -> str:
        """The figure that shows the order of ranked lists: recall in the first videos; empty if none are ranked."""
        cut = self.ranking.cut if self.ranking and self.served_system == RANKING else 0
        return f"recall@{min(cut, self.k)}" if cut else ""

    def to_dict(self) -> dict[str, Any]:
        """Return the content as JSON values."""
        return self.model_dump(by_alias=True, exclude_unset=True)


def gate_figure(k: int) -> str:
    """Return the name of the figure that nights and systems are compared by."""
    return f"recall@{k}"


def measured_record(key: Key, value: Measured, *, k: int) -> MeasuredRecord:
    """Return the figures of a key, with the replicates of those that are compared."""
    compared = key[0] in ("ann_loss", "served") and key[-1] not in (OVERLAP, WITH_A_LIST, OF_NEW)
    kept = [gate_figure(k)] if compared else []
    if key[0] == "systems" or key in (("diversity", BY_SCORE), ("new_videos", WITHOUT_NEW)):
        kept = [name for name in value.replicates.names if _is_recall(name) or (name, key[0]) == ("map", "systems")]
    return MeasuredRecord(key, value.compute(kept))


def collect_metrics(
    records: Iterable[MeasuredRecord],
    shown: Iterable[ShownRecord] = (),
    ranking: MeasuredRanking | None = None,
    *,
    k: int,
    index: str,
    holdout: tuple[str, str] | None,
    served: Mapping[str, str] | None,
    cut: int = 0,
    diversity: float = 0.0,
    new_videos: tuple[float, int] = (0.0, 0),
    places: ServedPlaces | None = None,
) -> NightMetrics:
    """Return the content of the file.

    holdout: start and end of the held-out days. served: date, start, end of the served lists. cut: that of `ranking`.
    diversity: the setting. new_videos: the setting, and the number of new videos. places: those of the served lists.
    """
    found = {record.key: record.measured for record in records}
    gate = gate_figure(k)
    systems = {system: found["systems", system] for system in SYSTEMS if ("systems", system) in found}
    slices: dict[str, dict[str, dict[str, MeasuredFigures]]] = {}
    for key in sorted((key for key in found if key[0] == "slices"), key=_numbers_first):
        slices.setdefault(key[1], {}).setdefault(key[2], {})[key[3]] = found[key]
    differences = _differences(systems)
    users = int(systems[NEIGHBOURS].figures["users"]) if systems else 0
    by_score = found.get(("diversity", BY_SCORE))
    without_new = found.get(("new_videos", WITHOUT_NEW))
    optional: dict[str, Any] = {"served_system": RANKING} if RANKING in systems else {}
    if systems and by_score:
        optional["diversity"] = _diversity(without_new or systems[NEIGHBOURS], by_score, diversity)
    if systems and without_new:
        optional["new_videos"] = _new_videos(systems[NEIGHBOURS], without_new, new_videos, found)
    return NightMetrics(
        format_version=FORMAT_VERSION,
        k=k,
        gate=gate,
        holdout=MeasuredHoldout(start=holdout[0], end=holdout[1], users=users) if holdout and users else None,
        systems={system: _stored(system, measured, gate) for system, measured in systems.items()},
        beside={system: of.get(gate) for system, of in differences.items() if system != NEIGHBOURS},
        differences=differences,
        slices=slices,
        shown=_shown({record.system: record for record in sorted(shown, key=lambda record: record.system)}),
        ann_loss=_ann_loss(found, index, gate) if systems else None,
        **optional,  # an absent field is not written
        ranking=ranking.model_copy(update={"cut": cut}) if ranking else None,
        served=_served(found, served, places) if served and ("served", ALL_USERS) in found else None,
    )


def _differences(systems: Mapping[str, MeasuredFigures]) -> dict[str, dict[str, PairedDifference | None]]:
    """Return the difference of the served lists, the first system, and each other system: recall at each cut, map."""
    if not systems:
        return {}
    served, *others = systems
    names = sorted(systems[served].replicates, key=_figure_order)
    return {
        other: {name: paired_difference(systems[served], systems[other], name) for name in names} for other in others
    }


def _stored(system: str, measured: MeasuredFigures, gate: str) -> MeasuredFigures:
    """Return what is stored of a system: of its replicates, those that later nights or gates compare."""
    all_cuts = system in (RANKING, NEIGHBOURS, MOST_POPULAR)
    kept = {name: of for name, of in measured.replicates.items() if name == gate or (all_cuts and _is_recall(name))}
    return measured.model_copy(update={"replicates": kept})


def _is_recall(figure: str) -> bool:
    return figure.startswith("recall@")


def _numbers_first(key: Key) -> tuple[Any, ...]:
    """Return a sort key: by kind; values that begin with a number by that number."""
    number = re.match(r"\d+", key[2])
    return key[1], not number, int(number[0]) if number else 0, *key[2:]


def _shown(records: Mapping[str, ShownRecord]) -> dict[str, dict[str, Number | list[float]]]:
    watched = records[WATCHED].figures.get("mean_log2_rank") if WATCHED in records else None
    shown = dict[str, dict[str, Number | list[float]]]()
    for name, record in records.items():
        curves = [("by_day", record.by_day), ("by_length", record.by_length)]
        shown[name] = dict(sorted([*record.figures.items(), *curves]))
        if name != WATCHED and watched is not None and "mean_log2_rank" in record.figures:
            shown[name]["popularity_bias"] = watched - record.figures["mean_log2_rank"]
    return shown


def _ann_loss(figures: Mapping[Key, MeasuredFigures], index: str, gate: str) -> MeasuredAnnLoss:
    approximate, exact = (figures.get(("ann_loss", system)) for system in (NEIGHBOURS, EXACT_SEARCH))
    if approximate is None or exact is None:
        return MeasuredAnnLoss(index=index)
    sides = {NEIGHBOURS: approximate, EXACT_SEARCH: exact, OVERLAP: figures["ann_loss", OVERLAP]}
    return MeasuredAnnLoss(index=index, difference=paired_difference(approximate, exact, gate), **sides)


def _diversity(lists: MeasuredFigures, by_score: MeasuredFigures, setting: float) -> MeasuredDiversity:
    return MeasuredDiversity(setting=setting, by_score=by_score, difference=_recall_differences(lists, by_score))


def _new_videos(
    neighbours: MeasuredFigures,
    without_new: MeasuredFigures,
    about: tuple[float, int],
    figures: Mapping[Key, MeasuredFigures],
) -> MeasuredNewVideos:
    return MeasuredNewVideos(
        setting=about[0],
        videos=about[1],
        without_new=without_new,
        difference=_recall_differences(neighbours, without_new),
        of_new=_of_new(figures, "new_videos"),
    )


def _of_new(figures: Mapping[Key, MeasuredFigures], key: str) -> MeasuredFigures | None:
    of_new = figures.get((key, OF_NEW))
    return of_new if of_new and of_new.figures["users"] else None


def _recall_differences(one: MeasuredFigures, other: MeasuredFigures) -> dict[str, PairedDifference | None]:
    cuts = [name for name in other.figures if _is_recall(name)]
    return {name: paired_difference(one, other, name) for name in cuts}


def _served(
    figures: Mapping[Key, MeasuredFigures], about: Mapping[str, str], places: ServedPlaces | None
) -> MeasuredServed:
    all_users, with_a_list = figures["served", ALL_USERS], figures["served", WITH_A_LIST]
    share = with_a_list.figures["users"] / all_users.figures["users"]
    new = {"new_videos": ServedNewVideos(places=places, of_new=_of_new(figures, "served"))} if places else {}
    measured = all_users.model_dump(exclude_unset=True)
    return MeasuredServed(**about, **measured, with_a_list=with_a_list, share=share, **new)


def serialize(metrics: NightMetrics) -> bytes:
    """Return the content as JSON. Raises ValueError for figures that are not numbers."""
    return json.dumps(metrics.to_dict(), indent=1, allow_nan=False).encode()


def read(content: bytes) -> NightMetrics | None:
    """Return the validated content that `serialize` wrote; None for another format version.

    Raises ValueError if it is not a JSON object, and one that names the fields that are unknown, missing or of another
    type.
    """
    found = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError(f"it must be a JSON object, but is of type {type(found).__name__}")
    if found.get("format_version") != FORMAT_VERSION:
        return None
    try:
        return NightMetrics.model_validate(found)
    except ValidationError as error:
        raise ValueError(invalid_fields(error)) from None


def ordered_figures(metrics: NightMetrics) -> dict[str, dict[str, Number]]:
    """Return the figures by system, in reading order: counts, then metrics by cut, then the others."""
    return {
        system: {name: measured.figures[name] for name in sorted(measured.figures, key=_figure_order)}
        for system, measured in metrics.systems.items()
    }


def _figure_order(figure: str) -> tuple[int, int, int]:
    """Return the sort key of `ordered_figures`."""
    name, _, cut = figure.partition("@")
    place = _ORDER.index(name)
    return (1, int(cut), place) if cut else (0 if name in ("users", "pairs") else 2, 0, place)
