"""What a night will take: memory, disk and time of each stage, from the settings and the size of the logs.

    size = size_of(night)                       # rows, users, videos, tokens: looked up, or judged from a sample
    for cost in costs(night.job, size, threads=night.threads):
        print(cost.stage, cost.memory_bytes, cost.disk_bytes, cost.seconds)
    check_space(night)                          # StageError where the disk will not do

Calibrated on two cores without an accelerator; each constant says by what. There, times hold to a factor of three,
memory and disk to a factor of two. How much faster more cores are was not measured: the times are those of two.
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
from pipelines.night.stage import STAGES, Night
from transforms.core import files
from transforms.search.top_k import EXACT_BELOW

FLOAT = 4

# Seconds a stage takes on next to no logs (python -m benchmarks.overhead OUT).
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
# Seconds an event: 10,999,968 in 20.7, 7.4 and 26.1 s, less the above (docs/log.md, "Raw logs to records, faster").
EVENT_SECONDS = {"ingest": 1.5e-6, "vocabulary": 0.42e-6, "examples": 1.42e-6}
# A label: 17,110 examples/s with D = 64 and 8,460 with D = 256 (docs/benchmarks.md), 34,227 with one small layer
# (docs/log.md, "Encoders at equal time"), which these two numbers meet to a tenth. Attention and recency
# follow the same table.
LABEL_SECONDS, MULTIPLY_SECONDS = 20e-6, 5.5e-11
HISTORY_TIMES = {"mean": 1.0, "recency": 1.4, "attention": 1.95}
# Building: 43 s for 1,000,000 vectors of 256. Asking: 5,976 users/s of that index; exactly, 140 users/s of it.
BUILD_SECONDS = 43 / (1_000_000 * 256)
SCANN_SECONDS, EXACT_SECONDS = 1 / 5_976, 1 / (140 * 1_000_000 * 256)
TUNING_QUERIES = 2_048  # searched exactly to tune an index
# Of the ranker: features and encoding of an impression (13,568,460 of 100,000 users: 100 s), look-ups for one
# that is learned and one that is ranked, which with MULTIPLY_SECONDS meet the two towers' figures in
# docs/benchmarks.md to a fifth; the width of what it reads, and bytes of one in its records.
IMPRESSION_SECONDS, LEARNED_SECONDS, RANKED_SECONDS = 7.5e-6, 12e-6, 2.5e-6
RANKER_INPUTS, IMPRESSION_BYTES = 250, 60
USER_SECONDS = 0.3e-3  # reading, tower, exclusions and writing of one list
DATAFLOW_STAGES = ("ingest", "vocabulary", "examples", "index", "neighbours", "ranking", "evaluation")
CALIBRATED_CORES = 2

# Processes that have loaded them and done little, and a small training: peaks of nights of 0.2 and 1.9 million events.
BEAM_BYTES, TENSORFLOW_BYTES, TRAINING_BYTES = 0.35 * GIB, 0.9 * GIB, 1.1 * GIB
RAW_TIMES = 12  # of a batch of raw files in ingest (docs/log.md)
EVENT_BYTES = 0.6 * GIB / 690_000  # of each bucket in work (docs/log.md)
TABLE_TIMES = 1.6  # tables at their highest, while they are drawn (docs/log.md, "The training step")
HISTORY_ITEM_BYTES, LABEL_BYTES = 2.0, 11.0  # of records, compressed (the same two nights)
TOKEN_BYTES = 5  # of a vocabulary, compressed
GRAPH_BYTES = 1_000_000  # of the exported tower without its variables, and curves
KEPT_CHECKPOINTS = 2


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one stage takes."""

    stage: str
    seconds: float  # on two cores
    memory_bytes: int  # at its highest
    disk_bytes: int  # what it leaves
    scratch_bytes: int = 0  # more disk, while it runs


def costs(job: Job, size: LogSize, *, threads: int) -> list[Cost]:
    """What each stage takes of logs of this size, on one machine; `threads` user buckets are in work at once."""
    return [
        _ingest(job, size),
        _vocabulary(size, threads),
        _examples(size, threads),
        _train(job, size),
        _index(job, size),
        _neighbours(job, size, threads),
        _ranking(job, size, threads),
        _evaluation(job, size, threads),
        Cost(stage="publish", seconds=START_SECONDS["publish"], memory_bytes=round(BEAM_BYTES), disk_bytes=0),
    ]


def space_needed(found: Sequence[Cost]) -> int:
    """Bytes of disk for some stages, one after the other: what each leaves, and what the largest uses meanwhile."""
    left, most = 0, 0
    for cost in found:
        left += cost.disk_bytes
        most = max(most, left + cost.scratch_bytes)
    return most


