"""TFRecord files of `tf.train.Example`s from frames and back, whole batches at a time.

A record is its length (8 bytes, little-endian), the length's masked CRC-32C, the data, the data's masked CRC-32C. All
of a batch are framed and compressed together: a call a record is what a writer spends its time on.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl
import polars_hash as plh
import pyarrow as pa
from isal import isal_zlib

from transforms.core import files
from transforms.core.files import FileEntry
from transforms.core.tensorflow_import import import_tensorflow
from transforms.examples.example_proto import Bytes, encode_examples

_ROWS_AT_A_TIME = 8_192  # what they are encoded from stays in the processor's cache
_COMPRESSION_LEVEL = 2  # of 3: as small as zlib's level 1, at five times its speed
_GZIP = 31  # zlib's name for a window of 15 bits in a gzip frame
_HEADER, _FOOTER = 12, 4


def write_tfrecords(frame: pl.DataFrame, folder: str, name: str) -> FileEntry:
    """A frame, a row an example, with the columns `encode_examples` takes -> a gzipped TFRecord file.

    Equal frames give equal bytes, whatever the order of their columns.
    """
    parts = (framed(part) for part in frame.iter_slices(_ROWS_AT_A_TIME))
    return files.write_file(folder, name, frame.height, lambda path: _write_gzip(parts, path))


def framed(frame: pl.DataFrame) -> Bytes:
    """The records of a frame's rows as they stand in a TFRecord file, uncompressed: uint8."""
    encoded = encode_examples(frame, before=_HEADER, after=_FOOTER)
    out, heads, ends = encoded.data, encoded.starts - _HEADER, encoded.starts + encoded.lengths
    _put_words(out, heads, encoded.lengths)
    sums = _masked_sums(out, np.stack([heads, heads + 8, encoded.starts, ends], axis=1))
    _put_words(out, heads + 8, sums[:, 0])
    _put_words(out, ends, sums[:, 1])
    return out


def _put_words(out: Bytes, at: np.ndarray, words: np.ndarray) -> None:
    """Write each word's bytes, as many as its type has, at its place; little-endian."""
    parts = np.ascontiguousarray(words).view(np.uint8).reshape(len(words), words.itemsize)
    out[at[:, np.newaxis] + np.arange(words.itemsize)] = parts


def _masked_sums(data: Bytes, borders: np.ndarray) -> np.ndarray:
    """Masked CRC-32C, uint32 [rows, 2], of the bytes between the first two and the last two of each row's borders."""
    offsets = pa.py_buffer(np.append(borders.ravel(), len(data)).astype(np.int64))
    parts = pa.LargeBinaryArray.from_buffers(pa.large_binary(), borders.size, [None, offsets, pa.py_buffer(data)])
    sums = pl.DataFrame({"part": parts}).select(plh.col("part").nchash.crc32c()).to_series().to_numpy()[::2]
    return ((sums >> 15 | sums << 17) + np.uint32(0xA282EAD8)).reshape(-1, 2)


def _write_gzip(parts: Iterable[Bytes], path: str) -> None:
    squeeze = isal_zlib.compressobj(_COMPRESSION_LEVEL, isal_zlib.DEFLATED, _GZIP)
    with open(path, "wb") as target:
        for part in parts:
            target.write(squeeze.compress(part))
        target.write(squeeze.flush())


def read_tfrecords(path: str, features: dict[str, pl.DataType | type[pl.DataType]]) -> pl.DataFrame:
    """A gzipped TFRecord file -> a frame of the given features: String for one string a row, or a List type."""
    tf = import_tensorflow()
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

    with files.temporary_local_copy(path) as local:
        examples = [record.numpy() for record in tf.data.TFRecordDataset(local, "GZIP")]
    if not examples:
        return pl.DataFrame(schema=features)
    batch = ExamplesToRecordBatchDecoder().DecodeBatch(examples)
    frame = pl.DataFrame(pa.Table.from_batches([batch]))
    columns = []
    for name, kind in features.items():
        found = pl.col(name) if name in frame.columns else pl.lit(None)
        columns.append(found.list.first().cast(kind) if kind == pl.String else found.cast(kind).fill_null([]))
    return frame.select(**dict(zip(features, columns, strict=True)))
