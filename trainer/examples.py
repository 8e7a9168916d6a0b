"""What a training reads: record files, what is in them, and how often each video is a label.

files = read_folder("runs/nights/2026-11-21/examples")
counts = read_label_counts(files)
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.errors import TrainingError
from trainer.quiet import tf
from transforms.features import FeatureSpec


@dataclass(frozen=True, kw_only=True)
class ExampleFiles:
    """The files of one night's examples: gzip TFRecords as `transforms.features` describes them.

    The order of the files is part of what makes a training repeatable: give them sorted.
    """

    train: tuple[str, ...]
    holdout: tuple[str, ...]  # empty: no recall is measured while training
    spec: FeatureSpec
    label_counts: str  # Parquet: id int64 from 1, each once, in order; video_id string; count int64


@dataclass(frozen=True, kw_only=True)
class LabelCounts:
    """The videos that can be a label, by id: position 0 is id 1."""

    video_ids: pa.Array  # [videos] string
    counts: npt.NDArray[np.int64]  # [videos] how often each was completed


def read_folder(folder: str) -> ExampleFiles:
    """The files that the `COMPLETED` manifest of an examples folder lists, sorted; what it does not list is ignored.

    Raises TrainingError where the manifest is missing or does not list what a training needs.
    """
    folder = folder.rstrip("/")
    manifest = f"{folder}/COMPLETED"
    if not tf.io.gfile.exists(manifest):
        raise TrainingError(f"{manifest} does not exist: these are no finished examples; run the examples stage first")
    listed = sorted(file["name"] for file in json.loads(_read(manifest))["files"])
    for needed in ("spec.json", "label_counts.parquet"):
        if needed not in listed:
            raise TrainingError(f"{manifest} does not list {needed}: run the examples stage again")

    def records(split: str) -> tuple[str, ...]:
        return tuple(f"{folder}/{p}" for p in listed if p.startswith(f"{split}/") and p.endswith(".tfrecord.gz"))

    return ExampleFiles(
        train=records("train"),
        holdout=records("holdout"),
        spec=FeatureSpec.from_json(_read(f"{folder}/spec.json").decode()),
        label_counts=f"{folder}/label_counts.parquet",
    )


def read_label_counts(files: ExampleFiles) -> LabelCounts:
    """Names and label counts of the videos, in the order of their ids.

    Raises TrainingError unless the ids are exactly 1..`spec.videos`, in order.
    """
    table = pq.read_table(pa.BufferReader(_read(files.label_counts)), columns=["id", "video_id", "count"])
    ids = table["id"].to_numpy()
    if not np.array_equal(ids, np.arange(1, files.spec.videos + 1)):
        raise TrainingError(
            f"{files.label_counts} must hold the ids 1 to {files.spec.videos} in order, each once, but holds "
            f"{len(ids)} others: it and spec.json are not of the same examples"
        )
    video_ids = table["video_id"].combine_chunks().cast(pa.string())
    return LabelCounts(video_ids=video_ids, counts=table["count"].to_numpy().astype(np.int64))


def _read(path: str) -> bytes:
    with tf.io.gfile.GFile(path, "rb") as file:
        return bytes(file.read())
