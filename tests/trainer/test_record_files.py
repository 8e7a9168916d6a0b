from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from trainer_records import SPEC, random_records, write_file

from trainer.inputs import epoch_batches
from trainer.record_files import RecordFiles
from transforms.core.tensorflow_import import tf

EVERYTHING = 10**9


def write_some(folder: Path) -> list[str]:
    """Write files of very different lengths, one of them empty."""
    sizes = (40, 0, 3, 90, 1)
    return [write_file(folder / f"{i}.tfrecord.gz", random_records(n, seed=i)) for i, n in enumerate(sizes)]


@pytest.mark.parametrize("order", [None, [3, 1, 0, 2, 4], [4, 3, 2, 1, 0]])
def test_memory_has_the_records_in_the_order_of_the_files(tmp_path: Path, order: list[int] | None) -> None:
    paths = write_some(tmp_path)
    kept, read = RecordFiles.from_paths(paths, cache_bytes=EVERYTHING), RecordFiles.from_paths(paths)
    assert kept.records is not None and read.records is None
    chosen = None if order is None else tf.constant(order)
    records = list(kept.read(chosen).as_numpy_iterator())
    assert records == list(read.read(chosen).as_numpy_iterator())
    assert len(records) == 134


@pytest.mark.parametrize("sequences", [False, True])
def test_an_epoch_from_memory_has_the_batches_of_one_from_files(tmp_path: Path, sequences: bool) -> None:
    paths = write_some(tmp_path)

    def batches(cache_bytes: int) -> list[dict[str, np.ndarray]]:
        files = RecordFiles.from_paths(paths, cache_bytes=cache_bytes)
        assert (files.records is not None) == (cache_bytes > 0)
        read = epoch_batches(files, SPEC, sequences=sequences, batch_size=32, seed=1, epochs=range(2), pool_users=25)
        return list(read.as_numpy_iterator())

    for cached, read in zip(batches(EVERYTHING), batches(0), strict=True):
        assert cached.keys() == read.keys()
        assert all((cached[name] == read[name]).all() for name in cached)


def test_records_that_do_not_fit_are_not_kept_in_memory(tmp_path: Path) -> None:
    paths = write_some(tmp_path)
    records = RecordFiles.from_paths(paths, cache_bytes=EVERYTHING).records
    assert records is not None
    lengths: list[int] = [len(record) for record in records.numpy()]
    size = sum(lengths) + 48 * len(lengths)
    assert RecordFiles.from_paths(paths, cache_bytes=size).records is not None
    assert RecordFiles.from_paths(paths, cache_bytes=size - 1).records is None
    assert RecordFiles.from_paths(paths, cache_bytes=1).records is None


def test_empty_files_and_no_files_have_no_records(tmp_path: Path) -> None:
    empty = write_file(tmp_path / "a.tfrecord.gz", [])
    assert list(RecordFiles.from_paths([empty], cache_bytes=EVERYTHING).read()) == []
    assert list(RecordFiles.from_paths([], cache_bytes=EVERYTHING).read()) == []
