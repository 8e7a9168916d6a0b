"""Switching from one publication to the next, in the files of ROOT and in every configured sink, or in none."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import polars as pl

from pipelines import gates
from pipelines.base import lock, manifest, paths, published_lists
from pipelines.base.published_lists import PublishedLists, PublishedListsError, Reference
from pipelines.night import publication_file, sink_protocol
from pipelines.night.errors import GateError, StageError, user_message
from pipelines.night.publication_file import LISTS, NEIGHBOURS, to_json
from pipelines.night.publication_file import read as read
from pipelines.night.sink_protocol import NightFiles, Sink
from pipelines.night.stage import Night
from pipelines.serving.publish_journal import FORMAT_VERSION, Intent, IntentError
from pipelines.sinks.bigquery_sink import BigQuerySink
from pipelines.sinks.bigtable_sink import BigtableSink
from pipelines.sinks.redis_sink import RedisSink
from transforms.core import files

RECALL = "recall"  # in the counts of stage publish, and in `published.json`: of the lists that were published


def configured_sinks(night: Night) -> list[Sink]:
    """The sinks that the night's job names."""
    storage, found = night.job.storage, list[Sink]()
    if storage.redis:
        found.append(RedisSink(night, storage.redis))
    if storage.bigtable:
        found.append(BigtableSink(night, storage.bigtable))
    if storage.bigquery:
        found.append(BigQuerySink(night, storage.bigquery))
    return found


def serve(night: Night, *, withdrawn: Iterable[str] = ()) -> dict[str, Any]:
    """Serve the lists that a night was last published with, or that passed its gates if it never was; what each sink
    was loaded with, by name.

    The nights of the dates `withdrawn` are taken back, this one no more. If a sink fails before all are loaded, nothing
    has changed; if one fails after that, the next start finishes. Raises StageError if the night has no such lists.
    """
    lists = publication_file.accepted(night.root, night.date)
    if lists is None:
        raise StageError(f"the night of {night.date} has no complete lists: run watchnext nightly --date {night.date}")
    with add_served_night(night):
        check_files(night, lists)
    return serve_lists(night, lists, _summary(night), withdrawn)


def _summary(night: Night) -> dict[str, Any]:
    """What `published.json` says of the gates and the recall of the lists that the night was last published with,
    whatever its stages found since."""
    done = manifest.record(night.folder("publish"))
    if done is None or LISTS not in done.counts:
        return gates.summary(night)
    short = {name: value for name, value in done.counts["gates"].items() if name != "failed"}
    return {"gates": short} | {name: value for name, value in done.counts.items() if name == RECALL}


def serve_lists(
    night: Night, lists: PublishedLists, summary: dict[str, Any], withdrawn: Iterable[str]
) -> dict[str, Any]:
    given, places = sink_protocol.night_files(night.root, lists), configured_sinks(night)
    with add_served_night(night):
        for sink in places:
            sink.ready()
        entry = _entry(night, lists, {sink.name: sink.version(given) for sink in places}, summary)
        intent = Intent(entry=entry, withdrawn=[*withdrawn])
        intent.declare(night.root)
        loaded = _load(night, intent, places, given)
        replace(intent, loaded=True).declare(night.root)
        _finish(night, intent, places)
    return loaded


def recover(night: Night) -> str:
    """Finish or undo a publication that came to no end, of whatever night, and restore a lost `published.json`; what
    was done, in a line, empty if there is nothing to say."""
    return finish(night) or restore(night)


def finish(night: Night) -> str:
    """Finish or undo a publication that came to no end; what was done about an intent that cannot be read."""
    try:
        intent = Intent.pending(night.root)
    except IntentError as error:
        with add_served_night(night):
            _serve_what_is_published(night)
        return f"{error}: every sink serves again what {night.root.published} says"
    if intent is not None:
        _end(night, intent)
    return ""


