"""Indexes as files on any Beam file system: each worker builds a shard, each searching process loads it once.

A night has two indexes: `candidates` holds [v; b] of the videos that may be shown and is searched with [u; 1];
`similar` holds the same videos' v, scaled to length 1 and without the bias, so that a dot product is a cosine. Each
has one or more shards; row r of a shard is the video at `POSITIONS`[r] of `VIDEOS`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow.parquet as pa_parquet
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from numpy.typing import NDArray

from transforms.core import files, progress
from transforms.core.files import FileEntry
from transforms.core.process_cache import process_cache
from transforms.search.candidates import shard_positions
from transforms.search.exact_search import ExactIndex
from transforms.search.scann_index import ScannInfo
from transforms.search.top_k import EXACT_BELOW, Index, IndexInfo, build_index, draw_sample, load_index, save_index
from transforms.search.tower import load_tower

KINDS = ("candidates", "similar")
VIDEOS = "videos.parquet"
POSITIONS = "positions.npy"
SAMPLE = "sample.parquet"
SAMPLED_USERS = 2_048


@dataclass(frozen=True, kw_only=True)
class IndexInputs:
    """The files and settings that indexes are built from."""

    vectors: str  # path of the model's video vectors
    videos: str  # path of `VIDEOS`: video_id, id, upload_time of each position
    tower: str  # folder of the user tower
    serving: tuple[str, ...]  # paths of serving records; user vectors of a sample tune the search
    k: int  # list length of the candidates
    similar: int  # list length of the similar videos
    recall: float
    shards: int = 1  # of each kind
    trends: int = 0  # components of a vector, before the bias, that are trends


@dataclass(frozen=True)
class IndexPart:
    """One shard of one of `KINDS`."""

    kind: str
    shard: int

    def folder(self, attempt: str, shards: int) -> str:
        """Return its path below the folder of the stage."""
        return f"{self.kind}-{attempt}/{self.shard:05d}-of-{shards:05d}"


def read_vectors(path: str, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the vectors of some videos of the model, in the order of ids (distinct, at least one): [len(ids), d].

    Besides the result, only one row group of the file is in memory.
    """
    row_of = np.full(int(ids.max()) + 1, -1, np.int64)
    row_of[ids] = np.arange(len(ids))
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as source:
        file, found = pa_parquet.ParquetFile(source), np.zeros((0, 0), np.float32)
        for group in range(file.num_row_groups):
            rows = pl.DataFrame(file.read_row_group(group, columns=["id", "vector"]))
            vectors, file_ids = to_matrix(rows["vector"]), rows["id"].to_numpy()
            row = np.where(file_ids < len(row_of), row_of[np.minimum(file_ids, len(row_of) - 1)], -1)
            if not found.size:
                found = np.zeros((len(ids), vectors.shape[1]), np.float32)
            found[row[row >= 0]] = vectors[row >= 0]
    return found


def to_matrix(vectors: pl.Series) -> NDArray[np.float32]:
    """Return a list column of n vectors of d floats as float32 [n, d]."""
    flat = vectors.explode(empty_as_null=False).to_numpy().astype(np.float32, copy=False)
    return flat.reshape(len(vectors), -1)


def directions(vectors: NDArray[np.float32], *, trends: int) -> NDArray[np.float32]:
    """Return the part of vectors [n, d] that says what a video is like: without its trends, which come before the bias,
    and without the bias, [n, d - trends - 1]."""
    return vectors[:, : vectors.shape[1] - trends - 1]


def unit_directions(vectors: NDArray[np.float32], *, trends: int = 0) -> NDArray[np.float32]:
    """Return v / |v| of the `directions` v: float32 [n, d - trends - 1]. A zero vector stays zero."""
    v = directions(vectors, trends=trends)
    length = np.linalg.norm(v, axis=1, keepdims=True)
    return np.asarray(v / np.where(length == 0, 1, length), np.float32)


@dataclass(frozen=True, kw_only=True)
class IndexShard:
    """A written shard: its parameters and recall, its timings, and the path of its `SAMPLE`, if any."""

    kind: str
    shard: int
    info: IndexInfo
    timings: dict[str, float]
    sample: str = ""  # path below the folder of the stage


@dataclass(frozen=True, kw_only=True)
class IndexSummary:
    """The shards of one kind. `recall` is that of a search of all of them."""

    kind: str
    dimension: int
    recall: float
    rows: int
    shards: list[IndexInfo] = field(default_factory=list)
    timings: list[dict[str, float]] = field(default_factory=list)  # of each shard


