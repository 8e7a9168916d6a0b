"""What Dataflow is sent of a night, stage by stage: the jobs of its Beam stages, translated by Beam's own runner as far
as the moment before they would be submitted."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import polars as pl
import pytest
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner
from apache_beam.runners.dataflow.internal import apiclient
from graphs import PARDO, carried, steps_of
from nights import (
    DATE,
    EVENTS,
    RANKING,
    night,
    published_night,
    reports_without_plots,
    simulated,
    with_impressions,
)
from redis_server import serving

from pipelines import evaluation, examples, index, ingest, neighbours, publish, ranking, train, vocabulary
from pipelines.base import snapshot_store
from pipelines.config.beam_options import pipeline_options
from pipelines.night.beam_jobs import BeamJobs
from pipelines.night.night import Night
from transforms.core.files import VerifiedPath
from transforms.logs.event_window import BucketFiles

IMAGE = "europe-docker.pkg.dev/my-project/watchnext/worker:0.1.0"
CLOUD = (
    "--project=my-project",
    "--region=europe-west1",
    "--temp_location=gs://my-bucket/temp",
    f"--sdk_container_image={IMAGE}",
    "--dry_run=true",
)
STAGES = ("ingest", "vocabulary", "examples", "index", "neighbours", "ranking", "evaluation", "publish")
PICKLED = "beam:dofn:pickled_python_info:v1"
LIGHT = ("ingest", "vocabulary", "publish")  # whose workers load no TensorFlow
FIRST = ("ingest", "vocabulary")  # those that make test runs; make test-all runs the whole night
of_each_stage = pytest.mark.parametrize(
    "stage", [pytest.param(stage, marks=() if stage in FIRST else pytest.mark.slow) for stage in STAGES]
)


@dataclass(frozen=True)
class Sent:
    """A job as it would be submitted."""

    stage: str
    graph: Any  # Beam's portable one
    environment: Any  # Dataflow's: workers and options

    @property
    def functions(self) -> dict[str, Any]:
        """Of each step that runs a pickled function, what Beam's graph says of it."""
        found = steps_of(self.graph)
        return {
            name: beam_runner_api_pb2.ParDoPayload.FromString(step.spec.payload)
            for name, step in found.items()
            if step.spec.urn == PARDO
        }

    @property
    def pickled(self) -> dict[str, bytes]:
        """Of each step that runs Python, the pickle."""
        return {name: carried(step) for name, step in steps_of(self.graph).items() if carried(step)}


class Translated(beam.Pipeline):
    """A pipeline that runs here, and is then translated as a job of its stage on Dataflow."""

    def __init__(self, stage: str, sent: list[Sent]) -> None:
        super().__init__(options=pipeline_options(None, []))
        self._stage, self._sent = stage, sent

    def run(self, test_runner_api: Any = "AUTO") -> Any:
        result = super().run(test_runner_api)
        self._sent.append(translated(self, self._stage))
        return result


def translated(pipeline: beam.Pipeline, stage: str) -> Sent:
    options = pipeline_options("dataflow", CLOUD, stage, f"watchnext-{stage}")
    runner = DataflowRunner()
    runner.run_pipeline(pipeline, options)  # --dry_run: up to what would be submitted
    url = "gs://my-bucket/temp/pipeline.pb"
    environment = apiclient.Environment([], options, "8", url, runner.proto_pipeline)
    return Sent(stage, runner.proto_pipeline, environment.proto)


class Jobs:
    """The jobs of a night's stages. The stages run, in order, as far as they are asked for."""

    def __init__(self, of: Night, sent: list[Sent]) -> None:
        self._of, self._sent = of, sent
        self._left = [ingest, vocabulary, examples, train, index, neighbours, ranking, evaluation, publish]

    @property
    def folder(self) -> str:
        """The one that holds all files of the job."""
        return self._of.job.storage.root

    def __getitem__(self, stage: str) -> list[Sent]:
        while any(module.__name__.endswith(f".{stage}") for module in self._left):
            self._left.pop(0).run(self._of)
        return [job for job in self._sent if job.stage == stage]


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    """The jobs of a night after a published one, by stage, with a sink that Beam loads."""
    found: list[Sent] = []
    with pytest.MonkeyPatch.context() as patch, contextmanager(serving)() as server, reports_without_plots():
        more = f'{RANKING}[storage.redis]\nurl = "{server.url}"\n'
        job = with_impressions(simulated(tmp_path_factory.mktemp("dataflow"), more))
        lists = pl.DataFrame({"user_id": ["u0000001"], "video_ids": [["v0000001"]], "scores": [[1.0]]})
        published_night(job, lists, date=DATE.replace(day=DATE.day - 1))
        patch.setattr(BeamJobs, "pipeline", lambda self, stage: Translated(stage, found))
        yield Jobs(night(job), found)


