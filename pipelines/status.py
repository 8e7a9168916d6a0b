"""Show which night is served, how good it is, what failed last, and what to do next.

watchnext status JOB.toml [--json] [Beam options]

Reads only small files of the root: `published.json`, figures, gates and results of nights. It contacts no sink and
changes nothing; `watchnext doctor` examines more.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from pipelines.base import command_lines, console, lock, manifest, paths
from pipelines.base.command_lines import STAGES
from pipelines.base.manifest import ManifestError
from pipelines.config.job_reader import open_job
from pipelines.config.jobs import Job
from pipelines.night import night_results, publication_file
from pipelines.night.errors import StageError, run_command
from pipelines.night.night import Night
from pipelines.night.publication_file import Published
from pipelines.reports import night_figures
from pipelines.reports.night_figures import FigureDifference
from transforms.core import files
from transforms.evaluation import night_metrics
from transforms.evaluation.night_metrics import NightMetrics

OLD_DAYS = 1  # days that the served night may be older than the current one
_GATE = 3  # exit code of a night that a gate stopped
_STAGE = re.compile(r"(?:^|\n)stage (\w+)[: ]")
_T = TypeVar("_T")

parser = command_lines.status


@dataclass(frozen=True, kw_only=True)
class ServedNight:
    """The night that is served, and its figures on held-out users."""

    date: str
    since: str  # ISO 8601
    days_old: int
    users: int  # lists
    stage: str  # that wrote the lists
    gates: str  # their status; empty if it is not known
    gates_why: str  # of an ungated or forced publication
    sinks: dict[str, str]  # name -> the version that it serves; the files of the night are always served
    held_out_users: int | None = None
    figures: dict[str, float] = field(default_factory=dict)  # recall at each k, and others
    interval: tuple[float, float] | None = None  # 95 %, of the gated figure
    compared: list[FigureDifference] = field(default_factory=list)  # with baselines, then with the night before
    report: str = ""  # path; empty if there is none


@dataclass(frozen=True, kw_only=True)
class FailedNight:
    """The last night whose last run did not end well."""

    date: str
    code: int | None  # exit code; None if the run ended without a result, as after SIGKILL
    stage: str
    message: str
    failed_gates: list[str] = field(default_factory=list)
    report: str = ""


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """The state of a job's root."""

    root: str
    code: int  # exit code of the command
    next: str  # what to do next
    served: ServedNight | None = None
    newest_run: str | None = None  # date of the night that was run last
    failed: FailedNight | None = None
    running: str = ""  # which run holds the lock; empty if none does
    interrupted_publication: bool = False
    withdrawn: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # files that cannot be read


def status(job: Job, name: str, today: dt.date) -> JobStatus:
    """Return the state of a job's root. name: of the job file, for commands; today: in the job's time zone."""
    problems: list[str] = []
    night = Night(job, today)
    root = night.root

    def attempt(read: Callable[[], _T], otherwise: _T) -> _T:
        """Read a file; a file that cannot be read is a problem."""
        try:
            return read()
        except (StageError, ManifestError) as error:
            problems.append(str(error))
            return otherwise

    published = attempt(lambda: publication_file.read(root, whole=True), None)
    if published is not None and (missing := publication_file.missing_files_message(root)):
        fix = f"watchnext nightly {name} --date {published.date} writes them again"
        problems.append(f"the served night of {published.date}: {missing}: {fix}")
    served = _served(night, published, today, attempt) if published else None
    nothing: frozenset[str] = frozenset()
    withdrawn = sorted(attempt(lambda: publication_file.withdrawn(root), nothing))
    running = lock.describe_holder(root.lock) or ""
    runs = _ends(night, attempt)
    newest = max(runs, key=lambda end: end.get("run", ""), default=None)
    failed = _failed(night, runs, attempt, is_running=bool(running))
    found = JobStatus(
        root=root.path,
        code=0,
        next="",
        served=served,
        newest_run=newest["date"] if newest else None,
        failed=failed,
        running=running,
        interrupted_publication=files.exists(root.publishing),
        withdrawn=withdrawn,
        problems=problems,
    )
    failed_now = failed if failed and (newest is None or failed.date == newest["date"] or failed.code is None) else None
    return replace(found, code=_code(found, failed_now), next=_next(found, failed_now, name))