def _end(night: Night, intent: Intent) -> None:
    """Finish or undo a publication."""
    of = replace(night, date=dt.date.fromisoformat(intent.entry["date"]))
    places = configured_sinks(of)
    with add_served_night(night):
        if _is_published(of, intent):
            _settle(of, intent, places)
        elif intent.loaded and _is_there(of, intent, places):
            _finish(of, intent, places)
        else:
            _undo(of, intent, places)


def restore(night: Night) -> str:
    """Serve the newest publication that was not taken back, if `published.json` is damaged or gone."""
    if not publication_file.is_lost(night.root):
        return ""
    date = publication_file.newest_publication(night.root)
    if date is None:
        raise StageError(f"{night.root.published} is damaged, and no night was published: remove it, then run again")
    serve(replace(night, date=date))
    return f"{night.root.published} was lost: the night of {date}, the newest that was published, is served again"


def _serve_what_is_published(night: Night) -> None:
    """Let every sink serve what `published.json` says and hold nothing else but what was served before; remove an
    intent that cannot be read."""
    truth = (publication_file.read_if_valid(night.root) or {}).get("sinks", {})
    for sink in configured_sinks(night):
        lock.require()
        known = truth.get(sink.name, {})
        sink.switch(known.get("serves"))
        sink.settle({version for version in known.values() if version})
    files.remove_files([night.root.publishing])


def forget(night: Night, forgotten: pl.Series) -> None:
    """Let users who were taken out of the files leave `published.json` and the sinks too."""
    entry = publication_file.read_if_valid(night.root)
    if entry and (fresh := publication_file.refreshed(night.root, entry)) != entry:
        lock.require()
        files.replace_file(night.root.published, to_json(fresh))
    try:
        intent = Intent.pending(night.root)
    except IntentError:
        intent = None
    if intent and (fresh := publication_file.refreshed(night.root, intent.entry)) != intent.entry:
        replace(intent, entry=fresh).declare(night.root)
    for sink in configured_sinks(night):
        sink.forget(forgotten)


def _entry(night: Night, lists: PublishedLists, versions: dict[str, str], summary: dict[str, Any]) -> dict[str, Any]:
    """The content of `published.json` that serves these lists."""
    served = publication_file.read_if_valid(night.root) or {}
    before = _before(night, lists, served)
    sinks = served.get("sinks", {})
    if not served and before:  # `published.json` was lost: what the sinks served before is known from the lists
        given = sink_protocol.night_files(night.root, published_lists.read(night.root, Reference(**before[LISTS])))
        sinks = {sink.name: {"serves": sink.version(given)} for sink in configured_sinks(night)}
    entry = {
        "format_version": FORMAT_VERSION,
        "date": night.date.isoformat(),
        "stage": lists.stage,
        "neighbours": lists.neighbours,
        "users": lists.users,
        "buckets": lists.buckets,
        LISTS: published_lists.write(night.root, lists).model_dump(),
        **({"before": before} if before else {}),
        "published_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        **summary,
    }
    of_sinks = {name: _served(version, sinks.get(name, {})) for name, version in versions.items()}
    return entry | ({"sinks": of_sinks} if of_sinks else {})


def _before(night: Night, lists: PublishedLists, served: dict[str, Any]) -> dict[str, Any] | None:
    """The publication before these lists, as `published.json` names it: what is served now, or, if that is the same
    lists, what was served before it."""
    if not served:
        date = publication_file.newest_publication(night.root, night.date)
        found = publication_file.last_published(night.root, date) if date else None
        return {"date": str(date), LISTS: published_lists.write(night.root, found).model_dump()} if found else None
    if LISTS not in served:
        return None
    try:
        found = published_lists.read(night.root, Reference(**served[LISTS]))
        if (found.date, found.attempt) == (lists.date, lists.attempt):
            return dict(served["before"]) if served.get("before") else None
    except PublishedListsError:  # lost: nobody can read it, so nothing of it is kept
        return dict(served["before"]) if served.get("before") else None
    return {"date": served["date"], LISTS: served[LISTS]}


def _served(version: str, before: dict[str, str | None]) -> dict[str, str | None]:
    """What a sink serves, and what it served before that: the same twice is the same once."""
    same = before.get("serves") == version
    return {"serves": version, "before": before.get("before") if same else before.get("serves")}


