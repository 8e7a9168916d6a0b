"""Switch from one publication to the next, either in the files of ROOT and in all configured sinks, or in none.

`serve_lists` loads all sinks, then switches one after the other. It records the intent in `publishing.json` first, so
that the next start can complete or undo a publication that was interrupted (`recover`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import polars as pl

from pipelines import gates
from pipelines.base import lock, manifest, paths, published_lists
from pipelines.base.published_lists import PublishedLists, PublishedListsError
from pipelines.night import publication_file, sink_protocol
from pipelines.night.errors import GateError, StageError, user_message
from pipelines.night.night import Night
from pipelines.night.outputs import PublishOutputs
from pipelines.night.publication_file import (
    NEIGHBOURS,
    EarlierPublication,
    Published,
    SinkVersions,
    Summary,
    to_json,
)
from pipelines.night.sink_protocol import NightFiles, Sink
from pipelines.serving.publish_journal import Intent, IntentError
from pipelines.sinks.bigquery_sink import BigQuerySink
from pipelines.sinks.bigtable_sink import BigtableSink
from pipelines.sinks.redis_sink import RedisSink
from transforms.core import files

Recovery = Literal["settle", "finish", "undo"]


def configured_sinks(night: Night) -> list[Sink]:
    """Return the sinks that the night's job configures."""
    storage, found = night.job.storage, list[Sink]()
    if storage.redis:
        found.append(RedisSink(night, storage.redis))
    if storage.bigtable:
        found.append(BigtableSink(night, storage.bigtable))
    if storage.bigquery:
        found.append(BigQuerySink(night, storage.bigquery))
    return found


def serve(night: Night, *, withdrawn: Iterable[str] = ()) -> dict[str, Any]:
    """Serve the lists that a night was last published with; if it never was, the lists that passed its gates.

    withdrawn: dates of nights to withdraw; this night no longer counts as withdrawn. Returns the counts of each sink
    by name. If a sink fails before all are loaded, nothing changes. If one fails later, the next start completes the
    switch. Raises StageError if the night has no such lists.
    """
    lists = publication_file.accepted(night.root, night.date)
    if lists is None:
        raise StageError(f"the night of {night.date} has no complete lists: run watchnext nightly --date {night.date}")
    with add_served_night(night):
        check_files(night, lists)
    return serve_lists(night, lists, _published_summary(night), withdrawn)


def _published_summary(night: Night) -> Summary:
    """Return gates and recall of the lists that the night was last published with, even if it ran again later."""
    done = manifest.record(night.folder("publish"))
    outputs = done.read(PublishOutputs) if done else None
    if outputs is None or outputs.gates is None:
        return gates.summary(night)
    return gates.summarize(outputs.gates, outputs.recall)


def serve_lists(night: Night, lists: PublishedLists, summary: Summary, withdrawn: Iterable[str]) -> dict[str, Any]:
    """Load lists into all sinks, then switch all sinks and `published.json` to them. Return the counts of each sink.

    summary: the gates and the recall for `published.json`.
    """
    night_files, sinks = sink_protocol.night_files(night.root, lists), configured_sinks(night)
    with add_served_night(night):
        for sink in sinks:
            sink.ready()
        entry = _entry(night, lists, {sink.name: sink.version(night_files) for sink in sinks}, summary)
        intent = Intent(entry=entry, withdrawn=[*withdrawn])
        intent.declare(night.root)
        loaded = _load(night, intent, sinks, night_files)
        intent.model_copy(update={"loaded": True}).declare(night.root)
        _finish(night, intent, sinks)
    return loaded


def recover(night: Night) -> str:
    """Complete or undo an interrupted publication of any night, and restore a lost `published.json`.

    Returns a message about what was done; empty if there is nothing to report.
    """
    return "; ".join(message for message in (finish(night), restore(night)) if message)


def finish(night: Night) -> str:
    """Complete or undo an interrupted publication. Return a message about it; empty if there was none."""
    try:
        intent = Intent.pending(night.root)
    except IntentError as error:
        with add_served_night(night):
            _reset_sinks(night)
        return f"{error}: all sinks serve again what {night.root.published} names"
    if intent is None:
        return ""
    published_night = replace(night, date=intent.entry.night)
    sinks = configured_sinks(published_night)
    with add_served_night(night):
        recovery = recovery_of(intent, publication_file.read_if_valid(night.root))
        if recovery == "settle":
            _settle(published_night, intent, sinks)
        elif recovery == "finish" and _reload(published_night, intent, sinks):
            _finish(published_night, intent, sinks)
        else:
            recovery = "undo"
            _undo(published_night, intent, sinks)
    result = "undone" if recovery == "undo" else "completed"
    return f"the interrupted publication of the night of {intent.entry.date} was {result}"