def _served(night: Night, published: Published, today: dt.date, attempt: Callable[..., Any]) -> ServedNight:
    of = replace(night, date=published.night)
    metrics: NightMetrics | None = attempt(lambda: night_results.metrics(of), None)
    figures = night_figures.served_figures(metrics) if metrics else None
    gates = published.gates
    return ServedNight(
        date=published.date,
        since=published.published_at,
        days_old=(today - published.night).days,
        users=published.users,
        stage=published.stage,
        gates=gates.status if gates else "",
        gates_why=gates.why if gates else "",
        sinks={name: versions.serves or "" for name, versions in published.sinks.items()},
        held_out_users=night_figures.held_out_users(metrics) if metrics else None,
        figures=night_metrics.ordered_figures(metrics)[metrics.served_system] if metrics and figures else {},
        interval=figures.intervals.get(metrics.gate) if metrics and figures else None,
        compared=list(_compared(of, metrics, attempt)) if metrics else [],
        report=_report(of),
    )


def _compared(night: Night, metrics: NightMetrics, attempt: Callable[..., Any]) -> Iterator[FigureDifference]:
    yield from night_figures.against_baselines(metrics)
    before = night_results.night_before(night, attempt(lambda: night_results.gates(night), None))
    if before:
        earlier = attempt(lambda: night_results.metrics(before), None)
        if earlier:
            name = f"the night of {before.date}, on its held-out days"
            if found := night_figures.between_nights(metrics, earlier, metrics.gate, name):
                yield found


def _ends(night: Night, attempt: Callable[..., Any]) -> list[dict[str, Any]]:
    """Return how the last run of each night ended, in the order of dates."""
    found = []
    for date in paths.nights(night.root):
        path = night.root.outcome(date)
        if files.exists(path):
            end = attempt(lambda path=path: _end(path), {})
            found += [end | {"date": date.isoformat()}] if end else []
    return found


def _end(path: str) -> dict[str, Any]:
    try:
        end = json.loads(files.read_bytes(path))
        return {"run": str(end["run"]), "code": int(end["code"]), "message": str(end["message"])}
    except (ValueError, TypeError, KeyError) as error:
        fix = "remove it; the next run of the night writes it"
        raise StageError(f"{path} cannot be read ({error!r}): {fix}") from error


def _failed(
    night: Night, runs: list[dict[str, Any]], attempt: Callable[..., Any], *, is_running: bool
) -> FailedNight | None:
    """Return the last night that failed, or that a run left without a result."""
    failed = [end for end in runs if end["code"]]
    stopped = _interrupted(night, {end["date"] for end in runs}, attempt)
    if stopped and not is_running and (not failed or failed[-1]["date"] < stopped.date):
        return stopped
    if not failed:
        return None
    last = failed[-1]
    of = replace(night, date=dt.date.fromisoformat(last["date"]))
    gates = attempt(lambda: night_results.gates(of), None)
    stage = _STAGE.search(last["message"])
    names = [gate.name for gate in gates.in_state("failed") or gates.unexpected] if gates else []
    return FailedNight(
        date=last["date"],
        code=last["code"],
        stage=stage[1] if stage and stage[1] in STAGES else _missing_stage(of, attempt),
        message=last["message"],
        failed_gates=names if last["code"] == _GATE else [],
        report=_report(of),
    )


def _interrupted(night: Night, ended: set[str], attempt: Callable[..., Any]) -> FailedNight | None:
    """Return the newest night if a run began it and left neither a result nor a complete last stage."""
    dates = paths.nights(night.root)
    if not dates or dates[-1].isoformat() in ended:
        return None
    of = replace(night, date=dates[-1])
    if not (stage := _missing_stage(of, attempt)):
        return None
    message = f"its run ended without a result, in stage {stage}: it was killed, or the machine stopped"
    return FailedNight(date=of.date.isoformat(), code=None, stage=stage, message=message)


def _missing_stage(night: Night, attempt: Callable[..., Any]) -> str:
    """Return the first stage of a night that is not complete; empty if all are."""
    done = (attempt(lambda stage=stage: manifest.record(night.folder(stage)), None) for stage in STAGES)
    return next((stage for stage, found in zip(STAGES, done, strict=True) if found is None), "")


def _report(night: Night) -> str:
    path = night.root.report(night.date)
    return path if files.exists(path) else ""


