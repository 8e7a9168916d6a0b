"""What a night is held against before it is published: figures of its own, and of the night before.

Those are in manifests, metrics and lists; the night before is the newest earlier one that was published and not taken
back.

`nights/DATE/gates.json` says what every gate found, whether or not the night was published: status, why, compared_with
(a date or null), and gates, each with name, value, bound, ok (null: not computed) and message.

| status  | what                                                                                              |
|---------|---------------------------------------------------------------------------------------------------|
| passed  | every gate that is on was passed                                                                  |
| ungated | none failed, but recall was not compared: a first night, or nobody was held out                   |
| failed  | a gate failed: nothing was published                                                              |
| forced  | a gate failed, and the night was published all the same: why is the reason that was given         |
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from pipelines import earlier, evaluation, kept, manifest, paths, train
from pipelines.errors import GateError
from pipelines.gate_settings import Gates
from pipelines.manifest import Manifest
from pipelines.sinks import protocol
from pipelines.stages import Night
from transforms import files, gates, night_metrics
from transforms.compared import Compared, compare
from transforms.gates import Gate, MeasuredNight
from transforms.user_samples import Sample

FORMAT_VERSION = 1
SAMPLED_USERS = 5_000  # whose lists are compared: a mean over them is exact to a hundredth
_DAYS_BEFORE = 7  # that the newest day's volume is held against


@dataclass(frozen=True, kw_only=True)
class Result:
    """What all gates found of one night."""

    status: Literal["passed", "ungated", "failed", "forced"]
    why: str  # of an ungated night, or the reason that a forced one was published for
    compared_with: str | None  # date of the night before
    gates: tuple[Gate, ...]

    def summary(self) -> dict[str, Any]:
        """What manifest and published.json say of it."""
        failed = [gate.name for gate in self.gates if gate.ok is False]
        found = {"status": self.status, "why": self.why, "failed": failed}
        return {name: value for name, value in found.items() if value}


def check(night: Night) -> Result:
    """Hold the night against all gates and write down what they found. Raises GateError where one fails, unless the
    night is to be published in spite of that."""
    found = _result(night)
    content = {"format_version": FORMAT_VERSION, "date": night.date.isoformat(), **asdict(found)}
    files.replace_file(night.root.gates(night.date), json.dumps(content, indent=1).encode())
    if found.status == "failed":
        failed = [gate.message for gate in found.gates if gate.ok is False]
        raise GateError(
            f"{len(failed)} of {sum(gate.ok is not None for gate in found.gates)} gates failed. {'; '.join(failed)}. "
            "Repair it and run the night again, or publish it as it is with --force-publish REASON"
        )
    return found


def read(night: Night) -> dict[str, Any] | None:
    """What `check` wrote; None before the night came to it."""
    path = night.root.gates(night.date)
    return dict(json.loads(files.read_bytes(path))) if files.exists(path) else None


def summary(night: Night) -> dict[str, Any]:
    """What `published.json` says of a night's gates: empty where they were never computed."""
    found = read(night) or {}
    return {"gates": {name: found[name] for name in ("status", "why") if found[name]}} if found else {}


def night_before(night: Night) -> Night | None:
    """The newest earlier night that was published and not taken back."""
    out = earlier.withdrawn(night.root)
    for date in reversed(kept.nights(night.root)):
        if date < night.date and date.isoformat() not in out:
            done = manifest.record(night.root.stage(date, "publish"))
            if done is not None and done.counts.get("published"):
                return replace(night, date=date)
    return None


def _result(night: Night) -> Result:
    before = night_before(night)
    found = tuple(_all(night, before, night.job.gates))
    with_before = before.date.isoformat() if before else None
    if any(gate.ok is False for gate in found):
        forced = night.force_publish
        return Result(status="forced" if forced else "failed", why=forced, compared_with=with_before, gates=found)
    why = _ungated(night, before)
    return Result(status="ungated" if why else "passed", why=why, compared_with=with_before, gates=found)


