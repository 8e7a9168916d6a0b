"""Stage 9: make the night the one that is served, in its files and in every configured sink, or in none.

neighbours (or ranking), evaluation -> every list file is whole -> gates -> every sink is loaded -> each is switched
                                    -> ROOT/published.json names the night

`published.json` is the truth. `publishing.json` says what is under way, before any sink is touched: whoever finds it at
a start finishes what was loaded everywhere and undoes what was not (`recover`).
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import polars as pl

from pipelines import earlier, gates, lock, manifest, nights_page, paths, retention
from pipelines.errors import GateError, StageError, told
from pipelines.intent import FORMAT_VERSION, Intent, to_json
from pipelines.sinks import protocol
from pipelines.sinks.bigquery_sink import BigQuerySink
from pipelines.sinks.bigtable_sink import BigtableSink
from pipelines.sinks.protocol import NEIGHBOURS, NightFiles, Sink
from pipelines.sinks.redis_sink import RedisSink
from pipelines.stages import Night, Plan, StageResult, complete, stage_main
from transforms import files


def plan(night: Night) -> Plan:
    """Depends on the lists, on their evaluation, and on where they are served from."""
    stages = (NEIGHBOURS, protocol.served_stage(night), "evaluation")
    inputs, places = {stage: night.require(stage).digest for stage in stages}, protocol.settings(night.job)
    due = "a publication came to no end" if files.exists(night.root.publishing) else ""
    return Plan("publish", inputs, {"storage": places} if places else {}, due)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this stage alone."""
    told = "publish the night in spite of gates that fail, and write down why"
    parser.add_argument("--force-publish", type=_reason, metavar="REASON", help=told)