def _code(found: JobStatus, failed: FailedNight | None) -> int:
    if found.served is None or found.problems:
        return 1
    if failed is None:
        return 1 if found.interrupted_publication and not found.running else 0
    return _GATE if failed.code == _GATE else 1


def _next(found: JobStatus, failed: FailedNight | None, name: str) -> str:
    """Return the next thing to do, in one sentence. failed: the newest run, if it failed."""
    if found.running:
        return "wait until the run that is active on this root ends"
    if found.problems:
        return found.problems[0]
    if failed and failed.code == _GATE:
        see = f"read {failed.report}, " if failed.report else ""
        force = f'watchnext nightly {name} --date {failed.date} --force-publish "REASON"'
        return f"{see}repair what the gates {', '.join(failed.failed_gates)} show and run the night again, or {force}"
    if failed and failed.code == 2:  # a setting: the same command fails again
        return f"correct the setting that the message names, then run watchnext nightly {name} --date {failed.date}"
    if failed:
        return f"watchnext nightly {name} --date {failed.date}, which resumes after its last complete stage"
    if found.interrupted_publication:
        return f"watchnext nightly {name}, which completes or undoes the interrupted publication"
    if found.served is None:
        return f"watchnext doctor {name}, then watchnext nightly {name}"
    if found.served.days_old > OLD_DAYS:
        return f"watchnext nightly {name} --catch-up: the served night is {found.served.days_old} days old"
    return "nothing; the next night is run by its schedule"


def to_text(found: JobStatus) -> str:
    """Format a status as lines for people."""
    return "\n".join([*_served_lines(found), *_failed_lines(found), f"next: {found.next}"])


def _served_lines(found: JobStatus) -> Iterator[str]:
    served = found.served
    if served is None:
        yield f"served: nothing is published in {found.root}"
    else:
        places = ", ".join(["files", *(f"{sink} ({version})" for sink, version in served.sinks.items())])
        yield f"served: the night of {served.date}, {served.users:,} users, since {served.since}; {places}"
        why = f": {served.gates_why}" if served.gates_why else ""
        yield f"gates: {served.gates or 'not known'}{why}"
        yield from _figure_lines(served)
        if served.report:
            yield f"report: {served.report}"
    if found.running:
        yield f"running: {found.running}"
    if found.withdrawn:
        yield f"withdrawn: {', '.join(found.withdrawn)}"
    for problem in found.problems:
        yield f"problem: {problem}"


def _figure_lines(served: ServedNight) -> Iterator[str]:
    if not served.figures:
        yield "figures: none, because no users were held out"
        return
    recalls = ", ".join(f"{name} {value:.3f}" for name, value in served.figures.items() if name.startswith("recall@"))
    users = "" if served.held_out_users is None else f" of {served.held_out_users:,} held-out users"
    yield f"figures{users}: {recalls}"
    for one in served.compared:
        yield f"  {one.figure} minus {one.other} ({one.other_value:.3f}): {one.in_words('+.3f')}"


def _failed_lines(found: JobStatus) -> Iterator[str]:
    failed = found.failed
    if failed is None:
        return
    code = "" if failed.code is None else f", exit code {failed.code}"
    stage = f" in stage {failed.stage}" if failed.stage else ""
    yield f"last failure: the night of {failed.date}{stage}{code}"
    yield from (f"  {line}" for line in failed.message.splitlines() if line.strip())
    if failed.failed_gates:
        yield f"  failed gates: {', '.join(failed.failed_gates)}"
    if failed.report:
        yield f"  report: {failed.report}"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the status of a job. Return an exit code of `command_lines.STATUS_CODES`."""
    args, flags = parser().parse_known_args(argv)

    def work() -> int:
        job = open_job(args.job, flags)
        found = status(job, args.job, dt.datetime.now(ZoneInfo(job.logs.time_zone)).date())
        print(_to_json(found) if args.json else console.printable(to_text(found)))
        return found.code

    return run_command(work)


def _to_json(found: JobStatus) -> str:
    content = asdict(found)
    if found.served:
        compared = [asdict(one) | {"difference": one.difference} for one in found.served.compared]
        content["served"]["compared"] = compared
    return console.printable_json(json.dumps(content, ensure_ascii=False, indent=1), sys.stdout)


if __name__ == "__main__":
    raise SystemExit(main())