def core_hours(found: Sequence[Cost]) -> float:
    """Core-hours of the Beam stages on the embedded runner. A cluster's workers take some to start, and some idle."""
    return sum(cost.seconds for cost in found if cost.stage in DATAFLOW_STAGES) * CALIBRATED_CORES / 3600


def check_space(night: Night, stages: Sequence[str] = STAGES) -> None:
    """Raise StageError where the disk of the root has less room than these stages, which are to run, will need.

    Asked of local disks alone. Where the logs cannot be looked at, nothing is said: ingest says why.
    """
    root = night.job.storage.root
    if not (night.job.storage.check_space and files.is_local(root)):
        return
    size = estimate_size(night)
    if size is None:
        return
    wanted = [cost for cost in costs(night.job, size, threads=night.threads) if cost.stage in stages]
    needed, free = space_needed(wanted), machine.free_space(root)
    if needed > free:
        most = max(wanted, key=lambda cost: cost.disk_bytes + cost.scratch_bytes)
        raise StageError(
            f"storage.root = {root!r}: the night of {night.date} is estimated to need {format_bytes(needed)} of disk "
            f"space, most of it in stage {most.stage}, but {format_bytes(free)} are free; free some space (a lower "
            "keep_nights in [storage] keeps fewer nights whole), use another disk, or set check_space = false "
            "([storage]) to skip this check"
        )


def _ingest(job: Job, size: LogSize) -> Cost:
    seconds = START_SECONDS["ingest"] + EVENT_SECONDS["ingest"] * size.new_events
    return Cost(
        stage="ingest",
        seconds=seconds,
        memory_bytes=round(BEAM_BYTES + RAW_TIMES * size.batch_bytes),
        disk_bytes=round(size.new_events * size.event_bytes),
    )


def _vocabulary(size: LogSize, threads: int) -> Cost:
    seconds = START_SECONDS["vocabulary"] + EVENT_SECONDS["vocabulary"] * size.events
    memory = BEAM_BYTES + EVENT_BYTES / 3 * _events_in_work(size, threads)  # a few columns of them
    return Cost(
        stage="vocabulary",
        seconds=seconds,
        memory_bytes=round(memory),
        disk_bytes=TOKEN_BYTES * (size.videos + size.tokens),
    )


def _examples(size: LogSize, threads: int) -> Cost:
    seconds = START_SECONDS["examples"] + EVENT_SECONDS["examples"] * size.events
    memory = TENSORFLOW_BYTES + EVENT_BYTES * _events_in_work(size, threads)
    return Cost(
        stage="examples",
        seconds=seconds,
        memory_bytes=round(memory),
        disk_bytes=round(2 * _history_bytes(size) + LABEL_BYTES * size.labels),
    )


def _train(job: Job, size: LogSize) -> Cost:
    labels = size.labels * job.training.epochs
    if job.training.max_steps:
        labels = min(labels, job.training.max_steps * job.training.batch_size)
    a_label = LABEL_SECONDS + MULTIPLY_SECONDS * (_tower_weights(job) + _scores(job, size) * job.model.dimension)
    tables, dense = _table_bytes(job, size), FLOAT * _tower_weights(job)
    kept = min(job.training.cache_bytes, _history_bytes(size) + LABEL_BYTES * size.labels)
    inputs = tables * (size.videos + size.tokens) // max(1, 2 * size.videos + size.tokens)
    vectors = _vector_bytes(job, size)
    return Cost(
        stage="train",
        seconds=START_SECONDS["train"] + labels * a_label * HISTORY_TIMES[job.model.history],
        memory_bytes=round(TRAINING_BYTES + TABLE_TIMES * tables + kept + vectors),
        disk_bytes=tables + inputs + vectors + 4 * dense + GRAPH_BYTES,  # Adam keeps two numbers a weight
        scratch_bytes=KEPT_CHECKPOINTS * (tables + 3 * dense),
    )


def _index(job: Job, size: LogSize) -> Cost:
    vectors = _vector_bytes(job, size)
    kinds = 2 if job.neighbours.similar else 1
    scann = size.videos >= EXACT_BELOW
    asked = TUNING_QUERIES * EXACT_SECONDS + kinds * BUILD_SECONDS if scann else 0.0
    index = vectors * 5 // 4 if scann else vectors
    return Cost(
        stage="index",
        seconds=START_SECONDS["index"] + asked * size.videos * job.model.dimension,
        memory_bytes=round((TENSORFLOW_BYTES if scann else BEAM_BYTES) + 3 * vectors + index),
        disk_bytes=kinds * index,
        scratch_bytes=index,
    )