def _ungated(night: Night, before: Night | None) -> str:
    """Why the night's recall was not held against anything, where it was not."""
    metrics = _metrics(night)
    if not metrics or not metrics["holdout"]:
        return "nobody was held out (examples.holdout_days, holdout_users)"
    return "" if before else "there is no published night before it"


def _all(night: Night, before: Night | None, bounds: Gates) -> Iterator[Gate]:
    """Every gate that is on, in the order of what a person would look at first."""
    made = {stage: manifest.record(night.folder(stage)) for stage in ("train", "index", "neighbours", "evaluation")}
    if bounds.same_night and made["train"]:
        yield gates.same_night(list(_not_of_one_training(night, made["train"], made)))
    yield from _rejects(night, bounds)
    yield from _volumes(night, bounds)
    yield from _skew(night, bounds)
    yield from _index(night, bounds)
    yield from _recall(night, before, bounds)
    yield from _lists(night, before, bounds)


def _not_of_one_training(night: Night, model: Manifest, made: dict[str, Manifest | None]) -> Iterator[str]:
    """What was not made from the model of the night, as its manifests and the model's files say."""
    if model.dropped is None:
        served = [*model.named(train.VECTORS), *model.named(f"{model.counts.get('tower', 'tower')}/")]
        for entry in served:
            path = paths.join(night.folder("train"), entry.name)
            if not files.exists(path) or files.entry_of(night.folder("train"), entry.name).digest != entry.digest:
                yield f"{path} is not the file that the training of {model.date} wrote"
    for stage, done in made.items():
        given = done.inputs if done else {}
        for name, of in (("model", model), ("train", model), ("index", made["index"])):
            if name in given and of is not None and given[name] != of.digest and stage != "train":
                yield f"stage {stage} was done with another {'index' if name == 'index' else 'model'} than the night's"
    for stage, done in made.items():
        if done and done.date != night.date.isoformat():
            yield f"{night.folder(stage)} is of the night of {done.date}"


def _rejects(night: Night, bounds: Gates) -> Iterator[Gate]:
    ingested = night.require("ingest").counts
    if bounds.max_rejects < 1 and "tables" in ingested:
        read_rows = sum(table["read"] for table in ingested["tables"].values())
        yield gates.rejects(read=read_rows, reasons=ingested["rejects"], most=bounds.max_rejects)


def _volumes(night: Night, bounds: Gates) -> Iterator[Gate]:
    """Events by whole days of the job's time zone, as the store's files have them."""
    if not bounds.min_volume and not bounds.max_volume:
        return
    newest = night.date - dt.timedelta(days=1)
    for table, by_day in sorted(night.snapshot.rows_by_day.items()):
        days = [(newest - dt.timedelta(days=n)).isoformat() for n in reversed(range(_DAYS_BEFORE + 1))]
        counts = [by_day.get(day, 0) for day in days if day >= min(by_day)]
        yield gates.volume(table, counts, least=bounds.min_volume, most=bounds.max_volume)


def _skew(night: Night, bounds: Gates) -> Iterator[Gate]:
    examples = _done(night, "examples")
    if bounds.max_skew and examples:
        for feature, sides in sorted(examples.counts.get("features", {}).items()):
            yield gates.skew(feature, sides.get("train", {}), sides.get("serving", {}), most=bounds.max_skew)


def _index(night: Night, bounds: Gates) -> Iterator[Gate]:
    index, short = _done(night, "index"), bounds.max_ann_shortfall
    if index and short < 1:
        recall = index.counts["info"]["candidates"]["recall"]
        yield gates.ann_recall(recall, wanted=night.job.index.recall, most_short=short)


