"""From ranking records to batches of impressions with their histories, in TensorFlow's C++ ops alone.

Cut and shuffled as the generator's examples are (`trainer.inputs`): a record holds a user's past once.

    for batch in impression_batches(files, spec, batch_size=1024, seed=1, epochs=range(3)):
        batch["watches"]  # int32 [batch, watch_history]
        batch["clicked"]  # float [batch]
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.inputs import Batch, Pool, cut_windows, ends_of, passes, same_splits, shuffled
from trainer.record_files import RecordFiles, plain
from transforms.contracts.ranking_spec import RankingSpec
from transforms.core.tensorflow_import import tf

LABELS = ("clicked", "watch_seconds")
READ_AT_ONCE = 1024  # records


@dataclass(frozen=True, kw_only=True)
class RankingRecords:
    """Parsed records: the lists of all users end to end, and for each impression where its input ends in them."""

    user_id: tf.Tensor  # string [users]
    lists: dict[str, tf.Tensor]  # watches, tokens: int32 [1 + all values], a 0 in front of the first
    pointers: dict[str, tf.Tensor]  # [impressions]: LIST_stop, LIST_count, all features and labels
    impressions: tf.Tensor  # int64 [users]: how many


def parse_ranking_records(serialized: tf.Tensor, spec: RankingSpec) -> RankingRecords:
    """Parses records [users] string.

    Fails on a list with another number of values than there are impressions; on a pointer behind the end of its list;
    and on a label that is none: `clicked` besides 0 and 1, `watch_seconds` that are negative, infinite or NaN, or not 0
    where nothing was clicked.
    """
    parsed = tf.io.parse_example(serialized, _features(spec))
    splits, pointers = parsed["watches_end"].row_splits, {}
    for name in [*_whole(spec), *spec.numbers, "watch_seconds"]:
        with tf.control_dependencies([same_splits(parsed[name], splits, name)]):
            values = tf.identity(parsed[name].values)
        pointers[name] = tf.cast(values, tf.int32) if values.dtype == tf.int64 else values
    lists = {}
    for name in ["watches", *(["tokens"] if spec.tokens else [])]:
        lists[name] = tf.concat([[0], tf.cast(parsed[name].values, tf.int32)], axis=0)
        pointers[f"{name}_stop"], pointers[f"{name}_count"] = ends_of(parsed[name], parsed[f"{name}_end"], splits, name)
    with tf.control_dependencies([_labels_are_valid(pointers["clicked"], pointers["watch_seconds"])]):
        pointers["clicked"] = tf.cast(pointers["clicked"], tf.float32)
    return RankingRecords(
        user_id=parsed["user_id"], lists=lists, pointers=pointers, impressions=parsed["watches_end"].row_lengths()
    )


def impression_batches(
    records: RecordFiles, spec: RankingSpec, *, batch_size: int, seed: int, epochs: range
) -> tf.data.Dataset:
    """Batches of passes over the impressions: each once a pass, all but a pass's last of `batch_size`.

    The same for the same arguments. Impressions are shuffled within pools of users, users across pools.
    """

    @plain
    def pool(number: tf.Tensor, serialized: tf.Tensor, drawn: tf.Tensor) -> Pool:
        parsed = parse_ranking_records(serialized, spec)
        return parsed.lists, shuffled(parsed.pointers, tf.stack([drawn[1], tf.cast(number, tf.int32)]))

    return passes(records, spec, pool, batch_size=batch_size, seed=seed, epochs=epochs)


def served_batch(serialized: tf.Tensor, spec: RankingSpec) -> tuple[RankingRecords, Batch]:
    """Records [users] and all their impressions with their histories, in the records' order."""
    parsed = parse_ranking_records(serialized, spec)
    return parsed, cut_windows(parsed.lists, parsed.pointers, spec)


def labels_of(records: RecordFiles) -> tf.data.Dataset:
    """clicked, watch_seconds of all impressions, float [n] a part: one pass that reads nothing else."""
    kinds = {"clicked": tf.int64, "watch_seconds": tf.float32}
    features = {name: tf.io.RaggedFeature(kind, row_splits_dtype=tf.int64) for name, kind in kinds.items()}

    @plain
    def labels(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        parsed = tf.io.parse_example(serialized, features)
        return tf.cast(parsed["clicked"].values, tf.float32), parsed["watch_seconds"].values

    return records.read().batch(READ_AT_ONCE).map(labels)


def _whole(spec: RankingSpec) -> list[str]:
    """The whole numbers that each impression has one of."""
    return ["video", *(["channel"] if spec.channels else []), *spec.categories, "clicked", "page", "impression_day"]


def _features(spec: RankingSpec) -> dict[str, tf.io.FixedLenFeature | tf.io.RaggedFeature]:
    lists = ["watches", "watches_end", *(["tokens", "tokens_end"] if spec.tokens else [])]
    kinds = dict.fromkeys([*lists, *_whole(spec)], tf.int64) | dict.fromkeys(
        [*spec.numbers, "watch_seconds"], tf.float32
    )
    ragged = {name: tf.io.RaggedFeature(kind, row_splits_dtype=tf.int64) for name, kind in kinds.items()}
    return {"user_id": tf.io.FixedLenFeature([], tf.string), **ragged}


def _labels_are_valid(clicked: tf.Tensor, seconds: tf.Tensor) -> tf.Operation:
    valid = (seconds >= 0) & (seconds < float("inf")) & ((clicked == 1) | ((clicked == 0) & (seconds == 0)))
    return tf.debugging.Assert(
        tf.reduce_all(valid),
        ["clicked must be 0 or 1, and watch_seconds finite, and 0 where clicked is: write the records again", seconds],
    )
