"""A night's lists in Redis: keys, values, and the loading of whole files of them.

The key `PREFIX:night` holds the version that is served, a date and the digits of a digest. Below it are, one key each,
users' lists (`PREFIX:VERSION:USER`), default lists (`PREFIX:VERSION.default:COUNTRY`, "" for everywhere) and user
vectors (`PREFIX:VERSION.vector:USER`). No user id makes one of these names another's.

A list is a zlib stream of the ids with line breaks between them: half the memory of ids of seven digits, in the same
few lines of any language. Where scores are kept, an empty line and the scores as little-endian floats come behind.

    redis.do("GET", keys.list_of(version, "ann")) -> decode_list -> (["v9", "v3"], None)
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import apache_beam as beam
import numpy as np
import polars as pl
from isal import isal_zlib

from transforms.core import files, progress
from transforms.core.threads import ThreadedMap
from transforms.sinks.errors import SinkError
from transforms.sinks.redis_server import RedisServer, Session

FORMAT_VERSION = 1
BLOCK_ROWS = 1_000  # keys a command: a megabyte, and a few milliseconds in which the server serves nobody else
LEVEL = 1  # isal's: as small as zlib's best on ids, an eighth of its time
Kind = Literal["lists", "vectors", "defaults"]
_COLUMNS = {"lists": ["user_id", "video_ids"], "vectors": ["user_id", "vector"], "defaults": ["country", "video_ids"]}


@dataclass(frozen=True)
class Keys:
    """The names of all keys that begin with one prefix."""

    prefix: str

    @property
    def pointer(self) -> str:
        """Which version is served."""
        return f"{self.prefix}:night"

    @property
    def register(self) -> str:
        """Which versions are there: a hash of version -> JSON."""
        return f"{self.prefix}:nights"

    def list_of(self, version: str, user_id: str) -> str:
        return f"{self.of('lists', version)}{user_id}"

    def default_of(self, version: str, country: str | None) -> str:
        return f"{self.of('defaults', version)}{country or ''}"

    def vector_of(self, version: str, user_id: str) -> str:
        return f"{self.of('vectors', version)}{user_id}"

    def of(self, kind: Kind, version: str) -> str:
        """What the keys of one kind begin with."""
        return f"{self.prefix}:{version}{'' if kind == 'lists' else '.' + kind.removesuffix('s')}:"

    def pattern(self, version: str) -> str:
        """The glob of all keys of a version."""
        return f"{self.prefix}:{version}*"


def encode_lists(lists: pl.DataFrame, *, scores: bool = False) -> list[bytes]:
    """video_ids (and scores, of the same lengths) -> a value a row. SinkError for an id with a line break."""
    texts = lists["video_ids"].list.join("\n").cast(pl.Binary).to_list()
    breaks = np.count_nonzero(np.frombuffer(b"".join(texts), np.uint8) == ord("\n"))
    if breaks != (lists["video_ids"].list.len().cast(pl.Int64) - 1).clip(0).sum():
        raise SinkError(f"a video id holds a line break, which is what separates ids in Redis: {_broken(lists)!r}")
    if scores:
        texts = [b"\n\n".join(pair) for pair in zip(texts, encode_vectors(lists["scores"]), strict=True)]
    return [isal_zlib.compress(text, LEVEL) for text in texts]


def encode_vectors(vectors: pl.Series) -> list[bytes]:
    """Lists of floats -> the little-endian float32 of each, one after the other."""
    flat = vectors.explode(empty_as_null=False).cast(pl.Float32).to_numpy().astype("<f4").tobytes()
    ends = (4 * vectors.list.len().cast(pl.Int64).cum_sum()).to_list()
    return [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def decode_list(value: bytes) -> tuple[list[str], list[float] | None]:
    """The ids of a list, best first, and its scores where they are kept."""
    ids, kept, scores = zlib.decompress(value).partition(b"\n\n")
    return ids.decode().split("\n") if ids else [], np.frombuffer(scores, "<f4").tolist() if kept else None


def decode_vector(value: bytes) -> list[float]:
    return [float(number) for number in np.frombuffer(value, "<f4")]


def _broken(lists: pl.DataFrame) -> str:
    """The first id with a line break."""
    ids = lists["video_ids"].explode()
    return str(ids.filter(ids.str.contains("\n", literal=True))[0])


@dataclass(frozen=True, kw_only=True)
class RedisPart:
    """A Parquet file of one kind."""

    kind: Kind
    path: str


@dataclass(frozen=True, kw_only=True)
class LoadedKeys:
    """How many keys of a part were set."""

    kind: Kind
    keys: int


@dataclass(frozen=True, kw_only=True)
class RedisVersion:
    """One version of a night's lists in one server, and how they are kept there."""

    server: RedisServer
    keys: Keys
    version: str
    scores: bool = False

    def load(self, part: RedisPart) -> Iterator[LoadedKeys]:
        """Set all keys of a part; a record of how many."""
        columns = [*_COLUMNS[part.kind], *(["scores"] if self.scores and part.kind != "vectors" else [])]
        rows = files.read_parquet(part.path, columns)
        with self.server.session() as redis:
            for block in rows.iter_slices(BLOCK_ROWS):
                pairs = zip(self.names(part.kind, block), self._values(part.kind, block), strict=True)
                redis.do("MSET", *chain.from_iterable(pairs))
        yield LoadedKeys(kind=part.kind, keys=rows.height)
        progress.advance()

    def missing(self, redis: Session, part: RedisPart) -> int:
        """How many keys of a part the server does not know."""
        rows = files.read_parquet(part.path, _COLUMNS[part.kind][:1])
        blocks = (self.names(part.kind, block) for block in rows.iter_slices(BLOCK_ROWS))
        return rows.height - sum(redis.do("EXISTS", *names) for names in blocks)

    def names(self, kind: Kind, rows: pl.DataFrame) -> list[str]:
        """The key of each row; its first column is whose it is."""
        return (self.keys.of(kind, self.version) + rows.to_series().fill_null("")).to_list()

    def _values(self, kind: Kind, rows: pl.DataFrame) -> list[bytes]:
        return encode_vectors(rows["vector"]) if kind == "vectors" else encode_lists(rows, scores=self.scores)