def _recall(night: Night, before: Night | None, bounds: Gates) -> Iterator[Gate]:
    metrics, of_before = _metrics(night), _metrics(before) if before else None
    if not metrics or not metrics["systems"]:
        return
    figure = metrics["gate"]
    if bounds.most_popular:
        yield gates.most_popular(metrics["beside"].get(night_metrics.MOST_POPULAR), figure)
    if bounds.ranking and night.job.logs.impressions:
        yield gates.ranking(metrics.get("ranking"), night.job.ranking.cut)
    if bounds.max_recall_lost < 1 and of_before and of_before["systems"]:
        nights = (_measured(metrics), _measured(of_before))
        yield gates.recall_before(*nights, figure, most_lost=bounds.max_recall_lost)
    loss = metrics["ann_loss"] or {}
    if bounds.max_ann_loss < 1 and night_metrics.EXACT_SEARCH in loss:
        exact = loss[night_metrics.EXACT_SEARCH]
        yield gates.ann_loss(exact, loss[night_metrics.NEIGHBOURS], figure, most_lost=bounds.max_ann_loss)


def _measured(metrics: dict[str, Any]) -> MeasuredNight:
    return MeasuredNight(*(metrics["systems"][name] for name in (night_metrics.NEIGHBOURS, night_metrics.MOST_POPULAR)))


def _lists(night: Night, before: Night | None, bounds: Gates) -> Iterator[Gate]:
    """Gates on the lists that would be served, beside those of the night before."""
    users = protocol.night_files(night).users
    listed_before = manifest.record(before.folder(protocol.served_stage(before))) if before else None
    if bounds.max_users_lost < 1 and listed_before:
        had = sum(entry.rows for entry in protocol.own(listed_before))
        yield gates.users(before=had, tonight=users, most_lost=bounds.max_users_lost)
    index = _done(night, "index")
    if index is None:
        return
    candidates = index.counts["info"]["candidates"]["rows"]
    found = _compared(night, before, users)
    if bounds.min_coverage:
        counted = {"distinct": found.shown.len(), "lists": found.lists, "length": night.job.neighbours.k}
        yield gates.coverage(**counted, candidates=candidates, least=bounds.min_coverage)
    if bounds.max_sameness < 1:
        alike = gates.alike(found.shown, lists=found.lists, candidates=candidates)
        yield gates.sameness(alike, most=bounds.max_sameness)
    if bounds.min_stayed or bounds.max_stayed < 1:
        enough = 2 * night.job.neighbours.k <= candidates
        yield gates.stayed(found.stayed if enough else None, least=bounds.min_stayed, most=bounds.max_stayed)


def _compared(night: Night, before: Night | None, users: int) -> Compared:
    """The lists of a sample of users. Of two bucket counts, both powers of two, users of bucket b of one are in those
    of the other that are b modulo the smaller."""
    tonight, had = _files_of_buckets(night), _files_of_buckets(before) if before else {}
    smaller = min(len(tonight), len(had) or len(tonight))
    sample = Sample.of(users=users, buckets=smaller, most=SAMPLED_USERS)

    def within(found: dict[int, str], bucket: int) -> list[str]:
        return [path for number, path in found.items() if number % smaller == bucket]

    return compare(((within(tonight, b), within(had, b)) for b in range(sample.buckets)), sample)


def _files_of_buckets(night: Night) -> dict[int, str]:
    """Path of the lists of each bucket; none where they were dropped since."""
    stage = protocol.served_stage(night)
    listed = _done(night, stage)
    entries = protocol.own(listed) if listed else []
    return {paths.shard_index(entry.name): paths.join(night.folder(stage), entry.name) for entry in entries}


def _metrics(night: Night) -> dict[str, Any] | None:
    """What stage evaluation measured; None where it did not, or in another format."""
    path = paths.join(night.folder("evaluation"), evaluation.METRICS)
    return night_metrics.parse(files.read_bytes(path)) if files.exists(path) else None


def _done(night: Night, stage: str) -> Manifest | None:
    return manifest.load(night.folder(stage))
