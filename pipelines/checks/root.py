"""Doctor's checks of the job file, and of its root: may it be written, who is at work on it, what is published from it,
and can the sinks be reached."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import replace
from zoneinfo import ZoneInfo

from pipelines.checks.doctor_request import DoctorRequest
from pipelines.checks.findings import Finding, ok, problem, warning

OLD_DAYS = 1  # that what is published may lie behind the night


def job(request: DoctorRequest) -> Iterator[Finding]:
    """The job file and the Beam options."""
    from pipelines.config.beam_options import OptionError
    from pipelines.config.jobs import JobError

    try:
        night = request.night
    except JobError as error:
        for line in str(error).splitlines():
            yield problem("job", line, "see docs/job.md for all settings")
        return
    except OptionError as error:
        yield problem("job", str(error), "check --runner-config and the options for Beam")
        return
    yield ok("job", f"{request.job}, the night of {night.date}, on {night.runner}")


def root(request: DoctorRequest) -> Iterator[Finding]:
    """Whether the root can be written to."""
    path = request.night.job.storage.root
    if request.root_problem:
        fix = "check root ([storage]), and what this user and its credentials may do there"
        yield problem("root", f"{path} cannot be written to: {request.root_problem}", fix)
    else:
        yield ok("root", f"{path} can be written to")


def lock(request: DoctorRequest) -> Iterator[Finding]:
    """Who is at work on the root."""
    from pipelines.base.lock import describe_holder

    if taken := describe_holder(request.night.root.lock):
        yield warning("lock", taken, "wait for it to end, or stop it: until then a night is refused")
    else:
        yield ok("lock", "nobody is at work on this root")


def published(request: DoctorRequest) -> Iterator[Finding]:
    """Which night is served, how old it is, and whether a publication came to no end."""
    from pipelines.night import publication_file
    from transforms.core import files

    night, entry = request.night, publication_file.read(request.night.root)
    if files.exists(night.root.publishing):
        what = f"{night.root.publishing}: a publication was begun and came to no end"
        yield warning("published", what, "run the night again: it finishes that one, or undoes it")
    if entry is None:
        yield ok("published", "nothing yet")
        return
    date = entry.night
    today = dt.datetime.now(ZoneInfo(night.job.logs.time_zone)).date()
    past = min(today, night.date) - date
    what = f"the night of {date}, {entry.users:,} users, since {entry.published_at}"
    if missing := publication_file.missing(night.root):
        yield problem("published", f"{what}; but {missing}", f"run the night of {date} again")
    elif past.days > OLD_DAYS:
        fix = "see why the nights since then failed: run watchnext nightly, or look at what its schedule wrote"
        yield warning("published", f"{what}: {past.days} days old", fix)
    else:
        yield ok("published", what)


def sinks(request: DoctorRequest) -> Iterator[Finding]:
    """Whether every place the lists are loaded into can be reached and used."""
    from pipelines.serving import publication

    night = request.night
    storage = night.job.storage
    if redis := getattr(storage, "redis", None):  # doctor does not wait for a server to come back
        storage = storage.model_copy(update={"redis": redis.model_copy(update={"retry_seconds": 0})})
        night = replace(night, job=night.job.model_copy(update={"storage": storage}))
    places = publication.configured_sinks(night)
    for place in places:
        try:
            place.ready()
        except Exception as error:
            fix = f"start it, or mend [storage.{place.name}] in the job file"
            yield problem("sinks", f"{place.name}: {error}", fix)
        else:
            yield ok("sinks", f"{place.name} can be reached")
    if not places:
        yield ok("sinks", "none beside the night's files")
