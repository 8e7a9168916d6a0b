"""The ranker compared with numpy."""

from __future__ import annotations

import numpy as np
import pytest
from ranking_records import BARE, SPEC, random_records, write_graph

from trainer.batch import REQUEST, Batch
from trainer.ranker.config import RankerSettings
from trainer.ranker.inputs import all_impressions
from trainer.ranker.model import Ranker, id_dimension
from transforms.core.tensorflow_import import tf


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_graph(tmp_path_factory.mktemp("graph"))


def new_ranker(graph: str | None, **settings: object) -> Ranker:
    spec = SPEC if graph else BARE
    return Ranker(spec, RankerSettings.model_validate(settings), graph=graph, odds=3.0, seed=1)


def batch(seed: int = 1) -> Batch:
    return all_impressions(tf.constant(random_records(40, seed=seed)), SPEC)[1]


def numpy_log_odds(ranker: Ranker, of: Batch) -> np.ndarray:
    """Compute log-odds row by row, in the order of the model's inputs."""
    spec, values = SPEC, {name: tensor.numpy() for name, tensor in of.items()}
    rows = {name: table.weights.numpy() for name, table in ranker.tables.items()}
    found = []

    def mean(table: np.ndarray, ids: np.ndarray) -> np.ndarray:
        known = ids[ids > 0]
        return table[known].mean(axis=0) if len(known) else np.zeros(table.shape[1])

    assert ranker.graph is not None
    transform_fn = ranker.graph.transform_fn

    def numbers(names: list[str], part: str) -> list[np.ndarray]:
        raw = {p: np.stack([values[n] for n in of], axis=1) for p, of in parts.items()}
        encoded = transform_fn({p: tf.constant(matrix) for p, matrix in raw.items()})
        kinds = ["quantiles", "known", *(["squares", "roots"] if ranker.powers else [])]
        return [encoded[f"{part}_{kind}"].numpy() for kind in kinds]

    parts = {"query": spec.query_numbers, "impression": spec.impression_numbers}
    query, impression = (numbers(of, part) for part, of in parts.items())
    for i in range(len(values["video"])):
        x = [mean(rows["videos"], values["watches"][i]), mean(rows["tokens"], values["tokens"][i])]
        x += [rows["country"][values["country"][i]], *(of[i] for of in query)]
        x += [rows["videos"][values["video"][i]], rows["channels"][values["channel"][i]]]
        x += [rows["video_language"][values["video_language"][i]], *(of[i] for of in impression)]
        h = np.concatenate(x)
        for layer in ranker.layers[:-1]:
            h = np.maximum(h @ layer.kernel.numpy() + layer.bias.numpy(), 0)
        found.append((h @ ranker.layers[-1].kernel.numpy() + ranker.layers[-1].bias.numpy()).item())
    return np.array(found)


@pytest.mark.parametrize("powers", [True, False])
@pytest.mark.parametrize("hidden", [[], [8], [8, 4]])
def test_log_odds_equal_numpy(graph: str, hidden: list[int], powers: bool) -> None:
    ranker, one = new_ranker(graph, hidden=hidden, powers=powers), batch()
    np.testing.assert_allclose(ranker(one).numpy(), numpy_log_odds(ranker, one), rtol=1e-4, atol=1e-4)


def test_a_query_may_be_given_once_for_all_candidates(graph: str) -> None:
    ranker, one = new_ranker(graph, hidden=[8, 4]), batch()
    request = np.random.default_rng(1).integers(0, len(one["video"]), 50)
    impressions = {name: of[:50] for name, of in one.items() if name in SPEC.impression_features}
    query = {name: of for name, of in one.items() if name in SPEC.query_features}
    every = {name: tf.gather(of, request) for name, of in query.items()}
    once = ranker({**impressions, **query, REQUEST: tf.constant(request, tf.int32)})
    np.testing.assert_allclose(once, ranker({**impressions, **every}), rtol=1e-5, atol=1e-5)


def test_candidates_and_histories_share_a_table(graph: str) -> None:
    ranker = new_ranker(graph)
    assert set(ranker.tables) == {"videos", "channels", "tokens", "country", "video_language"}
    assert ranker.tables["videos"].dimension == id_dimension(SPEC.videos) == 10


def test_dimensions_grow_with_the_logarithm() -> None:
    assert [id_dimension(ids) for ids in (1, 3, 1_023, 999_999)] == [2, 4, 20, 40]


def test_a_ranker_of_ids_only_starts_near_the_given_odds() -> None:
    ranker = new_ranker(None, hidden=[])
    none = {"watches": tf.zeros([2, 3], tf.int32), "video": tf.zeros([2], tf.int32)}
    np.testing.assert_allclose(tf.exp(ranker(none)), [3, 3], rtol=1e-5)


def test_each_column_belongs_to_one_feature(graph: str) -> None:
    for powers in (True, False):
        ranker = new_ranker(graph, powers=powers)
        for part in ("query", "impression"):
            columns = np.concatenate(list(ranker.columns[part].values()))
            assert sorted(columns) == list(range(ranker.inputs(batch(), ranker.embed(batch()))[part].shape[1]))


def test_dropout_needs_a_seed(graph: str) -> None:
    ranker, one = new_ranker(graph, dropout=0.5), batch()
    inputs, seed = ranker.inputs(one, ranker.embed(one)), tf.constant([1, 2])
    np.testing.assert_array_equal(ranker.logits(inputs, None), ranker(one))
    dropped = ranker.logits(inputs, None, dropout_seed=seed)
    np.testing.assert_array_equal(dropped, ranker.logits(inputs, None, dropout_seed=seed))
    assert np.abs(dropped - ranker(one)).max() > 1e-3
