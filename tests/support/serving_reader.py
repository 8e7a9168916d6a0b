"""A server's reader as docs/serving.md has it: JSON, Parquet and XXH64, what other languages would write too.

reader = Reader("runs")
reader.list_of("u0000001") or reader.default_list("SE")   # (video ids, scores)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

KNOWN_VERSIONS = (1, 2)

List = tuple[list[str], list[float]]  # video ids, scores


class UnknownVersionError(ValueError):
    """Files of a format this reader does not know."""


class Reader:
    """One night's lists: make a new reader to see a later night."""

    def __init__(self, root: str) -> None:
        self.root = Path(root)
        self.served = _read_json(self.root / "published.json")
        self.files = _read_json(self.root / self.served["lists"]["file"])

    def list_of(self, user_id: str) -> List | None:
        """A user's list; None for a user who is not served."""
        return self._row(self._of_bucket("lists", user_id), "user_id", user_id, "video_ids", "scores")

    def seconds_of(self, user_id: str) -> list[float | None] | None:
        """The expected watch seconds of each video of a user's list, None behind the ranked ones; None if the lists are
        not ranked."""
        if self.served["stage"] != "ranking":
            return None
        path = self._of_bucket("lists", user_id)
        if self.files["format_version"] > 1:
            row = self._row(path, "user_id", user_id, "expected_seconds")
            return list(row[0]) if row else None
        row = self._row(path, "user_id", user_id, "scores")
        return [score if score > 0 else None for score in row[0]] if row else None

    def vector_of(self, user_id: str) -> list[float] | None:
        """A user's vector, [u; 1]."""
        row = self._row(self._of_bucket("user_vectors", user_id), "user_id", user_id, "vector")
        return row[0] if row else None

    def default_list(self, country: str | None) -> List | None:
        """What a user nobody has seen gets."""
        (path,) = self.paths("defaults")
        columns = ("country", country, "video_ids", "scores")
        return self._row(path, *columns) or self._row(path, "country", None, *columns[2:])

    def similar_to(self, video_id: str) -> List | None:
        """The videos nearest to one, and their cosines."""
        rows = (self._row(path, "video_id", video_id, "video_ids", "scores") for path in self.paths("similar"))
        return next((row for row in rows if row), None)

    def bucket_of(self, user_id: str) -> int:
        return xxhash.xxh64_intdigest(user_id.encode(), seed=0) % int(self.served["buckets"])

    def paths(self, kind: str) -> list[Path]:
        """The files of a kind: lists, defaults, user_vectors or similar."""
        return [self.root / file["name"] for file in self.files[kind]]

    def _of_bucket(self, kind: str, user_id: str) -> Path | None:
        start = f"{self.bucket_of(user_id):05d}-of-{self.served['buckets']:05d}-"
        return next((path for path in self.paths(kind) if path.name.startswith(start)), None)

    def _row(self, path: Path | None, key: str, value: str | None, *columns: str) -> Any:
        if path is None:
            return None
        table = pq.read_table(path)
        wanted = pc.is_null(table[key]) if value is None else pc.equal(table[key], value)
        rows = table.filter(wanted).select(columns).to_pylist()
        assert len(rows) < 2, f"{value!r} is there {len(rows)} times"
        return tuple(rows[0].values()) if rows else None


def _read_json(path: Path) -> dict[str, Any]:
    content = dict(json.loads(path.read_text(encoding="utf-8")))
    if content["format_version"] not in KNOWN_VERSIONS:
        raise UnknownVersionError(f"{path} has format_version {content['format_version']}")
    return content