def _reason(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("a reason is needed: it is written to published.json and shown in the report")
    return text.strip()


def run(night: Night) -> None:
    """Publish the night, unless a later one is published: a backfill never moves what is served backwards."""
    with nights_page.kept_up(night):
        complete(night, plan(night), lambda _folder, _attempt: _work(night))
    served = read(night.root)
    retention.apply(night, dt.date.fromisoformat(served["date"]) if served else None)


def _work(night: Night) -> StageResult:
    recover(night)
    _check(night)
    with _explained(night):
        held = gates.check(night)
    counts = {"gates": held.summary(), "notes": gates.notes(held)}
    served = read(night.root)
    if served and served["date"] > night.date.isoformat():
        return StageResult([], {"published": False, "later": served["date"], **counts})
    loaded = _serve(night, ())
    return StageResult([], {"published": True, **counts} | ({"sinks": loaded} if loaded else {}))


def read(root: paths.Root) -> dict[str, Any] | None:
    """What is published, or None before the first night is."""
    if not files.exists(root.published):
        return None
    try:
        return dict(json.loads(files.read_bytes(root.published)))
    except ValueError as error:
        raise StageError(f"{root.published} cannot be read ({error}): run the night again") from error


def configured(night: Night) -> list[Sink]:
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
    """Make a complete night the one that is served; what each sink was loaded with, by name.

    The nights of the dates `withdrawn` are taken back, this one is no more. Where a sink fails before all are loaded,
    nothing has changed; where one fails after that, the next start finishes.
    """
    _check(night)
    return _serve(night, withdrawn)


def _serve(night: Night, withdrawn: Iterable[str]) -> dict[str, Any]:
    given, places = protocol.night_files(night), configured(night)
    intent = Intent(entry=_entry(night, {sink.name: sink.version(given) for sink in places}), withdrawn=[*withdrawn])
    with _explained(night):
        for sink in places:
            sink.ready()
        intent.declare(night.root)
        loaded = _load(night, intent, places, given)
        replace(intent, loaded=True).declare(night.root)
        _finish(night, intent, places)
    return loaded


def recover(night: Night) -> None:
    """Finish or undo a publication that came to no end, of whatever night."""
    intent = Intent.pending(night.root)
    if intent is None:
        return
    of = replace(night, date=dt.date.fromisoformat(intent.entry["date"]))
    places = configured(of)
    with _explained(night):
        if _is_published(of, intent):
            _settle(of, intent, places)
        elif intent.loaded and _is_there(of, intent, places):
            _finish(of, intent, places)
        else:
            _undo(of, intent, places)


def refresh(night: Night, forgotten: pl.Series) -> None:
    """Let users who were taken out of the files leave the sinks and `published.json` too."""
    for sink in configured(night):
        sink.forget(forgotten)
    served = read(night.root)
    if served:
        of = replace(night, date=dt.date.fromisoformat(served["date"]))
        if manifest.load(of.folder(NEIGHBOURS)) is not None:
            changed = {name: value for name, value in _entry(of, {}).items() if name in ("neighbours", "users")}
            if served | changed != served:
                lock.require()
                files.replace_file(night.root.published, to_json(served | changed))


def _entry(night: Night, versions: dict[str, str]) -> dict[str, Any]:
    before = (read(night.root) or {}).get("sinks", {})
    entry = {
        "format_version": FORMAT_VERSION,
        "date": night.date.isoformat(),
        "stage": protocol.served_stage(night),
        "neighbours": night.require(NEIGHBOURS).digest,
        "users": protocol.night_files(night).users,
        "buckets": night.snapshot.buckets,
        "published_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        **gates.summary(night),
    }
    served = {name: _served(version, before.get(name, {})) for name, version in versions.items()}
    return entry | ({"sinks": served} if served else {})


def _served(version: str, before: dict[str, str | None]) -> dict[str, str | None]:
    """What a sink serves, and what it served before that: the same twice is the same once."""
    same = before.get("serves") == version
    return {"serves": version, "before": before.get("before") if same else before.get("serves")}


def _check(night: Night) -> None:
    """Check that every file that is served is whole. Raises StageError, which names the file and its stage."""
    stage = protocol.served_stage(night)
    beside = [entry for entry in night.require(NEIGHBOURS).files if "/" in entry.name]
    for of, listed in ((stage, protocol.own(night.require(stage))), (NEIGHBOURS, beside)):
        for entry in listed:
            path = paths.join(night.folder(of), entry.name)
            if not files.exists(path) or files.entry_of(night.folder(of), entry.name).digest != entry.digest:
                raise StageError(f"{path} is not the file stage {of} wrote: run the night again from {of}")


def _load(night: Night, intent: Intent, places: list[Sink], given: NightFiles) -> dict[str, Any]:
    try:
        return {sink.name: sink.load(given) for sink in places}
    except Exception:
        try:
            _undo(night, intent, places)
        except Exception as error:  # a sink that is gone, mostly: the next start tries again
            if told(error) is None:
                raise
        raise


def _is_there(night: Night, intent: Intent, places: list[Sink]) -> bool:
    """Whether the night is what it was when it was loaded; what a sink has lost since is loaded again."""
    if any(manifest.load(night.folder(stage)) is None for stage in (intent.entry["stage"], NEIGHBOURS)):
        return False
    given = protocol.night_files(night)
    versions = {name: served["serves"] for name, served in intent.entry.get("sinks", {}).items()}
    if versions != {sink.name: sink.version(given) for sink in places}:
        return False
    _check(night)
    for sink in places:
        sink.load(given)
    return True


def _finish(night: Night, intent: Intent, places: list[Sink]) -> None:
    served = intent.entry.get("sinks", {})
    for sink in places:
        if sink.name in served:
            lock.require()
            sink.switch(served[sink.name]["serves"])
    lock.require()
    before = earlier.withdrawn(night.root)
    after = (before | set(intent.withdrawn)) - {intent.entry["date"]}
    if after != before:
        files.replace_file(night.root.withdrawn, to_json(sorted(after)))
    files.replace_file(night.root.published, to_json(intent.entry))
    _settle(night, intent, places)


def _is_published(night: Night, intent: Intent) -> bool:
    served = read(night.root) or {}
    return all(served.get(name) == intent.entry.get(name) for name in ("date", "published_at", "sinks"))


def _settle(night: Night, intent: Intent, places: list[Sink]) -> None:
    """Let go of what is neither served nor was before."""
    served = intent.entry.get("sinks", {})
    for sink in places:
        if sink.name in served:
            sink.settle({version for version in served[sink.name].values() if version})
    files.remove_files([night.root.publishing])


def _undo(night: Night, intent: Intent, places: list[Sink]) -> None:
    """Every sink serves what it did before, and holds nothing of the night. Raises LockError if this run lost its lock:
    what the sinks hold may be the other run's."""
    lock.require()
    served = intent.entry.get("sinks", {})
    truth = (read(night.root) or {}).get("sinks", {})
    for sink in places:
        if sink.name in served:
            version, known = served[sink.name]["serves"], truth.get(sink.name, {})
            if intent.loaded:
                sink.switch(known.get("serves"))
            if version not in known.values():
                sink.drop(version)
    files.remove_files([night.root.publishing])


@contextmanager
def _explained(night: Night) -> Iterator[None]:
    """Add to the message of an expected error which night is served; any other error passes as it is."""
    try:
        yield
    except Exception as error:
        message = told(error)
        if message is None:
            raise
        served = read(night.root)
        meanwhile = f"the night of {served['date']}" if served else "no night"
        kind = GateError if isinstance(error, GateError) else StageError
        raise kind(f"{message}; {meanwhile} is served meanwhile") from error


if __name__ == "__main__":
    raise SystemExit(stage_main(sys.modules[__name__]))
