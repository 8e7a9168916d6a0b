"""Measure whether predictions follow a video's burst after upload, with and without example age: the paper's figure 4.

    python -m benchmarks.freshness OUT [--users 8000] [--videos 300] [--days 28] [--plot docs/freshness.svg]

OUT is a new folder for simulated logs. There are two plots over days since upload, each normalised to mean 1:

- The same videos, day by day: those uploaded in the second quarter of the window, for which all plotted days exist. A
  model's curve is the mean probability of these videos at every label's moment, for users of whom nothing was learned.
  The true curve is how often they were the label, for all users.
- All videos on one morning, as served: example age 0, users of the held-out day. The true curve is the mean of the
  simulator's probabilities. A video of yesterday has one day of labels in the window, one of last week seven.

The burst is learned last: it needs hundreds of labels per video, hence few videos and many users. A history of fresh
videos also carries the time, so without example age the curve is not quite flat.

Each curve is printed with its correlation with the true one and its mean distance from it (0: equal).
"""

from __future__ import annotations

import argparse
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from matplotlib.figure import Figure

from benchmarks.simulated import (
    LAST,
    Floats,
    Ints,
    Morning,
    fit_examples,
    last_morning,
    quiet_axes,
    save_plot,
    write_examples,
)
from benchmarks.simulated import write_logs as write_simulated_logs
from trainer.config import ModelSettings, TrainingSettings
from trainer.examples import ExampleFiles, Vocabulary, read_label_counts
from trainer.inputs import epoch_batches, one_pointer_batches
from trainer.training import FitResult
from transforms.contracts.example_spec import FeatureSpec
from transforms.core.tensorflow_import import tf
from transforms.examples.tfrecords import read_tfrecords
from transforms.simulation.world import SimulationSettings

