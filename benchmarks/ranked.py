"""Shared by the benchmarks of the ranker: nights that write ranking records, and rankers measured on them.

records = ranking_records(job, date, generators=[earlier])
files = read_ranking_folder(records)
ranker = fit_ranker(files, RankerSettings(hidden=[256])).ranker
shown = Shown.of(ranker, held_out(records))
shown.metrics(shown.log_odds).compute()["per_user_loss"]
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import polars as pl

from pipelines import examples, index, ingest, neighbours, ranking, train, vocabulary
from pipelines.config.jobs import load_job
from pipelines.night.beam_jobs import BeamJobs
from pipelines.night.night import Night
from trainer.batch import IMPRESSION_DAY, TOKENS, WATCHES, Batch
from trainer.ranker.config import RankerSettings
from trainer.ranker.inputs import all_impressions
from trainer.ranker.model import Ranker
from trainer.ranker.training import RankingFiles, fit_ranker
from trainer.record_files import RecordFiles
from transforms.contracts.ranking_spec import RankingSpec
from transforms.core.bootstrap import REPLICATES
from transforms.core.digests import mix
from transforms.core.tensorflow_import import tf
from transforms.ranking.encoding import write_numbers_graph
from transforms.ranking.impression_metrics import ImpressionMetrics, PairLosses
from transforms.ranking.outcome_features import OUTCOME_NUMBERS

STAGES: tuple[ModuleType, ...] = (ingest, vocabulary, examples, train, index, neighbours)
Array = npt.NDArray[np.generic]


def ranking_records(job: Path, date: dt.date, *, generators: Sequence[dt.date]) -> Path:
    """Run the nights of `generators` up to their lists and that of `date` up to ranking.

    Returns the folder of the ranking records. The job must keep examples.
    """
    for one in (*generators, date):
        run_lists(job, one)
    night = Night(load_job(str(job)), date)
    ranking.run(night)
    return Path(night.folder("ranking")) / "examples"


def run_lists(job: Path, date: dt.date) -> None:
    """Run a night up to its lists."""
    night = Night(load_job(str(job)), date)
    for stage in STAGES:
        stage.run(night)


def without_outcomes(files: RankingFiles, folder: Path) -> RankingFiles:
    """Return the files of a ranker that does not read `OUTCOME_NUMBERS`. The graph of the other numbers is written to
    `folder`, from all training impressions."""
    spec = replace(files.spec, numbers=[name for name in files.spec.numbers if name not in OUTCOME_NUMBERS])
    columns = read_columns(files.train, files.spec)
    rows = pl.DataFrame({name: columns[name] for name in spec.numbers})
    days = pl.Series(columns[IMPRESSION_DAY]).cast(pl.Int32).cast(pl.Date)
    drawn = rows.with_columns(drawn=pl.Series(mix(np.arange(rows.height)), dtype=pl.UInt64), day=days)
    write_numbers_graph(drawn, str(folder), spec=spec, pipeline=BeamJobs(dt.date.today(), None, ()).local_pipeline())
    return replace(files, spec=spec, graph=f"{folder}/transform_fn")


def read_columns(paths: Sequence[str], spec: RankingSpec) -> dict[str, Array]:
    """Return all features of the impressions of record files except histories, in the order of the records."""

    @tf.function(reduce_retracing=True, autograph=False)
    def parse_features(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        _, batch = all_impressions(serialized, spec)
        return _without_histories(batch)

    parts = [parse_features(records) for records in RecordFiles.from_paths(paths).read().batch(512)]
    return {name: np.concatenate([part[name].numpy() for part in parts]) for name in parts[0]}


def _without_histories(batch: Batch) -> Batch:
    return {name: of for name, of in batch.items() if name not in (WATCHES, TOKENS)}


def held_out(records: Path) -> list[str]:
    """Return the files of the held-out impressions, which no ranker learned from."""
    return sorted(str(path) for path in (records / "holdout").glob("*.tfrecord.gz"))


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Impressions and a ranker's output for them, [impressions]."""

    user: npt.NDArray[np.int64]
    columns: dict[str, Array]  # all features except histories; page, clicked, watch_seconds
    log_odds: npt.NDArray[np.float32]

    @classmethod
    def of(cls, ranker: Ranker, paths: Sequence[str]) -> Shown:
        """Read the impressions in the order of the files and their records."""

        @tf.function(reduce_retracing=True, autograph=False)
        def parse_features(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
            parsed, batch = all_impressions(serialized, ranker.spec)
            user = tf.repeat(parsed.user_id, parsed.pointer_counts)
            return {"user": user, "log_odds": ranker(batch), **_without_histories(batch)}

        parts = [parse_features(records) for records in RecordFiles.from_paths(paths).read().batch(512)]
        columns = {name: np.concatenate([part[name].numpy() for part in parts]) for name in parts[0]}
        user = np.unique(columns.pop("user").astype(str), return_inverse=True)[1]
        return cls(user=user, log_odds=columns.pop("log_odds"), columns=columns)

    def metrics(self, scores: Array) -> ImpressionMetrics:
        """Return the metrics of the impressions sorted by scores; calibration needs log-odds of watch time."""
        clicked, seconds = self.columns["clicked"], self.columns["watch_seconds"]
        return ImpressionMetrics.from_impressions(self.user, self.columns["page"], clicked, seconds, scores)

    def loss_by_user(self, scores: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return (mispredicted, all) watch time of each user."""
        clicked, seconds = self.columns["clicked"], self.columns["watch_seconds"]
        losses = PairLosses.from_impressions(self.user, self.columns["page"], clicked, seconds, scores)
        totals = np.zeros((2, self.user.max() + 1), np.int64)
        np.add.at(totals[0], self.user, losses.mispredicted)
        np.add.at(totals[1], self.user, losses.total)
        return totals[0], totals[1]


def difference(shown: Shown, scores: Array, other: Array, *, seed: int = 1) -> tuple[float, float]:
    """Return the 95 % interval of the per-user loss that `scores` saves compared with `other`, bootstrapped by user."""
    (missed, total), (missed_by_other, _) = shown.loss_by_user(scores), shown.loss_by_user(other)
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(REPLICATES):
        weights = draw.poisson(1, len(total))
        found.append((weights * (missed_by_other - missed)).sum() / (weights * total).sum())
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def measured(files: RankingFiles, settings: RankerSettings, paths: Sequence[str]) -> tuple[Shown, float]:
    """Return a ranker trained with these settings, measured on held-out impressions, and its examples per second."""
    fitted = fit_ranker(files, settings)
    return Shown.of(fitted.ranker, paths), fitted.progress.examples / fitted.progress.seconds
