"""Measure the memory of a training as a multiple of its three large tables: videos in, videos out, tokens.

    python -m benchmarks.memory [--videos 200000] [--dimension 64] [--steps 5]

Tables with one float per row for the optimizer take 1 + 1/D; nothing else grows with the vocabulary.
"""

from __future__ import annotations

import argparse
import resource

import numpy as np

from benchmarks.training_step import LENGTH, draw, new_step
from trainer.config import ModelSettings
from trainer.sampling import NegativeSampler
from transforms.contracts.example_spec import FeatureSpec
from transforms.core.tensorflow_import import tf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=200_000)
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()
    small = train(min(1_000, args.videos), args.dimension, args.steps)  # memory that does not grow with the vocabulary
    grown = train(args.videos, args.dimension, args.steps) - small
    tables = 3 * args.videos * args.dimension * 4
    text = f"V={args.videos:,} D={args.dimension}: {grown / 2**20:,.0f} MiB more at the highest than with 1,000 videos"
    print(f"{text}, {grown / tables:.2f} times the tables' {tables / 2**20:,.0f} MiB", flush=True)


def train(videos: int, dimension: int, steps: int) -> int:
    """Return the peak memory of this process in bytes after some steps of a model."""
    spec = FeatureSpec(videos=videos, tokens=videos, watch_history=LENGTH, search_history=LENGTH)
    counts = (videos / np.arange(1, videos + 1)).astype(np.int64)
    sampler = NegativeSampler(counts)
    run = tf.function(new_step(spec, ModelSettings(dimension=dimension), counts), autograph=False)
    for number in range(steps):
        float(run(draw(sampler, number)))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
