"""Folded pairs, counted again in plain Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pytest
from apache_beam.testing.util import assert_that
from breadth import fewer
from hypothesis import given, settings
from hypothesis import strategies as st
from made_frames import hours, watch, watches_frame, write

from transforms.core.digests import id_digests, mix
from transforms.evaluation import folding_check
from transforms.evaluation.folding_check import (
    RANDOM,
    SIMILAR,
    CheckFolding,
    FoldingCounts,
    PairCounts,
    collect_evidence,
    draw_videos,
    folding_counts,
    home_countries,
    merge_evidence,
    rarer_first,
    sample_pairs,
    watched_together,
)
from transforms.logs.event_window import BucketFiles, Window

VIDEOS = [f"v{n}" for n in range(7)]
Similar = dict[str, list[str]]

similar_lists = st.dictionaries(st.sampled_from(VIDEOS), st.lists(st.sampled_from(VIDEOS), max_size=4, unique=True))
countries = st.sampled_from(["SE", "DE", None])
watch_rows = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(VIDEOS), countries), max_size=30)
users_countries = st.dictionaries(st.sampled_from("abcd"), countries)


def similar_frame(similar: Similar) -> pl.DataFrame:
    return pl.DataFrame({"video_id": list(similar), "video_ids": list(similar.values())}, schema=folding_check._DRAWN)


def pairs_of(similar: Similar) -> pl.DataFrame:
    without_itself = {video: [other for other in others if other != video] for video, others in similar.items()}
    return sample_pairs(draw_videos([similar_frame(without_itself)]))


def watched(rows: Sequence[tuple[str, str, str | None]]) -> pl.DataFrame:
    return pl.DataFrame(rows, {"user_id": pl.String, "video_id": pl.String, "country": pl.String}, orient="row")


def catalogue_frame(rows: dict[str, tuple[str | None, str | None]]) -> pl.DataFrame:
    listed = [(video, *row) for video, row in rows.items()]
    return pl.DataFrame(listed, dict.fromkeys(["video_id", "channel", "language"], pl.String), orient="row")


def test_the_videos_drawn_are_those_with_the_smallest_digests() -> None:
    similar = {f"video {n}": [f"video {n + 1}"] for n in range(50)}
    digests = mix(folding_check._DRAW_OF_VIDEOS, id_digests(pl.Series(list(similar))).to_numpy()).tolist()
    smallest = sorted(video for _, video in sorted(zip(digests, similar, strict=True))[:12])
    rows = similar_frame(similar)
    assert draw_videos([rows], 12)["video_id"].to_list() == smallest
    parts = [draw_videos([rows[at : at + 7]], 12) for at in range(0, 50, 7)]
    assert draw_videos(parts[::-1], 12).equals(draw_videos([rows], 12))
    assert draw_videos([]).schema == rows.schema and draw_videos([rows], 80).height == 50


def test_random_pairs_are_the_same_others_dealt_out_anew() -> None:
    similar = {f"v{n}": [f"v{(n + step) % 40}" for step in (1, 2, 3)] for n in range(40)}
    pairs = pairs_of(similar)
    near, far = (pairs.filter(kind=kind) for kind in (SIMILAR, RANDOM))
    assert sorted(near.select("video_id", "other_id").rows()) == sorted((v, o) for v in similar for o in similar[v])
    lost = Counter(near["other_id"]) - Counter(far["other_id"])
    assert lost.total() == near.height - far.height < 15 and not Counter(far["other_id"]) - Counter(near["other_id"])
    assert (far["video_id"] != far["other_id"]).all()
    assert len(set(far.select("video_id", "other_id").rows()) & set(near.select("video_id", "other_id").rows())) < 30
    assert pairs_of(similar).equals(pairs)


def together_by_hand(rows: Sequence[tuple[str, str, str | None]], pairs: pl.DataFrame) -> list[bool]:
    had: dict[str, set[str]] = {}
    for user, video, _ in rows:
        had.setdefault(user, set()).add(video)
    return [any({one, other} <= videos for videos in had.values()) for one, other, _ in pairs.iter_rows()]


def home_by_hand(rows: list[tuple[str, str, str | None]], of_user: dict[str, str | None]) -> dict[str, str]:
    seen = {(user, video, country or of_user.get(user)) for user, video, country in rows}
    counts: dict[str, Counter[str]] = {}
    for _, video, country in seen:
        if country:
            counts.setdefault(video, Counter())[country] += 1
    return {video: min(of, key=lambda country: (-of[country], country)) for video, of in counts.items()}


@settings(max_examples=fewer(200), deadline=None)
@given(
    rows=watch_rows,
    of_user=users_countries,
    similar=similar_lists,
    catalogue=st.dictionaries(
        st.sampled_from(VIDEOS), st.tuples(st.sampled_from(["c1", "c2", None]), st.sampled_from(["sv", "de", None]))
    ),
    buckets=st.integers(1, 4),
)
def test_counts_are_those_of_plain_python(
    rows: list[tuple[str, str, str | None]],
    of_user: dict[str, str | None],
    similar: Similar,
    catalogue: dict[str, tuple[str | None, str | None]],
    buckets: int,
) -> None:
    pairs = pairs_of(similar)
    users = pl.DataFrame(list(of_user.items()), {"user_id": pl.String, "country": pl.String}, orient="row")
    parts = [[row for row in rows if ord(row[0]) % buckets == bucket] for bucket in range(buckets)]
    found = merge_evidence([collect_evidence(watched(part), users, pairs) for part in parts])
    assert found.together.tolist() == together_by_hand(rows, pairs)
    home = home_by_hand(rows, of_user)
    of_pairs = {*pairs["video_id"], *pairs["other_id"]}
    assert dict(home_countries(found.watchers).iter_rows()) == {v: c for v, c in home.items() if v in of_pairs}

    def differ(known: dict[str, Any], one: str, other: str) -> bool | None:
        both = known.get(one), known.get(other)
        return None if None in both else both[0] != both[1]

    channels, languages = ({video: row[at] for video, row in catalogue.items()} for at in (0, 1))
    videos = len({one for one in similar if any(o != one for o in similar[one])})
    expected = dict[str, PairCounts]()
    for kind in (SIMILAR, RANDOM):
        counts = dict.fromkeys(["pairs", "apart", "other_country", "other_topic", "folded"], 0)
        for (one, other, of), together in zip(pairs.iter_rows(), found.together, strict=True):
            if of == kind:
                country, channel = bool(differ(home, one, other)), differ(channels, one, other)
                topic = bool(differ(languages, one, other) if channel is None else channel)
                counts["pairs"] += 1
                counts["apart"] += not together
                counts["other_country"] += country
                counts["other_topic"] += topic
                counts["folded"] += bool(not together and (country or topic))
        expected[kind] = PairCounts(**counts)
    assert folding_counts(pairs, found, catalogue_frame(catalogue)) == FoldingCounts(videos=videos, **expected)


@pytest.mark.parametrize(("first", "at_once"), [(1, 1), (1, 7), (3, 64), (4, 1 << 20)])
def test_pairs_are_found_however_few_are_looked_up_at_once(
    monkeypatch: pytest.MonkeyPatch, first: int, at_once: int
) -> None:
    """One user watched every video many times, others two, and one pair has many watchers but none in common."""
    monkeypatch.setattr(folding_check, "_FIRST_WATCHERS", first)
    monkeypatch.setattr(folding_check, "_LOOKUPS_AT_ONCE", at_once)
    rows = [("hot", f"v{n % 50}", None) for n in range(500)]
    rows += [(f"u{n}", f"x{n + m}", None) for n in range(20) for m in (0, 1)]
    similar = {f"v{n}": [f"v{(n + 7) % 50}", f"x{n}"] for n in range(50)}
    rows += [(f"{side}{n}", side, None) for side in ("left", "right") for n in range(90)]
    rows += [("last", "left", None), ("last", "late", None), *((f"late{n}", "late", None) for n in range(95))]
    similar |= {"left": ["right", "late"], "right": ["left", "late"]}
    similar |= {f"x{n}": [f"x{n + 1}", f"x{n + 2}", "never watched"] for n in range(20)}
    pairs = pairs_of(similar)
    found = watched_together(watched(rows), pairs)
    assert found.tolist() == together_by_hand(rows, pairs) and 0 < found.sum() < len(found)


def test_the_video_with_fewer_watchers_comes_first() -> None:
    rarer, other = rarer_first(np.array([0, 1, 2]), np.array([1, 0, 2]), np.array([5, 2, 2]))
    assert (rarer.tolist(), other.tolist()) == ([1, 1, 2], [0, 0, 2])


def test_nothing_watched_and_nothing_similar() -> None:
    none, pairs = watched([]), pairs_of({"v1": ["v2"], "v2": ["v1"]})
    empty = pairs_of({})
    users = pl.DataFrame(schema={"user_id": pl.String})
    assert not collect_evidence(none, users, pairs).together.any()
    assert collect_evidence(watched([("a", "v1", "SE")]), users, empty).together.tolist() == []
    nothing = PairCounts(pairs=0, apart=0, other_country=0, other_topic=0, folded=0)
    counts = folding_counts(empty, merge_evidence([]), catalogue_frame({}))
    assert counts == FoldingCounts(videos=0, similar=nothing, random=nothing)


def test_two_worlds_that_lie_on_top_of_each_other_are_folded_and_one_that_does_not_is_not() -> None:
    """Users of two countries watch videos of their own; once the neighbours are those of the other country."""
    rows = [(f"{c}{u}", f"{c}{(u + m) % 10}", c) for c in ("SE", "DE") for u in range(10) for m in range(6)]
    users = pl.DataFrame(schema={"user_id": pl.String})

    def share(of: dict[str, str], kind: str) -> float:
        pairs = pairs_of(
            {f"{c}{n}": [f"{of[c]}{(n + m) % 10}" for m in range(1, 5)] for c in ("SE", "DE") for n in range(10)}
        )
        counts = folding_counts(pairs, collect_evidence(watched(rows), users, pairs), catalogue_frame({}))
        return float(getattr(counts, kind).folded / getattr(counts, kind).pairs)

    assert share({"SE": "SE", "DE": "DE"}, SIMILAR) == 0
    assert share({"SE": "DE", "DE": "SE"}, SIMILAR) == 1
    assert 0.35 < share({"SE": "SE", "DE": "DE"}, RANDOM) < 0.65


def test_the_pipeline_reads_files_and_gives_one_record(tmp_path: Path) -> None:
    similar = [{"a": ["b", "c"], "b": ["a", "d"]}, {"c": ["d", "a"], "d": ["c"]}]
    listed = [write(similar_frame(part), tmp_path / f"similar-{n}.parquet") for n, part in enumerate(similar)]
    buckets = [
        [watch("ann", 1, "a", country="SE"), watch("ann", 2, "b", False), watch("ann", 200, "d")],
        [watch("bob", 3, "c", country="DE"), watch("cy", 3, "d", country="DE"), *(watch("ro", 5, v) for v in "abcd")],
    ]
    given = [
        BucketFiles(bucket=n, watches=(write(watches_frame(rows), tmp_path / f"w-{n}.parquet"),))
        for n, rows in enumerate(buckets)
    ]
    users = pl.DataFrame({"user_id": ["ann", "ro"], "country": ["SE", "SE"]})
    given[0] = BucketFiles(bucket=0, watches=given[0].watches, users=(write(users, tmp_path / "users.parquet"),))
    catalogue = catalogue_frame({"a": ("c1", None), "b": ("c2", None), "c": ("c1", None), "d": (None, "de")})
    check = CheckFolding(
        window=Window(start=hours(0), end=hours(100), max_events_per_day=3),
        catalogue=write(catalogue, tmp_path / "videos.parquet"),
    )
    # ann had a and b (d is after the window, the robot's day counts for nothing); c and d are of DE; a and c share c1.
    near = PairCounts(pairs=7, apart=5, other_country=3, other_topic=2, folded=3)

    def as_expected(found: list[FoldingCounts]) -> None:
        assert [record.videos for record in found] == [4]
        assert found[0].similar == near and found[0].random.pairs <= 7

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        paths, of_window = pipeline | "S" >> beam.Create(listed), pipeline | "B" >> beam.Create(given)
        assert_that((paths, of_window) | check, as_expected)
