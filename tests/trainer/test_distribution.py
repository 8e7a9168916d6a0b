from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nights import REPOSITORY
from trainings import read_vectors

from trainer.batch import SHARE
from trainer.config import ModelSettings, TrainingSettings
from trainer.distribution import batch_part, detect_strategy, make_replicas, worker_addresses
from trainer.errors import TrainingError
from trainer.examples import read_folder
from trainer.task import train
from transforms.core.tensorflow_import import tf

MODEL = ModelSettings(dimension=8, hidden=[16], history="recency", shared_vectors=True, negatives=20)
TRAINING = TrainingSettings(batch_size=32, epochs=2, checkpoint_steps=3)

# A process can only get two devices before TensorFlow is used.
TWO_DEVICES = """
import sys
from transforms.core.tensorflow_import import tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from trainer.task import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, examples: str) -> Path:
    """Train on one device and return the output folder."""
    folder = tmp_path_factory.mktemp("alone")
    train(read_folder(examples), str(folder), model=MODEL, training=TRAINING, attempt="x")
    return folder


def arguments(examples: str, output: Path, model: ModelSettings = MODEL) -> list[str]:
    settings = output.with_suffix(".json")
    settings.write_text(json.dumps({"model": model.model_dump(), "training": TRAINING.model_dump()}))
    return ["--examples", examples, "--output", str(output), "--settings", str(settings), "--attempt", "x"]


def start(command: list[str], **environment: str) -> subprocess.Popen[str]:
    # The environment of the tests must not name other hosts or TPUs.
    inherited = {name: value for name, value in os.environ.items() if name not in ("TF_CONFIG", "TPU_NAME")}
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=REPOSITORY,
        env={**inherited, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def same_training(one: Path, other: Path) -> None:
    """Assert equal curves, holdout figures and vectors, except for the order of sums."""
    first, second = (json.loads((folder / "history.json").read_text()) for folder in (one, other))
    points = [[(point["step"], point["examples"]) for point in each["loss"]] for each in (first, second)]
    assert points[0] == points[1] and len(points[0]) > 5
    losses = [[point["loss"] for point in each["loss"]] for each in (first, second)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    vectors, other_vectors = (read_vectors(folder / "video_vectors.parquet") for folder in (one, other))
    np.testing.assert_allclose(vectors, other_vectors, rtol=1e-3, atol=1e-5)
    # The last batch of an epoch is smaller, and cannot be halved.
    assert first["loss"][-1]["examples"] % 64 not in (0, 32) and [f["epoch"] for f in second["holdout"]] == [1, 2]


@pytest.mark.slow
def test_two_devices_learn_what_one_learns_and_one_device_can_resume(
    tmp_path: Path, examples: str, alone: Path
) -> None:
    given_to_both = arguments(examples, tmp_path / "two")
    process = start(["-c", TWO_DEVICES, *given_to_both, "--strategy", "mirrored"])
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    same_training(alone, tmp_path / "two")
    checkpoints = sorted(path.name for path in (tmp_path / "two" / "checkpoints").glob("*/ckpt-*.index"))
    assert checkpoints == sorted(path.name for path in (alone / "checkpoints").glob("*/ckpt-*.index"))
    # One device resumes at the end, so that it takes no steps.
    before = (tmp_path / "two" / "video_vectors.parquet").read_bytes()
    result = train(read_folder(examples), str(tmp_path / "two"), model=MODEL, training=TRAINING, attempt="y")
    assert (tmp_path / "two" / "video_vectors.parquet").read_bytes() == before
    assert result.steps == json.loads((alone / "history.json").read_text())["loss"][-1]["step"]


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["in_batch", "mixed"])
def test_two_devices_continue_a_model_with_labels_of_the_batch_as_negatives(
    tmp_path: Path, examples: str, alone: Path, loss: str
) -> None:
    given_to_all = arguments(examples, tmp_path / "two", MODEL.model_copy(update={"loss": loss}))
    earlier = ["--earlier", str(alone), "--earlier-days", "2"]
    process = start(["-c", TWO_DEVICES, *given_to_all, *earlier, "--strategy", "mirrored"])
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    info, history = (json.loads((tmp_path / "two" / f"{name}.json").read_text()) for name in ("info", "history"))
    assert info["start"]["from"] == str(alone) and history["loss"][-1]["step"] == info["steps"] > 5
    assert np.isfinite(read_vectors(tmp_path / "two" / "video_vectors.parquet")).all()


@pytest.mark.slow
def test_two_hosts_learn_what_one_learns_and_the_first_writes(tmp_path: Path, examples: str, alone: Path) -> None:
    given_to_both = arguments(examples, tmp_path / "hosts")
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    hosts = [
        start(
            ["-m", "trainer.task", *given_to_both],
            TF_CONFIG=json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}),
        )
        for index in range(2)
    ]
    try:
        printed = [host.communicate(timeout=300) for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    assert [host.returncode for host in hosts] == [0, 0], printed
    same_training(alone, tmp_path / "hosts")
    names = ("checkpoints", "tensorboard")
    for found in names:  # a second writer would have left more files
        files = {path.name.split(".v2")[0] for path in (tmp_path / "hosts" / found).rglob("*") if path.is_file()}
        assert len([name for name in files if "tfevents" in name]) == (1 if found == "tensorboard" else 0)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@given(size=st.integers(1, 20), count=st.integers(1, 8))
def test_the_parts_of_a_batch_have_each_label_once(size: int, count: int) -> None:
    batch = {"label": tf.range(size), "watches": tf.reshape(tf.range(size * 2), [size, 2])}
    parts = [batch_part(batch, tf.constant(number, tf.int64), count) for number in range(count)]
    counted = [part for part in parts if float(part[SHARE]) > 0]
    assert [int(label) for part in counted for label in part["label"]] == list(range(size))
    np.testing.assert_allclose([float(part[SHARE]) for part in counted], [len(p["label"]) / size for p in counted])
    sizes = [len(part["label"]) for part in counted]
    assert max(sizes) - min(sizes) <= 1 and all(len(part["label"]) > 0 for part in parts)
    assert all((part["watches"][:, 0] == 2 * part["label"]).numpy().all() for part in parts)


def test_static_parts_have_static_shapes() -> None:
    batch = {"label": tf.TensorSpec([8], tf.int32), "watches": tf.TensorSpec([8, 5], tf.int32)}
    cut = tf.function(lambda batch: batch_part(batch, tf.constant(1, tf.int64), 4, static=True))
    made = cut.get_concrete_function(batch).structured_outputs
    assert made["label"].shape == [2] and made["watches"].shape == [2, 5]


WORKERS = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}
ONE_WORKER = {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}


@pytest.mark.parametrize(
    ("environment", "gpus", "kind"),
    [
        ({}, 0, "one"),
        ({}, 1, "one"),
        ({}, 8, "mirrored"),
        ({"TF_CONFIG": json.dumps(WORKERS)}, 8, "multi_worker"),
        ({"TF_CONFIG": json.dumps(ONE_WORKER)}, 1, "one"),
        ({"TPU_NAME": "local"}, 0, "tpu"),
    ],
)
def test_the_strategy_follows_from_the_environment(environment: dict[str, str], gpus: int, kind: str) -> None:
    assert detect_strategy(environment, gpus=gpus) == kind


def test_the_chief_is_among_the_hosts() -> None:
    both = {"cluster": {"chief": ["a:1"], "worker": ["b:2"]}, "task": {"type": "chief", "index": 0}}
    assert worker_addresses({"TF_CONFIG": json.dumps(both)}) == ["a:1", "b:2"]


@pytest.mark.parametrize(
    "config", ["{", "[]", {"cluster": {"worker": ["a:1", "b:2"]}}, {**WORKERS, "task": {"type": "worker", "index": 2}}]
)
def test_a_malformed_tf_config_is_an_error(config: Any) -> None:
    text = config if isinstance(config, str) else json.dumps(config)
    with pytest.raises(TrainingError, match=r'TF_CONFIG must be JSON like \{"cluster"'):
        worker_addresses({"TF_CONFIG": text})


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("mirrored", "needs more than one GPU, but TensorFlow finds 0"),
        ("multi_worker", "needs the hosts in TF_CONFIG, but it names 0"),
        ("tpu", "needs TPU_NAME in the environment"),
        ("cluster", "strategy must be one of auto, one, mirrored, multi_worker, tpu, but is cluster"),
    ],
)
def test_a_strategy_names_what_it_lacks(monkeypatch: pytest.MonkeyPatch, kind: str, message: str) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.delenv("TPU_NAME", raising=False)
    with pytest.raises(TrainingError, match=message):
        make_replicas(kind)
