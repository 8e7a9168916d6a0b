"""Pointers and records, compared with loops over one user's events, and properties that rule out leaks."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
import pytest
from breadth import fewer
from hypothesis import given, settings
from hypothesis import strategies as st
from made_frames import hours, search, searches_frame, watch, watches_frame

from transforms.contracts.example_spec import MISSING
from transforms.core.digests import id_digests, mix
from transforms.examples.draw_examples import (
    DrawnLabels,
    LabelDraw,
    active_users,
    build_records,
    category_counts,
    draw_labels,
    holdout_pointers,
    serving_pointers,
)
from transforms.examples.histories import UserHistories, Vocabularies
from transforms.examples.tokens import tokens
from transforms.logs.event_window import Holdout, drop_robot_days

VIDEOS = {"v1": 1, "v2": 2, "v3": 3}  # v4 and v5 are out of vocabulary
TOKENS = {"cat": 1, "dog": 2, "cat dog": 3}
USERS: dict[str, dict[str, Any]] = {
    "a": {"gender": "f", "birth_year": 1984, "country": "SE"},
    "b": {"gender": None, "birth_year": None, "country": None},
}  # c is not in the table
END, HOLDOUT_START = hours(26), hours(8)
LEARNED_END = hours(73)  # far enough for labels of several days, one at the first moment of its day
SHARED_ROWS = {"v4": 3 + 1 + 0, "v5": 3 + 1 + 1}  # behind the vocabulary's, by XXH64 modulo 2

# Few, so that many times are equal; some a search's half hour apart, a little less or a little more. In two days.
HOURS = st.sampled_from([0, 1, 1.25, 1.5, 1.75, 5, 7.5, 8, 8.25, 8.5, 11, 24.25, 25])
WATCHES = st.lists(
    st.builds(
        watch,
        st.sampled_from("abc"),
        HOURS,
        st.sampled_from([*VIDEOS, "v4", "v5"]),
        st.sampled_from([True, True, False]),
        country=st.sampled_from([None, None, "DE", "FR"]),
        signed_in=st.sampled_from([None, True, False]),
    ),
    max_size=25,
)
QUERIES = st.sampled_from(["cat", "Cat dog", "bird", "dog dog", "..."])
SEARCHES = st.lists(st.builds(search, st.sampled_from("abc"), HOURS, QUERIES), max_size=20)


@dataclass(frozen=True)
class Case:
    """Events and the settings of a draw."""

    watches: list[dict[str, Any]]
    searches: list[dict[str, Any]]
    draw: LabelDraw
    shared_rows: int = 0
    partial_watches: bool = False
    max_events_per_day: int = 0

    @property
    def histories(self) -> UserHistories:
        users = pl.DataFrame([{"user_id": user, **row} for user, row in USERS.items()])
        users = users.cast({"birth_year": pl.Int32})
        watches, searches = watches_frame(self.watches), searches_frame(self.searches)
        events = drop_robot_days(watches, searches, max_events=self.max_events_per_day)
        tops = (pl.DataFrame({"token": list(ids), "count": [9, 8, 7]}) for ids in (VIDEOS, TOKENS))
        vocabularies = Vocabularies.from_frames(
            *tops, shared_rows=self.shared_rows, partial_watches=self.partial_watches
        )
        return UserHistories.from_events(events.watches, events.searches, users, vocabularies)


def draw_of(
    per_user: int = 0,
    share: float = 0.5,
    max_sequence: int = 1_000,
    watch_history: int = 2,
    search_history: int = 2,
    withhold_last_search: bool = True,
) -> LabelDraw:
    return LabelDraw(
        per_user=per_user,
        seed=5,
        holdout=Holdout(start=HOLDOUT_START, share=share, seed=1),
        newest=hours(25),
        end=LEARNED_END,
        max_sequence=max_sequence,
        watch_history=watch_history,
        search_history=search_history,
        withhold_last_search=withhold_last_search,
    )


def training_pointers(histories: UserHistories, draw: LabelDraw) -> pl.DataFrame:
    return draw_labels(histories, draw).pointers


CASES = st.builds(
    Case,
    WATCHES,
    SEARCHES,
    st.builds(
        draw_of,
        per_user=st.sampled_from([0, 1, 3]),
        share=st.sampled_from([0.5, 1.0]),
        max_sequence=st.sampled_from([2, 3, 5, 1_000]),
        watch_history=st.sampled_from([1, 2]),
        search_history=st.sampled_from([1, 2]),
        withhold_last_search=st.booleans(),
    ),
    shared_rows=st.sampled_from([0, 2]),
    partial_watches=st.booleans(),
    max_events_per_day=st.sampled_from([0, 0, 4, 7]),
)


# ---- the oracle: one user, one event, one pointer at a time


class Oracle:
    """An oracle of the contract in plain Python loops."""

    def __init__(self, case: Case) -> None:
        self.draw = case.draw
        self.watches = watches_frame(case.watches).to_dicts()  # in the order of the store
        self.searches = searches_frame(case.searches).to_dicts()
        of_day = Counter(self.day(event) for event in (*self.watches, *self.searches))
        most = case.max_events_per_day or math.inf
        self.watches, self.searches = (
            [event for event in events if of_day[self.day(event)] <= most] for events in (self.watches, self.searches)
        )
        self.inputs = VIDEOS | (SHARED_ROWS if case.shared_rows else {})
        self.partial_inputs = {video: id + len(VIDEOS) + case.shared_rows for video, id in VIDEOS.items()}
        self.partial_watches = case.partial_watches

    @staticmethod
    def day(event: dict[str, Any]) -> tuple[str, dt.date]:
        return event["user_id"], event["time"].date()

    def held_out(self, user: str) -> bool:
        return bool(self.draw.holdout.contains(pl.Series([user])).item())

    def completed(self, user: str) -> list[dict[str, Any]]:
        return [w for w in self.watches if w["user_id"] == user and w["completed"]]

    def history(self, user: str) -> list[tuple[dt.datetime, int]]:
        """(time, input) of the watches in the user's history."""
        found = []
        for w in self.watches:
            if w["user_id"] == user and w["completed"]:
                found.append((w["time"], self.inputs.get(w["video_id"], 0)))
            elif w["user_id"] == user and self.partial_watches and w["video_id"] in VIDEOS:
                found.append((w["time"], self.partial_inputs[w["video_id"]]))
        return found

    def tokens(self, user: str) -> list[tuple[dt.datetime, int]]:
        """(time, id) of the user's search tokens in vocabulary."""
        mine = [s for s in self.searches if s["user_id"] == user]
        return [(s["time"], TOKENS[t]) for s in mine for t in tokens(s["query"]) if t in TOKENS]

    def pointer(
        self,
        user: str,
        time: dt.datetime,
        label: Any,
        age: float,
        *,
        days: int = 0,
        as_of: int = 0,
        withhold: bool = False,
    ) -> dict[str, Any]:
        """What may be seen of a user at a time: only what came strictly before; of the searches, if some are withheld,
        those before the last watch and those more than half an hour before."""
        before = [w for w in self.watches if w["user_id"] == user and w["time"] < time]
        context = {}
        for name in ("country", "device", "signed_in"):
            known = [w[name] for w in before if w[name] is not None]
            context[name] = (str(known[-1]).lower() if name == "signed_in" else known[-1]) if known else None
        row = USERS.get(user, {"gender": None, "birth_year": None, "country": None})
        context["country"] = context["country"] or row["country"]
        born = row["birth_year"]
        shown = [at for at, _ in self.tokens(user) if at < time]
        if withhold:
            half_an_hour = dt.timedelta(minutes=30)
            shown = [at for at in shown if time - at > half_an_hour or any(at < w["time"] for w in before)]
        return {
            "user_id": user,
            "time": time,
            "label": label,
            "watches_end": sum(at < time for at, _ in self.history(user)),
            "tokens_end": len(shown),
            "example_age": pytest.approx(age),
            "label_days": days,
            "as_of_days": as_of,
            "gender": row["gender"],
            "age": pytest.approx(min(max((time.year - born) / 100, 0), 1) if born else MISSING),
            **context,
        }

    def training(self) -> tuple[list[dict[str, Any]], Counter[str]]:
        """The pointers, and how many watches are none, by why."""
        found: list[dict[str, Any]] = []
        why = Counter(not_completed=sum(not w["completed"] for w in self.watches))
        for user in "abc":
            pointers = []
            for w in self.completed(user):
                learnable = w["time"] < self.draw.holdout.start or not self.held_out(user)
                if w["video_id"] in VIDEOS and learnable:
                    age = (self.draw.newest - w["time"]).total_seconds() / 86_400
                    digest, label = self.digest(user, w["video_id"], w["time"]), VIDEOS[w["video_id"]]
                    days, withhold = self.label_days(user, w["time"]), self.draw.withhold_last_search
                    as_of = self.days_to(self.draw.end, w["time"]) + 1
                    pointer = self.pointer(user, w["time"], label, age, days=days, as_of=as_of, withhold=withhold)
                    pointers.append((digest, pointer))
                else:
                    why["held_out" if w["video_id"] in VIDEOS else "out_of_vocabulary"] += 1
            reached = [(digest, p) for digest, p in pointers if self.reached(p, [p for _, p in pointers])]
            ranked = sorted(range(len(reached)), key=lambda at: reached[at][0])  # of equal digests the first
            drawn = ranked[: self.draw.per_user or None]
            found += [p for at, (_, p) in enumerate(reached) if at in drawn]
            why.update(out_of_reach=len(pointers) - len(reached), not_drawn=len(reached) - len(drawn))
        return found, why

    def label_days(self, user: str, time: dt.datetime) -> int:
        """How many whole days, each from midnight to midnight, lie behind the label's in what is learned of the
        user."""
        return self.days_to(self.draw.holdout.start if self.held_out(user) else self.draw.end, time)

    def days_to(self, end: dt.datetime, time: dt.datetime) -> int:
        """How many whole days lie between the day of a moment and `end`, each counted back from `end`."""
        days = -1
        while time < end:
            end, days = end - dt.timedelta(days=1), days + 1
        return days

    def reached(self, pointer: dict[str, Any], pointers: list[dict[str, Any]]) -> bool:
        """Whether the last `max_sequence` watches and tokens before the user's last pointer hold this one's input."""
        histories = {"watches_end": self.draw.watch_history, "tokens_end": self.draw.search_history}
        last = {name: max(p[name] for p in pointers) for name in histories}
        return all(max(0, pointer[n] - histories[n]) >= last[n] - self.draw.max_sequence for n in histories)

    def digest(self, user: str, video: str, time: dt.datetime) -> int:
        micros = (time - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)
        ids = id_digests(pl.Series([user, video])).to_list()
        return int(mix(self.draw.seed, 0x6C6162656C73, *ids, micros)[0])

    def serving(self) -> list[dict[str, Any]]:
        active = sorted({e["user_id"] for e in (*self.watches, *self.searches)})
        return [self.pointer(user, END, [], 0) for user in active]

    def holdout(self) -> list[dict[str, Any]]:
        found = []
        for user in "abc":
            start = self.draw.holdout.start
            videos = {w["video_id"] for w in self.completed(user) if w["time"] >= start}
            if videos and self.held_out(user):
                label = sorted(VIDEOS.get(video, 0) for video in videos)
                found.append(self.pointer(user, start, label, 0, as_of=1))
        return found

    def records(self, pointers: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """One record a user: what the trainer would cut its inputs from."""
        found: dict[str, dict[str, Any]] = {}
        for user in dict.fromkeys(p["user_id"] for p in pointers):
            mine = [p for p in pointers if p["user_id"] == user]
            sequences = {
                "watches": [row for _, row in self.history(user)],
                "tokens": [token for _, token in self.tokens(user)],
            }
            record: dict[str, Any] = {}
            for name, sequence in sequences.items():
                last = max(p[f"{name}_end"] for p in mine)
                cut = max(0, last - self.draw.max_sequence)
                record[name] = sequence[cut:last]
                record[f"{name}_end"] = [max(0, p[f"{name}_end"] - cut) for p in mine]
            one = isinstance(mine[0]["label"], list)
            record["label"] = mine[0]["label"] if one else [p["label"] for p in mine]
            others = ("example_age", "label_days", "as_of_days", "gender", "age", "country", "device", "signed_in")
            found[user] = record | {name: [p[name] for p in mine] for name in others}
        return found


REASONS = ("not_completed", "out_of_vocabulary", "held_out", "out_of_reach", "not_drawn")


@settings(max_examples=fewer(120))
@given(CASES)
def test_pointers_and_records_equal_those_of_the_oracle(case: Case) -> None:
    histories, oracle = case.histories, Oracle(case)
    drawn, (trained, why) = draw_labels(histories, case.draw), oracle.training()
    assert drawn == DrawnLabels(pointers=drawn.pointers, **{name: why[name] for name in REASONS})
    for found, expected in (
        (drawn.pointers, trained),
        (serving_pointers(histories, END), oracle.serving()),
        (holdout_pointers(histories, case.draw.holdout, days=1), oracle.holdout()),
    ):
        names = ["user_id", "time", "label", "watches_end", "tokens_end", "example_age", "label_days"]
        names += ["as_of_days", "gender", "age"]
        assert sorted(found.columns) == sorted([*names, "country", "device", "signed_in"])
        assert found.to_dicts() == expected
        rows = build_records(found, histories, max_sequence=case.draw.max_sequence)
        assert {row.pop("user_id"): row for row in rows.to_dicts()} == oracle.records(expected)
        assert rows.height == found["user_id"].n_unique()


def input_of(row: dict[str, Any], pointer: int, name: str) -> list[int]:
    end = row[f"{name}_end"][pointer]
    sequence: list[int] = row[name][:end]
    return sequence


def all_inputs(histories: UserHistories, pointers: pl.DataFrame, draw: LabelDraw) -> dict[str, list[Any]]:
    """Return, by user and pointer, the events that its input is taken from, and its context."""
    rows = build_records(pointers, histories, max_sequence=draw.max_sequence).to_dicts()
    context = ("country", "device", "signed_in")
    return {
        row["user_id"]: [
            (input_of(row, p, "watches"), input_of(row, p, "tokens"), [row[name][p] for name in context])
            for p in range(len(row["watches_end"]))
        ]
        for row in rows
    }


@settings(max_examples=fewer(40))
@given(CASES, HOURS, st.sampled_from("abc"))
def test_events_at_or_after_a_label_do_not_change_its_input(case: Case, hour: float, user: str) -> None:
    """Remove a user's events from some hour on: the inputs of pointers at or before that hour do not change."""
    case = replace(case, max_events_per_day=0)  # whether a day is a robot's shows at its end
    draw = replace(case.draw, per_user=0, max_sequence=1_000)

    def early(pointers: pl.DataFrame) -> pl.DataFrame:
        return pointers.filter((pl.col("time") < hours(hour)) | (pl.col("user_id") != user))

    def left(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [event for event in events if event["user_id"] != user or event["time"] < hours(hour)]

    shorter = replace(case, watches=left(case.watches), searches=left(case.searches)).histories
    whole = case.histories

    def training(histories: UserHistories) -> pl.DataFrame:
        return early(training_pointers(histories, draw))

    def serving(histories: UserHistories) -> pl.DataFrame:
        return serving_pointers(histories, hours(hour)).filter(pl.col("watches_end") + pl.col("tokens_end") > 0)

    for pointers in (training, serving):
        assert all_inputs(whole, pointers(whole), draw) == all_inputs(shorter, pointers(shorter), draw)


@settings(max_examples=fewer(80))
@given(CASES, st.sampled_from("abc"), HOURS, HOURS)
def test_search_that_led_to_a_watch_is_withheld_from_its_input(case: Case, user: str, asked: float, at: float) -> None:
    """The input of the next watch within half an hour does not depend on the search; those of later watches do."""
    case = replace(case, draw=replace(case.draw, per_user=0, max_sequence=1_000, withhold_last_search=True))
    case = replace(case, max_events_per_day=0, watches=[*case.watches, watch(user, at, "v1")])
    led = replace(case, searches=[*case.searches, search(user, asked, "cat")])
    times = [w["time"] for w in case.watches if w["user_id"] == user]
    after = [time for time in times if time > hours(asked)]

    def inputs(of: Case) -> list[dict[str, Any]]:
        return training_pointers(of.histories, of.draw).filter(user_id=user).select("time", "tokens_end").to_dicts()

    for with_it, without in zip(inputs(led), inputs(case), strict=True):
        is_next = after and with_it["time"] == min(after) <= hours(asked + 0.5)
        shown = with_it["time"] > hours(asked) and not is_next
        assert with_it["tokens_end"] - without["tokens_end"] == shown


@settings(max_examples=fewer(40))
@given(CASES)
def test_held_out_events_are_not_learned(case: Case) -> None:
    """Training pointers and inputs of the holdout do not change without these events."""
    case = replace(case, max_events_per_day=0)
    draw, whole = replace(case.draw, per_user=0, max_sequence=1_000), case.histories
    held = {user for user in "abc" if draw.holdout.contains(pl.Series([user])).item()}

    def left(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [e for e in events if e["user_id"] not in held or e["time"] < HOLDOUT_START]

    learnable = replace(case, watches=left(case.watches), searches=left(case.searches)).histories
    trained, without = (training_pointers(histories, draw) for histories in (whole, learnable))
    assert trained.equals(without)
    assert all_inputs(whole, trained, draw) == all_inputs(learnable, without, draw)
    asked = holdout_pointers(whole, draw.holdout, days=1)
    assert set(asked["user_id"]) <= held
    as_of_then = serving_pointers(learnable, HOLDOUT_START).filter(pl.col("user_id").is_in(asked["user_id"].to_list()))
    shown = all_inputs(learnable, as_of_then, draw)
    assert all(inputs == shown.get(user, inputs) for user, inputs in all_inputs(whole, asked, draw).items())


def test_labels_of_a_hot_user_come_from_the_end_of_the_sequence() -> None:
    n = 20_000
    watches = [watch("hot", i / 3_600, f"v{i % 5 + 1}") for i in range(n)]
    case = Case(watches, [], draw_of(per_user=20, share=0.0, max_sequence=100, watch_history=50))
    pointers = training_pointers(case.histories, case.draw)
    assert pointers.height == 20
    (row,) = build_records(pointers, case.histories, max_sequence=100).to_dicts()
    assert len(row["watches"]) <= 100
    for end, label, time in zip(row["watches_end"], row["label"], pointers["time"], strict=True):
        at = round((time - hours(0)).total_seconds())
        assert label == at % 5 + 1
        assert row["watches"][end - 50 : end] == [VIDEOS.get(f"v{i % 5 + 1}", 0) for i in range(at - 50, at)]


def test_values_of_existing_categories_are_counted() -> None:
    watches = watches_frame([watch("a", 1, "v", country="DE"), watch("a", 2, "v", country="SE", signed_in=False)])
    users = pl.DataFrame({"user_id": ["a", "idle"], "country": ["SE", "SE"], "gender": [None, "f"], "plan": ["x", "y"]})
    users = users.with_columns(pl.col("gender").cast(pl.String))
    assert active_users(watches, users)["user_id"].to_list() == ["a"]
    expected = {"country": {"DE": 1, "SE": 2}, "signed_in": {"false": 1}, "plan": {"x": 1}}
    assert category_counts(watches, users, ("plan", "absent")) == expected
