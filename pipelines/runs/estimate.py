"""Estimate memory, disk space and time of each stage of a night, from the settings and the size of the logs.

    size = estimate_size(night)                 # rows, users, videos, tokens: known from the store, or from a sample
    for cost in costs(night.job, size, threads=night.threads):
        print(cost.stage, cost.memory_bytes, cost.disk_bytes, cost.seconds)
    check_space(night)                          # raises StageError if there is not enough disk space

Calibrated on two cores without an accelerator; comments at the constants name the measurements. On that machine, times
are correct within a factor of three, memory and disk space within a factor of two. Times for more cores were not
measured: all times are for two cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipelines.base import machine
from pipelines.base.machine import GIB, format_bytes
from pipelines.config.jobs import Job
from pipelines.logs.log_size import LogSize, estimate_size
from pipelines.night.errors import StageError
from pipelines.night.night import Night
from pipelines.night.stage import STAGES
from trainer.auto import LogCounts, Resolved, holdout_share, partial_watches, resolve
from trainer.config import TRENDS, ModelSettings, TrainingSettings
from trainer.ranker.auto import resolve_epochs
from transforms.core import files
from transforms.search.top_k import EXACT_BELOW

FLOAT = 4
TREND_SLOTS = 21  # moments of `trainer.trends` in a window of four weeks

# Seconds per stage for almost empty logs (python -m benchmarks.overhead OUT).
START_SECONDS = {
    "ingest": 3.1,
    "vocabulary": 2.1,
    "examples": 6.9,
    "train": 8.4,
    "index": 1.8,
    "neighbours": 5.3,
    "ranking": 14.6,
    "evaluation": 7.8,
    "publish": 2.8,
}
# Seconds per event: 10,999,968 events took 20.7, 7.4 and 26.1 s, minus the above (docs/log.md, "Raw logs to records,
# faster").
EVENT_SECONDS = {"ingest": 1.5e-6, "vocabulary": 0.42e-6, "examples": 1.42e-6}
# Seconds per label: fitted within 10 % to 17,110 examples/s with D = 64, 8,460 with D = 256 (docs/benchmarks.md), and
# 34,227 with one small layer (docs/log.md, "Encoders at equal time"). The factors of attention and recency are from the
# same table.
LABEL_SECONDS, MULTIPLY_SECONDS = 20e-6, 5.5e-11
HISTORY_TIMES = {"mean": 1.0, "recency": 1.4, "attention": 1.95}
# Index: 43 s to build 1,000,000 vectors of 256 dimensions; 5,976 users/s with ScaNN, 140 users/s with exact search.
BUILD_SECONDS = 43 / (1_000_000 * 256)
SCANN_SECONDS, EXACT_SECONDS = 1 / 5_976, 1 / (140 * 1_000_000 * 256)
TUNING_QUERIES = 2_048  # exact searches that tune an index
# Ranker: features and encoding per impression (13,568,460 impressions of 100,000 users took 100 s); look-ups per
# training example and per ranked candidate, which together with MULTIPLY_SECONDS agree with the figures of two towers
# in docs/benchmarks.md within 20 %; the width of the input, and the bytes of an impression in the records.
IMPRESSION_SECONDS, LEARNED_SECONDS, RANKED_SECONDS = 7.5e-6, 12e-6, 2.5e-6
RANKER_INPUTS, IMPRESSION_BYTES = 250, 60
USER_SECONDS = 0.3e-3  # per list: reading, tower, exclusions and writing
DATAFLOW_STAGES = ("ingest", "vocabulary", "examples", "index", "neighbours", "ranking", "evaluation")
CALIBRATED_CORES = 2

# Memory of processes that have only imported Beam or TensorFlow, and of a small training: peaks of nights with 0.2 and
# 1.9 million events.
BEAM_BYTES, TENSORFLOW_BYTES, TRAINING_BYTES = 0.35 * GIB, 0.9 * GIB, 1.1 * GIB
RAW_TIMES = 12  # memory of ingest per byte of a batch of raw files (docs/log.md)
EVENT_BYTES = 0.6 * GIB / 690_000  # memory per event of the buckets in progress (docs/log.md)
TABLE_TIMES = 1.6  # peak memory per byte of the embedding tables, at initialisation (docs/log.md, "The training step")
HISTORY_ITEM_BYTES, LABEL_BYTES = 2.0, 11.0  # in compressed records (the same two nights)
TOKEN_BYTES = 5  # per token in a compressed vocabulary
GRAPH_BYTES = 1_000_000  # of the exported tower without its variables, and of training curves
KEPT_CHECKPOINTS = 2


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The estimated resources of one stage."""

    stage: str
    seconds: float  # on two cores
    memory_bytes: int  # peak
    disk_bytes: int  # of its output
    scratch_bytes: int = 0  # additional disk space while it runs


