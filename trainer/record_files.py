"""Serialized records out of their files, or out of memory where they fit: in the same order either way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transforms.core.tensorflow_import import tf

# Nothing here branches on tensors, and translating Python for a start-up takes longer than tracing it.
plain = tf.autograph.experimental.do_not_convert

READ_FILES = 16  # files read in turn: neighbours in a file do not meet in a pool more than chance has it
READERS = 2  # of them at a time
_AT_ONCE = 4096  # records
_RECORD_BYTES = 48  # what a string costs in memory besides its bytes


@dataclass(frozen=True, kw_only=True)
class RecordFiles:
    """Gzip TFRecord files, sorted; with `records`, string [all records] in their order, what they hold."""

    paths: tuple[str, ...]
    records: tf.Tensor | None = None
    ends: tuple[int, ...] = ()  # 0, and where each file's records end in `records`

    @classmethod
    def of(cls, paths: Sequence[str], *, cache_bytes: int = 0) -> RecordFiles:
        """Kept in memory if their records, unpacked, take no more than `cache_bytes`; else read anew at each pass."""
        files = cls(paths=tuple(sorted(paths)))
        if not files.paths or sum(tf.io.gfile.stat(path).length for path in files.paths) > cache_bytes:
            return files
        return files._in_memory(cache_bytes)

    def _in_memory(self, cache_bytes: int) -> RecordFiles:
        blocks: list[list[tf.Tensor]] = [[] for _ in self.paths]
        size = 0
        for number, block in _blocks(self.paths):
            size += int(tf.reduce_sum(tf.strings.length(block))) + _RECORD_BYTES * len(block)
            if size > cache_bytes:
                return self
            blocks[number].append(block)
        ends = [0]
        for of_file in blocks:
            ends.append(ends[-1] + sum(len(block) for block in of_file))
        whole = tf.concat([block for of_file in blocks for block in of_file] or [tf.constant([], tf.string)], axis=0)
        return RecordFiles(paths=self.paths, records=whole, ends=tuple(ends))

    def read(self, order: tf.Tensor | None = None) -> tf.data.Dataset:
        """Serialized records, from a few files in turn; always in the same order for the same order of files (int)."""
        order = tf.range(len(self.paths)) if order is None else order
        if self.records is None:
            return _in_turn([tf.gather(tf.constant(self.paths, tf.string), order)], _read_file)
        records, ends = self.records, tf.constant(self.ends, tf.int64)
        return _in_turn(
            [tf.gather(ends[:-1], order), tf.gather(ends[1:], order)],
            lambda start, end: tf.data.Dataset.from_tensor_slices(records[start:end]),
        )


def _in_turn(files: list[tf.Tensor], read: Callable[..., tf.data.Dataset]) -> tf.data.Dataset:
    """The records of each file as `read` gives them; the arguments of a call are a value of each of `files`."""
    return tf.data.Dataset.from_tensor_slices(tuple(files)).interleave(
        plain(read), cycle_length=READ_FILES, num_parallel_calls=READERS, deterministic=True
    )


def _read_file(path: tf.Tensor) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(path, compression_type="GZIP")


def _blocks(paths: Sequence[str]) -> tf.data.Dataset:
    """(number of the file, some of its records [n]); the blocks of a file in their order."""

    def of_file(number: tf.Tensor, path: tf.Tensor) -> tf.data.Dataset:
        return _read_file(path).batch(_AT_ONCE).map(plain(lambda block: (number, block)))

    files = tf.data.Dataset.from_tensor_slices(list(paths)).enumerate()
    return files.interleave(plain(of_file), cycle_length=READERS, num_parallel_calls=READERS, deterministic=True)
