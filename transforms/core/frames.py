"""polars DataFrames as Beam elements: a coder, the bucket of a user, and a shuffle of frames by bucket.

A *frame* is a polars DataFrame of a few thousand to `FRAME_ROWS` rows. Elements of pipelines are frames or (key, frame)
pairs, so no Python code runs per event. All rows of a user belong to one *bucket*: XXH64 (seed 0) of the id's UTF-8
bytes, modulo a power of two.

    events | PartitionByBucket(buckets=16) | GroupFrames()     # -> (bucket, frame of all its rows)
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
import polars as pl
from apache_beam import coders

from transforms.core.digests import check_buckets, concat, id_digests


def pack(frame: pl.DataFrame) -> bytes:
    """Serialise a frame as an Arrow IPC stream, compressed with lz4."""
    out = io.BytesIO()
    frame.write_ipc_stream(out, compression="lz4", compat_level=pl.CompatLevel.newest())
    return out.getvalue()


def unpack(packed: bytes) -> pl.DataFrame:
    """Deserialise a frame that `pack` serialised."""
    return pl.read_ipc_stream(packed, use_pyarrow=False)


class FrameCoder(coders.Coder):
    """Beam coder of frames between steps that are not fused. It is not deterministic: a frame cannot be a key."""

    def encode(self, value: pl.DataFrame) -> bytes:
        if not isinstance(value, pl.DataFrame):
            raise TypeError(f"a frame must be a polars DataFrame, but is {type(value).__name__}")
        return pack(value)

    def decode(self, encoded: bytes) -> pl.DataFrame:
        return unpack(encoded)

    def estimate_size(self, value: pl.DataFrame) -> int:
        """Return the approximate size in bytes. Beam's default encodes the element, and runners call it often."""
        return int(value.estimated_size())

    def to_type_hint(self) -> type:
        return pl.DataFrame


coders.registry.register_coder(pl.DataFrame, FrameCoder)

KeyedFrame = tuple[int, pl.DataFrame]


def partition_by_bucket(frame: pl.DataFrame, *, buckets: int) -> Iterator[KeyedFrame]:
    """Split a frame with a `user_id` column into one frame per bucket, keeping the order of rows."""
    if frame.is_empty():
        return
    bucket = (id_digests(frame["user_id"]) % check_buckets(buckets)).cast(pl.Int32)
    parts = frame.with_columns(bucket.alias("bucket")).partition_by("bucket", as_dict=True, include_key=False)
    for (key,), part in parts.items():
        yield int(key), part


@dataclass
class PartitionByBucket(beam.PTransform):
    """Split frames with a `user_id` column into (bucket, frame) pairs, one for each bucket that occurs in a frame."""

    buckets: int

    def __post_init__(self) -> None:
        check_buckets(self.buckets)

    def expand(self, frames: beam.PCollection[pl.DataFrame]) -> beam.PCollection[KeyedFrame]:
        return frames | beam.FlatMap(partition_by_bucket, buckets=self.buckets).with_output_types(KeyedFrame)


@dataclass
class GroupFrames(beam.PTransform):
    """Group (key, frame) pairs into (key, one frame of all the key's rows). The order of rows is undefined.

    Frames are serialised before the shuffle: runners decode and re-encode elements that they group, which costs nothing
    for bytes. Raises TypeError if the elements are not typed as (key, frame).
    """

    def expand(self, frames: beam.PCollection) -> beam.PCollection:
        key_type, value_type = getattr(frames.element_type, "tuple_types", (None, None))
        if value_type is not pl.DataFrame:
            raise TypeError(f"GroupFrames needs elements of type (key, frame), but these are {frames.element_type}")
        packed = beam.MapTuple(lambda key, frame: (key, pack(frame))).with_output_types(
            beam.typehints.KV[key_type, bytes]
        )
        concatenated = beam.MapTuple(lambda key, parts: (key, concat(map(unpack, parts))))
        return frames | packed | beam.GroupByKey() | "Concat" >> concatenated.with_output_types(frames.element_type)


@dataclass
class GatherFrames(beam.PTransform):
    """Concatenate all frames of a collection into one, in undefined order; an empty collection stays empty."""

    def expand(self, frames: beam.PCollection[pl.DataFrame]) -> beam.PCollection[pl.DataFrame]:
        one = frames | beam.Map(lambda frame: (0, frame)).with_output_types(KeyedFrame)
        return one | GroupFrames() | beam.Values().with_output_types(pl.DataFrame)