class ResolvedJob(Job):
    """A job without settings of [model] and [training] that are "auto"."""

    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()


def resolve_settings(job: Job, size: LogSize) -> Resolved:
    """Resolve the settings that are "auto" for logs of this size, without an earlier model."""
    users = max(0, size.users - round(_held_out_users(job, size)))
    days = job.examples.window_days
    counts = LogCounts(labels=size.labels, users=users, videos=size.videos, watches=size.completed, days=days)
    return resolve(job.model, job.training, counts)


def resolve_partial_watches(job: Job, size: LogSize) -> tuple[bool, str]:
    """Return whether histories contain watches that were not completed, and the reason if it is "auto"."""
    setting, preset = job.examples.partial_watches, job.model.preset
    return partial_watches(setting, watches=size.watches, completed=size.completed, preset=preset)


def costs(job: Job, size: LogSize, *, threads: int) -> list[Cost]:
    """Estimate each stage for logs of this size on one machine that processes `threads` user buckets at a time."""
    resolved = resolve_settings(job, size)
    job = ResolvedJob.model_construct(**{**dict(job), "model": resolved.model, "training": resolved.training})
    return [
        _ingest(job, size),
        _vocabulary(size, threads),
        _examples(job, size, threads),
        _train(job, size),
        _index(job, size),
        _neighbours(job, size, threads),
        _ranking(job, size, threads),
        _evaluation(job, size, threads),
        _cost("publish", memory=BEAM_BYTES),
    ]


def space_needed(stage_costs: Sequence[Cost]) -> int:
    """Return the peak disk space of consecutive stages, in bytes: all output so far plus the scratch space in use."""
    output, peak = 0, 0
    for cost in stage_costs:
        output += cost.disk_bytes
        peak = max(peak, output + cost.scratch_bytes)
    return peak


def core_hours(stage_costs: Sequence[Cost]) -> float:
    """Return the core-hours of the Beam stages on the embedded runner, without worker start-up and idle time."""
    return sum(cost.seconds for cost in stage_costs if cost.stage in DATAFLOW_STAGES) * CALIBRATED_CORES / 3600


def check_space(night: Night, stages: Sequence[str] = STAGES) -> None:
    """Raise StageError if the disk of the root has less free space than the given stages are estimated to need.

    Only local disks are checked. Does nothing if the logs cannot be read, because ingest reports that.
    """
    root = night.job.storage.root
    if not (night.job.storage.check_space and files.is_local(root)):
        return
    size = estimate_size(night)
    if size is None:
        return
    wanted = [cost for cost in costs(night.job, size, threads=night.beam.threads) if cost.stage in stages]
    needed, free = space_needed(wanted), machine.free_space(root)
    if needed > free:
        largest = max(wanted, key=lambda cost: cost.disk_bytes + cost.scratch_bytes)
        raise StageError(
            f"storage.root = {root!r}: the night of {night.date} is estimated to need {format_bytes(needed)} of disk "
            f"space, most of it in stage {largest.stage}, but {format_bytes(free)} are free; free some space (a lower "
            "keep_nights in [storage] keeps fewer nights whole), use another disk, or set check_space = false "
            "([storage]) to skip this check"
        )


def _cost(stage: str, *, memory: float, seconds: float = 0.0, disk: float = 0, scratch: float = 0) -> Cost:
    """Return the cost of a stage. seconds: in addition to those for almost empty logs."""
    return Cost(
        stage=stage,
        seconds=START_SECONDS[stage] + seconds,
        memory_bytes=round(memory),
        disk_bytes=round(disk),
        scratch_bytes=round(scratch),
    )


