"""From record files to batches of labels with their windows, in TensorFlow's C++ ops alone.

A record holds a user's whole past once, and for each label how much of it came before: windows are cut here, by index
arithmetic, from pools of thousands of users, so that the labels of a batch come from many users and a label costs no
bytes on disk but its own. Training, the holdout and the exported tower cut with the same `cut_windows`.

    for batch in epoch_batches(files, spec, batch_size=1024, seed=1, epochs=range(5)):
        batch["watches"]  # int32 [batch, watch_history]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from trainer.record_files import RecordFiles, plain
from trainer.replay import Replay
from trainer.seeds import seed_of
from trainer.stretches import share_stretches, shuffle_stretches
from transforms.contracts.example_spec import MISSING, FeatureSpec
from transforms.core.tensorflow_import import tf

Batch = dict[str, tf.Tensor]
Marks = Callable[[tf.Tensor], tf.Tensor]
Pool = tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]  # lists of users end to end, and their pointers

POOL_USERS = 4096  # users whose labels are shuffled together; also how many records a shuffle of records holds
WORKERS = 2  # pools parsed, and batches cut, at a time
PREFETCHED = 4  # batches
COUNT_RECORDS = 1024  # records parsed at once where nothing is shuffled


class Histories(Protocol):
    """How much of a user's past is read: what specs of records agree on."""

    @property
    def watch_history(self) -> int: ...

    @property
    def search_history(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Records:
    """Parsed records: the lists of all users end to end, and for each pointer where its input ends in them."""

    user_id: tf.Tensor  # string [users]
    lists: dict[str, tf.Tensor]  # watches, tokens: int32 [1 + all values], a 0 in front of the first
    pointers: dict[str, tf.Tensor]  # [pointers]: LIST_stop, LIST_count, example_age, categories, numbers, label
    pointer_counts: tf.Tensor  # int64 [users]
    labels: tf.RaggedTensor  # int64 [users, labels]


def record_features(spec: FeatureSpec) -> dict[str, tf.io.RaggedFeature]:
    """How `tf.io.parse_example` reads the lists of a record."""
    whole = ["watches", "watches_end", "label", *spec.categories]
    if spec.tokens:
        whole += ["tokens", "tokens_end"]
    features = {name: tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64) for name in whole}
    for name in ["example_age", *spec.numbers]:
        features[name] = tf.io.RaggedFeature(tf.float32, row_splits_dtype=tf.int64)
    return features


def parse_records(serialized: tf.Tensor, spec: FeatureSpec, *, training: bool) -> Records:
    """Parses records [users] string. With `training` each pointer has one label, else a record's labels are a set.

    Fails on a list with another number of values than there are pointers; on a pointer behind the end of its list: it
    would reach into the next user's past; and on a number out of its range or NaN: it would ruin the tower unseen.
    """
    features = {"user_id": tf.io.FixedLenFeature([], tf.string), **record_features(spec)}
    parsed = tf.io.parse_example(serialized, features)
    splits = parsed["watches_end"].row_splits
    pointers: dict[str, tf.Tensor] = {}
    for name in ["example_age", *spec.categories, *spec.numbers, *(["label"] if training else [])]:
        checks = [same_splits(parsed[name], splits, name)]
        if parsed[name].dtype == tf.float32:
            checks.append(_in_range(parsed[name].values, name))
        with tf.control_dependencies(checks):
            values = tf.identity(parsed[name].values)
        pointers[name] = tf.cast(values, tf.int32) if values.dtype == tf.int64 else values
    lists: dict[str, tf.Tensor] = {}
    for name in ["watches", *(["tokens"] if spec.tokens else [])]:
        lists[name] = tf.concat([[0], tf.cast(parsed[name].values, tf.int32)], axis=0)
        pointers[f"{name}_stop"], pointers[f"{name}_count"] = ends_of(parsed[name], parsed[f"{name}_end"], splits, name)
    return Records(
        user_id=parsed["user_id"],
        lists=lists,
        pointers=pointers,
        pointer_counts=parsed["watches_end"].row_lengths(),
        labels=parsed["label"],
    )


