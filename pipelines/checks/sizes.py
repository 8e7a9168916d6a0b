"""Doctor's checks of resources: the estimated memory, disk space and time of a night, compared with this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipelines.base import machine
from pipelines.base.machine import format_bytes
from pipelines.base.raw_files import RawFiles
from pipelines.checks.doctor_request import DoctorRequest
from pipelines.checks.findings import Finding, ok, problem, warning
from pipelines.logs.log_size import LogSize, measure_size
from pipelines.night.stage import STAGES
from pipelines.runs import estimate
from pipelines.runs.estimate import Cost
from trainer.auto import auto_names, holdout_share, labels_per_user, transitions_share
from trainer.config import AUTO
from transforms.core import files

NEARLY = 0.8  # share of the memory above which a warning is given
# What to reduce if a stage does not fit.
SMALLER = {
    "ingest": "lower batch_bytes ([logs]), or split the largest raw file",
    "train": "lower dimension ([model]), watch_vocabulary or search_vocabulary ([examples])",
    "index": "lower dimension ([model]) or watch_vocabulary ([examples])",
}
OTHERWISE = "use more buckets (watchnext rebucket), or lower window_days ([examples])"


def memory(request: DoctorRequest) -> Iterator[Finding]:
    """Compare the stage that needs the most memory with the memory that processes here may use."""
    size, found = _costs(request)
    if size is None:
        if "watches" in request.logs.failed:  # which is a finding of its own
            yield ok("memory", "not checked: there are no logs for an estimate")
        else:
            yield warning("memory", "there are no logs for an estimate", "fix the findings about the logs first")
        return
    have, most = machine.memory(), max(found, key=lambda cost: cost.memory_bytes)
    owner = "this machine" if have.limited_by == "machine" else "the control group (container or unit) of this process"
    needed = f"stage {most.stage} is estimated to need {format_bytes(most.memory_bytes)}"
    what = f"{needed}; {owner} has {format_bytes(have.limit_bytes)}"
    fix = SMALLER.get(most.stage, OTHERWISE)
    table = _table(found)
    if most.memory_bytes > have.limit_bytes:
        yield problem("memory", what, fix, *table)
    elif most.memory_bytes > NEARLY * have.limit_bytes:
        yield warning("memory", what, fix, *table)
    elif most.memory_bytes > have.free_bytes:
        yield warning(
            "memory", f"{what}, but {format_bytes(have.free_bytes)} are free now", "stop other programs", *table
        )
    else:
        yield ok("memory", f"{what}; all stages:", *table)


def disk(request: DoctorRequest) -> Iterator[Finding]:
    """Compare the disk space that a whole night needs with the free space at the root."""
    size, found = _costs(request)
    path = request.night.job.storage.root
    if size is None or not files.is_local(path):
        reason = "there are no logs for an estimate" if size is None else f"{path} is not on a disk of this machine"
        yield ok("disk", f"not checked: {reason}")
        return
    needed, free = estimate.space_needed(found), machine.free_space(path)
    what = f"a night is estimated to need {format_bytes(needed)}, {format_bytes(free)} are free below {path}"
    if needed > free:
        yield problem("disk", what, "free some space, or use another disk: root ([storage])")
    else:
        yield ok("disk", what)


def time(request: DoctorRequest) -> Iterator[Finding]:
    """Estimate the time of a first night, and the core-hours if workers are paid for."""
    size, found = _costs(request)
    if size is None:
        return
    seconds = sum(cost.seconds for cost in found)
    longest = max(found, key=lambda cost: cost.seconds)
    what = f"about {duration(seconds)} on two cores without a GPU, including {duration(longest.seconds)} in stage "
    whole = f"{what}{longest.stage} (within a factor of three)"
    price = request.price_per_core_hour
    if price is None and request.night.beam.runner != "DataflowRunner":
        yield ok("time", whole)
        return
    hours = estimate.core_hours(found)
    beam = f"Beam's stages need {hours:,.2f} core-hours without worker start-up"
    paid = "; --price-per-core-hour estimates the cost" if price is None else f": {hours * price:,.2f} at {price:g}"
    yield ok("time", f"{whole}; {beam}{paid}")


def auto(request: DoctorRequest) -> Iterator[Finding]:
    """Estimate the values of the settings that are "auto"; nothing if there are none."""
    job = request.night.job
    names, examples = auto_names(job.model, job.training), job.examples
    holds_out = examples.holdout_users == AUTO and examples.holdout_days > 0
    if not (names or holds_out or AUTO in (examples.per_user, examples.partial_watches, job.neighbours.transitions)):
        return
    size, _ = _costs(request)
    if size is None:
        yield ok("auto", "not estimated: each night resolves these settings from its counts")
        return
    values = estimate.resolve_settings(job, size).explained
    per_user, reason = labels_per_user(
        examples.per_user, watches=size.completed, users=size.users, preset=job.model.preset
    )
    values |= {"per_user": f"{per_user} ({reason})"} if reason else {}
    partial, reason = estimate.resolve_partial_watches(job, size)
    values |= {"partial_watches": f"{partial} ({reason})"} if reason else {}
    share, reason = holdout_share(examples.holdout_users, users=size.holdout_users)
    values |= {"holdout_users": f"{share:g} ({reason})"} if holds_out else {}
    share, reason = transitions_share(job.neighbours.transitions, completed=size.completed, preset=job.model.preset)
    values |= {"transitions": f"{share:g} ({reason})"} if reason else {}
    lines = [f"{name} = {value}" for name, value in values.items()]
    yield ok("auto", "values for the estimated counts of these logs; each night resolves them from its own:", *lines)


def _costs(request: DoctorRequest) -> tuple[LogSize | None, list[Cost]]:
    night, inspected = request.night, request.logs
    found = {name: RawFiles() if name in inspected.failed else raw for name, raw in inspected.found.items()}
    size = measure_size(night, found, inspected.samples, inspected.before)
    return size, estimate.costs(night.job, size, threads=night.beam.threads) if size else []


def _table(found: Sequence[Cost]) -> Iterator[str]:
    """Yield a heading and one line per stage."""
    yield f"{'stage':<12}{'memory':>10}{'disk':>10}{'time':>10}"
    for cost in sorted(found, key=lambda cost: STAGES.index(cost.stage)):
        disk_used = format_bytes(cost.disk_bytes + cost.scratch_bytes)
        yield f"{cost.stage:<12}{format_bytes(cost.memory_bytes):>10}{disk_used:>10}{duration(cost.seconds):>10}"


def duration(seconds: float) -> str:
    """Format seconds as seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
