"""Indexes as files on any Beam file system: built a shard a worker, loaded once a process by those that search.

Two are made of a night's model: `candidates`, of [v; b] of the videos that may be shown, searched with [u; 1]; and
`similar`, of the same videos' v brought to length 1 and without the bias, so that a dot product is a cosine. Each is
one shard or several; row r of a shard is the video at `POSITIONS`[r] of `VIDEOS`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow.parquet as pa_parquet
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from numpy.typing import NDArray

from transforms.core import files, progress
from transforms.core.records import Record
from transforms.core.threads import process_cache
from transforms.search.candidates import shard_positions
from transforms.search.exact_search import ExactIndex
from transforms.search.top_k import EXACT_BELOW, Index, build_index, drawn, load_index, save_index
from transforms.search.tower import load_tower

KINDS = ("candidates", "similar")
VIDEOS = "videos.parquet"
POSITIONS = "positions.npy"
SAMPLE = "sample.parquet"
SAMPLED_USERS = 2_048


@dataclass(frozen=True, kw_only=True)
class IndexInputs:
    """What indexes are built from."""

    vectors: str  # path of the model's video vectors
    videos: str  # path of `VIDEOS`: video_id, id, upload_time of each position
    tower: str  # folder of the user tower
    serving: tuple[str, ...]  # paths of serving records: vectors of a sample of them tune the search
    k: int  # of the candidates
    similar: int  # k of the similar videos
    recall: float
    shards: int = 1  # of each kind


@dataclass(frozen=True)
class IndexPart:
    """One shard of one of `KINDS`."""

    kind: str
    shard: int

    def folder(self, attempt: str, shards: int) -> str:
        """Where it lies below the folder of the stage."""
        return f"{self.kind}-{attempt}/{self.shard:05d}-of-{shards:05d}"


def read_vectors(path: str, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """The vectors of some videos of the model, in the order of ids (distinct, at least one): float32 [len(ids), d].

    One row group of the file is in memory at a time, beside the result.
    """
    row_of = np.full(int(ids.max()) + 1, -1, np.int64)
    row_of[ids] = np.arange(len(ids))
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as source:
        file, found = pa_parquet.ParquetFile(source), np.zeros((0, 0), np.float32)
        for group in range(file.num_row_groups):
            rows = pl.DataFrame(file.read_row_group(group, columns=["id", "vector"]))
            vectors, at = to_matrix(rows["vector"]), rows["id"].to_numpy()
            at = np.where(at < len(row_of), row_of[np.minimum(at, len(row_of) - 1)], -1)
            if not found.size:
                found = np.zeros((len(ids), vectors.shape[1]), np.float32)
            found[at[at >= 0]] = vectors[at >= 0]
    return found


def to_matrix(vectors: pl.Series) -> NDArray[np.float32]:
    """A list column of n vectors of d floats -> float32 [n, d]."""
    flat = vectors.explode(empty_as_null=False).to_numpy().astype(np.float32, copy=False)
    return flat.reshape(len(vectors), -1)


def directions(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """[v; b] -> v / |v|: float32 [n, d - 1]; a zero vector stays zero."""
    v = vectors[:, :-1]
    length = np.linalg.norm(v, axis=1, keepdims=True)
    return np.asarray(v / np.where(length == 0, 1, length), np.float32)


def write_index(part: IndexPart, inputs: IndexInputs, folder: str, attempt: str) -> Iterator[Record]:
    """Build one shard of one kind and write it below `folder`; gives records of its files and of how it searches.

    With it go `POSITIONS` and, of one of several approximate shards, `SAMPLE`: what `merged_recall` takes.
    """
    videos = files.read_parquet(inputs.videos, ["video_id", "id"])
    positions, ids = shard_positions(videos["video_id"], shards=inputs.shards)[part.shard], videos["id"].to_numpy()
    exact = len(ids) // inputs.shards < EXACT_BELOW  # all shards alike
    sample = None if exact else _sample(part, inputs, ids)
    vectors = _vectors(part, inputs, ids[positions])
    k = inputs.k if part.kind == "candidates" else inputs.similar + 1  # a video is its own nearest
    index = build_index(vectors, k=k, queries=sample, recall=inputs.recall, exact_below=len(ids) + 1 if exact else 0)
    below, sampled = part.folder(attempt, inputs.shards), sample is not None and inputs.shards > 1
    with tempfile.TemporaryDirectory() as scratch:
        save_index(index, Path(scratch))
        np.save(Path(scratch) / POSITIONS, positions)
        if sample is not None and sampled:
            found_of_sample(index, sample, k).write_parquet(Path(scratch) / SAMPLE)
        for path in sorted(Path(scratch).iterdir()):
            yield {"file": asdict(files.upload(path, folder, f"{below}/{path.name}"))}
    progress.advance()
    yield {**asdict(part), "info": index.info, "timings": index.timings, "sample": sampled and f"{below}/{SAMPLE}"}


def _sample(part: IndexPart, inputs: IndexInputs, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """What will be asked of an index: users' vectors, or the directions of videos of all shards."""
    if part.kind == "similar":
        return directions(read_vectors(inputs.vectors, ids[drawn(len(ids))]))
    users = load_tower(inputs.tower).sample(inputs.serving, SAMPLED_USERS)
    return users[drawn(len(users))]


