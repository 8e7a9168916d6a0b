"""What a nightly run would do and why, stage by stage, from reading alone.

    vocabulary complete
    examples   would run  settings changed: examples.per_user 20 -> 30
    train      may run    after examples: where that leaves something else

What an earlier stage will leave is not known before it ran: a stage after it that is complete so far may stay so.
"""

from __future__ import annotations

import datetime as dt
import importlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from pipelines.base import console, lock, manifest
from pipelines.base.manifest import Manifest, ManifestError
from pipelines.night.errors import user_message
from pipelines.night.stage import Night, Plan

_NO_SETTING = "(no such setting)"
State = Literal["complete", "would run", "may run", "would fail"]


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What would become of a stage."""

    date: str
    stage: str
    state: State
    why: str = ""


def show(night: Night, dates: Sequence[dt.date], stages: Sequence[str], *, as_json: bool) -> int:
    """Print the outlook of some nights on the standard output, a line a stage; always 0, the exit code."""
    if (holder := lock.describe_holder(night.root.lock)) and not as_json:
        print(f"{console.printable(holder)}: what it does meanwhile may change this")
    for date in dates:
        if not as_json and len(dates) > 1:
            print(f"night {date}")
        for one in outlooks(night if date == night.date else replace(night, date=date, reingest=()), stages):
            text = f"{one.stage:<10} {one.state:<10} {one.why}".rstrip()
            print(json.dumps(asdict(one)) if as_json else console.printable(text))
    return 0


def outlooks(night: Night, stages: Sequence[str]) -> list[Outlook]:
    """What a run of these stages would do."""
    found: list[Outlook] = []
    for stage in stages:
        earlier = next((one.stage for one in reversed(found) if one.state != "complete"), None)
        state, why = _outlook(night, stage, earlier)
        found.append(Outlook(date=night.date.isoformat(), stage=stage, state=state, why=why))
    return found


def _outlook(night: Night, stage: str, earlier: str | None) -> tuple[State, str]:
    """State and reason of a stage; `earlier`: the last one before it that is not complete."""
    before, plan = manifest.record(night.folder(stage)), None
    try:
        plan = importlib.import_module(f"pipelines.{stage}").plan(night)
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        if earlier is None or not isinstance(error, ManifestError):  # else what it reads is yet to be made
            return "would fail", message
    if before is None:
        return "would run", "it never ran"
    if before.dropped == "":
        return "would run", "what it left was dropped, as the night is older than storage.keep_nights"
    if plan is None:
        return "would run", f"after {earlier}, which leaves what it reads"
    if not plan.is_met_by(before):
        return "would run", "; ".join(reasons(before, plan))
    if again := plan.again(night, before):
        return "would run", again
    return ("may run", f"after {earlier}: where that leaves something else") if earlier else ("complete", "")


def reasons(before: Manifest, plan: Plan) -> Iterator[str]:
    """Why a stage that was complete once is to run again, in words: at least one."""
    if plan.due:
        yield plan.due
        return
    if not before.inputs and not before.settings:
        yield "inputs or settings changed; its manifest is too old to say which"
        return
    names = sorted({*before.inputs, *plan.inputs})
    if changed := [name for name in names if before.inputs.get(name) != plan.inputs.get(name)]:
        yield f"inputs changed: {', '.join(changed)}"
    was, now = dict(_leaves(before.settings)), dict(_leaves(json.loads(json.dumps(plan.settings, default=str))))
    was, now = dict(_leaves(before.settings)), dict(_leaves(json.loads(json.dumps(plan.settings, default=str))))
    told = [(name, was.get(name, _NO_SETTING), now.get(name, _NO_SETTING)) for name in sorted({*was, *now})]
    if differ := [f"{name} {old} -> {new}" for name, old, new in told if old != new]:
        yield f"settings changed: {', '.join(differ)}"
    if not changed and not differ:
        yield "it was done by another version of watchnext"


def _leaves(settings: dict[str, Any], table: str = "") -> Iterator[tuple[str, str]]:
    """(name as in the job file, value as JSON) of every setting."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{table}{name}.")
        else:
            yield f"{table}{name}", json.dumps(value)
