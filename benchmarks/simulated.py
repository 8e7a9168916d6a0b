"""Simulated logs for benchmarks, with all tables or with fewer, and the truth of their last day.

    settings = SimulationSettings(users=2000, videos=1000, days=21, seed=1, last_day=LAST)
    write_logs(folder, settings)
    files = write_examples(folder, "searches")  # a job without users, countries and devices
    best_ranking(last_morning(settings), user_ids).compute()["map"]

The last day of all users is held out, so nothing of it is learned. The truth is that of the same day's morning.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines import examples, ingest, vocabulary
from pipelines.config.jobs import load_job
from pipelines.night.night import Night
from pipelines.simulate import simulate
from trainer.config import ModelSettings, TrainingSettings
from trainer.examples import ExampleFiles, Vocabulary, read_folder
from trainer.training import FitResult, fit
from transforms.contracts.retrieval_metrics import RankingMetrics, hits_from_ids
from transforms.core.tensorflow_import import tf
from transforms.simulation.play_day import play_day
from transforms.simulation.state import USUAL_DEVICE, State, begin_day, expected_fraction, start_state, taste_shares
from transforms.simulation.truth import completed_watches, watch_probabilities
from transforms.simulation.world import DEVICE_SHARES, Signal, SimulationSettings, World, build_world

LAST = dt.date(2026, 11, 20)
SIGNALS = {
    "demo": Signal(),
    "strong": Signal(  # quests, which searches reveal, make up most watches, and groups of users differ more
        mode_shares=(0.06, 0.10, 0.60, 0.24), first_searches=1.0, later_searches=0.7, group_spread=1.0
    ),
}
CONTEXT = ("country", "device", "signed_in")
Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

JOB = """\
[logs]
watches = "{watches}/{{date}}.parquet"
videos = "videos.parquet"
{tables}
[examples]
window_days = {days}
per_user = {per_user}
holdout_users = 1.0
[storage]
root = "runs/{name}"
"""
SEARCHES = 'searches = "searches/{date}.parquet"\n'
TABLES = {"watches": "", "searches": SEARCHES, "all": SEARCHES + 'users = "users.parquet"\n'}


def write_logs(out: Path, settings: SimulationSettings, *, per_user: int = 20) -> None:
    """Write the logs, the watches again without `CONTEXT`, and one job for each of `TABLES`."""
    simulate(out, settings)
    (out / "bare").mkdir()
    for day in sorted((out / "watches").glob("*.parquet")):
        pl.read_parquet(day).drop(CONTEXT).write_parquet(out / "bare" / day.name)
    for name, tables in TABLES.items():
        watches = "watches" if name == "all" else "bare"
        job = JOB.format(name=name, watches=watches, tables=tables, days=settings.days, per_user=per_user)
        (out / f"{name}.toml").write_text(job, encoding="utf-8")


def write_examples(out: Path, name: str) -> ExampleFiles:
    """Run the stages up to examples for one of `TABLES`, on the night after the last day."""
    night = Night(load_job(str(out / f"{name}.toml")), LAST + dt.timedelta(days=1))
    for stage in (ingest, vocabulary, examples):
        stage.run(night)
    return read_folder(night.folder("examples"))


def fit_examples(
    files: ExampleFiles, counts: Vocabulary, folder: Path, *, model: ModelSettings, training: TrainingSettings
) -> FitResult:
    """Train without exporting; `folder` receives checkpoints and TensorBoard logs."""
    return fit(
        files,
        counts,
        model_settings=model,
        settings=training,
        checkpoints=str(folder / "checkpoints"),
        logs=str(folder / "tensorboard"),
    )


@dataclass(frozen=True, kw_only=True)
class Morning:
    """The first moment of a simulated day."""

    world: World
    state: State
    day: int

    @property
    def time(self) -> int:
        """Epoch seconds."""
        return self.world.settings.start(self.day)

    def completions(self) -> pl.DataFrame:
        """Return the distinct (user_id, video_id) completed on the day, sorted by both."""
        return completed_watches(self.world, play_day(self.world, self.state, self.day))

    def probabilities(self, users: Ints) -> Floats:
        """Return the probability that each video is the user's next watch and is completed [users, videos]."""
        watched = watch_probabilities(self.world, self.state, self.day, users=users)
        completed: Floats = watched * completion_probabilities(self.world, self.state, users)
        return completed


