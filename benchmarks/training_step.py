"""Measure how many examples per second training takes on this machine, next to the same model with Keras' Adam.

    python -m benchmarks.training_step [--videos 1000000] [--dimensions 64 256] [--steps 20] [--records] [--keras]
    python -m benchmarks.training_step --videos 100000 --keras-layers [--history attention]
    python -m benchmarks.training_step --videos 100000 --written-out [--loss nce]

Full size by default: a million videos and tokens, bags of 50 and 50, hidden layers 1024-512, batches of 1,024 and 2,000
negatives. Ids are drawn with a Zipf-like popularity, so that rows repeat within a batch as in real logs; `--uniform`
draws them evenly, the worst case. With `--records` our model reads TFRecord files, as a training does; without it,
batches are in memory. All models take steps in turn, so that other work on the machine affects them alike.

`--written-out` compares TensorFlow's losses with those of `trainer.losses` that are written out for XLA.

`--keras-layers` compares our model with the same one in which Keras' Dense, LayerNormalization and Adam replace those
of `trainer.layers` and `trainer.optimizer`. The processor time of a step is printed too: it depends less on other work.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from unittest import mock

import numpy as np

from trainer.batch import Batch
from trainer.config import ModelSettings, TrainingSettings
from trainer.inputs import epoch_batches
from trainer.losses import make_loss
from trainer.model import Model
from trainer.sampling import NegativeSampler
from trainer.step import TrainingStep
from transforms.contracts.example_spec import FeatureSpec
from transforms.core.tensorflow_import import tf

BATCH, NEGATIVES, LENGTH, HIDDEN = 1024, 2_000, 50, (1024, 512)
USERS, POINTERS = 5_000, 20
NAMES = ("watches", "tokens")
ROUNDS = 4  # of turns
Step = Callable[[Batch], tf.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--history", default="mean")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--uniform", action="store_true")
    parser.add_argument("--records", action="store_true", help="read ours from TFRecord files")
    parser.add_argument("--keras", action="store_true", help="the same model in plain Keras, too")
    parser.add_argument("--loss", default="sampled_softmax")
    parser.add_argument("--written-out", action="store_true", help="our model with the losses that are for XLA, too")
    parser.add_argument("--keras-layers", action="store_true", help="our model with Keras' layers and Adam, too")
    args = parser.parse_args()
    for dimension in args.dimensions:
        measure(args.videos, dimension, args)


def measure(videos: int, dimension: int, args: argparse.Namespace) -> None:
    """Print the examples per second and the processor time of each kind of step."""
    spec = FeatureSpec(videos=videos, tokens=videos, watch_history=LENGTH, search_history=LENGTH)
    settings = ModelSettings(
        dimension=dimension, hidden=[*HIDDEN], history=args.history, negatives=NEGATIVES, loss=args.loss
    )
    counts = np.ones(videos, np.int64) if args.uniform else (videos / np.arange(1, videos + 1)).astype(np.int64)
    sampler = NegativeSampler(counts)
    ready = [draw(sampler, number) for number in range(4)]
    step = new_step(spec, settings, counts)
    kinds: dict[str, tuple[Step, Iterator[Batch]]] = {
        "ours": (tf.function(step, autograph=False), read(spec, sampler) if args.records else itertools.cycle(ready))
    }
    if args.keras:
        kinds["keras adam"] = keras_step(videos, dimension, sampler), itertools.cycle(ready)
    if args.written_out:
        for name, written_out in (("tensorflow", False), ("written out", True)):
            other = new_step(spec, settings, counts)
            other.loss.written_out = written_out
            kinds[name] = tf.function(other, autograph=False), itertools.cycle(ready)
    if args.keras_layers:
        with keras_layers():
            replaced = new_step(spec, settings, counts)
        kinds["keras layers"] = tf.function(replaced, autograph=False), itertools.cycle(ready)
    rates, processor_ms = measure_in_turn(kinds, args.steps)
    text = ", ".join(f"{name} {rate:,.0f} ({processor_ms[name]:.1f} ms a step)" for name, rate in rates.items())
    ratio = f"; {rates['ours'] / rates['keras adam']:.1f} times" if args.keras else ""
    print(f"D={dimension} {args.history}: examples/s (processor time): {text}{ratio}", flush=True)


def new_step(
    spec: FeatureSpec, settings: ModelSettings, counts: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> TrainingStep:
    model = Model(spec, settings, counts, seed=1)
    return TrainingStep(model, make_loss(settings, model, counts), TrainingSettings(batch_size=BATCH))


def draw(sampler: NegativeSampler, number: int) -> Batch:
    """Return one batch of full windows."""
    ids = sampler.draw(BATCH * (2 * LENGTH + 1), seed=tf.constant([7, number]))
    watches, tokens, labels = tf.split(ids, [BATCH * LENGTH, BATCH * LENGTH, BATCH])
    return {
        "watches": tf.reshape(watches, [BATCH, LENGTH]),
        "tokens": tf.reshape(tokens, [BATCH, LENGTH]),
        "label": labels,
        "example_age": tf.random.stateless_uniform([BATCH], [1, number]),
    }


def read(spec: FeatureSpec, sampler: NegativeSampler) -> Iterator[Batch]:
    """Yield batches from record files of users with a full window at every label, repeatedly."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/train.tfrecord.gz"
        with tf.io.TFRecordWriter(path, tf.io.TFRecordOptions(compression_type="GZIP")) as writer:
            for user in range(USERS):
                writer.write(record(user, sampler))
        batches = epoch_batches([path], spec, batch_size=BATCH, seed=1, epochs=range(1000), drop_remainder=True)
        yield from batches


