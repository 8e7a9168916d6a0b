"""The inputs of a training: record files, their contents, and how often each video is a label.

files = read_folder("runs/nights/2026-11-21/examples")
counts = read_label_counts(files)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.batch import TOKENS
from trainer.errors import TrainingError
from transforms.contracts.example_spec import FeatureSpec
from transforms.core.tensorflow_import import tf

LABEL_COUNTS, SEARCH_TOKENS = "label_counts.parquet", "search_tokens.parquet"


@dataclass(frozen=True, kw_only=True)
class ExampleFiles:
    """The files of one night's examples: gzip TFRecords as `transforms.contracts.example_spec` describes them.

    A training is reproducible only for the same order of files: sort them.
    """

    train: tuple[str, ...]
    holdout: tuple[str, ...]  # empty: recall is not measured during the training
    spec: FeatureSpec
    label_counts: str  # Parquet: id int64 from 1, each once, in order; video_id string; count int64
    search_tokens: str | None = None  # Parquet: token string, count int64, in order of the ids; for later warm starts
    graph: str | None = None  # folder of the SavedModel that encoded context and example age, to serve raw features
    labels: int | None = None  # in `train`; None: to be counted from the records
    users: int | None = None  # records in `train` less those in `holdout`; None: to be counted
    window_days: int = 0  # days whose watches may be labels; 0: not known
    dates: dict[str, str] = field(default_factory=dict)  # ISO 8601: `newest` watch; `start` and `end` of the window


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The names of a table's rows, from row 1, and how often each occurs in the window."""

    names: pa.Array  # [rows] string, distinct
    counts: npt.NDArray[np.int64]  # [rows]; of videos the completed watches; zeros if they are not counted


def read_folder(folder: str) -> ExampleFiles:
    """Return the files that the `COMPLETED` manifest of an examples folder lists, sorted; others are ignored.

    Raises TrainingError if the manifest is missing or does not list what a training needs.
    """
    folder = folder.rstrip("/")
    path = f"{folder}/COMPLETED"
    manifest = json.loads(read_file(path, "the examples are not complete; run the examples stage first"))
    listed = sorted(file["name"] for file in manifest["files"])
    for needed in ("spec.json", LABEL_COUNTS):
        if needed not in listed:
            raise TrainingError(f"{path} does not list {needed}: run the examples stage again")

    parts = [manifest.get(part, {}) for part in ("outputs", "counts")]  # older manifests have counts only
    known = {name: part[name] for part in reversed(parts) for name in ("newest", "window_days") if name in part}

    def records(split: str) -> tuple[str, ...]:
        return tuple(f"{folder}/{p}" for p in listed if p.startswith(f"{split}/") and p.endswith(".tfrecord.gz"))

    return ExampleFiles(
        train=records("train"),
        holdout=records("holdout"),
        spec=FeatureSpec.from_json(read_file(f"{folder}/spec.json").decode()),
        label_counts=f"{folder}/{LABEL_COUNTS}",
        search_tokens=f"{folder}/{SEARCH_TOKENS}" if SEARCH_TOKENS in listed else None,
        graph=find_graph(folder, listed),
        window_days=known.get("window_days", 0),
        dates={"newest": known["newest"]} if "newest" in known else {},
    )


def find_graph(folder: str, listed: Sequence[str]) -> str | None:
    """Return the folder of the encoding graph's SavedModel among the listed files of an examples folder, or None."""
    saved = [path for path in listed if path.startswith("transform_fn/") and path.endswith("/saved_model.pb")]
    return f"{folder}/{saved[0].removesuffix('/saved_model.pb')}" if saved else None


def read_label_counts(files: ExampleFiles) -> Vocabulary:
    """Return the vocabulary of the videos that can be a label, in order of their ids.

    Raises TrainingError unless the ids are exactly 1..`spec.videos`, in order.
    """
    table = pq.read_table(pa.BufferReader(read_file(files.label_counts)), columns=["id", "video_id", "count"])
    ids = table["id"].to_numpy()
    if not np.array_equal(ids, np.arange(1, files.spec.videos + 1)):
        raise TrainingError(
            f"{files.label_counts} must hold the ids 1 to {files.spec.videos} in order, each once, but holds "
            f"{len(ids)} other ids: it and spec.json belong to different examples"
        )
    return _vocabulary(table, "video_id")


def read_vocabularies(files: ExampleFiles, videos: Vocabulary) -> dict[str, Vocabulary]:
    """Return the vocabularies of the tables: `videos`, each category, and `tokens` if the examples have their names.

    Raises TrainingError if the number of tokens differs from that of the spec.
    """
    vocabularies = {"videos": videos}
    for name, values in files.spec.categories.items():
        vocabularies[name] = Vocabulary(names=pa.array(values, pa.string()), counts=np.zeros(len(values), np.int64))
    if files.spec.tokens and files.search_tokens:
        table = pq.read_table(pa.BufferReader(read_file(files.search_tokens)), columns=["token", "count"])
        if table.num_rows != files.spec.tokens:
            raise TrainingError(
                f"{files.search_tokens} must hold {files.spec.tokens} tokens, as spec.json says, but holds "
                f"{table.num_rows}: run the examples stage again"
            )
        vocabularies[TOKENS] = _vocabulary(table, "token")
    return vocabularies


def _vocabulary(table: pa.Table, names: str) -> Vocabulary:
    """Return the vocabulary of a table with the columns `names` and `count`."""
    counts = table["count"].to_numpy().astype(np.int64)
    return Vocabulary(names=table[names].combine_chunks().cast(pa.string()), counts=counts)


def read_vocabulary(path: str, names: str) -> Vocabulary:
    """Return the vocabulary of a Parquet file with the columns `names` and `count`."""
    return _vocabulary(pq.read_table(pa.BufferReader(read_file(path)), columns=[names, "count"]), names)


def read_file(path: str, advice: str = "run the examples stage again") -> bytes:
    """Return the content of a file. Raises TrainingError with the advice if it does not exist."""
    if not tf.io.gfile.exists(path):
        raise TrainingError(f"{path} does not exist: {advice}")
    with tf.io.gfile.GFile(path, "rb") as file:
        return bytes(file.read())