DAY = 86_400
KEPT_BUCKETS = 2  # of eight: nothing is learned of their users
TRUE = "true"
MODELS = {"with example age": True, "without": False}


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Mean probability by days since upload, normalised, one curve per name; NaN on days without a video."""

    title: str
    days: Ints
    values: Mapping[str, Floats]

    @classmethod
    def of(cls, title: str, days: Ints, values: Mapping[str, Floats]) -> Curves:
        return cls(title=title, days=days, values={name: of / np.nanmean(of) for name, of in values.items()})


def main() -> None:
    args = _arguments()
    settings = SimulationSettings(users=args.users, videos=args.videos, days=args.days, seed=args.seed, last_day=LAST)
    write_simulated_logs(args.out, settings, per_user=args.per_user)
    files = write_examples(args.out, "all")
    counts = read_label_counts(files)
    models = {name: _train(files, counts, args, example_age=read) for name, read in MODELS.items()}
    morning = last_morning(settings)
    upload = _uploads(morning, counts)
    found = [_day_by_day(files, models, upload, settings), _as_served(files, models, upload, morning, counts)]
    for curves in found:
        _print(curves)
    if args.plot:
        save_plot(draw(found), args.plot)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--users", type=int, default=8000)
    parser.add_argument("--videos", type=int, default=300)
    parser.add_argument("--days", type=int, default=28)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--per-user", type=int, default=0, help="labels learned from; 0: all")
    parser.add_argument("--passes", type=int, default=8)
    parser.add_argument("--hidden", type=int, nargs="*", default=[512, 256])
    parser.add_argument("--plot", type=Path)
    return parser.parse_args()


def _train(files: ExampleFiles, counts: Vocabulary, args: argparse.Namespace, *, example_age: bool) -> FitResult:
    model = ModelSettings(dimension=64, hidden=args.hidden, loss="softmax", example_age=example_age)
    training = TrainingSettings(
        batch_size=256, epochs=args.passes, table_learning_rate=0.1, holdout_sample=10**9, seed=args.seed
    )
    learned = replace(files, train=files.train[:-KEPT_BUCKETS])
    told = "with" if example_age else "without"
    fitted = fit_examples(learned, counts, args.out / "training" / told, model=model, training=training)
    figures, seconds = fitted.progress.holdout[-1], fitted.progress.seconds
    print(
        f"{told} example age: holdout map {figures['map']:.4f}, {figures['users']} users; {seconds:.0f} s", flush=True
    )
    return fitted


def _uploads(morning: Morning, counts: Vocabulary) -> Ints:
    """Return the upload time of each video of the vocabulary in epoch seconds, by position."""
    catalogue = morning.world.catalogue
    known = pl.DataFrame({"video_id": catalogue.ids, "upload": catalogue.upload})
    names = pl.DataFrame({"video_id": pl.Series(counts.names.to_pylist(), dtype=pl.String)})
    return names.join(known, on="video_id", how="left", maintain_order="left")["upload"].to_numpy()


def _day_by_day(
    files: ExampleFiles, models: Mapping[str, FitResult], upload: Ints, settings: SimulationSettings
) -> Curves:
    """Return the curves of the same videos over their days; all of these videos have all days."""
    quarter = settings.days // 4
    days = np.arange(-quarter, settings.days // 2 - 1)
    started = (upload - settings.start(0)) / DAY
    shown = np.flatnonzero((started >= quarter) & (started < 2 * quarter))
    kept, ages = files.train[-KEPT_BUCKETS:], _Ages(files, settings.days)
    values = {TRUE: _mean_by_day(files.train, files.spec, ages, upload, shown, days, None)}
    for name, fitted in models.items():
        values[name] = _mean_by_day(kept, files.spec, ages, upload, shown, days, fitted)
    title = f"{len(shown)} videos of the second quarter of the window, day by day"
    return Curves.of(title, days, values)


def _mean_by_day(
    paths: Sequence[str],
    spec: FeatureSpec,
    ages: _Ages,
    upload: Ints,
    shown: Ints,
    days: Ints,
    fitted: FitResult | None,
) -> Floats:
    """Average over all pairs of a label's moment and one of the videos `shown`.

    The value is the probability that the model gives the video or, without a model, how often it is the label.
    """
    sums, pairs = np.zeros(len(days)), np.zeros(len(days))
    for batch in epoch_batches(paths, spec, batch_size=512, seed=1, epochs=range(1)):
        times = ages.times(batch["example_age"].numpy())
        since = np.floor((times[:, None] - upload[shown]) / DAY).astype(np.int64) - days[0]
        is_label = batch["label"].numpy()[:, None] == shown + 1
        values = is_label if fitted is None else probabilities(fitted, batch)[:, shown]
        inside = (since >= 0) & (since < len(days))
        sums += np.bincount(since[inside], values[inside], minlength=len(days))
        pairs += np.bincount(since[inside], minlength=len(days))
    return _ratio(sums, pairs)


class _Ages:
    """Example ages back to moments: the inverse of the graph that encoded them."""

    def __init__(self, files: ExampleFiles, days: int) -> None:
        self.days = np.linspace(0, days, 96 * days + 1)
        inputs = {name: tf.fill([len(self.days)], "") for name in files.spec.categories}
        graph = tf.saved_model.load(files.graph)
        encoded = graph.transform_fn({**inputs, "example_age": tf.constant(self.days, tf.float32)})["example_age"]
        self.encoded = tf.reshape(encoded, [-1]).numpy()
        self.newest = dt.datetime.fromisoformat(files.dates["newest"]).timestamp()

    def times(self, encoded: npt.NDArray[np.float32]) -> Floats:
        """Return epoch seconds."""
        return self.newest - np.interp(encoded, self.encoded, self.days) * DAY


def probabilities(fitted: FitResult, batch: dict[str, tf.Tensor]) -> Floats:
    """Of each video of the vocabulary, by position [batch, videos]; rows sum to 1."""
    found: Floats = tf.nn.softmax(fitted.step.loss.scores(fitted.model.tower(batch))[:, 1:]).numpy()
    return found


def _as_served(
    files: ExampleFiles, models: Mapping[str, FitResult], upload: Ints, morning: Morning, counts: Vocabulary
) -> Curves:
    """Return the curves of all videos on the last morning, by their age then."""
    days = np.arange(morning.day)
    since = (morning.time - upload) // DAY
    values = {TRUE: _by_age(_true_means(files, morning, counts), since, len(days))}
    for name, fitted in models.items():
        total, users = np.zeros(len(upload)), 0
        for batch, _, _ in one_pointer_batches(files.holdout, files.spec, batch_size=512, records=10**9):
            total += probabilities(fitted, batch).sum(axis=0)
            users += len(batch["watches"])
        values[name] = _by_age(total / users, since, len(days))
    return Curves.of("All videos on one morning, as served", days, values)


def _true_means(files: ExampleFiles, morning: Morning, counts: Vocabulary) -> Floats:
    """Return the simulator's probability of each video of the vocabulary, averaged over the held-out day's users."""
    users = pl.concat([read_tfrecords(path, {"user_id": pl.String}) for path in files.holdout])["user_id"]
    positions = np.flatnonzero(morning.world.population.ids.is_in(users.implode()).to_numpy())
    of_all = morning.probabilities(positions).mean(axis=0)
    position = {video: place for place, video in enumerate(morning.world.catalogue.ids)}
    found: Floats = of_all[[position[video] for video in counts.names.to_pylist()]]
    return found


def _by_age(values: Floats, since: Ints, days: int) -> Floats:
    inside = (since >= 0) & (since < days)
    sums = np.bincount(since[inside], values[inside], minlength=days)
    return _ratio(sums, np.bincount(since[inside], minlength=days))


def _ratio(sums: Floats | Ints, counts: Floats | Ints) -> Floats:
    return np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)


def closeness(values: Floats, true: Floats) -> tuple[float, float]:
    """Return correlation and mean distance of two normalised curves, over the days that both have."""
    both = ~np.isnan(values) & ~np.isnan(true)
    correlation = float(np.corrcoef(values[both], true[both])[0, 1])
    return correlation, float(np.abs(values[both] - true[both]).mean())


def _print(curves: Curves) -> None:
    print(f"\n{curves.title}\n{'days':<6}" + "".join(f"{name:>20}" for name in curves.values))
    for row, day in enumerate(curves.days):
        print(f"{day:<6}" + "".join(f"{values[row]:>20.3f}" for values in curves.values.values()))
    for name in MODELS:
        correlation, distance = closeness(curves.values[name], curves.values[TRUE])
        print(f"{name}: correlation with the true curve {correlation:.3f}, mean distance {distance:.3f}")


def draw(found: Sequence[Curves]) -> Figure:
    """Plot one panel per pair of curves: the true curve, with example age and without."""
    figure = Figure(figsize=(9.6, 3.8))
    for axes, curves in zip(figure.subplots(1, len(found)), found, strict=True):
        for name, values in curves.values.items():
            style = {"color": "black", "linestyle": ":"} if name == TRUE else {}
            axes.plot(curves.days, values, linewidth=1.6, label=name, **style)
        axes.set_title(curves.title, fontsize=9)
        axes.set(xlabel="days since upload", ylabel="probability, mean = 1", ylim=(0, None))
        quiet_axes(axes)
    return figure


if __name__ == "__main__":
    main()
