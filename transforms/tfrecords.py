"""TFRecord files of `tf.train.Example`s from frames and back, whole batches at a time."""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from transforms import files
from transforms.example_proto import encode_examples
from transforms.files import FileEntry
from transforms.quiet import import_tensorflow

_ROWS_AT_A_TIME = 8_192  # what they are encoded from stays in the processor's cache
_COMPRESSION_LEVEL = 1  # half the bytes of plain at 389,000 records/s; higher levels gain little and cost much


def write_tfrecords(frame: pl.DataFrame, folder: str, name: str) -> FileEntry:
    """A frame, a row an example, with the columns `encode_examples` takes -> a gzipped TFRecord file.

    Equal frames give equal bytes, whatever the order of their columns.
    """
    tf = import_tensorflow()
    options = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=_COMPRESSION_LEVEL)

    def write(path: str) -> None:
        with tf.io.TFRecordWriter(path, options) as writer:
            for part in frame.iter_slices(_ROWS_AT_A_TIME):
                for example in encode_examples(part):
                    writer.write(example)

    return files.write_file(folder, name, frame.height, write)


def read_tfrecords(path: str, features: dict[str, pl.DataType | type[pl.DataType]]) -> pl.DataFrame:
    """A gzipped TFRecord file -> a frame of the given features: String for one string a row, or a List type."""
    tf = import_tensorflow()
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

    examples = [record.numpy() for record in tf.data.TFRecordDataset(files.local_copy(path), "GZIP")]
    if not examples:
        return pl.DataFrame(schema=features)
    batch = ExamplesToRecordBatchDecoder().DecodeBatch(examples)
    frame = pl.DataFrame(pa.Table.from_batches([batch]))
    columns = []
    for name, kind in features.items():
        found = pl.col(name) if name in frame.columns else pl.lit(None)
        columns.append(found.list.first().cast(kind) if kind == pl.String else found.cast(kind).fill_null([]))
    return frame.select(**dict(zip(features, columns, strict=True)))