def _vectors(part: IndexPart, inputs: IndexInputs, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    vectors = read_vectors(inputs.vectors, ids)
    return vectors if part.kind == "candidates" else directions(vectors)


def found_of_sample(index: Index, sample: NDArray[np.float32], k: int) -> pl.DataFrame:
    """The true k best of the index for each query: query, score, and whether its search for k finds them."""
    true, got = ExactIndex(vectors=index.vectors).search(sample, k), index.search(sample, k).positions
    row, column = np.nonzero(true.positions >= 0)
    n = len(index.vectors)
    found = np.isin(row * n + true.positions[row, column], (np.arange(len(got))[:, None] * n + got)[got >= 0])
    return pl.DataFrame({"query": row, "score": true.scores[row, column], "found": found})


def merged_recall(parts: Sequence[pl.DataFrame], k: int) -> float:
    """The recall@k of a search of all shards, each for k, whose results are merged. parts: `found_of_sample` of each
    shard for the same queries."""
    best = pl.concat(parts).sort("score", descending=True, maintain_order=True).group_by("query").head(k)
    return float(best["found"].cast(pl.Float64).mean() or 0.0)  # type: ignore[arg-type]


@dataclass
class WriteIndex(beam.PTransform):
    """`IndexPart`s -> `write_index`'s records."""

    inputs: IndexInputs
    folder: str
    attempt: str

    def expand(self, parts: beam.PCollection[IndexPart]) -> beam.PCollection[Record]:
        return parts | beam.Reshuffle() | beam.FlatMap(write_index, self.inputs, self.folder, self.attempt)


def index_info(records: Sequence[Record], folder: str) -> dict[str, dict[str, Any]]:
    """What `write_index` said of all shards, by kind: kind of index, rows, dimension, recall of a search of all of
    them, and `shards`: the parameters and the recall of each."""
    found: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        if shards := _shards(records, kind):
            infos = [record["info"] for record in shards]
            samples = [
                files.read_parquet(files.join(folder, record["sample"])) for record in shards if record["sample"]
            ]
            whole = {name: infos[0][name] for name in ("kind", "dimension", "recall")}
            whole |= {"rows": sum(info["rows"] for info in infos), "shards": infos}
            found[kind] = whole | ({"recall": merged_recall(samples, infos[0]["k"])} if samples else {})
    return found


def index_timings(records: Sequence[Record], kind: str) -> list[dict[str, float]]:
    """What `write_index` timed of each shard of one kind."""
    return [record["timings"] for record in _shards(records, kind)]


def _shards(records: Sequence[Record], kind: str) -> list[Record]:
    return sorted((r for r in records if r.get("kind") == kind), key=lambda r: int(r["shard"]))


@process_cache
def read_index(folder: str) -> Index:
    """One shard of an index, once a process: from where it lies, or from a copy of a remote one."""
    return load_index(Path(files.local_copy(folder)))


@process_cache
def read_videos(path: str) -> pl.DataFrame:
    """`VIDEOS` of an index, with `position`, once a process."""
    return files.read_parquet(path).with_row_index("position").cast({"position": pl.Int32})