def _ingest(job: Job, size: LogSize) -> Cost:
    seconds, memory = EVENT_SECONDS["ingest"] * size.new_events, BEAM_BYTES + RAW_TIMES * size.batch_bytes
    return _cost("ingest", seconds=seconds, memory=memory, disk=size.new_events * size.event_bytes)


def _vocabulary(size: LogSize, threads: int) -> Cost:
    seconds = EVENT_SECONDS["vocabulary"] * size.events
    memory = BEAM_BYTES + EVENT_BYTES / 3 * _events_in_progress(size, threads)  # reads only a few columns
    return _cost("vocabulary", seconds=seconds, memory=memory, disk=TOKEN_BYTES * (size.videos + size.tokens))


def _examples(job: Job, size: LogSize, threads: int) -> Cost:
    memory = TENSORFLOW_BYTES + EVENT_BYTES * _events_in_progress(size, threads)
    disk = 2 * _history_bytes(job, size) + LABEL_BYTES * size.labels
    return _cost("examples", seconds=EVENT_SECONDS["examples"] * size.events, memory=memory, disk=disk)


def _train(job: ResolvedJob, size: LogSize) -> Cost:
    labels = size.labels * job.training.epochs
    if job.training.max_steps:
        labels = min(labels, job.training.max_steps * job.training.batch_size)
    per_label = LABEL_SECONDS + MULTIPLY_SECONDS * (_tower_weights(job) + _scores(job, size) * job.model.dimension)
    tables, dense = _table_bytes(job, size), FLOAT * _tower_weights(job)
    cached = min(job.training.cache_bytes, _history_bytes(job, size) + LABEL_BYTES * size.labels)
    inputs = FLOAT * job.model.dimension * _input_rows(job, size)
    vectors = _vector_bytes(job, size)
    return _cost(
        "train",
        seconds=labels * per_label * HISTORY_TIMES[job.model.history],
        memory=TRAINING_BYTES + TABLE_TIMES * tables + cached + vectors,
        disk=tables + inputs + vectors + 4 * dense + GRAPH_BYTES,  # Adam keeps two moments per weight
        scratch=KEPT_CHECKPOINTS * (tables + 3 * dense),
    )


def _index(job: ResolvedJob, size: LogSize) -> Cost:
    vectors = _vector_bytes(job, size)
    kinds = 2 if job.neighbours.similar else 1
    scann = size.videos >= EXACT_BELOW
    per_value = TUNING_QUERIES * EXACT_SECONDS + kinds * BUILD_SECONDS if scann else 0.0
    index = vectors * 5 // 4 if scann else vectors
    return _cost(
        "index",
        seconds=per_value * size.videos * job.model.dimension,
        memory=(TENSORFLOW_BYTES if scann else BEAM_BYTES) + 3 * vectors + index,
        disk=kinds * index,
        scratch=index,
    )


def _neighbours(job: ResolvedJob, size: LogSize, threads: int) -> Cost:
    queries = size.users + (size.videos if job.neighbours.similar else 0)
    k = min(job.neighbours.k, size.videos)
    lists = size.users * (k * _item_bytes(size) + job.model.dimension * FLOAT)
    similar = size.videos * min(job.neighbours.similar, size.videos) * _item_bytes(size)
    seconds = queries * _query_seconds(job, size)
    return _cost("neighbours", seconds=seconds, memory=_search_bytes(job, size, threads), disk=lists + similar)


def _ranking(job: Job, size: LogSize, threads: int) -> Cost:
    if not size.impressions or not job.ranking.candidates:
        return Cost(stage="ranking", seconds=START_SECONDS["publish"], memory_bytes=round(BEAM_BYTES), disk_bytes=0)
    settings, k = job.ranking, min(job.neighbours.k, size.videos)
    widths = [RANKER_INPUTS, *settings.hidden]
    multiplies = MULTIPLY_SECONDS * sum(before * after for before, after in pairwise(widths))
    epochs, _ = resolve_epochs(settings.epochs, impressions=size.impressions, warm=False)
    learned = size.impressions * (IMPRESSION_SECONDS + epochs * (LEARNED_SECONDS + multiplies))
    ranked = size.users * min(settings.candidates, k) * (RANKED_SECONDS + multiplies / 3)
    rows = size.events + size.impressions + size.users * settings.candidates
    in_progress = rows / size.buckets * min(threads, size.buckets)
    return _cost(
        "ranking",
        seconds=learned + ranked,
        memory=TRAINING_BYTES + EVENT_BYTES * in_progress,
        disk=size.users * k * _item_bytes(size) + GRAPH_BYTES,
        scratch=IMPRESSION_BYTES * size.impressions,
    )


