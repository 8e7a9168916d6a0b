"""Small frames, files and a tower for the tests of the data steps."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from transforms.logs.schemas import SEARCH_SCHEMA, WATCH_SCHEMA

START = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)


def hours(n: float) -> dt.datetime:
    """The moment so many hours after `START`."""
    return START + dt.timedelta(hours=n)


def watch(user: str, hour: float, video: str, completed: bool = True, **more: Any) -> dict[str, Any]:
    return {"user_id": user, "time": hours(hour), "video_id": video, "completed": completed, **more}


def search(user: str, hour: float, query: str) -> dict[str, Any]:
    return {"user_id": user, "time": hours(hour), "query": query}


def watches_frame(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """As `Window` reads them: ordered by every column."""
    return pl.DataFrame(list(rows), schema=WATCH_SCHEMA).sort(*WATCH_SCHEMA.names(), nulls_last=True)


def searches_frame(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=SEARCH_SCHEMA).sort(*SEARCH_SCHEMA.names(), nulls_last=True)


def write(frame: pl.DataFrame, path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(path)
    return str(path)


def user_vector(user_id: str, dimension: int) -> list[float]:
    """What `write_tower`'s tower says of a user: the lengths of the id's pieces between `-`, and 1 for the bias."""
    numbers = [float(len(piece)) for piece in user_id.split("-")][:dimension]
    return numbers + [0.0] * (dimension - len(numbers)) + [1.0]


def write_tower(folder: Path, dimension: int) -> str:
    """A SavedModel with the signature of the exported tower, whose vectors are `user_vector`s."""
    from transforms.core.tensorflow_import import import_tensorflow

    tf = import_tensorflow()

    class Tower(tf.Module):  # type: ignore[name-defined]
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
        def examples(self, examples: Any) -> dict[str, Any]:
            users = tf.io.parse_example(examples, {"user_id": tf.io.FixedLenFeature([], tf.string)})["user_id"]
            lengths = tf.cast(tf.strings.length(tf.strings.split(users, "-")), tf.float32)
            numbers = lengths.to_tensor(shape=[None, dimension])
            return {"user_id": users, "vector": tf.concat([numbers, tf.ones_like(numbers[:, :1])], axis=1)}

    tower = Tower()
    tf.saved_model.save(tower, str(folder), signatures={"examples": tower.examples})
    return str(folder)