def recovery_of(intent: Intent, published: Published | None) -> Recovery:
    """Return how to recover from an interrupted publication. published: the content of `published.json`.

    - settle: `published.json` is already that of the intent; only old versions remain to be removed
    - finish: all sinks were loaded, and some may have been switched
    - undo: not all sinks were loaded, and none was switched
    """
    names = ("date", "published_at", "sinks", "lists")
    if published and all(getattr(published, name) == getattr(intent.entry, name) for name in names):
        return "settle"
    return "finish" if intent.loaded else "undo"


def restore(night: Night) -> str:
    """Serve the newest publication that was not withdrawn, if `published.json` is damaged or missing.

    Returns a message; empty if `published.json` is valid.
    """
    if not publication_file.is_lost(night.root):
        return ""
    date = publication_file.newest_publication(night.root)
    if date is None:
        raise StageError(f"{night.root.published} is damaged, and no night was published: remove it, then run again")
    serve(replace(night, date=date))
    return f"{night.root.published} was lost: the night of {date}, the newest published one, is served again"


def _reset_sinks(night: Night) -> None:
    """Switch all sinks to the versions in `published.json`, and remove other versions and the unreadable intent."""
    published = publication_file.read_if_valid(night.root)
    for sink in configured_sinks(night):
        lock.require()
        versions = _versions(published, sink.name)
        sink.switch(versions.serves)
        sink.settle(versions.all)
    files.remove_files([night.root.publishing])


def forget(night: Night, forgotten: pl.Series) -> None:
    """Remove users, whose data has been removed from the files, from `published.json` and from the sinks."""
    entry = publication_file.read_if_valid(night.root)
    if entry and (fresh := publication_file.refreshed(night.root, entry)) != entry:
        lock.require()
        files.replace_file(night.root.published, fresh.to_json())
    try:
        intent = Intent.pending(night.root)
    except IntentError:
        intent = None
    if intent and (fresh := publication_file.refreshed(night.root, intent.entry)) != intent.entry:
        intent.model_copy(update={"entry": fresh}).declare(night.root)
    for sink in configured_sinks(night):
        sink.forget(forgotten)


def _entry(night: Night, lists: PublishedLists, versions: dict[str, str], summary: Summary) -> Published:
    """Return the content of `published.json` that serves these lists. versions: sink -> version of the lists."""
    served = publication_file.read_if_valid(night.root)
    before = _before(night, lists, served)
    sinks = served.sinks if served else {}
    if (
        not served and before and before.lists
    ):  # `published.json` was lost: derive the versions in the sinks from the lists
        earlier = sink_protocol.night_files(night.root, published_lists.read(night.root, before.lists))
        sinks = {sink.name: SinkVersions(serves=sink.version(earlier)) for sink in configured_sinks(night)}
    fields: dict[str, Any] = {
        "format_version": lists.format_version,
        "date": night.date.isoformat(),
        "stage": lists.stage,
        "neighbours": lists.neighbours,
        "users": lists.users,
        "buckets": lists.buckets,
        "lists": published_lists.write(night.root, lists),
        "published_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        **summary.model_dump(exclude_unset=True),
    }
    if before:
        fields["before"] = before
    if versions:
        unknown = SinkVersions()
        fields["sinks"] = {name: served_versions(new, sinks.get(name, unknown)) for name, new in versions.items()}
    return Published(**fields)


def _before(night: Night, lists: PublishedLists, served: Published | None) -> EarlierPublication | None:
    """Return the publication before these lists: the one served now, or, if it has the same lists, the one before
    it."""
    if served is None:
        date = publication_file.newest_publication(night.root, night.date)
        found = publication_file.last_published(night.root, date) if date else None
        return EarlierPublication(date=str(date), lists=published_lists.write(night.root, found)) if found else None
    if served.lists is None:
        return None
    try:
        found = published_lists.read(night.root, served.lists)
        if (found.date, found.attempt) == (lists.date, lists.attempt):
            return served.before
    except PublishedListsError:  # the current lists are unreadable: keep only the earlier ones
        return served.before
    return EarlierPublication(date=served.date, lists=served.lists)


def _versions(published: Published | None, sink: str) -> SinkVersions:
    """Return the versions of one sink in `published.json`."""
    return (published.sinks if published else {}).get(sink, SinkVersions())


def served_versions(version: str, before: SinkVersions) -> SinkVersions:
    """Return the versions of a sink after a switch to `version`. Serving the same version again keeps `before`."""
    same = before.serves == version
    return SinkVersions(serves=version, before=before.before if same else before.serves)