# Steps of each job, those on top of the graph.
STEPS = {
    "ingest": [
        {f"{what} {table}" for what in ("Files of", "Read", "Write", "Rejected", "Records of") for table in tables}
        | {"Flatten", "WriteRecords"}
        for tables in (("videos", "users"), ("watches", "searches", "impressions"))
    ],
    "vocabulary": [{"Create", "CountTokens", "Videos", "Tokens", "Flatten", "WriteRecords"}],
    "examples": [
        {"Create", "SampleTimes"},
        {"Create", "WriteExamples", "WriteLabelCounts", "Defaults", "WriteDefaultExamples", "Flatten", "WriteRecords"},
    ],
    "index": [{"Create", "WriteIndex", "WriteRecords"}],
    "neighbours": [
        {"Buckets", "WriteNeighbours", "Blocks", "WriteSimilar", "Listed", "Watched", "CheckFolding"}
        | {"Flatten", "WriteRecords"}
    ],
    "ranking": [
        {"Create", "CountImpressions", "Videos", "Channels", "Outcomes", "Flatten", "WriteRecords"},
        {"Create", "WriteRankingExamples", "DrawNumbers", "WriteRecords"},
        {"Create", "BinImpressions", "WriteRecords"},
        {"Create", "ChooseOrder", "WriteRecords"},
        {"Buckets", "RankCandidates", "Holdout", "MeasureRanker", "Flatten", "WriteRecords"},
    ],
    "evaluation": [
        {"Last day", "CountVideos", "Co-watches", "WriteCoWatches", "Served", "MeasureNextDay", "Figures"}
        | {"Held-out days", "Count held-out days", "Flatten", "WriteRecords"},
        {"Create", "WriteEvaluation", "WriteRecords"},
    ],
    "publish": [{"Create", "LoadRedis", "WriteRecords"}],
}
# Steps that get a collection beside their elements, and how they may look at it; less those of TFT and of combining.
SIDE_INPUTS = {
    "Write watches/FlatMap(_write)": "multimap",  # the files there are of a bucket
    "Write searches/FlatMap(_write)": "multimap",
    "Write impressions/FlatMap(_write)": "multimap",
    "CheckFolding/Count": "iterable",  # one frame of drawn videos
    "CheckFolding/Evidence": "iterable",  # one frame of pairs
    "WriteCoWatches/Map(_nearest_of_shard)": "iterable",  # how often each video was watched
}


@of_each_stage
def test_a_stage_is_these_jobs_of_these_steps(sent: Jobs, stage: str) -> None:
    found = [{name for name in steps_of(job.graph) if name and "/" not in name} for job in sent[stage]]
    assert [{name for name in names if not name.startswith("ref_")} for names in found] == STEPS[stage]


@pytest.mark.slow
def test_few_steps_have_side_inputs(sent: Jobs) -> None:
    found = {}
    for job in (job for stage in STAGES for job in sent[stage]):
        for name, function in job.functions.items():
            for side in function.side_inputs.values():
                found[name] = side.access_pattern.urn.split(":")[2]
    theirs = ("AnalyzeDataset/", "WriteTransformFn/", "/InjectDefault")
    assert {name: kind for name, kind in found.items() if not any(one in name for one in theirs)} == SIDE_INPUTS


# machine type, most workers, threads a process, bytes of memory at least, one process a machine
WORKERS = {
    "ingest": ("n2-highmem-4", 64, 1, "", False),
    "vocabulary": ("n2-standard-4", 64, 1, "", False),
    "examples": ("n2-standard-4", 64, 1, "", False),
    "index": ("n2-standard-16", 16, 1, "32000000000", True),
    "neighbours": ("n2-highmem-8", 64, 8, "32000000000", True),
    "ranking": ("n2-highmem-8", 64, 8, "32000000000", True),
    "evaluation": ("n2-highmem-8", 16, 8, "32000000000", True),
    "publish": ("n2-standard-2", 16, 1, "", False),
}