def _neighbours(job: Job, size: LogSize, threads: int) -> Cost:
    asked = size.users + (size.videos if job.neighbours.similar else 0)
    k = min(job.neighbours.k, size.videos)
    lists = size.users * (k * _item_bytes(size) + job.model.dimension * FLOAT)
    similar = size.videos * min(job.neighbours.similar, size.videos) * _item_bytes(size)
    return Cost(
        stage="neighbours",
        seconds=START_SECONDS["neighbours"] + asked * _query_seconds(job, size),
        memory_bytes=_search_bytes(job, size, threads),
        disk_bytes=round(lists + similar),
    )


def _ranking(job: Job, size: LogSize, threads: int) -> Cost:
    if not size.impressions or not job.ranking.candidates:
        return Cost(stage="ranking", seconds=START_SECONDS["publish"], memory_bytes=round(BEAM_BYTES), disk_bytes=0)
    settings, k = job.ranking, min(job.neighbours.k, size.videos)
    widths = [RANKER_INPUTS, *settings.hidden]
    multiplies = MULTIPLY_SECONDS * sum(before * after for before, after in pairwise(widths))
    learned = size.impressions * (IMPRESSION_SECONDS + settings.epochs * (LEARNED_SECONDS + multiplies))
    ranked = size.users * min(settings.candidates, k) * (RANKED_SECONDS + multiplies / 3)  # a third: forward alone
    in_work = (size.events + size.impressions) / size.buckets * min(threads, size.buckets)
    in_work += size.users * settings.candidates / size.buckets * min(threads, size.buckets)
    return Cost(
        stage="ranking",
        seconds=START_SECONDS["ranking"] + learned + ranked,
        memory_bytes=round(TRAINING_BYTES + EVENT_BYTES * in_work),
        disk_bytes=round(size.users * k * _item_bytes(size) + GRAPH_BYTES),
        scratch_bytes=round(IMPRESSION_BYTES * size.impressions),
    )


def _evaluation(job: Job, size: LogSize, threads: int) -> Cost:
    held_out = size.users * job.examples.holdout_users if job.examples.holdout_days else 0
    return Cost(
        stage="evaluation",
        seconds=START_SECONDS["evaluation"] + 2 * held_out * _query_seconds(job, size),
        memory_bytes=_search_bytes(job, size, threads),
        disk_bytes=round(held_out * min(job.neighbours.k, size.videos) * _item_bytes(size)),
    )


def _events_in_work(size: LogSize, threads: int) -> float:
    return size.events / size.buckets * min(threads, size.buckets)


def _history_bytes(size: LogSize) -> float:
    """Of records without labels: completed watches and search tokens."""
    return HISTORY_ITEM_BYTES * (size.completed + size.token_occurrences)


def _table_bytes(job: Job, size: LogSize) -> int:
    """Of the three tables, with one accumulator a row: videos in and out, tokens."""
    return (2 * size.videos + size.tokens) * (job.model.dimension + 1) * FLOAT


def _vector_bytes(job: Job, size: LogSize) -> int:
    """Of the video vectors and their biases."""
    return size.videos * (job.model.dimension + 1) * FLOAT


def _item_bytes(size: LogSize) -> float:
    """Of one place of a list: a score, and the id as a number of as many bits as there are videos."""
    return FLOAT + size.videos.bit_length() / 8


def _tower_weights(job: Job) -> int:
    """Of the layers, which is also how many multiplications a pass through them takes."""
    widths = [2 * job.model.dimension, *job.model.hidden, job.model.dimension]
    return sum(a * b for a, b in pairwise(widths))


def _scores(job: Job, size: LogSize) -> int:
    """Of how many videos the loss needs the score, for each label."""
    model, batch = job.model, job.training.batch_size
    others = {
        "in_batch": batch,
        "mixed": batch + model.negatives,
        "hard_negatives": model.hard_pool + model.negatives,
        "softmax": size.videos,
        "hierarchical_softmax": size.videos.bit_length(),
    }
    return others.get(model.loss, model.negatives)


def _query_seconds(job: Job, size: LogSize) -> float:
    """Of one user's list, or one video's."""
    points = size.videos * job.model.dimension
    if size.videos < EXACT_BELOW:
        return USER_SECONDS + EXACT_SECONDS * points
    return USER_SECONDS + SCANN_SECONDS * (points / 256e6) ** 0.5


def _search_bytes(job: Job, size: LogSize, threads: int) -> int:
    """Of a process that makes lists: the tower with its tables, the index, and buckets in work."""
    inputs = (size.videos + size.tokens) * job.model.dimension * FLOAT
    index = _vector_bytes(job, size) * 5 // 4
    lists = size.users / size.buckets * min(job.neighbours.k, size.videos) * 3 * 8
    return round(TENSORFLOW_BYTES + 2 * inputs + index + lists + EVENT_BYTES / 4 * size.events / size.buckets)
