"""Show what a nightly run would do and why, stage by stage, without running anything.

    vocabulary complete
    examples   would run  settings changed: examples.per_user 20 -> 30
    train      may run    depends on whether the output of examples changes

The output of an earlier stage is not known before it runs, so a complete stage after it may remain complete.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from pipelines.base import console, lock, manifest
from pipelines.base.manifest import Manifest, ManifestError
from pipelines.night.errors import user_message
from pipelines.night.night import Night
from pipelines.night.stage import Plan, load_stage

_NO_SETTING = "(no such setting)"
State = Literal["complete", "would run", "may run", "would fail"]


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What a run would do with one stage."""

    date: str
    stage: str
    state: State
    why: str = ""


def show(night: Night, dates: Sequence[dt.date], stages: Sequence[str], *, as_json: bool) -> int:
    """Print the outlook of some nights to the standard output, one line per stage. Return the exit code, always 0."""
    if (holder := lock.describe_holder(night.root.lock)) and not as_json:
        print(f"{console.printable(holder)}: its results may change this forecast")
    for date in dates:
        if not as_json and len(dates) > 1:
            print(f"night {date}")
        for one in outlooks(night if date == night.date else replace(night, date=date, reingest=()), stages):
            text = f"{one.stage:<10} {one.state:<10} {one.why}".rstrip()
            print(json.dumps(asdict(one)) if as_json else console.printable(text))
    return 0


def outlooks(night: Night, stages: Sequence[str]) -> list[Outlook]:
    """Return what a run of these stages would do."""
    found: list[Outlook] = []
    for stage in stages:
        earlier = next((one.stage for one in reversed(found) if one.state != "complete"), None)
        state, why = _outlook(night, stage, earlier)
        found.append(Outlook(date=night.date.isoformat(), stage=stage, state=state, why=why))
    return found


def _outlook(night: Night, stage: str, earlier: str | None) -> tuple[State, str]:
    """Return the state of a stage and the reason. earlier: the last stage before it that is not complete."""
    before, plan = manifest.record(night.folder(stage)), None
    try:
        plan = load_stage(stage).plan(night)
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        if earlier is None or not isinstance(error, ManifestError):  # otherwise an earlier stage creates the input
            return "would fail", message
    if before is None:
        return "would run", "it never ran"
    if before.dropped == "":
        return "would run", "its output was dropped, because the night is older than storage.keep_nights"
    if plan is None:
        return "would run", f"after {earlier}, which creates its input"
    if not plan.matches(before):
        return "would run", "; ".join(reasons(before, plan))
    if again := plan.rerun_reason(night, before):
        return "would run", again
    return ("may run", f"depends on whether the output of {earlier} changes") if earlier else ("complete", "")


def reasons(before: Manifest, plan: Plan) -> Iterator[str]:
    """Yield the reasons, at least one, why a stage that was complete before has to run again."""
    if plan.due:
        yield plan.due
        return
    if not before.inputs and not before.settings:
        yield "inputs or settings changed; its manifest is too old to contain them"
        return
    names = sorted({*before.inputs, *plan.inputs})
    if changed := [name for name in names if before.inputs.get(name) != plan.inputs.get(name)]:
        yield f"inputs changed: {', '.join(changed)}"
    now = json.loads(json.dumps(plan.settings, default=str))
    if differ := [f"{name} {old} -> {new}" for name, old, new in changed_settings(before.settings, now)]:
        yield f"settings changed: {', '.join(differ)}"
    if not changed and not differ:
        yield "another version of watchnext ran it"


def changed_settings(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return (name, value before, value after), as JSON, of the settings of two manifests that differ, by name."""
    was, now = dict(_leaves(before)), dict(_leaves(after))
    pairs = [(name, was.get(name, _NO_SETTING), now.get(name, _NO_SETTING)) for name in sorted({*was, *now})]
    return [pair for pair in pairs if pair[1] != pair[2]]


def _leaves(settings: dict[str, Any], table: str = "") -> Iterator[tuple[str, str]]:
    """Yield (name as in the job file, value as JSON) of each setting."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{table}{name}.")
        else:
            yield f"{table}{name}", json.dumps(value)
