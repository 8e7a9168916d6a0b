"""Stretches: a user's watches cut into overlapping rows that several labels share, for encoders of whole sequences.

With rows of L ids a stretch begins at every L // 2nd watch. A label belongs to the first stretch that reaches it, so it
sees all that comes before it, or at least the last half of a row: no label is left out, and a row is read once for all
its labels instead of once for each. A stretch ends at its last label: that one sees what a window would show it.
"""

from __future__ import annotations

from transforms.core.tensorflow_import import tf

POOL = 1 << 32  # more stretches than a pool has


def share_stretches(pointers: dict[str, tf.Tensor], *, length: int, pool: tf.Tensor) -> dict[str, tf.Tensor]:
    """Pointers whose input is the stretch of their label: `watches_stop` and `watches_count` are the stretch's.

    Adds `stretch`, int64, distinct for each stretch of all pools (`pool`: int64, this one's number), numbered from
    `pool` * `POOL` in the order in which they first occur; and `at`, int32, how many columns of the row lie before the
    label: the stretch ends in its last column, so that is `length` for the last label of each.
    """
    stop, count = pointers["watches_stop"], pointers["watches_count"]
    stride, user = max(1, length // 2), stop - count
    skipped = stride * tf.maximum(-((length - count) // stride), 0)  # rounded up: to the first that reaches the label
    begins, number = tf.unique(user + skipped, out_idx=tf.int64)
    # Users' watches stand end to end, so no two stretches begin at the same place, but for those without any ids.
    end = tf.gather(tf.math.unsorted_segment_max(stop, number, tf.size(begins)), number)
    return pointers | {
        "watches_stop": end,
        "watches_count": end - user,  # a row that ends early reaches further back instead: nothing is padded in vain
        "stretch": pool * POOL + number,
        "at": tf.cast(length - (end - stop), tf.int32),
    }


def shuffle_stretches(stretch: tf.Tensor, *, seed: tf.Tensor) -> tf.Tensor:
    """Places [labels] that bring the stretches into a drawn order, the labels of each side by side in theirs."""
    number = stretch % POOL
    many = tf.maximum(1 + tf.reduce_max(number), 0)  # the maximum of none is far below 0
    drawn = tf.random.experimental.stateless_shuffle(tf.range(many), seed)
    return tf.argsort(tf.gather(drawn, number), stable=True)
