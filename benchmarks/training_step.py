"""How many examples a second one training step takes on this machine, and how many without the table updates.

    python benchmarks/training_step.py [--videos 1000000] [--dimensions 64 256] [--history mean] [--steps 20]

Full size by default: a million videos and tokens, bags of 50 and 50, hidden layers 1024-512, batches of 1,024 and 2,000
negatives. Ids are drawn with a Zipf-like popularity, so that rows repeat within a batch as in real logs; `--uniform`
draws them evenly, the worst case.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from trainer.config import ModelSettings, TrainingSettings
from trainer.losses import NegativeSampler
from trainer.model import Model
from trainer.quiet import tf
from trainer.step import TrainingStep
from transforms.features import FeatureSpec

BATCH = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--history", default="mean")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--uniform", action="store_true")
    args = parser.parse_args()
    for dimension in args.dimensions:
        measure(args.videos, dimension, args.history, args.steps, uniform=args.uniform)


def measure(videos: int, dimension: int, history: str, steps: int, *, uniform: bool) -> None:
    """Prints the examples a second of both kinds of step."""
    spec = FeatureSpec(videos=videos, tokens=videos, watch_history=50, search_history=50)
    settings = ModelSettings(dimension=dimension, hidden=[1024, 512], history=history, negatives=2_000)  # type: ignore[arg-type]
    counts = np.ones(videos, np.int64) if uniform else (videos / np.arange(1, videos + 1)).astype(np.int64)
    model = Model(spec, settings, counts, seed=1)
    sampler = NegativeSampler(counts)
    step = TrainingStep(model, sampler, settings, TrainingSettings(batch_size=BATCH))
    batches = [draw(sampler, number) for number in range(4)]
    full = rate(tf.function(step, autograph=False), batches, steps)
    step.adagrad.apply = lambda *_: None  # type: ignore[method-assign]
    without = rate(tf.function(lambda batch: step(batch), autograph=False), batches, steps)
    print(f"D={dimension} {history}: {full:,.0f} examples/s, without table updates {without:,.0f}", flush=True)


def draw(sampler: NegativeSampler, number: int) -> dict[str, tf.Tensor]:
    """One batch of full windows."""
    ids = sampler.draw(BATCH * 101, seed=tf.constant([7, number]))
    return {
        "watches": tf.reshape(ids[: BATCH * 50], [BATCH, 50]),
        "tokens": tf.reshape(ids[BATCH * 50 : BATCH * 100], [BATCH, 50]),
        "label": ids[BATCH * 100 :],
        "example_age": tf.random.stateless_uniform([BATCH], [1, number]),
    }


def rate(step: Callable[[dict[str, tf.Tensor]], tf.Tensor], batches: list[dict[str, tf.Tensor]], steps: int) -> float:
    """Examples a second over `steps` steps, after two that warm up."""
    for batch in batches[:2]:
        step(batch)
    start = time.perf_counter()
    for number in range(steps):
        float(step(batches[number % len(batches)]))
    return BATCH * steps / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
