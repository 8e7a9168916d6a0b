"""Training on one device or on several: the one module that knows `tf.distribute`.

    replicas = make_replicas("auto")
    with replicas.scope():
        step = TrainingStep(...)
    run = replicas.compiled(step)
    for parts in replicas.deal(batches):
        loss = run(parts)

Every device holds a copy of all that is learned and takes its part of each batch; gradients are added up over all, so
that every copy makes the same step. The loss curve is that of one device and the same batch size, however many there
are, but for rounding; for what dropout drops; and for negatives taken from the batch, which are a device's own.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from trainer.errors import TrainingError
from trainer.record_files import plain
from transforms.core.tensorflow_import import tf

Batch = dict[str, tf.Tensor]
KINDS = ("auto", "one", "mirrored", "multi_worker", "tpu")
SHARE = "share"  # in a part: the share of the batch's labels that are the part's


class Replicas:
    """The devices that train together: as many copies of one step, which differ in their part of the batch alone.

    `count`: how many, over all hosts. `static`: they need shapes that are known before any value, as TPUs do.
    `chief`: whether this process writes what the training leaves.
    """

    def __init__(self, strategy: tf.distribute.Strategy | None = None, *, static: bool = False) -> None:
        self._strategy, self.static = strategy, static
        self.count: int = strategy.num_replicas_in_sync if strategy else 1
        self.chief = _is_chief(strategy.cluster_resolver) if strategy else True

    @property
    def alone(self) -> bool:
        """Whether there is nothing to share: variables are plain ones."""
        return self._strategy is None

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Variables made in it have a copy on every device."""
        return self._strategy.scope() if self._strategy else contextlib.nullcontext()

    def number(self) -> tf.Tensor | int:
        """Inside a step: which of the replicas this is, from 0."""
        return tf.distribute.get_replica_context().replica_id_in_sync_group if self.count > 1 else 0

    def sum(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Inside a step: each tensor's sum over all replicas."""
        if self.count == 1:
            return list(tensors)
        return list(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, list(tensors)))

    def gather(self, tensor: tf.Tensor) -> tf.Tensor:
        """Inside a step: all replicas' tensors, one behind the other; their first dimensions may differ."""
        if self.count == 1:
            return tensor
        return tf.distribute.get_replica_context().all_gather(tensor, axis=0)

    def compiled(self, step: Callable[[Batch], tf.Tensor]) -> Callable[[Any], tf.Tensor]:
        """A step on all devices at once, of what `deal` gives. `step` must give the same on all of them."""
        if self._strategy is None:
            return tf.function(step, reduce_retracing=True, autograph=False)
        strategy = self._strategy

        def on_all(parts: Any) -> tf.Tensor:
            return strategy.experimental_local_results(strategy.run(step, args=(parts,)))[0]

        return tf.function(on_all, reduce_retracing=True, autograph=False)

    def deal(self, batches: tf.data.Dataset) -> Iterator[Any]:
        """The batches, each as the parts of this host's devices.

        Every host reads all batches and keeps its part: dearer than files of its own, and the only way for a batch to
        hold the same labels whatever the number of hosts. Reading is many times faster than learning.
        """
        if self._strategy is None:
            return iter(batches)

        def of_host(context: tf.distribute.InputContext) -> tf.data.Dataset:
            here = self.count // context.num_input_pipelines
            numbers = tf.data.Dataset.range(context.input_pipeline_id * here, (context.input_pipeline_id + 1) * here)
            cut = plain(lambda number, batch: part_of(batch, number, self.count, static=self.static))
            parts = batches.flat_map(plain(lambda batch: numbers.map(plain(lambda number: cut(number, batch)))))
            # A dataset that may end makes the hosts ask each other before every step; the loop knows when to stop.
            return parts.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)).prefetch(2 * here)

        return iter(self._strategy.distribute_datasets_from_function(of_host))

    def agreed(self, yes: bool) -> bool:
        """The chief's answer, on every host: else one could stop while the others wait for it."""
        if self._strategy is None:
            return yes
        answers = self._strategy.run(plain(lambda: tf.constant(float(yes and self.chief))))
        return float(self._strategy.reduce(tf.distribute.ReduceOp.SUM, answers, axis=None)) > 0


def part_of(batch: Batch, number: tf.Tensor, count: int, *, static: bool = False) -> Batch:
    """Part `number` of `count` of a batch, with its `share`: as even as can be, each label in one part.

    A part that would be empty has one label of another's and the share 0: no loss has a mean of nothing.
    `static`: the batch can be divided evenly, and the shapes of the parts are known.
    """
    size = tf.cast(tf.shape(batch["label"])[0], tf.int64)
    start, stop = size * number // count, size * (number + 1) // count
    share = tf.cast((stop - start) / size, tf.float32)
    first = tf.minimum(start, size - 1)
    part = {name: values[first : tf.maximum(stop, first + 1)] for name, values in batch.items()}
    if static:
        part = {name: tf.ensure_shape(of, [batch[name].shape[0] // count, *of.shape[1:]]) for name, of in part.items()}
    return {**part, SHARE: share}


def make_replicas(kind: str = "auto") -> Replicas:
    """The devices of a strategy, one of `KINDS`; `auto` takes the largest that it finds.

    Hosts and a TPU can only be joined before TensorFlow has been used for anything else. Raises TrainingError for a
    strategy that the machine lacks something for.
    """
    found = find_kind(os.environ, gpus=len(tf.config.list_physical_devices("GPU"))) if kind == "auto" else kind
    if found == "one":
        return Replicas()
    if found == "mirrored":
        return Replicas(_mirrored())
    if found == "multi_worker":
        return Replicas(_multi_worker(os.environ))
    if found == "tpu":
        return Replicas(_tpu(os.environ), static=True)
    raise TrainingError(f"strategy must be one of {', '.join(KINDS)}, but is {kind} ([training])")


def find_kind(environment: Mapping[str, str], *, gpus: int) -> str:
    """The strategy that an environment and a number of GPUs ask for."""
    if len(workers_of(environment)) > 1:
        return "multi_worker"
    if "TPU_NAME" in environment:
        return "tpu"
    return "mirrored" if gpus > 1 else "one"


def workers_of(environment: Mapping[str, str]) -> list[str]:
    """The addresses of the hosts in TF_CONFIG; [] without it. Raises TrainingError where it is malformed."""
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
            f'{len(tf.config.list_physical_devices("GPU"))}: set strategy = "one", or see if nvidia-smi lists them '
            "and tensorflow[and-cuda] is installed"
        )
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def _multi_worker(environment: Mapping[str, str]) -> tf.distribute.Strategy:
    workers = workers_of(environment)
    if len(workers) < 2:
        raise TrainingError(
            f'strategy = "multi_worker" needs the hosts in TF_CONFIG, but it names {len(workers)}: start this command '
            'on every host with TF_CONFIG set, the same but for the task, or set strategy = "one"'
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


def _is_chief(resolver: Any) -> bool:
    """The chief where there is one, else worker 0; a process that is not one of several is."""
    kind = getattr(resolver, "task_type", None)
    if kind not in ("chief", "worker"):
        return True
    cluster = resolver.cluster_spec().as_dict()
    return kind == "chief" or ("chief" not in cluster and resolver.task_id == 0)