@dataclass
class LoadRedis(beam.PTransform):
    """`RedisPart`s -> their keys in Redis; gives `RedisVersion.load`'s records."""

    version: RedisVersion
    threads: int = 1

    def expand(self, parts: beam.PCollection[RedisPart]) -> beam.PCollection[LoadedKeys]:
        return (parts | beam.Reshuffle() | ThreadedMap(self.version.load, self.threads, (), "records")).records


_EXPIRE = "for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ARGV[1]) end"  # one answer for all of them


def scan(redis: Session, pattern: str) -> Iterator[list[bytes]]:
    """All keys that match, in blocks; those that come or go meanwhile may or may not be among them."""
    cursor = 0
    while True:
        cursor, found = redis.do("SCAN", cursor, "MATCH", pattern, "COUNT", BLOCK_ROWS)
        if found:
            yield found
        if cursor == 0:
            return


def remove(redis: Session, names: Sequence[Any]) -> None:
    """Remove keys; those that are not there do not matter. Their memory is freed behind the scenes."""
    for start in range(0, len(names), BLOCK_ROWS):
        redis.do("UNLINK", *names[start : start + BLOCK_ROWS])


def remove_version(redis: Session, keys: Keys, version: str) -> None:
    for found in scan(redis, keys.pattern(version)):
        remove(redis, found)


def expire_version(redis: Session, keys: Keys, version: str, seconds: int) -> None:
    for found in scan(redis, keys.pattern(version)):
        redis.do("EVAL", _EXPIRE, len(found), *found, seconds)
