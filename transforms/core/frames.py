"""Frames as Beam elements: their coder, the bucket of a user, and the shuffle of frames by bucket.

A *frame* is a polars DataFrame of a few thousand to `FRAME_ROWS` rows. Every element of every pipeline is one, or a key
and one, so that nothing is done an event at a time in Python. A user's rows all fall into one *bucket*: XXH64 (seed 0)
of the id's UTF-8 bytes, modulo a power of two.

    raw | beam.Map(with_bucket, buckets=16) | GroupByBucket()     # -> (bucket, frame of all its rows)
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import polars as pl
import polars_hash as plh
import xxhash
from apache_beam import coders

FRAME_ROWS = 131_072
FEWEST_BUCKETS, MOST_BUCKETS = 8, 4_096


def pack(frame: pl.DataFrame) -> bytes:
    """A frame on the wire: one Arrow IPC stream, lz4."""
    out = io.BytesIO()
    frame.write_ipc_stream(out, compression="lz4", compat_level=pl.CompatLevel.newest())
    return out.getvalue()


def unpack(packed: bytes) -> pl.DataFrame:
    return pl.read_ipc_stream(packed, use_pyarrow=False)


class FrameCoder(coders.Coder):
    """Frames between steps that are not fused. Not deterministic, so a frame can never be a key."""

    def encode(self, value: pl.DataFrame) -> bytes:
        if not isinstance(value, pl.DataFrame):
            raise TypeError(f"a frame must be a polars DataFrame, but is {type(value).__name__}")
        return pack(value)

    def decode(self, encoded: bytes) -> pl.DataFrame:
        return unpack(encoded)

    def estimate_size(self, value: pl.DataFrame) -> int:
        """Bytes, roughly: the default, which runners call for a part of the elements, encodes them to see."""
        return int(value.estimated_size())

    def is_deterministic(self) -> bool:
        return False

    def to_type_hint(self) -> type:
        return pl.DataFrame


coders.registry.register_coder(pl.DataFrame, FrameCoder)

KeyedFrame = tuple[int, pl.DataFrame]


def id_digests(ids: pl.Series) -> pl.Series:
    """XXH64 (seed 0) of each id's UTF-8 bytes: `ids` String or Enum, without nulls -> UInt64 of the same length.

    About 25 ns an id, less for an Enum.
    """
    if isinstance(ids.dtype, pl.Enum):
        return id_digests(ids.dtype.categories).gather(ids.to_physical())
    return ids.to_frame("id").select(plh.col("id").nchash.xxhash64(seed=0)).to_series()


def mix(*parts: np.ndarray | int) -> np.ndarray:
    """A stable 64-bit digest of several columns, row by row: uint64 [n], from integer arrays [n] or constants.

    Steele, Lea, Flood: Fast splittable pseudorandom number generators (OOPSLA 2014), the splitmix64 finaliser, chained.
    """
    state = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            value = np.asarray(part if isinstance(part, np.ndarray) else np.uint64(part)).astype(np.uint64)
            z = (state ^ value) + np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = z ^ (z >> np.uint64(31))
    return np.atleast_1d(state)


def bucket_of(user_id: str, buckets: int) -> int:
    """The bucket of one user (CONTRACT): XXH64 of the id's UTF-8 bytes, seed 0, modulo `buckets`."""
    return xxhash.xxh64_intdigest(user_id.encode()) % check_buckets(buckets)


def check_buckets(buckets: int) -> int:
    """`buckets` itself, where it is a power of two from `FEWEST_BUCKETS` to `MOST_BUCKETS`; else ValueError."""
    if not FEWEST_BUCKETS <= buckets <= MOST_BUCKETS or buckets & (buckets - 1):
        raise ValueError(f"buckets must be a power of two from {FEWEST_BUCKETS} to {MOST_BUCKETS:,}, but is {buckets}")
    return buckets


def partition_by_bucket(frame: pl.DataFrame, *, buckets: int) -> Iterator[KeyedFrame]:
    """Cut a frame with a `user_id` into one frame a bucket; row order within a bucket is kept."""
    if frame.is_empty():
        return
    bucket = (id_digests(frame["user_id"]) % check_buckets(buckets)).cast(pl.Int32)
    parts = frame.with_columns(bucket.alias("bucket")).partition_by("bucket", as_dict=True, include_key=False)
    for (key,), part in parts.items():
        yield int(key), part


def concat(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """All rows of frames with the same columns, in the order given. At least one frame is needed."""
    return pl.concat(list(frames), how="vertical", rechunk=True)


@dataclass
class PartitionByBucket(beam.PTransform):
    """Frames with a `user_id` -> (bucket, frame), one for each bucket a frame has users of."""

    buckets: int

    def __post_init__(self) -> None:
        check_buckets(self.buckets)

    def expand(self, frames: beam.PCollection[pl.DataFrame]) -> beam.PCollection[KeyedFrame]:
        return frames | beam.FlatMap(partition_by_bucket, buckets=self.buckets).with_output_types(KeyedFrame)


@dataclass
class GroupFrames(beam.PTransform):
    """(key, frame) -> (key, one frame of all the key's rows), in no particular row order: sort afterwards.

    Frames are packed here, once: runners decode and encode again what they group, which bytes do not feel.
    """

    def expand(self, frames: beam.PCollection) -> beam.PCollection:
        of_key, of_frame = getattr(frames.element_type, "tuple_types", (None, None))
        if of_frame is not pl.DataFrame:
            raise TypeError(f"frames are shuffled as (key, frame), but these are {frames.element_type}")
        packed = beam.MapTuple(lambda key, frame: (key, pack(frame))).with_output_types(
            beam.typehints.KV[of_key, bytes]
        )
        together = beam.MapTuple(lambda key, parts: (key, concat(map(unpack, parts))))
        return frames | packed | beam.GroupByKey() | "Concat" >> together.with_output_types(frames.element_type)


@dataclass
class GatherFrames(beam.PTransform):
    """All frames of a collection -> one frame of all their rows, in no particular order; of none, none."""

    def expand(self, frames: beam.PCollection[pl.DataFrame]) -> beam.PCollection[pl.DataFrame]:
        one = frames | beam.Map(lambda frame: (0, frame)).with_output_types(KeyedFrame)
        return one | GroupFrames() | beam.Values().with_output_types(pl.DataFrame)
