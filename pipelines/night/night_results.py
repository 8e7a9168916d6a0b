"""Read the figures of a night and the results of its gates: `evaluation/metrics.json` and `gates.json`.

`GateResults` describes `nights/DATE/gates.json`. Both files are kept forever, so files of older versions must be
readable: each field that was added later has a default value.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.base import paths
from pipelines.base.manifest import ManifestError
from pipelines.night.night import Night
from pipelines.night.outputs import GateSummary
from transforms.core import files
from transforms.core.messages import invalid_fields
from transforms.evaluation import night_metrics
from transforms.evaluation.gates import Gate, State
from transforms.evaluation.night_metrics import NightMetrics

STATES: tuple[State, ...] = ("passed", "failed", "not computed")


class GateResults(BaseModel):
    """The results of all gates of one night."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1] = 1
    date: str
    status: Literal["passed", "ungated", "failed", "forced"]
    why: str  # of an ungated night, or the reason given for a forced publication
    compared_with: str | None  # date of the night before
    counts: dict[State, int] = {}  # gates by state; older files have none
    gates: tuple[Gate, ...]

    def in_state(self, state: State) -> list[Gate]:
        return [gate for gate in self.gates if gate.state == state]

    @property
    def unexpected(self) -> list[Gate]:
        """Return the gates that should have been computed and were not."""
        return [gate for gate in self.in_state("not computed") if not gate.expected]

    def summary(self) -> GateSummary:
        """Return what the manifest of stage publish holds of the gates."""
        return GateSummary(
            status=self.status,
            why=self.why,
            failed=tuple(gate.name for gate in self.in_state("failed")),
            not_computed={gate.name: gate.reason or gate.message for gate in self.in_state("not computed")},
        )

    def in_words(self) -> str:
        """Return the number of gates in each state, and which were not computed or could not have failed, and why, in
        one line."""
        counted = [f"{len(self.in_state(state))} {state}" for state in STATES if self.in_state(state)]
        gates_of: dict[str, list[str]] = {}
        for gate in self.in_state("not computed"):
            gates_of.setdefault(gate.reason or gate.message, []).append(gate.name)
        for gate in self.in_state("passed"):
            if gate.note:
                gates_of.setdefault(gate.note, []).append(gate.name)
        reasons = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in gates_of.items())
        return f"gates: {', '.join(counted) or 'none'}" + (f" ({reasons})" if reasons else "")


def night_before(night: Night, results: GateResults | None) -> Night | None:
    """Return the night that the gates compared this one with; None if there is none."""
    date = results.compared_with if results else None
    return replace(night, date=dt.date.fromisoformat(date)) if date else None


def gates(night: Night) -> GateResults | None:
    """Return the results of the night's gates; None before stage publish computed them.

    Raises ManifestError for a file that cannot be read.
    """
    path = night.root.gates(night.date)
    if not files.exists(path):
        return None
    try:
        return GateResults.model_validate(json.loads(files.read_bytes(path)))
    except ValueError as error:
        fault = invalid_fields(error) if isinstance(error, ValidationError) else str(error)
        raise ManifestError(f"{path} cannot be read ({fault}): remove it; stage publish writes it anew") from None


def metrics(night: Night) -> NightMetrics | None:
    """Return the figures of stage evaluation; None if missing or in another format. Raises ManifestError if damaged."""
    path = metrics_path(night)
    if not files.exists(path):
        return None
    try:
        return night_metrics.read(files.read_bytes(path))
    except ValueError as error:
        again = "remove the COMPLETED next to it and run the night again from evaluation"
        raise ManifestError(f"{path} cannot be read ({error}): {again}") from None


def metrics_path(night: Night) -> str:
    return paths.join(night.folder("evaluation"), night_metrics.FILE)