def cut_windows(lists: dict[str, tf.Tensor], pointers: dict[str, tf.Tensor], spec: Histories) -> Batch:
    """The input of each pointer: `watches` [pointers, watch_history] and `tokens` [pointers, search_history] int32.

    The most recent id stands in the last column, whatever the length, so that a column means the same for all; 0 is
    padding or out of vocabulary. What else the pointers hold is passed on.
    """
    lengths = {"watches": spec.watch_history, "tokens": spec.search_history}
    batch = {name: tensor for name, tensor in pointers.items() if not name.endswith(("_stop", "_count"))}
    for name, values in lists.items():
        stop, count = pointers[f"{name}_stop"], pointers[f"{name}_count"]
        back = tf.range(lengths[name], 0, -1, dtype=tf.int64)[tf.newaxis, :]  # 1 is the most recent
        place = tf.where(back <= count[:, tf.newaxis], stop[:, tf.newaxis] - back, 0)
        batch[name] = tf.gather(values, place)
    return batch


def epoch_batches(
    files: Sequence[str] | RecordFiles,
    spec: FeatureSpec,
    *,
    batch_size: int,
    seed: int,
    epochs: range,
    sequences: bool = False,
    pool_users: int = POOL_USERS,
    drop_remainder: bool = False,
    replay: Replay | None = None,
    withheld: Marks | None = None,
) -> tf.data.Dataset:
    """Batches of passes over the labels of `files`: each label once a pass, all but a pass's last of `batch_size`.

    The same for the same arguments, and a pass is the same whichever come before it. Labels are shuffled within pools
    of `pool_users` users, users across pools. One dataset of all passes, because tracing a new one costs a second.

    With `sequences`, `watches` are stretches instead of windows (`stretches.share_stretches`), and stretches are
    shuffled instead of labels. With `drop_remainder` the smaller last batch of a pass is left out: shapes are static.
    With `replay` a pass has only the labels it keeps; `replay.count` says how many. No pass has those `withheld`, which
    are found from records [users] string: bool [labels].
    """

    @plain
    def pool(number: tf.Tensor, serialized: tf.Tensor, drawn: tf.Tensor) -> Pool:
        parsed = parse_records(serialized, spec, training=True)
        pointers, seed = parsed.pointers, tf.stack([drawn[1], tf.cast(number, tf.int32)])
        if replay is not None or withheld is not None:
            learned = replay.keeps(serialized, drawn[4]) if replay else tf.fill([tf.size(pointers["label"])], True)
            learned &= ~withheld(serialized) if withheld else True
            pointers = {name: tf.boolean_mask(of, learned) for name, of in pointers.items()}
        if sequences:
            pointers = share_stretches(pointers, length=spec.watch_history, pool=number)
            return parsed.lists, in_order(pointers, shuffle_stretches(pointers["stretch"], seed=seed))
        return parsed.lists, shuffled(pointers, seed)

    records = files if isinstance(files, RecordFiles) else RecordFiles.of(files)
    return passes(
        records,
        spec,
        pool,
        batch_size=batch_size,
        seed=seed,
        epochs=epochs,
        pool_users=pool_users,
        drop_remainder=drop_remainder,
    )