def record(user: int, sampler: NegativeSampler) -> bytes:
    ids = sampler.draw(2 * LENGTH + 2 * POINTERS, seed=tf.constant([8, user])).numpy()
    ends = list(range(LENGTH, LENGTH + POINTERS))
    lists = {"watches": ids[: LENGTH + POINTERS], "tokens": ids[: LENGTH + POINTERS], "label": ids[-POINTERS:]}
    lists |= {"watches_end": ends, "tokens_end": ends}
    features = {name: tf.train.Feature(int64_list=tf.train.Int64List(value=of)) for name, of in lists.items()}
    features["user_id"] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[str(user).encode()]))
    ages = tf.train.FloatList(value=[0.5] * POINTERS)
    features["example_age"] = tf.train.Feature(float_list=ages)
    return bytes(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


def keras_step(videos: int, dimension: int, sampler: NegativeSampler) -> Step:
    """Return a step of the same tower and loss with Keras' layers and Adam, written as plain Keras code."""
    import keras

    tables = [keras.layers.Embedding(videos + 1, dimension, mask_zero=True) for _ in range(3)]
    pooled = keras.layers.GlobalAveragePooling1D()
    layers = [keras.layers.Dense(width, activation="relu") for width in HIDDEN] + [keras.layers.Dense(dimension)]
    bias = keras.layers.Embedding(videos + 1, 1, embeddings_initializer="zeros")
    optimizer = keras.optimizers.Adam(1e-3)

    def loss(batch: Batch, negatives: tf.Tensor) -> tf.Tensor:
        bags = [
            pooled(table(batch[name]), table.compute_mask(batch[name]))
            for table, name in zip(tables, NAMES, strict=False)
        ]
        age = batch["example_age"]
        x = tf.concat([*bags, tf.stack([age, tf.square(age), tf.sqrt(age)], axis=1)], axis=1)
        for layer in layers:
            x = layer(x)
        labels = batch["label"]
        positive = tf.reduce_sum(x * tables[2](labels), axis=1) + bias(labels)[:, 0]
        positive -= sampler.log_expected(labels, count=NEGATIVES)
        negative = tf.matmul(x, tables[2](negatives), transpose_b=True) + bias(negatives)[:, 0]
        negative -= sampler.log_expected(negatives, count=NEGATIVES)
        negative = tf.where(labels[:, tf.newaxis] == negatives, -1e9, negative)
        logits = tf.concat([positive[:, tf.newaxis], negative], axis=1)
        return tf.reduce_mean(tf.reduce_logsumexp(logits, axis=1) - positive)

    def step(batch: Batch) -> tf.Tensor:
        negatives = sampler.draw(NEGATIVES, seed=tf.stack([tf.constant(1), tf.cast(optimizer.iterations, tf.int32)]))
        with tf.GradientTape() as tape:
            value = loss(batch, negatives)
        variables = [weight.value for layer in (*tables, bias, *layers) for weight in layer.trainable_variables]
        optimizer.apply(tape.gradient(value, variables), every)
        return value

    loss(draw(sampler, 0), sampler.draw(NEGATIVES, seed=tf.constant([1, 1])))
    every = [weight for layer in (*tables, bias, *layers) for weight in layer.trainable_variables]
    optimizer.build(every)
    return tf.function(step, autograph=False)


@contextlib.contextmanager
def keras_layers() -> Iterator[None]:
    """Replace our Dense, LayerNorm and Adam by Keras' in models and steps that are built inside."""
    import keras

    class Dense(tf.Module):
        def __init__(self, width: int, units: int, *, gain: float, seed: tuple[int, int], name: str) -> None:
            super().__init__(name=name)
            self.layer = keras.layers.Dense(units)
            self.layer.build((None, width))
            self.kernel, self.bias = self.layer.kernel.value, self.layer.bias.value

        def __call__(self, x: tf.Tensor) -> tf.Tensor:
            return self.layer(x)

    class LayerNorm(tf.Module):
        def __init__(self, width: int, *, name: str) -> None:
            super().__init__(name=name)
            self.layer = keras.layers.LayerNormalization(epsilon=1e-6)
            self.layer.build((None, width))
            self.scale, self.shift = self.layer.gamma.value, self.layer.beta.value

        def __call__(self, x: tf.Tensor) -> tf.Tensor:
            return self.layer(x)

    class Adam(tf.Module):
        def __init__(self, variables: Sequence[tf.Variable], *, learning_rate: float) -> None:
            super().__init__(name="adam")
            self.targets, self.optimizer = list(variables), keras.optimizers.Adam(learning_rate)
            self.optimizer.build(self.targets)

        def apply(self, gradients: Sequence[tf.Tensor]) -> None:
            self.optimizer.apply(gradients, self.targets)

    with contextlib.ExitStack() as stack:
        for module, name, replacement in (
            ("model", "Dense", Dense),
            ("attention", "Dense", Dense),
            ("attention", "LayerNorm", LayerNorm),
            ("step", "Adam", Adam),
        ):
            stack.enter_context(mock.patch(f"trainer.{module}.{name}", replacement))
        yield


def measure_in_turn(
    kinds: dict[str, tuple[Step, Iterator[Batch]]], steps: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the examples per second of each, and the milliseconds of processor time of a step, after two warm-up
    steps. Reading counts."""
    seconds, processor_seconds = dict.fromkeys(kinds, 0.0), dict.fromkeys(kinds, 0.0)
    for step, batches in kinds.values():
        for _ in range(2):
            float(step(next(batches)))
    count = max(1, steps // ROUNDS)
    for _ in range(ROUNDS):
        for name, (step, batches) in kinds.items():
            start, processor_start = time.perf_counter(), time.process_time()
            for _ in range(count):
                float(step(next(batches)))
            seconds[name] += time.perf_counter() - start
            processor_seconds[name] += time.process_time() - processor_start
    rates = {name: BATCH * ROUNDS * count / total for name, total in seconds.items()}
    return rates, {name: 1000 * total / (ROUNDS * count) for name, total in processor_seconds.items()}


if __name__ == "__main__":
    main()