@of_each_stage
def test_each_stage_has_workers_of_its_own_kind(sent: Jobs, stage: str) -> None:
    for job in sent[stage]:
        (pool,), (beam_s,) = job.environment.worker_pools, job.graph.components.environments.values()
        scaling = pool.autoscaling_settings
        assert (
            pool.machine_type,
            scaling.max_num_workers,
            pool.num_threads_per_worker,
            beam_s.resource_hints.get("beam:resources:min_ram_bytes:v1", b"").decode(),
            "no_use_multiple_sdk_containers" in job.environment.experiments,
        ) == WORKERS[stage]
        assert scaling.algorithm.name == "AUTOSCALING_ALGORITHM_BASIC"  # as Dataflow calls that by throughput
        assert pool.disk_size_gb == 50 and pool.worker_harness_container_image == IMAGE
        assert [image.container_image for image in pool.sdk_harness_container_images] == [IMAGE]


@of_each_stage
def test_nothing_of_the_main_program_is_sent(sent: Jobs, stage: str) -> None:
    for job in sent[stage]:
        options = job.environment.sdk_pipeline_options["options"]
        assert options["save_main_session"] is False and options["job_name"].startswith(f"watchnext-{stage}")
        staged = [d.role_payload for one in job.graph.components.environments.values() for d in one.dependencies]
        assert not any(b"main_session" in name for name in staged)
        assert job.pickled and not any(b"__main__" in pickle for pickle in job.pickled.values())


@of_each_stage
def test_what_is_pickled_is_small(sent: Jobs, stage: str) -> None:
    """Code goes by name, data as files: what grows is the list of a stage's parts alone.

    The folder of the job does not count: its length is that of the machine's temporary folder.
    """
    folder = sent.folder.encode()
    for job in sent[stage]:
        assert stage == "publish" or any(folder in pickle for pickle in job.pickled.values())
        sizes = {name: len(pickle.replace(folder, b"")) for name, pickle in job.pickled.items()}
        parts = {name for name in sizes if name.endswith("/FlatMap(<lambda at core.py:4094>)")}  # of beam.Create
        assert max(size for name, size in sizes.items() if name not in parts) < 5_000
        assert all(sizes[name] < 30_000 for name in parts)  # of three tables
        assert job.graph.ByteSize() < 250_000


@pytest.mark.slow
def test_the_parts_of_the_largest_store_fit_into_a_job() -> None:
    """4,096 buckets, 28 days: Dataflow takes graphs of 10 MB."""
    days = [f"2026-11-{day:02d}" for day in range(1, 29)]

    def digest(*parts: object) -> str:
        return hashlib.sha256(f"{parts}".encode()).hexdigest()

    def paths(table: str, bucket: int) -> tuple[VerifiedPath, ...]:
        base = f"gs://my-bucket/watchnext/store/{table}"
        names = [f"{base}/{day}/{bucket:05d}-of-04096-{digest(table, day)[:8]}.parquet" for day in days]
        return tuple(VerifiedPath(name, digest(name)[:32], snapshot_store.REPAIR) for name in names)

    parts = [BucketFiles(bucket=n, **{table: paths(table, n) for table in EVENTS}) for n in range(4_096)]
    pipeline = beam.Pipeline(options=pipeline_options(None, []))
    pipeline | beam.Create(parts)
    assert translated(pipeline, "examples").graph.ByteSize() < 6_000_000


UNPICKLE = """
import sys
from pathlib import Path
from apache_beam.runners.worker import sdk_worker_main
from apache_beam.internal import pickler
found = [pickler.loads(path.read_bytes()) for path in sorted(Path(sys.argv[1]).iterdir())]
print(len(found), *sorted(sys.modules.keys() & {"tensorflow", "tensorflow_transform", "scann"}))
"""


@of_each_stage
def test_a_worker_starts_from_the_packages_alone_and_loads_tensorflow_where_it_is_needed(
    sent: Jobs, stage: str, tmp_path: Path
) -> None:
    functions = [function.do_fn for job in sent[stage] for function in job.functions.values()]
    payloads = {function.payload for function in functions if function.urn == PICKLED}  # Beam's own go by a name
    for number, payload in enumerate(payloads):
        (tmp_path / f"{number:04d}").write_bytes(payload)
    command = [sys.executable, "-c", UNPICKLE, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    count, *heavy = done.stdout.split()
    assert int(count) == len(payloads) > 5
    if stage in LIGHT:
        assert heavy == []
