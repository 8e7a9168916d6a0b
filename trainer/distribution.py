"""Training on one or several devices. No other module uses `tf.distribute`.

    replicas = make_replicas("auto")
    with replicas.scope():
        step = TrainingStep(...)
    run = replicas.compile(step)
    for parts in replicas.distribute(batches):
        loss = run(parts)

Every device holds a copy of all variables and gets its part of each batch. Gradients are summed over all devices, so
that every copy takes the same step. The loss curve is that of one device with the same batch size, whatever the number
of devices, except for rounding, for what dropout drops, and for in-batch negatives, which come from a device's own
part.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from trainer.batch import LABEL, SHARE, Batch
from trainer.errors import TrainingError
from trainer.record_files import no_autograph
from transforms.core.tensorflow_import import tf

Parts = Any  # what `Replicas.distribute` yields: a batch, or the parts of a batch for each device of this host
STRATEGIES = ("auto", "one", "mirrored", "multi_worker", "tpu")


class Replicas:
    """The devices that train together: copies of one step that differ only in their part of the batch.

    `count`: their number, over all hosts. `static`: whether they need static shapes, as TPUs do.
    `chief`: whether this process writes the outputs of the training.
    """

    def __init__(self, strategy: tf.distribute.Strategy | None = None, *, static: bool = False) -> None:
        self._strategy, self.static = strategy, static
        self.count: int = strategy.num_replicas_in_sync if strategy else 1
        self.chief = _is_chief(strategy.cluster_resolver) if strategy else True

    @property
    def single(self) -> bool:
        """Whether there is one device without a strategy: variables are plain ones."""
        return self._strategy is None

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which new variables have a copy on every device."""
        return self._strategy.scope() if self._strategy else contextlib.nullcontext()

    def number(self) -> tf.Tensor | int:
        """Return, inside a step, the number of this replica, from 0."""
        return tf.distribute.get_replica_context().replica_id_in_sync_group if self.count > 1 else 0

    def sum(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Return, inside a step, the sum of each tensor over all replicas."""
        if self.count == 1:
            return list(tensors)
        return list(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, list(tensors)))

    def gather(self, tensor: tf.Tensor) -> tf.Tensor:
        """Return, inside a step, the concatenated tensors of all replicas; their first dimensions may differ."""
        if self.count == 1:
            return tensor
        return tf.distribute.get_replica_context().all_gather(tensor, axis=0)

    def compile(self, step: Callable[[Batch], tf.Tensor]) -> Callable[[Parts], tf.Tensor]:
        """Return a graph that takes a step on all devices at once, with what `distribute` yields.

        `step` must return the same value on all devices.
        """
        if self._strategy is None:
            return tf.function(step, reduce_retracing=True, autograph=False)
        strategy = self._strategy

        def run(parts: Parts) -> tf.Tensor:
            return strategy.experimental_local_results(strategy.run(step, args=(parts,)))[0]

        return tf.function(run, reduce_retracing=True, autograph=False)

    def distribute(self, batches: tf.data.Dataset) -> Iterator[Parts]:
        """Return an iterator over the batches, each as the parts for the devices of this host.

        Every host reads all batches and keeps its part, so that a batch holds the same labels whatever the number of
        hosts. Reading is many times faster than learning.
        """
        if self._strategy is None:
            return iter(batches)

        def host_dataset(context: tf.distribute.InputContext) -> tf.data.Dataset:
            local = self.count // context.num_input_pipelines
            numbers = tf.data.Dataset.range(context.input_pipeline_id * local, (context.input_pipeline_id + 1) * local)

            def parts(batch: Batch) -> tf.data.Dataset:
                part = no_autograph(lambda number: batch_part(batch, number, self.count, static=self.static))
                return numbers.map(part)

            # With a finite dataset the hosts would ask each other before every step; the loop knows when to stop.
            infinite = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
            return batches.flat_map(no_autograph(parts)).apply(infinite).prefetch(2 * local)

        return iter(self._strategy.distribute_datasets_from_function(host_dataset))

    def broadcast(self, decision: bool) -> bool:
        """Broadcast the chief's decision so that all hosts stop together."""
        if self._strategy is None:
            return decision
        votes = self._strategy.run(no_autograph(lambda: tf.constant(float(decision and self.chief))))
        return float(self._strategy.reduce(tf.distribute.ReduceOp.SUM, votes, axis=None)) > 0


def batch_part(batch: Batch, number: tf.Tensor, count: int, *, static: bool = False) -> Batch:
    """Return part `number` of `count` of a batch, with its `share` of the batch's labels.

    Parts are as even as possible, and each label is in one part. A part that would be empty gets a label of another
    part and the share 0, because the mean over no labels is undefined. `static`: shapes are static; the batch divides
    evenly.
    """
    size = tf.cast(tf.shape(batch[LABEL])[0], tf.int64)
    start, stop = size * number // count, size * (number + 1) // count
    share = tf.cast((stop - start) / size, tf.float32)
    first = tf.minimum(start, size - 1)
    part = {name: values[first : tf.maximum(stop, first + 1)] for name, values in batch.items()}
    if static:
        rows = {name: values.shape[0] // count for name, values in batch.items()}
        part = {name: tf.ensure_shape(values, [rows[name], *values.shape[1:]]) for name, values in part.items()}
    return {**part, SHARE: share}


def make_replicas(kind: str = "auto") -> Replicas:
    """Return the devices of a strategy, one of `STRATEGIES`; `auto` takes the largest that is available.

    Call it before anything else uses TensorFlow: hosts and a TPU cannot be joined later. Raises TrainingError if the
    machine does not have what the strategy needs.
    """
    strategy = detect_strategy(os.environ, gpus=len(tf.config.list_physical_devices("GPU"))) if kind == "auto" else kind
    if strategy == "one":
        return Replicas()
    if strategy == "mirrored":
        return Replicas(_mirrored())
    if strategy == "multi_worker":
        return Replicas(_multi_worker(os.environ))
    if strategy == "tpu":
        return Replicas(_tpu(os.environ), static=True)
    raise TrainingError(f"strategy must be one of {', '.join(STRATEGIES)}, but is {kind} ([training])")


def detect_strategy(environment: Mapping[str, str], *, gpus: int) -> str:
    """Return the strategy that suits the environment variables and the number of GPUs."""
    if len(worker_addresses(environment)) > 1:
        return "multi_worker"
    if "TPU_NAME" in environment:
        return "tpu"
    return "mirrored" if gpus > 1 else "one"


def worker_addresses(environment: Mapping[str, str]) -> list[str]:
    """Return the addresses of the hosts in TF_CONFIG; [] without it. Raises TrainingError if it is malformed."""
    text = environment.get("TF_CONFIG", "")
    if not text:
        return []
    rule = 'TF_CONFIG must be JSON like {"cluster": {"worker": ["host:port"]}, "task": {"type": "worker", "index": 0}}'
    try:
        config = json.loads(text)
        cluster = config.get("cluster", {})
        workers = [*cluster.get("chief", []), *cluster.get("worker", [])]
        if len(workers) > 1:
            task = config["task"]
            cluster[task["type"]][int(task["index"])]
    except (ValueError, AttributeError, KeyError, IndexError, TypeError) as error:
        raise TrainingError(f"{rule}, but is {text} ({type(error).__name__}: {error})") from None
    return workers


def _mirrored() -> tf.distribute.Strategy:
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) < 2:
        raise TrainingError(
            'strategy = "mirrored" needs more than one GPU, but TensorFlow finds '
            f'{len(tf.config.list_physical_devices("GPU"))}: set strategy = "one", or check that nvidia-smi lists them '
            "and tensorflow[and-cuda] is installed"
        )
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def _multi_worker(environment: Mapping[str, str]) -> tf.distribute.Strategy:
    workers = worker_addresses(environment)
    if len(workers) < 2:
        raise TrainingError(
            f'strategy = "multi_worker" needs the hosts in TF_CONFIG, but it names {len(workers)}: start this command '
            'on every host with the same TF_CONFIG except for its task, or set strategy = "one"'
        )
    return tf.distribute.MultiWorkerMirroredStrategy()


def _tpu(environment: Mapping[str, str]) -> tf.distribute.Strategy:
    name = environment.get("TPU_NAME")
    if not name:
        raise TrainingError(
            'strategy = "tpu" needs TPU_NAME in the environment: the name of the TPU, or "local" on a TPU\'s own host'
        )
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
    if name != "local":
        tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    return tf.distribute.TPUStrategy(resolver)


def _is_chief(resolver: tf.distribute.cluster_resolver.ClusterResolver | None) -> bool:
    """Return whether this process is the chief, or worker 0 if no chief is named, or the only process."""
    task_type = getattr(resolver, "task_type", None)
    if resolver is None or task_type not in ("chief", "worker"):
        return True
    cluster = resolver.cluster_spec().as_dict()
    return task_type == "chief" or ("chief" not in cluster and resolver.task_id == 0)
