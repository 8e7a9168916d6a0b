"""A ranker goes on from an earlier one: rows and inputs by name, replayed records, and reasons for a cold start."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from ranking_records import SPEC, random_records, random_user, record, score_decides, write_graph, write_records

from trainer.examples import Vocabulary
from trainer.inputs import cut_windows
from trainer.ranker.config import RankerSettings
from trainer.ranker.inputs import all_impressions, impression_batches, parse_ranking_records
from trainer.ranker.model import Ranker
from trainer.ranker.replay import RankingReplay, draw_shards
from trainer.ranker.step import RankerStep
from trainer.ranker.task import train_ranker
from trainer.ranker.training import RankingFiles
from trainer.ranker.warm_start import carry_ranker, input_names, prepare_ranker, ranker_shape
from trainer.record_files import RecordFiles
from trainer.state import dense_variables, write_state
from trainer.warm_start import WarmStartSource
from transforms.contracts.ranking_spec import RankingSpec
from transforms.core.tensorflow_import import tf

SETTINGS = RankerSettings(hidden=[8, 4], batch_size=64, epochs=1)
# The ranker of the night before lacks a number of each part, a category, and the searches.
EARLIER = replace(SPEC, tokens=0, numbers=["video_seconds", "seconds_since_video"], categories={"country": ["DE"]})


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {
        "now": write_graph(tmp_path_factory.mktemp("graph")),
        "earlier": write_graph(tmp_path_factory.mktemp("earlier"), EARLIER),
    }


def names_of(spec: RankingSpec, offset: int = 0) -> dict[str, Vocabulary]:
    """Return vocabularies whose names are numbers from 1 + offset."""
    sizes = {"videos": spec.videos, "channels": spec.channels, "tokens": spec.tokens}
    found = {name: [str(i + 1 + offset) for i in range(size)] for name, size in sizes.items() if size}
    found |= spec.categories
    return {n: Vocabulary(names=pa.array(of, pa.string()), counts=np.arange(len(of))[::-1]) for n, of in found.items()}


def new_step(
    spec: RankingSpec, graph: str | None, dimensions: Mapping[str, int] | None = None, **changes: Any
) -> RankerStep:
    settings = SETTINGS.model_copy(update=changes)
    return RankerStep(Ranker(spec, settings, graph=graph, odds=3.0, seed=1, dimensions=dimensions), settings)


@pytest.fixture(scope="module")
def source(graphs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> WarmStartSource:
    """Write the state of a ranker of EARLIER, with random variables."""
    step, draw = new_step(EARLIER, graphs["earlier"]), np.random.default_rng(3)
    for name, table in step.ranker.tables.items():
        for variable in (table.weights, step.adagrad.accumulators[name]):
            values = draw.random(variable.shape.as_list(), np.float32)
            values[0] = 0
            variable.assign(values)
    for variable in dense_variables(step).values():
        if variable.dtype == tf.float32:
            variable.assign(draw.normal(size=variable.shape.as_list()).astype(np.float32) / 4)
    folder = str(tmp_path_factory.mktemp("state"))
    write_state(step, names_of(EARLIER), ranker_shape(EARLIER, SETTINGS, step.ranker), folder)
    return WarmStartSource(state=folder, name="2026-11-20", days=1)


def carried(source: WarmStartSource, graphs: dict[str, str], spec: RankingSpec = SPEC) -> RankerStep:
    def build(dimensions: Mapping[str, int]) -> RankerStep:
        return new_step(spec, graphs["now"], dimensions)

    step, start = prepare_ranker(source, build, spec=spec, settings=SETTINGS)
    assert start.why == "" and start.state is not None
    carry_ranker(step, start, names_of(spec))
    return step


def test_new_features_change_no_prediction(source: WarmStartSource, graphs: dict[str, str]) -> None:
    """Larger vocabularies, new values, numbers and histories: on records of before, both predict the same."""
    larger = replace(SPEC, videos=90, channels=70, categories={"country": ["DE", "FR"], "video_language": ["de", "sv"]})
    step = carried(source, graphs, larger)
    records = tf.constant(random_records(30, seed=4, spec=EARLIER))
    earlier_step, start = prepare_ranker(
        source, lambda d: new_step(EARLIER, graphs["earlier"], d), spec=EARLIER, settings=SETTINGS
    )
    carry_ranker(earlier_step, start, names_of(EARLIER))
    before = earlier_step.ranker
    before.graph = step.ranker.graph  # the night's own quantiles
    lacks = frozenset(larger.features) - frozenset(EARLIER.features)
    parsed = parse_ranking_records(records, larger, lacks=lacks)
    batch = cut_windows(parsed.lists, parsed.pointers, larger)
    new_inputs = step.ranker.inputs(batch, step.ranker.embed(batch))
    log_odds = step.ranker.logits(new_inputs, None).numpy()
    rows = {name: row for row, name in enumerate(input_names(step.ranker))}
    whole = np.concatenate([new_inputs[part].numpy() for part in ("query", "impression")], axis=1)
    old_inputs = whole[:, [rows[name] for name in input_names(before)]]
    split = before.width("query")
    parts = {"query": tf.constant(old_inputs[:, :split]), "impression": tf.constant(old_inputs[:, split:])}
    np.testing.assert_allclose(log_odds, before.logits(parts, None).numpy(), rtol=1e-4, atol=1e-4)
    assert np.abs(log_odds).max() > 0.1


def test_dense_variables_follow_the_names_of_inputs(source: WarmStartSource, graphs: dict[str, str]) -> None:
    step = carried(source, graphs)
    saved = dict(np.load(f"{source.state}/dense.npz"))
    old = input_names(new_step(EARLIER, graphs["earlier"]).ranker)
    kernels = [i for i, of in enumerate(step.adam.targets) if of is step.ranker.layers[0].kernel]
    for kind in ("value", "first", "second"):
        found = dense_variables(step)[f"{kind}_{kernels[0]}"].numpy()
        for row, name in enumerate(input_names(step.ranker)):
            expected = saved[f"{kind}_{kernels[0]}"][old.index(name)] if name in old else np.zeros(8)
            np.testing.assert_array_equal(found[row], expected)
        for number in set(range(len(step.adam.targets))) - set(kernels):
            np.testing.assert_array_equal(dense_variables(step)[f"{kind}_{number}"], saved[f"{kind}_{number}"])


def test_vectors_keep_their_length_when_vocabularies_grow(source: WarmStartSource, graphs: dict[str, str]) -> None:
    step = carried(source, graphs, replace(SPEC, videos=500))
    assert step.ranker.tables["videos"].dimension == 10
    fresh = Ranker(replace(SPEC, videos=500), SETTINGS, graph=graphs["now"], odds=1.0, seed=1)
    assert fresh.tables["videos"].dimension == 18
    rows = np.load(f"{source.state}/videos.rows.npy")
    np.testing.assert_array_equal(step.ranker.tables["videos"].weights[:21].numpy(), rows)


@pytest.mark.parametrize(
    ("settings", "spec", "message"),
    [
        ({"hidden": [8]}, {}, r"hidden is \[8\], but was \[8, 4\]"),
        ({"powers": False}, {}, "powers is False, but was True"),
        ({"positive_weights": "equal"}, {}, "positive_weights is equal, but was exact"),
        ({}, {"watch_history": 7}, "watch_history is 7, but was 5"),
        ({}, {"channels": 0}, "channels, channel is no feature any more"),
        ({}, {"numbers": ["score"]}, "video_seconds, seconds_since_video is no feature any more"),
        ({}, {"categories": {}}, "country is no feature any more"),
    ],
)
def test_another_shape_is_a_cold_start_with_a_reason(
    source: WarmStartSource, graphs: dict[str, str], settings: dict[str, Any], spec: dict[str, Any], message: str
) -> None:
    changed, other = SETTINGS.model_copy(update=settings), replace(SPEC, **spec)

    def build(dimensions: Mapping[str, int]) -> RankerStep:
        return new_step(other, graphs["now"], dimensions, **settings)

    step, start = prepare_ranker(source, build, spec=other, settings=changed)
    assert start.state is None and start.why.startswith("cold start: ")
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(start.why)
    before = [variable.numpy() for variable in step.variables]
    carry_ranker(step, start, names_of(other))
    assert all((variable.numpy() == one).all() for variable, one in zip(step.variables, before, strict=True))


def test_no_state_is_a_cold_start(graphs: dict[str, str], tmp_path: Path) -> None:
    missing = WarmStartSource(state=str(tmp_path), name="x", days=1)
    _, start = prepare_ranker(missing, lambda d: new_step(SPEC, graphs["now"], d), spec=SPEC, settings=SETTINGS)
    assert "there is no training state to start from" in start.why
    _, start = prepare_ranker(None, lambda d: new_step(SPEC, graphs["now"], d), spec=SPEC, settings=SETTINGS)
    assert start.why == "" and start.earlier is None


# ---- replay


def of_night(seed: int, night: int, users: int = 60, spec: RankingSpec = SPEC) -> list[bytes]:
    draw = np.random.default_rng(seed)
    made = [random_user(draw, spec) | {"record_night": [night]} for _ in range(users)]
    return [record(f"user {i}", of, spec) for i, of in enumerate(made)]


def seconds(batches: tf.data.Dataset) -> list[float]:
    return sorted(float(value) for batch in batches for value in batch["watch_seconds"])


def test_replayed_are_valid_days_of_a_share_of_the_users(tmp_path: Path) -> None:
    new, old = write_records(tmp_path / "new", of_night(1, 9)), write_records(tmp_path / "old", of_night(2, 8))
    valid = (20_001, 20_003)
    days = {8: valid}

    def learned(share: float, salt: str = "a", cache: int = 10**9) -> list[float]:
        replay = RankingReplay(paths=old, days=days, shares={8: share}, salt=salt)
        files = RecordFiles.from_paths([*new, *old], cache_bytes=cache, keeps=replay.keeps_records)
        return seconds(impression_batches(files, SPEC, batch_size=9, seed=1, epochs=range(1), replay=replay))

    _, every_new = all_impressions(tf.constant(of_night(1, 9)), SPEC)
    _, every_old = all_impressions(tf.constant(of_night(2, 8)), SPEC)
    fits = np.isin(every_old["impression_day"].numpy(), valid)
    fresh = every_new["watch_seconds"].numpy().tolist()
    assert learned(0.0) == sorted(fresh)
    assert learned(1.0) == sorted([*fresh, *every_old["watch_seconds"].numpy()[fits].tolist()])
    half = learned(0.5)
    assert len(fresh) < len(half) < len(learned(1.0)) and half == learned(0.5) == learned(0.5, cache=0)
    assert half != learned(0.5, salt="b"), "another night draws others"
    many = [record(f"u{i}", random_user(np.random.default_rng(1)) | {"record_night": [8]}) for i in range(2_000)]
    kept = RankingReplay(paths=(), days=days, shares={8: 0.3}, salt="a").keeps_records(tf.constant(many)).numpy().mean()
    assert kept == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize(
    ("share", "files", "of_their_users"),
    [(0.05, 1, 0.4), (0.125, 1, 1.0), (0.5, 4, 1.0), (0.55, 5, 0.88), (1.0, 8, 1.0), (0.0, 0, 0.0)],
)
def test_few_files_of_a_night_are_read(share: float, files: int, of_their_users: float) -> None:
    drawn, within = draw_shards(8, share=share, salt="a")
    assert len(set(drawn)) == files and set(drawn) <= set(range(8)) and within == pytest.approx(of_their_users)


def test_each_night_draws_other_files() -> None:
    drawn = [draw_shards(8, share=0.125, salt=str(night))[0][0] for night in range(400)]
    assert min(map(drawn.count, range(8))) > 25, "each file is equally likely"


def test_each_earlier_night_has_its_own_share_of_users() -> None:
    users = range(2_000)
    replay = RankingReplay(paths=(), days={8: (), 7: ()}, shares={8: 0.2, 7: 1.0}, salt="a")
    for night, share in ((7, 1.0), (8, 0.2), (9, 1.0)):
        user = random_user(np.random.default_rng(1)) | {"record_night": [night]}
        kept = replay.keeps_records(tf.constant([record(f"u{i}", user) for i in users])).numpy()
        assert kept.mean() == pytest.approx(share, abs=0.03)


def test_features_that_earlier_records_lack_are_unknown(tmp_path: Path) -> None:
    mixed = tf.constant([*of_night(1, 9, 5), *of_night(2, 8, 5, EARLIER)])
    lacks = frozenset(SPEC.features) - frozenset(EARLIER.features)
    assert lacks == {"score", "age", "video_language", "tokens"}
    parsed = parse_ranking_records(mixed, SPEC, lacks=lacks)
    first = int(tf.reduce_sum(parsed.pointer_counts[:5]))
    assert np.isnan(parsed.pointers["score"][first:]).all() and np.isnan(parsed.pointers["age"][first:]).all()
    assert (parsed.pointers["video_language"][first:].numpy() == 0).all()
    assert (parsed.pointers["tokens_count"][first:].numpy() == 0).all()
    whole = parse_ranking_records(mixed[:5], SPEC)
    for name in ("score", "video_language", "video", "tokens_count"):
        np.testing.assert_array_equal(parsed.pointers[name][:first], whole.pointers[name])
    with pytest.raises(tf.errors.InvalidArgumentError, match="must have one value a pointer"):
        parse_ranking_records(mixed, SPEC)
    short = record("u", random_user(np.random.default_rng(5)) | {"score": [1.0]})
    with pytest.raises(tf.errors.InvalidArgumentError, match="must have one value a pointer, or none"):
        parse_ranking_records(tf.constant([short]), SPEC, lacks=lacks)


def test_a_training_goes_on_from_an_earlier_one(graphs: dict[str, str], tmp_path: Path) -> None:
    """The second training learns one epoch of new and replayed impressions, and begins where the first ended."""
    names = {name: str(tmp_path / f"{name}.parquet") for name in ("videos", "channels", "tokens")}
    sizes = {"videos": SPEC.videos, "channels": SPEC.channels, "tokens": SPEC.tokens}
    for name, path in names.items():
        pl.DataFrame({"token": [f"{name}{i}" for i in range(sizes[name])], "count": [1] * sizes[name]}).write_parquet(
            path
        )
    settings = RankerSettings(hidden=[16], batch_size=64)
    old = write_records(tmp_path / "old", score_decides(600, seed=1))
    files = RankingFiles(train=old, spec=SPEC, graph=graphs["now"], vocabularies=names)
    first = train_ranker(files, str(tmp_path / "a"), settings=settings, attempt="1")
    assert first.start == {"from": None, "why": "", "rows": {}} and first.auto["epochs"].startswith("3 (")
    new = write_records(tmp_path / "new", score_decides(200, seed=2))
    replay = RankingReplay(paths=(), days={}, shares={}, salt="")
    second = train_ranker(
        replace(files, train=new, replay=replay),
        str(tmp_path / "b"),
        settings=settings,
        attempt="1",
        earlier=WarmStartSource(state=first.state, name="before", days=1),
    )
    assert second.auto["epochs"] == "1 (1 in a warm start)"
    assert second.start["from"] == "before"
    assert second.start["rows"]["videos"] == {"known": SPEC.videos, "names": SPEC.videos}
    cold = train_ranker(replace(files, train=new), str(tmp_path / "c"), settings=settings, attempt="1")
    began = [
        np.mean([p["loss"] for p in json.loads(Path(of.history).read_text())["loss"][:5]]) for of in (second, cold)
    ]
    assert began[0] < 0.97 * began[1], "it begins with what the first learned"