def passes(
    records: RecordFiles,
    spec: Histories,
    pool: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], Pool],
    *,
    batch_size: int,
    seed: int,
    epochs: range,
    pool_users: int = POOL_USERS,
    drop_remainder: bool = False,
) -> tf.data.Dataset:
    """Batches of passes over the pointers that `pool` leaves of pools of users, cut in the order it leaves them in.

    `pool`: (number of the pool, records [users] string, int32 [5]: two seeds and the number of the pass) -> lists and
    pointers.
    """
    seeds = [[*seed_of(seed, "epoch", epoch), *seed_of(seed, "files", epoch), epoch] for epoch in epochs]
    # Without a pass left, a training taken up at its end, the shape of one is still needed.
    drawn_of = tf.data.Dataset.from_tensor_slices(tf.reshape(tf.constant(seeds, tf.int32), [len(epochs), 5]))

    @plain
    def one(drawn: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(tf.range(len(records.paths)), drawn[2:4])
        first = tf.cast(tf.abs(drawn[0]), tf.int64)
        read = records.read(order).shuffle(pool_users, seed=first, reshuffle_each_iteration=False)
        of_pool = plain(lambda number, serialized: pool(number, serialized, drawn))
        pools = read.batch(pool_users).enumerate().map(of_pool, num_parallel_calls=WORKERS, deterministic=True)
        cut = plain(lambda lists, pointers: _slices(lists, pointers, spec, batch_size))
        return pools.prefetch(1).flat_map(cut).rebatch(batch_size, drop_remainder=drop_remainder)

    return drawn_of.flat_map(one).prefetch(PREFETCHED)


def shuffled(pointers: dict[str, tf.Tensor], seed: tf.Tensor) -> dict[str, tf.Tensor]:
    """The pointers in a drawn order; `seed` int32 [2]."""
    places = tf.range(tf.size(pointers["watches_stop"]))
    return in_order(pointers, tf.random.experimental.stateless_shuffle(places, seed))


def in_order(pointers: dict[str, tf.Tensor], places: tf.Tensor) -> dict[str, tf.Tensor]:
    return {name: tf.gather(tensor, places) for name, tensor in pointers.items()}


def _slices(
    lists: dict[str, tf.Tensor], pointers: dict[str, tf.Tensor], spec: Histories, batch_size: int
) -> tf.data.Dataset:
    """A pool's pointers, in their order, `batch_size` at a time, with their windows."""

    @plain
    def one(start: tf.Tensor) -> Batch:
        return cut_windows(lists, {name: of[start : start + batch_size] for name, of in pointers.items()}, spec)

    starts = tf.data.Dataset.range(0, tf.size(pointers["watches_stop"], tf.int64), batch_size)
    return starts.map(one, num_parallel_calls=WORKERS, deterministic=True)


def one_pointer_batches(files: Sequence[str], spec: FeatureSpec, *, batch_size: int, records: int) -> tf.data.Dataset:
    """(inputs, labels [users, labels] ragged, watches so far [users, watches] ragged) of records with one pointer.

    Of the first `records` records, files in turn; always in the same order.
    """

    @plain
    def parse(serialized: tf.Tensor) -> tuple[Batch, tf.RaggedTensor, tf.RaggedTensor]:
        parsed = parse_records(serialized, spec, training=False)
        stop, count = parsed.pointers["watches_stop"], parsed.pointers["watches_count"]
        places = tf.ragged.range(stop - count, stop)
        batch = cut_windows(parsed.lists, parsed.pointers, spec)
        return batch, parsed.labels, tf.gather(parsed.lists["watches"], places)

    return RecordFiles.of(files).read().take(records).batch(batch_size).map(parse).prefetch(2)


def count_labels(files: Sequence[str] | RecordFiles) -> int:
    """How many labels the training records hold: one pass over the files that reads nothing else from them."""
    features = {"label": tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)}
    records = files if isinstance(files, RecordFiles) else RecordFiles.of(files)
    if not records.paths:
        return 0
    counts = (
        records.read()
        .batch(COUNT_RECORDS)
        .map(plain(lambda serialized: tf.size(tf.io.parse_example(serialized, features)["label"].values, tf.int64)))
    )
    return int(counts.reduce(tf.constant(0, tf.int64), plain(lambda total, count: total + count)))


def ends_of(
    values: tf.RaggedTensor, ends: tf.RaggedTensor, splits: tf.Tensor, name: str
) -> tuple[tf.Tensor, tf.Tensor]:
    """For each pointer, where its input stops in the padded list of all users, and how many values it has."""
    user = tf.ragged.row_splits_to_segment_ids(splits)
    with tf.control_dependencies([same_splits(ends, splits, f"{name}_end")]):
        count = tf.identity(ends.values)
    inside = tf.debugging.Assert(
        tf.reduce_all((count >= 0) & (count <= tf.gather(values.row_lengths(), user))),
        [f"{name}_end must lie in the record's {name}: write the examples again", count],
    )
    with tf.control_dependencies([inside]):
        return 1 + tf.gather(values.row_starts(), user) + count, count


def _in_range(values: tf.Tensor, name: str) -> tf.Operation:
    least = 0.0 if name == "example_age" else MISSING
    message = f"{name} must lie in [0, 1]" + ("" if least == 0 else f", or be {MISSING}") + ": write the examples again"
    valid = tf.reduce_all((values >= 0) & (values <= 1) | (values == least))
    return tf.debugging.Assert(valid, [message, values])


def same_splits(values: tf.RaggedTensor, splits: tf.Tensor, name: str) -> tf.Operation:
    same = tf.reduce_all(tf.equal(values.row_splits, splits))
    message = f"{name} must have one value a pointer, as watches_end has: the records and spec.json do not match"
    return tf.debugging.Assert(same, [message, splits, values.row_splits])