def _evaluation(job: ResolvedJob, size: LogSize, threads: int) -> Cost:
    held_out = _held_out_users(job, size)
    seconds = 2 * held_out * _query_seconds(job, size)
    disk = held_out * min(job.neighbours.k, size.videos) * _item_bytes(size)
    return _cost("evaluation", seconds=seconds, memory=_search_bytes(job, size, threads), disk=disk)


def _held_out_users(job: Job, size: LogSize) -> float:
    """Return how many users are measured."""
    if not job.examples.holdout_days:
        return 0.0
    share, _ = holdout_share(job.examples.holdout_users, users=size.holdout_users)
    return size.holdout_users * share


def _events_in_progress(size: LogSize, threads: int) -> float:
    return size.events / size.buckets * min(threads, size.buckets)


def _history_bytes(job: Job, size: LogSize) -> float:
    """Return the bytes of records without labels: watches and search tokens."""
    watches = size.watches if resolve_partial_watches(job, size)[0] else size.completed
    return HISTORY_ITEM_BYTES * (watches + size.token_occurrences)


def _input_rows(job: Job, size: LogSize) -> int:
    """Return the rows of the tables that the tower reads."""
    return size.videos * (2 if resolve_partial_watches(job, size)[0] else 1) + size.tokens


def _table_bytes(job: ResolvedJob, size: LogSize) -> int:
    """Return the bytes of the tables (input videos, output videos, tokens), with an accumulator per row, and of the
    trends at all moments."""
    trends = size.videos * TRENDS * TREND_SLOTS * FLOAT if job.model.trends else 0
    return (size.videos + _input_rows(job, size)) * (job.model.dimension + 1) * FLOAT + trends


def _vector_bytes(job: ResolvedJob, size: LogSize) -> int:
    """Return the bytes of the video vectors, their biases, and their trends at two moments."""
    trends = 2 * TRENDS if job.model.trends else 0
    return size.videos * (job.model.dimension + trends + 1) * FLOAT


def _item_bytes(size: LogSize) -> float:
    """Return the bytes of one position of a list: a score, and an id encoded in as few bits as the videos need."""
    return FLOAT + size.videos.bit_length() / 8


def _tower_weights(job: ResolvedJob) -> int:
    """Return the number of weights of the layers, which is also the number of multiplications per forward pass."""
    widths = [2 * job.model.dimension, *job.model.hidden, job.model.dimension]
    return sum(a * b for a, b in pairwise(widths))


def _scores(job: ResolvedJob, size: LogSize) -> int:
    """Return the number of videos whose scores the loss needs per label."""
    model, batch = job.model, job.training.batch_size
    others = {
        "in_batch": batch,
        "mixed": batch + model.negatives,
        "hard_negatives": model.hard_pool + model.negatives,
        "softmax": size.videos,
        "hierarchical_softmax": size.videos.bit_length(),
    }
    return others.get(model.loss, model.negatives)


def _query_seconds(job: ResolvedJob, size: LogSize) -> float:
    """Return the seconds per list of a user or a video."""
    points = size.videos * job.model.dimension
    if size.videos < EXACT_BELOW:
        return USER_SECONDS + EXACT_SECONDS * points
    return USER_SECONDS + SCANN_SECONDS * (points / 256e6) ** 0.5


def _search_bytes(job: ResolvedJob, size: LogSize, threads: int) -> int:
    """Return the memory of a process that computes lists: tower, index, and the buckets in progress."""
    inputs = _input_rows(job, size) * job.model.dimension * FLOAT
    index = _vector_bytes(job, size) * 5 // 4
    lists = size.users / size.buckets * min(job.neighbours.k, size.videos) * 3 * 8
    return round(TENSORFLOW_BYTES + 2 * inputs + index + lists + EVENT_BYTES / 4 * size.events / size.buckets)
