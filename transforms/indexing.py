"""Indexes as files on any Beam file system: built by one worker, loaded once a process by those that search.

Two are made of a night's model: `candidates`, of [v; b] of the videos that may be shown, searched with [u; 1]; and
`similar`, of the same videos' v brought to length 1 and without the bias, so that a dot product is a cosine.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import apache_beam as beam
import numpy as np
import polars as pl
from numpy.typing import NDArray

from transforms import files, progress
from transforms.collect import Record
from transforms.search import EXACT_BELOW, Index, build_index, load_index, save_index
from transforms.tower import load_tower

KINDS = ("candidates", "similar")
VIDEOS = "videos.parquet"
SAMPLED_USERS = 2_048


class NoCandidatesError(ValueError):
    """Not one video may be shown."""


@dataclass(frozen=True, kw_only=True)
class IndexInputs:
    """What indexes are built from."""

    vectors: str  # path of the model's video vectors
    catalogue: str | None  # path of the night's catalogue
    tower: str  # folder of the user tower
    serving: tuple[str, ...]  # paths of serving records: vectors of a sample of them tune the search
    k: int  # of the candidates
    similar: int  # k of the similar videos
    recall: float


def candidate_videos(vectors: pl.DataFrame, catalogue: pl.DataFrame | None) -> pl.DataFrame:
    """The videos that may be shown, ordered by video_id: those of the model that a catalogue, if any, says are
    available.

    vectors: id, video_id, vector, of the model. catalogue: video_id, available, upload_time. Gives video_id, id, vector
    and upload_time, null where not known.
    """
    if catalogue is None:
        unknown = pl.lit(None, pl.Datetime("us", "UTC")).alias("upload_time")
        return vectors.select("video_id", "id", "vector", unknown).sort("video_id")
    shown = catalogue.filter("available").select("video_id", "upload_time")
    return vectors.select("video_id", "id", "vector").join(shown, on="video_id").sort("video_id")


def to_matrix(vectors: pl.Series) -> NDArray[np.float32]:
    """A list column of n vectors of d floats -> float32 [n, d]."""
    flat = vectors.explode(empty_as_null=False).to_numpy().astype(np.float32)
    return flat.reshape(len(vectors), -1)


def directions(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """[v; b] -> v / |v|: float32 [n, d - 1]; a zero vector stays zero."""
    v = vectors[:, :-1]
    length = np.linalg.norm(v, axis=1, keepdims=True)
    return np.asarray(v / np.where(length == 0, 1, length), np.float32)


def write_index(kind: str, inputs: IndexInputs, folder: str, attempt: str) -> Iterator[Record]:
    """Build one of `KINDS` and write it to `folder`/KIND-ATTEMPT; gives records of its files and of how it searches.

    With the candidates goes `VIDEOS`: video_id, id, upload_time of each position. Raises NoCandidatesError.
    """
    columns = ["video_id", "available", "upload_time"]
    catalogue = files.read_parquet(inputs.catalogue, columns) if inputs.catalogue else None
    videos = candidate_videos(files.read_parquet(inputs.vectors), catalogue)
    if videos.is_empty():
        raise NoCandidatesError("no video of the model is available: does logs.videos know the videos of logs.watches?")
    vectors = to_matrix(videos["vector"])
    if kind == "similar":
        index = build_index(directions(vectors), k=inputs.similar + 1, recall=inputs.recall)
    else:
        # Exact search needs no tuning, so no sample, so no TensorFlow.
        tuned = len(vectors) >= EXACT_BELOW
        sample = load_tower(inputs.tower).sample(inputs.serving, SAMPLED_USERS) if tuned else None
        index = build_index(vectors, k=inputs.k, queries=sample, recall=inputs.recall)
        yield {"file": asdict(files.replace_parquet(videos.drop("vector"), folder, VIDEOS))}
    with tempfile.TemporaryDirectory() as scratch:
        save_index(index, Path(scratch))
        for path in sorted(Path(scratch).iterdir()):
            yield {"file": asdict(files.upload(path, folder, f"{kind}-{attempt}/{path.name}"))}
    progress.advance()
    yield {"kind": kind, "info": index.info}


@dataclass
class WriteIndex(beam.PTransform):
    """Names of `KINDS` -> `write_index`'s records."""

    inputs: IndexInputs
    folder: str
    attempt: str

    def expand(self, kinds: beam.PCollection[str]) -> beam.PCollection[Record]:
        return kinds | beam.Reshuffle() | beam.FlatMap(write_index, self.inputs, self.folder, self.attempt)


@lru_cache(maxsize=2)
def read_index(folder: str) -> Index:
    """The index in `folder`, once a process: from where it lies, or from a copy of a remote one."""
    return load_index(Path(files.local_copy(folder)))


@lru_cache(maxsize=2)
def read_videos(path: str) -> pl.DataFrame:
    """`VIDEOS` of an index, with `position`, once a process."""
    return files.read_parquet(path).with_row_index("position").cast({"position": pl.Int32})
