"""Write frames to TFRecord files of `tf.train.Example`s, and read them, in batches.

A record consists of its length (8 bytes, little-endian), the length's masked CRC-32C, the data, and the data's masked
CRC-32C. All records of a batch are framed and compressed together, because calls per record dominate a writer's time.
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

_BATCH_ROWS = 8_192  # the arrays of a batch fit the processor's cache
_COMPRESSION_LEVEL = 2  # of 3: files as small as with zlib's level 1, five times as fast
_GZIP = 31  # zlib's code for a window of 15 bits with a gzip header
_HEADER, _FOOTER = 12, 4


def write_tfrecords(frame: pl.DataFrame, folder: str, name: str) -> FileEntry:
    """Write each row as an example to a gzipped TFRecord file, and return its entry. Columns: as `encode_examples`.

    Equal rows give equal bytes for any order of columns.
    """
    parts = (frame_records(part) for part in frame.iter_slices(_BATCH_ROWS))
    return files.write_file(folder, name, frame.height, lambda path: _write_gzip(parts, path))


def frame_records(frame: pl.DataFrame) -> Bytes:
    """Return the uncompressed bytes of the TFRecord records of a frame's rows: uint8."""
    encoded = encode_examples(frame, before=_HEADER, after=_FOOTER)
    out, heads, ends = encoded.data, encoded.starts - _HEADER, encoded.starts + encoded.lengths
    _put_words(out, heads, encoded.lengths)
    sums = _masked_sums(out, np.stack([heads, heads + 8, encoded.starts, ends], axis=1))
    _put_words(out, heads + 8, sums[:, 0])
    _put_words(out, ends, sums[:, 1])
    return out


def _put_words(out: Bytes, at: np.ndarray, words: np.ndarray) -> None:
    """Write words at their positions, little-endian, with the size of their type."""
    parts = np.ascontiguousarray(words).view(np.uint8).reshape(len(words), words.itemsize)
    out[at[:, np.newaxis] + np.arange(words.itemsize)] = parts


def _masked_sums(data: Bytes, borders: np.ndarray) -> np.ndarray:
    """Return masked CRC-32C, uint32 [rows, 2], of two byte ranges of each row: borders is [rows, 4]."""
    offsets = pa.py_buffer(np.append(borders.ravel(), len(data)).astype(np.int64))
    parts = pa.LargeBinaryArray.from_buffers(pa.large_binary(), borders.size, [None, offsets, pa.py_buffer(data)])
    sums = pl.DataFrame({"part": parts}).select(plh.col("part").nchash.crc32c()).to_series().to_numpy()[::2]
    return ((sums >> 15 | sums << 17) + np.uint32(0xA282EAD8)).reshape(-1, 2)


def _write_gzip(parts: Iterable[Bytes], path: str) -> None:
    compressor = isal_zlib.compressobj(_COMPRESSION_LEVEL, isal_zlib.DEFLATED, _GZIP)
    with open(path, "wb") as target:
        for part in parts:
            target.write(compressor.compress(part))
        target.write(compressor.flush())


def read_tfrecords(path: str, features: dict[str, pl.DataType | type[pl.DataType]]) -> pl.DataFrame:
    """Read some features of a gzipped TFRecord file: String for one string per row, or a List type."""
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
        values = pl.col(name) if name in frame.columns else pl.lit(None)
        columns.append(values.list.first().cast(kind) if kind == pl.String else values.cast(kind).fill_null([]))
    return frame.select(**dict(zip(features, columns, strict=True)))