def write_index(part: IndexPart, inputs: IndexInputs, folder: str, attempt: str) -> Iterator[FileEntry | IndexShard]:
    """Build one shard of one kind and write it below `folder`; yield the entries of its files, and an `IndexShard`.

    `POSITIONS` is written alongside and, if the shard is one of several approximate ones, `SAMPLE` for
    `merged_recall`.
    """
    videos = files.read_parquet(inputs.videos, ["video_id", "id"])
    positions, ids = shard_positions(videos["video_id"], shards=inputs.shards)[part.shard], videos["id"].to_numpy()
    exact = len(ids) // inputs.shards < EXACT_BELOW  # the same for all shards
    sample = None if exact else _tuning_sample(part, inputs, ids)
    vectors = read_vectors(inputs.vectors, ids[positions])
    if part.kind == "similar":
        vectors = unit_directions(vectors, trends=inputs.trends)
    k = inputs.k if part.kind == "candidates" else inputs.similar + 1  # a video is the nearest to itself
    index = build_index(vectors, k=k, queries=sample, recall=inputs.recall, exact_below=len(ids) + 1 if exact else 0)
    below, sampled = part.folder(attempt, inputs.shards), sample is not None and inputs.shards > 1
    with tempfile.TemporaryDirectory() as scratch:
        save_index(index, Path(scratch))
        np.save(Path(scratch) / POSITIONS, positions)
        if sample is not None and sampled:
            sample_hits(index, sample, k).write_parquet(Path(scratch) / SAMPLE)
        for path in sorted(Path(scratch).iterdir()):
            yield files.upload(path, folder, f"{below}/{path.name}")
    progress.advance()
    sample_path = f"{below}/{SAMPLE}" if sampled else ""
    yield IndexShard(**asdict(part), info=index.info, timings=index.timings, sample=sample_path)


def _tuning_sample(part: IndexPart, inputs: IndexInputs, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return queries to tune an index with: user vectors, or the directions of videos of all shards."""
    if part.kind == "similar":
        sample = read_vectors(inputs.vectors, ids[draw_sample(len(ids))])
        return unit_directions(sample, trends=inputs.trends)
    users = load_tower(inputs.tower).sample_vectors(inputs.serving, SAMPLED_USERS)
    return users[draw_sample(len(users))]


def sample_hits(index: Index, sample: NDArray[np.float32], k: int) -> pl.DataFrame:
    """Return the true k best of the index for each query: query, score, found (whether its search returns them)."""
    true, result = ExactIndex(vectors=index.vectors).search(sample, k), index.search(sample, k).positions
    row, column = np.nonzero(true.positions >= 0)
    n = len(index.vectors)
    result_keys = (np.arange(len(result))[:, None] * n + result)[result >= 0]
    found = np.isin(row * n + true.positions[row, column], result_keys)
    return pl.DataFrame({"query": row, "score": true.scores[row, column], "found": found})


def merged_recall(parts: Sequence[pl.DataFrame], k: int) -> float:
    """Return the recall@k of a search that merges the k best of every shard.

    parts: `sample_hits` of each shard for the same queries.
    """
    best = pl.concat(parts).sort("score", descending=True, maintain_order=True).group_by("query").head(k)
    return float(best["found"].cast(pl.Float64).mean() or 0.0)  # type: ignore[arg-type]


@dataclass
class WriteIndex(beam.PTransform):
    """Write the index of each `IndexPart`; return what `write_index` yields."""

    inputs: IndexInputs
    folder: str
    attempt: str

    def expand(self, parts: beam.PCollection[IndexPart]) -> beam.PCollection[FileEntry | IndexShard]:
        return parts | beam.Reshuffle() | beam.FlatMap(write_index, self.inputs, self.folder, self.attempt)


def summarize_index(shards: Sequence[IndexShard], folder: str) -> dict[str, IndexSummary]:
    """Return a summary of the shards by kind. folder: of the stage, for their samples."""
    found: dict[str, IndexSummary] = {}
    for kind in KINDS:
        if own := sorted((shard for shard in shards if shard.kind == kind), key=lambda shard: shard.shard):
            info, samples = own[0].info, [shard.sample for shard in own if shard.sample]
            recall = info.recall
            if samples and isinstance(info, ScannInfo):
                recall = merged_recall([files.read_parquet(files.join(folder, path)) for path in samples], info.k)
            found[kind] = IndexSummary(
                kind=info.kind,
                dimension=info.dimension,
                recall=recall,
                rows=sum(shard.info.rows for shard in own),
                shards=[shard.info for shard in own],
                timings=[shard.timings for shard in own],
            )
    return found


@process_cache
def read_index(folder: str) -> Index:
    """Return one shard of an index, loaded once per process; a remote one is copied first."""
    return load_index(Path(files.local_copy(folder)))


@process_cache
def read_videos(path: str) -> pl.DataFrame:
    """Return `VIDEOS` of an index with `position` (Int32), read once per process."""
    return files.read_parquet(path).with_row_index("position").cast({"position": pl.Int32})
