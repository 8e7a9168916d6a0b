"""START HERE: run a night, from raw logs to published lists. This module shows the order of all stages.

    ingest -> vocabulary -> examples -> train -> index -> neighbours -> ranking -> evaluation -> publish

Each stage is a module in this package and runs in its own process, which frees its memory and contains its failures; a
scheduler can run the same commands. Stages that are complete with the same inputs and settings are skipped: an
interrupted night resumes from its last completed stage, and a second run does nothing.

    watchnext nightly JOB.toml [--date DATE] [--only STAGE | --from STAGE | --catch-up] [--force STAGE]
                               [--reingest DAY] [--reread] [--keep-old-readings] [--force-publish REASON]
                               [--runner-config FILE] [--dry-run] [--log-format text|json] [Beam options]
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Sequence
from functools import partial

from pipelines import gates, ingest
from pipelines.base import command_lines, lock, manifest, process_signals
from pipelines.night import publication_file
from pipelines.night.errors import StageError, exit_code, run_command, user_message, wants_traceback
from pipelines.night.night import Night, Outcome
from pipelines.night.stage import STAGES, discard_damaged, load_stage, night_from_args
from pipelines.reports import nights_page
from pipelines.runs import dry_run, estimate, night_series, notify, openmetrics, processes, run_log
from pipelines.runs.run_log import RunLog
from pipelines.serving import publication

parser = command_lines.nightly


def main(argv: Sequence[str] | None = None) -> int:
    """Run a night; with --catch-up, first the missed nights before it. Return an exit code of
    `command_lines.EXIT_CODES`, for several nights that of the last one."""
    given = parser()
    args, flags = given.parse_known_args(argv)
    for name, wanted in ingest.given_options(args):
        if wanted and "ingest" not in _chosen(args):
            given.error(f"{name} requires stage ingest, which --only or --from excludes")
    if args.force and (args.catch_up or not {*args.force} <= {*_chosen(args)}):
        given.error("--force cannot be combined with --catch-up, or name a stage that --only or --from excludes")
    if args.force_publish and ("publish" not in _chosen(args) or args.catch_up):
        given.error("--force-publish requires stage publish and cannot be combined with --catch-up")

    def work(log: RunLog) -> int:
        night, stages = night_from_args(args, flags), _chosen(args)
        dates = [*(night_series.missed_dates(night) if args.catch_up else ()), night.date]
        if args.dry_run:
            return dry_run.show(night, dates, stages, as_json=log.as_json)
        one = partial(run_with_reporting, job=args.job, stages=stages, log=log)
        return night_series.run(night, dates, one, log, keep_going=True)[-1]

    with process_signals.raise_stopped(), run_log.open_log(args.log_format) as log:
        return run_command(lambda: work(log), log.fail)


def run_with_reporting(night: Night, *, job: str, stages: Sequence[str], log: RunLog) -> Outcome:
    """Run one night and return how it ended. Report the result in the log, on the pages, in ROOT/metrics.prom and to
    the receivers in `[notify]`, whether or not the night fails. A run without the lock writes no page: another run may
    be changing what the page shows."""
    began = time.monotonic()
    code, message, has_lock = _outcome(night, job, stages, log)
    end = Outcome(
        run=log.run, date=night.date.isoformat(), code=code, message=message, seconds=time.monotonic() - began
    )
    log.end_night(end)
    problems = (nights_page.write(night, end) if has_lock else "", openmetrics.write(night, end))
    for problem in (*problems, notify.send(night.job.notify, end, root=night.root.path)):
        if problem:
            log.write_event("warning", problem, level="warning", date=end.date)
    return end


def run(night: Night, job: str, stages: Sequence[str], log: RunLog) -> str:
    """Run the stages that are not complete, in order, and return a message. Raises StageError if a stage fails."""
    ran: list[str] = []
    with log.open_display(night.date, len(stages)) as display:
        for line in discard_damaged(night):
            display.print_line(line)
        _finish_publication(night, display)
        for at, stage in enumerate(stages):
            lock.require()
            done, again = _is_done(night, stage)
            if done:
                display.end_stage(stage, "already complete")
                continue
            if again:
                display.print_line(f"{again}: stage {stage} is run again")
            if not ran:
                estimate.check_space(night, stages[at:])
            began = time.monotonic()
            display.begin_stage(stage)
            processes.run_stage(
                _command(night, job, stage, force=bool(again)),
                shows_progress=log.shows_own_progress(stage),
                display=display,
            )
            seconds, figures = time.monotonic() - began, night.require(stage).figures
            display.end_stage(stage, f"{seconds:.1f} s", seconds=round(seconds, 3), counts=figures)
            for note in figures.get("notes", ()):
                display.print_line(note)
            ran.append(stage)
    return _closing(night, ran)


def _finish_publication(night: Night, display: processes.ConsoleDisplay) -> None:
    """Complete or undo an interrupted publication before the stages run; stage publish tries again if this fails."""
    try:
        if done := publication.recover(night):
            display.print_line(done)
    except StageError as error:
        display.print_line(str(error))


def _is_done(night: Night, stage: str) -> tuple[bool, str]:
    """Return whether a stage is complete with its present inputs and settings, and, if it is, why it must still rerun.

    Plans once, because ingest's plan lists every raw log.
    """
    plan = load_stage(stage).plan(night)
    found = manifest.load_readable(night.folder(stage))
    if found is None or not plan.matches(found):
        return False, ""
    again = plan.rerun_reason(night, found)
    return not again, again


def _outcome(night: Night, job: str, stages: Sequence[str], log: RunLog) -> tuple[int, str, bool]:
    """Return the exit code of a night, the message about its result, and whether it had the lock up to its end."""
    try:
        with lock.hold(night.root.lock):
            return 0, run(night, job, stages, log), True
    except process_signals.Stopped as stopped:
        return stopped.code, str(stopped), True
    except Exception as error:
        message = user_message(error)
        if message is None or wants_traceback(error):
            message = traceback.format_exc().rstrip()
        return exit_code(error), message, not isinstance(error, lock.LockError)


def _chosen(args: argparse.Namespace) -> Sequence[str]:
    if args.only:
        return (args.only,)
    return STAGES[STAGES.index(args.first) :] if args.first else STAGES


def _command(night: Night, job: str, stage: str, *, force: bool) -> list[str]:
    config = ["--runner-config", night.runner_config] if night.runner_config else []
    module = [sys.executable, "-m", f"pipelines.{stage}"]
    own = ingest.options_of(night) if stage == "ingest" else []
    own += [f"--force-publish={night.force_publish}"] if stage == "publish" and night.force_publish else []
    own += ["--force"] if force or stage in night.force else []
    return [*module, job, "--date", night.date.isoformat(), *config, *own, *night.flags]


def _closing(night: Night, ran: list[str]) -> str:
    if not ran:
        withdrawn = night.date.isoformat() in publication_file.withdrawn(night.root)
        again = f"; it was withdrawn, and watchnext rollback --to {night.date} serves it again" if withdrawn else ""
        return f"night {night.date}: nothing to do, every stage is complete{again}"
    served = publication_file.read(night.root)
    if served is None:
        state = "nothing is published"
    elif served.night == night.date:
        state = f"published: {served.date}, {served.users:,} users"
    else:
        state = f"not published (the night of {served.date} is served)"
    gate_line = f"; {gates.summary_line(night)}" if "publish" in ran else ""
    return f"night {night.date}: ran {', '.join(ran)}; {state}; report: {night.root.report(night.date)}{gate_line}"


if __name__ == "__main__":
    raise SystemExit(main())
