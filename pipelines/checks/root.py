"""Doctor's checks of the job file and its root: write access, a running night, the published night, and the sinks."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import replace
from zoneinfo import ZoneInfo

from pipelines.checks.doctor_request import DoctorRequest
from pipelines.checks.findings import Finding, ok, problem, warning

OLD_DAYS = 1  # days that the published night may be older than the current one


def job(request: DoctorRequest) -> Iterator[Finding]:
    """Check the job file and the Beam options."""
    from pipelines.config.jobs import JobError, OptionError

    try:
        night = request.night
    except JobError as error:
        for line in str(error).splitlines():
            yield problem("job", line, "see docs/job.md for all settings")
        return
    except OptionError as error:
        yield problem("job", str(error), "check --runner-config and the options for Beam")
        return
    yield ok("job", f"{request.job}, the night of {night.date}, on {night.beam.runner}")


def root(request: DoctorRequest) -> Iterator[Finding]:
    """Check whether the root can be written to."""
    path = request.night.job.storage.root
    if request.root_problem:
        fix = "check root ([storage]), and the permissions of this user and its credentials"
        yield problem("root", f"{path} cannot be written to: {request.root_problem}", fix)
    else:
        yield ok("root", f"{path} can be written to")


def lock(request: DoctorRequest) -> Iterator[Finding]:
    """Check whether a run holds the lock of the root."""
    from pipelines.base.lock import describe_holder

    if taken := describe_holder(request.night.root.lock):
        yield warning("lock", taken, "wait until it ends, or stop it: until then, a night cannot start")
    else:
        yield ok("lock", "no run is active on this root")


def published(request: DoctorRequest) -> Iterator[Finding]:
    """Check which night is served, how old it is, and whether a publication was interrupted."""
    from pipelines.night import publication_file
    from transforms.core import files

    night, entry = request.night, publication_file.read(request.night.root)
    if files.exists(night.root.publishing):
        what = f"{night.root.publishing}: a publication was interrupted"
        yield warning("published", what, "run the night again: it completes or undoes the publication")
    if entry is None:
        yield ok("published", "nothing yet")
        return
    date = entry.night
    today = dt.datetime.now(ZoneInfo(night.job.logs.time_zone)).date()
    past = min(today, night.date) - date
    what = f"the night of {date}, {entry.users:,} users, since {entry.published_at}"
    if missing := publication_file.missing_files_message(night.root):
        yield problem("published", f"{what}; but {missing}", f"run the night of {date} again")
    elif past.days > OLD_DAYS:
        fix = "find out why later nights failed: run watchnext nightly, or read the log of its scheduler"
        yield warning("published", f"{what}: {past.days} days old", fix)
    else:
        yield ok("published", what)


def sinks(request: DoctorRequest) -> Iterator[Finding]:
    """Check whether all sinks can be reached and used."""
    from pipelines.serving import publication

    night = request.night
    storage = night.job.storage
    if redis := getattr(storage, "redis", None):  # doctor does not retry
        storage = storage.model_copy(update={"redis": redis.model_copy(update={"retry_seconds": 0})})
        night = replace(night, job=night.job.model_copy(update={"storage": storage}))
    places = publication.configured_sinks(night)
    for place in places:
        try:
            place.ready()
        except Exception as error:
            fix = f"start it, or correct [storage.{place.name}] in the job file"
            yield problem("sinks", f"{place.name}: {error}", fix)
        else:
            yield ok("sinks", f"{place.name} can be reached")
    if not places:
        yield ok("sinks", "none besides the night's files")
