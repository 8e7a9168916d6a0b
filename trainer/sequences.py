"""Sequences: overlapping rows of a user's watches that several labels share, for encoders of whole sequences.

With rows of L ids a sequence begins at every (L // 2)th watch. A label belongs to the first sequence that reaches it,
so its input is everything that comes before it, or at least the last half of a row. No label is left out, and a row is
encoded once for all its labels. A sequence ends at its last label, whose input is therefore that of a window.

A batch of windows has one row for each label. `history_rows` gives encoders both kinds in the same form.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.batch import POSITION, SEQUENCE, WATCHES, Batch, count_key, stop_key
from transforms.core.tensorflow_import import tf

SEQUENCES_PER_POOL = 1 << 32  # larger than the number of sequences in any pool


@dataclass(frozen=True, kw_only=True)
class LabelPositions:
    """For each label the history row that it reads, and its position in that row."""

    row: tf.Tensor  # int32 [labels]
    position: tf.Tensor  # int32 [labels]: columns before the label, padding included; the row's length for a window
    windows: bool = False  # whether each label has its own row, and reads all of it


def history_rows(batch: Batch) -> tuple[tf.Tensor, LabelPositions]:
    """Return the distinct history rows of a batch, int32 [rows, length], and the position of each label in them.

    A batch of windows has one row for each label. In a batch of sequences, `sequence` int64 [labels] is equal for
    neighbouring labels with the same row of `watches`. The batch repeats these rows, so that it can be cut anywhere.
    """
    watches = batch[WATCHES]
    labels, length = tf.shape(watches)[0], tf.shape(watches)[1]
    if SEQUENCE not in batch:
        return watches, LabelPositions(row=tf.range(labels), position=tf.fill([labels], length), windows=True)
    sequence = batch[SEQUENCE]
    first = tf.concat([tf.ones_like(sequence[:1], tf.bool), sequence[1:] != sequence[:-1]], axis=0)
    row = tf.cumsum(tf.cast(first, tf.int32)) - 1
    return tf.boolean_mask(watches, first), LabelPositions(row=row, position=batch[POSITION], windows=False)


def share_sequences(pointers: Batch, *, length: int, pool: tf.Tensor) -> Batch:
    """Return the pointers with the sequence of each label as its input, instead of its window.

    `watches_stop` and `watches_count` become those of the sequence. Adds `sequence`, int64 [pointers], which is
    distinct for each sequence of all pools (`pool`: int64, the number of this one), numbered from `pool` *
    `SEQUENCES_PER_POOL` in order of first occurrence; and `position`, int32 [pointers], how many of the `length`
    columns lie before the label. The sequence ends in its last column, so the last label of each has the position
    `length`.
    """
    stop, count = pointers[stop_key(WATCHES)], pointers[count_key(WATCHES)]
    stride, user_start = max(1, length // 2), stop - count
    skipped = stride * tf.maximum(-((length - count) // stride), 0)  # rounded up, to the first that reaches the label
    starts, number = tf.unique(user_start + skipped, out_idx=tf.int64)
    # The watches of all users are concatenated, so two sequences begin at the same index only if neither has any ids.
    end = tf.gather(tf.math.unsorted_segment_max(stop, number, tf.size(starts)), number)
    return pointers | {
        stop_key(WATCHES): end,
        count_key(WATCHES): end - user_start,  # a sequence that ends early begins earlier, instead of with padding
        SEQUENCE: pool * SEQUENCES_PER_POOL + number,
        POSITION: tf.cast(length - (end - stop), tf.int32),
    }


def shuffle_sequences(sequence: tf.Tensor, *, seed: tf.Tensor) -> tf.Tensor:
    """Return indices [labels] that shuffle whole sequences; the labels of each stay together and in order.

    `sequence`: int64 [labels], as `share_sequences` numbers them. `seed`: int32 [2].
    """
    number = sequence % SEQUENCES_PER_POOL
    sequences = tf.maximum(1 + tf.reduce_max(number), 0)  # the maximum of an empty tensor is the lowest int64
    order = tf.random.experimental.stateless_shuffle(tf.range(sequences), seed)
    return tf.argsort(tf.gather(order, number), stable=True)