def check_files(night: Night, lists: PublishedLists) -> None:
    """Check that all served files, and the video vectors if a sink loads them, exist and are not damaged. Raises
    StageError, which names the file and the stage to run again."""
    bigquery = night.job.storage.bigquery
    further = (lists.video_vectors,) if bigquery and bigquery.videos and lists.video_vectors else ()
    for entry in (*lists.entries, *further):
        path = paths.join(night.root.path, entry.name)
        folder, name = path.rsplit("/", 1)
        found = files.file_entry(folder, name) if files.exists(path) else None
        if found is None or (found.bytes, found.digest) != (entry.bytes, entry.digest):
            stage = "train" if entry in further else lists.stage if entry in lists.lists else NEIGHBOURS
            command = f"watchnext nightly JOB.toml --date {lists.date} --from {stage}"
            raise StageError(
                f"{path} is not the file that stage {stage} wrote: run the night again from {stage} ({command})"
            )


def _load(night: Night, intent: Intent, sinks: list[Sink], night_files: NightFiles) -> dict[str, Any]:
    """Load all sinks, or undo the publication and raise the error of the sink that failed."""
    try:
        return {sink.name: sink.load(night_files) for sink in sinks}
    except Exception:
        try:
            _undo(night, intent, sinks)
        except Exception as error:  # usually an unreachable sink: the next start undoes the publication
            if user_message(error) is None:
                raise
        raise


def _reload(night: Night, intent: Intent, sinks: list[Sink]) -> bool:
    """Load again what the sinks may have lost of an intent's lists. Return False if that is not possible, because the
    lists are gone or the sinks are configured differently now."""
    lists = _lists_of(night, intent)
    if lists is None:
        return False
    night_files = sink_protocol.night_files(night.root, lists)
    versions = {name: served.serves for name, served in intent.entry.sinks.items()}
    if versions != {sink.name: sink.version(night_files) for sink in sinks}:
        return False
    check_files(night, lists)
    for sink in sinks:
        sink.load(night_files)
    return True


def _lists_of(night: Night, intent: Intent) -> PublishedLists | None:
    """Return the lists of an intent; None if they are gone. For an intent of an older version, which does not name its
    lists, return those that the stages of its night wrote."""
    if intent.entry.lists is None:
        return publication_file.from_stages_if_complete(night.root, night.date)
    try:
        return published_lists.read(night.root, intent.entry.lists)
    except PublishedListsError:
        return None


def _finish(night: Night, intent: Intent, sinks: list[Sink]) -> None:
    """Switch all sinks, then `withdrawn.json` and `published.json`, to the intent's lists; then settle."""
    served = intent.entry.sinks
    for sink in sinks:
        if sink.name in served:
            lock.require()
            sink.switch(served[sink.name].serves)
    lock.require()
    before = publication_file.withdrawn(night.root)
    after = (before | set(intent.withdrawn)) - {intent.entry.date}
    if after != before:
        files.replace_file(night.root.withdrawn, to_json(sorted(after)))
    files.replace_file(night.root.published, intent.entry.to_json())
    _settle(night, intent, sinks)


def _settle(night: Night, intent: Intent, sinks: list[Sink]) -> None:
    """Let versions expire that are neither served nor the ones served before, and remove the intent."""
    served = intent.entry.sinks
    for sink in sinks:
        if sink.name in served:
            sink.settle(served[sink.name].all)
    publication_file.prune(night.root, intent.entry)
    files.remove_files([night.root.publishing])


@dataclass(frozen=True, kw_only=True)
class UndoStep:
    """How to undo a publication in one sink."""

    switch: bool  # whether the sink may have been switched
    serves: str | None  # the version to switch back to; None: none
    drop: str | None  # the version to remove; None: it was served before, so it remains


def undo_steps(intent: Intent, published: Published | None) -> dict[str, UndoStep]:
    """Return sink -> step to undo an intent. published: the content of `published.json`."""
    steps = {}
    for name, served in intent.entry.sinks.items():
        known = _versions(published, name)
        drop = None if served.serves in known.all else served.serves
        steps[name] = UndoStep(switch=intent.loaded, serves=known.serves, drop=drop)
    return steps


def _undo(night: Night, intent: Intent, sinks: list[Sink]) -> None:
    """Switch all sinks back to what they served before, and remove the intent's version and the intent.

    Raises LockError if this run lost its lock, because the version may belong to the run that took it over.
    """
    lock.require()
    steps = undo_steps(intent, publication_file.read_if_valid(night.root))
    for sink in sinks:
        if step := steps.get(sink.name):
            if step.switch:
                sink.switch(step.serves)
            if step.drop is not None:
                sink.drop(step.drop)
    publication_file.prune(night.root)
    files.remove_files([night.root.publishing])


@contextmanager
def add_served_night(night: Night) -> Iterator[None]:
    """Add the served night to the message of an expected error in the `with` block; other errors are not changed."""
    try:
        yield
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        served = publication_file.read_if_valid(night.root)
        if message.endswith(" is served meanwhile"):
            raise
        meanwhile = f"the night of {served.date}" if served else "no night"
        kind = GateError if isinstance(error, GateError) else StageError
        raise kind(f"{message}; {meanwhile} is served meanwhile") from error