def last_morning(settings: SimulationSettings) -> Morning:
    """Play all days of the logs but the last, as `simulate` does."""
    world = build_world(settings)
    state, last = start_state(world), settings.days - 1
    for day in range(last):
        state = play_day(world, begin_day(world, state, day), day).state
    return Morning(world=world, state=begin_day(world, state, last), day=last)


def completion_probabilities(world: World, state: State, users: Ints) -> Floats:
    """Return the probability that a user completes a video once it is watched [users, videos], averaged over devices.

    The watched share is a beta draw around its expectation, as in `transforms.simulation.play_day`.
    """
    taste, videos = taste_shares(state.tastes[users].astype(np.float64)), world.catalogue
    liked = (taste[:, videos.niche] * videos.share).sum(axis=2)
    total = np.zeros((len(users), world.settings.videos))
    for device, share in enumerate(DEVICE_SHARES):
        every = np.arange(world.settings.videos)[np.newaxis]
        mean = expected_fraction(world, taste=liked, videos=every, device=np.array([[device]]))
        above_half = 1 - tf.math.betainc(2.5 * mean, 2.5 * (1 - mean), np.full_like(mean, 0.5)).numpy()
        usual = world.population.device[users, np.newaxis] == device
        total += (USUAL_DEVICE * usual + (1 - USUAL_DEVICE) * share) * above_half
    return total


def best_ranking(morning: Morning, user_ids: pl.Series, *, ks: Sequence[int]) -> RankingMetrics:
    """Measure lists by the true probabilities of the morning against what these users completed on the day.

    This is no strict bound: events during the day change what comes next, which the morning cannot know.
    """
    completions = morning.completions().filter(pl.col("user_id").is_in(user_ids.implode()))
    return measure_ranking(morning.world, completions, morning.probabilities, ks=ks)


def measure_ranking(
    world: World, completions: pl.DataFrame, scores: Callable[[Ints], Floats], *, ks: Sequence[int]
) -> RankingMetrics:
    """Measure lists in the order of scores against completions (user_id, video_id) of one day.

    scores: takes the positions of users and returns [users, videos]
    """
    users = completions.group_by("user_id", maintain_order=True).agg("video_id")
    shown = np.argsort(-scores(_positions(world.population.ids, users["user_id"])), axis=1, kind="stable")
    wanted = users["video_id"].list.len().to_numpy().astype(np.int64)
    labels = _positions(world.catalogue.ids, users["video_id"].explode())
    shown = shown[:, : max(ks)]
    hits = hits_from_ids(shown, offsets=np.concatenate([[0], np.cumsum(wanted)]), labels=labels)
    return RankingMetrics.from_hits(hits, wanted, ks=ks)


def _positions(ids: pl.Series, values: pl.Series) -> Ints:
    return values.replace_strict(ids, pl.int_range(len(ids), eager=True)).to_numpy()


# Two-sided 95 % quantiles of Student's t by degrees of freedom; the last one for more.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over seeds and the half width of its 95 % interval, NaN for a single seed."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        n = len(values)
        t = _T[min(n - 2, len(_T) - 1)]
        half = t * float(np.std(values, ddof=1)) / n**0.5 if n > 1 else float("nan")
        return cls(mean=float(np.mean(values)), half=half)

    def __str__(self) -> str:
        return f"{self.mean:.4f} ±{self.half:.4f}"


def quiet_axes(axes: Axes) -> None:
    """Apply the common style of the plots: horizontal lines, a legend without a frame, no box."""
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def save_plot(figure: Figure, path: Path) -> None:
    """Write a reproducible SVG with text as text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": "watchnext", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
