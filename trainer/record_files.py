"""Serialized records from their files, or from memory if they fit there, in the same order either way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from transforms.core.tensorflow_import import tf

# No Python code of the input pipeline branches on tensors, and AutoGraph takes longer to convert it than to trace it.
no_autograph = tf.autograph.experimental.do_not_convert

Selection = Callable[[tf.Tensor], tf.Tensor]

INTERLEAVED_FILES = 16  # read in turn, so that neighbours in a file rarely meet in a pool
PARALLEL_READS = 2  # of the interleaved files, how many are read at the same time
_RECORDS_PER_BLOCK = 4096
_RECORD_OVERHEAD_BYTES = 48  # memory that a string tensor takes for each string, in addition to its bytes


@dataclass(frozen=True, kw_only=True)
class RecordFiles:
    """Sorted paths of gzip TFRecord files, and their contents if those are kept in memory.

    `keeps` selects the records that are read: serialized, string [n] -> bool [n]. All if it is None.
    """

    paths: tuple[str, ...]
    keeps: Selection | None = None
    records: tf.Tensor | None = None  # string [all records], in order of their files
    ends: tuple[int, ...] = ()  # 0, and for each file the index in `records` behind its last record

    @classmethod
    def from_paths(cls, paths: Sequence[str], *, cache_bytes: int = 0, keeps: Selection | None = None) -> RecordFiles:
        """Return files whose records are kept in memory if they take at most `cache_bytes` there, uncompressed."""
        files = cls(paths=tuple(sorted(paths)), keeps=keeps)
        if not files.paths or not cache_bytes:
            return files
        if keeps is None and sum(tf.io.gfile.stat(path).length for path in files.paths) > cache_bytes:
            return files
        return files._read_into_memory(cache_bytes)

    def _read_into_memory(self, cache_bytes: int) -> RecordFiles:
        blocks: list[list[tf.Tensor]] = [[] for _ in self.paths]
        size = 0
        for number, block in _read_blocks(self.paths, self.keeps):
            size += int(tf.reduce_sum(tf.strings.length(block))) + _RECORD_OVERHEAD_BYTES * len(block)
            if size > cache_bytes:
                return self
            blocks[number].append(block)
        ends = [0]
        for file_blocks in blocks:
            ends.append(ends[-1] + sum(len(block) for block in file_blocks))
        all_blocks = [block for file_blocks in blocks for block in file_blocks] or [tf.constant([], tf.string)]
        return RecordFiles(paths=self.paths, keeps=self.keeps, records=tf.concat(all_blocks, axis=0), ends=tuple(ends))

    def read(self, order: tf.Tensor | None = None) -> tf.data.Dataset:
        """Return the serialized records, interleaved from several files.

        `order`: int [files], the order of the files; sorted if omitted. Equal orders give equal records.
        """
        order = tf.range(len(self.paths)) if order is None else order
        if self.records is None:
            read = partial(_read_file, keeps=self.keeps)
            return _interleave([tf.gather(tf.constant(self.paths, tf.string), order)], read)
        records, ends = self.records, tf.constant(self.ends, tf.int64)
        return _interleave(
            [tf.gather(ends[:-1], order), tf.gather(ends[1:], order)],
            lambda start, end: tf.data.Dataset.from_tensor_slices(records[start:end]),
        )

    def read_blocks(self) -> tf.data.Dataset:
        """Return the serialized records in blocks, string [n]."""
        return self.read().batch(_RECORDS_PER_BLOCK)


def _interleave(arguments: list[tf.Tensor], read: Callable[..., tf.data.Dataset]) -> tf.data.Dataset:
    """Interleave the datasets that `read` returns for each row of `arguments`."""
    return tf.data.Dataset.from_tensor_slices(tuple(arguments)).interleave(
        no_autograph(read), cycle_length=INTERLEAVED_FILES, num_parallel_calls=PARALLEL_READS, deterministic=True
    )


def _read_file(path: tf.Tensor, *, keeps: Selection | None) -> tf.data.Dataset:
    records = tf.data.TFRecordDataset(path, compression_type="GZIP")
    return records if keeps is None else _select(records.batch(_RECORDS_PER_BLOCK), keeps).unbatch()


def _select(blocks: tf.data.Dataset, keeps: Selection) -> tf.data.Dataset:
    return blocks.map(no_autograph(lambda block: tf.boolean_mask(block, keeps(block))))


def _read_blocks(paths: Sequence[str], keeps: Selection | None) -> tf.data.Dataset:
    """Return (number of the file, block of its records [n]); the blocks of a file are in order."""

    def read(number: tf.Tensor, path: tf.Tensor) -> tf.data.Dataset:
        blocks = tf.data.TFRecordDataset(path, compression_type="GZIP").batch(_RECORDS_PER_BLOCK)
        blocks = blocks if keeps is None else _select(blocks, keeps)
        return blocks.map(no_autograph(lambda block: (number, block)))

    files = tf.data.Dataset.from_tensor_slices(list(paths)).enumerate()
    return files.interleave(
        no_autograph(read), cycle_length=PARALLEL_READS, num_parallel_calls=PARALLEL_READS, deterministic=True
    )