def check_files(night: Night, lists: PublishedLists) -> None:
    """Check that every file that is served is whole, and the video vectors if a sink loads them. Raises StageError,
    which names the file and the stage to run again."""
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
                f"{path} is not the file stage {stage} wrote: run the night again from {stage} ({command})"
            )


def _load(night: Night, intent: Intent, places: list[Sink], given: NightFiles) -> dict[str, Any]:
    try:
        return {sink.name: sink.load(given) for sink in places}
    except Exception:
        try:
            _undo(night, intent, places)
        except Exception as error:  # a sink that is gone, mostly: the next start tries again
            if user_message(error) is None:
                raise
        raise


def _is_there(night: Night, intent: Intent, places: list[Sink]) -> bool:
    """Whether the lists are still those that were loaded, and the sinks those they were loaded into; what a sink has
    lost since is loaded again."""
    lists = _lists_of(night, intent)
    if lists is None:
        return False
    given = sink_protocol.night_files(night.root, lists)
    versions = {name: served["serves"] for name, served in intent.entry.get("sinks", {}).items()}
    if versions != {sink.name: sink.version(given) for sink in places}:
        return False
    check_files(night, lists)
    for sink in places:
        sink.load(given)
    return True


def _lists_of(night: Night, intent: Intent) -> PublishedLists | None:
    """The lists that an intent is about; None if they are gone. An intent of an older watchnext names none: those that
    the stages of its night left."""
    if LISTS not in intent.entry:
        return publication_file.from_stages_if_complete(night.root, night.date)
    try:
        return published_lists.read(night.root, Reference(**intent.entry[LISTS]))
    except PublishedListsError:
        return None


def _finish(night: Night, intent: Intent, places: list[Sink]) -> None:
    served = intent.entry.get("sinks", {})
    for sink in places:
        if sink.name in served:
            lock.require()
            sink.switch(served[sink.name]["serves"])
    lock.require()
    before = publication_file.withdrawn(night.root)
    after = (before | set(intent.withdrawn)) - {intent.entry["date"]}
    if after != before:
        files.replace_file(night.root.withdrawn, to_json(sorted(after)))
    files.replace_file(night.root.published, to_json(intent.entry))
    _settle(night, intent, places)


def _is_published(night: Night, intent: Intent) -> bool:
    served = publication_file.read_if_valid(night.root) or {}
    return all(served.get(name) == intent.entry.get(name) for name in ("date", "published_at", "sinks", LISTS))


def _settle(night: Night, intent: Intent, places: list[Sink]) -> None:
    """Let go of what is neither served nor was before."""
    served = intent.entry.get("sinks", {})
    for sink in places:
        if sink.name in served:
            sink.settle({version for version in served[sink.name].values() if version})
    publication_file.prune(night.root, intent.entry)
    files.remove_files([night.root.publishing])


def _undo(night: Night, intent: Intent, places: list[Sink]) -> None:
    """Every sink serves what it did before, and holds nothing of the night. Raises LockError if this run lost its lock:
    what the sinks hold may be the other run's."""
    lock.require()
    served = intent.entry.get("sinks", {})
    truth = (publication_file.read_if_valid(night.root) or {}).get("sinks", {})
    for sink in places:
        if sink.name in served:
            version, known = served[sink.name]["serves"], truth.get(sink.name, {})
            if intent.loaded:
                sink.switch(known.get("serves"))
            if version not in known.values():
                sink.drop(version)
    publication_file.prune(night.root)
    files.remove_files([night.root.publishing])


@contextmanager
def add_served_night(night: Night) -> Iterator[None]:
    """Add to the message of an expected error which night is served; any other error passes as it is."""
    try:
        yield
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        served = publication_file.read_if_valid(night.root)
        if message.endswith(" is served meanwhile"):
            raise
        meanwhile = f"the night of {served['date']}" if served else "no night"
        kind = GateError if isinstance(error, GateError) else StageError
        raise kind(f"{message}; {meanwhile} is served meanwhile") from error
