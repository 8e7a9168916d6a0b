"""A night's lists in Redis: keys, values, and loading of files.

The key `PREFIX:night` contains the served version, which consists of a date and digits of a digest. Each version has
one key for each user's list (`PREFIX:VERSION:USER`), default list (`PREFIX:VERSION.default:COUNTRY`, "" for all
countries) and user vector (`PREFIX:VERSION.vector:USER`). These names are distinct for all user ids.

The value of a list is a zlib stream of the ids, separated by line breaks, which takes half the memory of ids of seven
digits and can be decoded in a few lines of any language. If scores are stored, an empty line and the scores as
little-endian float32 follow.

    decode_list(redis.do("GET", keys.list_key(version, "ann")))  # (["v9", "v3"], None)
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
from transforms.core.records import Counts
from transforms.core.threads import ThreadedMap
from transforms.sinks import SinkError
from transforms.sinks.redis_server import RedisServer, Session

FORMAT_VERSION = 1
BLOCK_ROWS = 1_000  # keys per command: about a megabyte, which blocks the server for a few milliseconds
LEVEL = 1  # isal's level 1 compresses ids as well as zlib's best, eight times as fast
Kind = Literal["lists", "vectors", "defaults"]
_COLUMNS = {"lists": ["user_id", "video_ids"], "vectors": ["user_id", "vector"], "defaults": ["country", "video_ids"]}


@dataclass(frozen=True)
class Keys:
    """The names of all keys with one prefix."""

    prefix: str

    @property
    def pointer(self) -> str:
        """The key that contains the served version."""
        return f"{self.prefix}:night"

    @property
    def register(self) -> str:
        """The key of the register of all versions: a hash of version -> JSON."""
        return f"{self.prefix}:nights"

    def list_key(self, version: str, user_id: str) -> str:
        """Return the key of a user's list."""
        return f"{self.key_prefix('lists', version)}{user_id}"

    def default_key(self, version: str, country: str | None) -> str:
        """Return the key of the default list of a country, or of all countries."""
        return f"{self.key_prefix('defaults', version)}{country or ''}"

    def key_prefix(self, kind: Kind, version: str) -> str:
        """Return the common prefix of the keys of one kind."""
        return f"{self.prefix}:{version}{'' if kind == 'lists' else '.' + kind.removesuffix('s')}:"

    def pattern(self, version: str) -> str:
        """Return the glob pattern of all keys of a version."""
        return f"{self.prefix}:{version}*"


def encode_lists(lists: pl.DataFrame, *, scores: bool = False) -> list[bytes]:
    """Encode each row's video_ids (and scores, of the same length). Raises SinkError if an id has a line break."""
    texts = lists["video_ids"].list.join("\n").cast(pl.Binary).to_list()
    breaks = np.count_nonzero(np.frombuffer(b"".join(texts), np.uint8) == ord("\n"))
    if breaks != (lists["video_ids"].list.len().cast(pl.Int64) - 1).clip(0).sum():
        raise SinkError(f"a video id contains a line break, which separates ids in Redis: {_invalid_id(lists)!r}")
    if scores:
        texts = [b"\n\n".join(pair) for pair in zip(texts, encode_vectors(lists["scores"]), strict=True)]
    return [isal_zlib.compress(text, LEVEL) for text in texts]


def encode_vectors(vectors: pl.Series) -> list[bytes]:
    """Encode each list of floats as little-endian float32."""
    flat = vectors.explode(empty_as_null=False).cast(pl.Float32).to_numpy().astype("<f4").tobytes()
    ends = (4 * vectors.list.len().cast(pl.Int64).cum_sum()).to_list()
    return [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def decode_list(value: bytes) -> tuple[list[str], list[float] | None]:
    """Return the ids of a list, best first, and its scores if they are stored."""
    ids, separator, scores = zlib.decompress(value).partition(b"\n\n")
    return ids.decode().split("\n") if ids else [], np.frombuffer(scores, "<f4").tolist() if separator else None


def _invalid_id(lists: pl.DataFrame) -> str:
    """Return the first id with a line break."""
    ids = lists["video_ids"].explode()
    return str(ids.filter(ids.str.contains("\n", literal=True))[0])


@dataclass(frozen=True, kw_only=True)
class RedisPart:
    """A Parquet file of one kind."""

    kind: Kind
    path: str


@dataclass(frozen=True, kw_only=True)
class RedisVersion:
    """One version of a night's lists on one server."""

    server: RedisServer
    keys: Keys
    version: str
    scores: bool = False

    def load(self, part: RedisPart) -> Iterator[Counts]:
        """Set all keys of a part, and yield their number by kind."""
        columns = [*_COLUMNS[part.kind], *(["scores"] if self.scores and part.kind != "vectors" else [])]
        rows = files.read_parquet(part.path, columns)
        with self.server.session() as redis:
            for block in rows.iter_slices(BLOCK_ROWS):
                pairs = zip(self.names(part.kind, block), self._values(part.kind, block), strict=True)
                redis.do("MSET", *chain.from_iterable(pairs))
        yield Counts({part.kind: rows.height})
        progress.advance()

    def missing(self, redis: Session, part: RedisPart) -> int:
        """Return the number of keys of a part that the server does not have."""
        rows = files.read_parquet(part.path, _COLUMNS[part.kind][:1])
        blocks = (self.names(part.kind, block) for block in rows.iter_slices(BLOCK_ROWS))
        return rows.height - sum(redis.do("EXISTS", *names) for names in blocks)

    def names(self, kind: Kind, rows: pl.DataFrame) -> list[str]:
        """Return the key of each row, from its first column: the user or the country."""
        return (self.keys.key_prefix(kind, self.version) + rows.to_series().fill_null("")).to_list()

    def _values(self, kind: Kind, rows: pl.DataFrame) -> list[bytes]:
        return encode_vectors(rows["vector"]) if kind == "vectors" else encode_lists(rows, scores=self.scores)


@dataclass
class LoadRedis(beam.PTransform):
    """Load `RedisPart`s into Redis, and return the records of `RedisVersion.load`."""

    version: RedisVersion
    threads: int = 1

    def expand(self, parts: beam.PCollection[RedisPart]) -> beam.PCollection[Counts]:
        return (parts | beam.Reshuffle() | ThreadedMap(self.version.load, self.threads, (), "records")).records


_EXPIRE = "for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ARGV[1]) end"  # one reply for all keys


def scan(redis: Session, pattern: str) -> Iterator[list[bytes]]:
    """Yield all matching keys in blocks. Keys that are added or removed meanwhile may be included or not."""
    cursor = 0
    while True:
        cursor, names = redis.do("SCAN", cursor, "MATCH", pattern, "COUNT", BLOCK_ROWS)
        if names:
            yield names
        if cursor == 0:
            return


def remove(redis: Session, names: Sequence[Any]) -> None:
    """Remove keys; missing keys are ignored. The server frees their memory in the background."""
    for start in range(0, len(names), BLOCK_ROWS):
        redis.do("UNLINK", *names[start : start + BLOCK_ROWS])


def remove_version(redis: Session, keys: Keys, version: str) -> None:
    """Remove all keys of a version."""
    for names in scan(redis, keys.pattern(version)):
        remove(redis, names)


def expire_version(redis: Session, keys: Keys, version: str, seconds: int) -> None:
    """Let all keys of a version expire after a number of seconds."""
    for names in scan(redis, keys.pattern(version)):
        redis.do("EVAL", _EXPIRE, len(names), *names, seconds)
