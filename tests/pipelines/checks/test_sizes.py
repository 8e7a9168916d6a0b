from __future__ import annotations

from pathlib import Path

import pytest
from damage import limit_free_space
from findings import only, request_of, request_with_watches
from nights import DATAFLOW

from pipelines.base import machine
from pipelines.base.machine import Memory
from pipelines.checks import sizes as doctor_sizes
from pipelines.night.stage import STAGES

GIB = 2**30


@pytest.mark.parametrize(
    ("limit", "free", "by", "state", "what"),
    [
        (64.0, 60.0, "machine", "ok", "this machine has 64.0 GiB; all stages:"),
        (64.0, 0.5, "machine", "warning", "but 0.5 GiB are free now"),
        (1.2, 1.2, "machine", "warning", "this machine has 1.2 GiB"),
        (0.5, 0.5, "cgroup", "problem", "the control group (container or unit) of this process has 0.5 GiB"),
    ],
)
def test_the_stage_that_needs_most_is_held_against_the_machine(
    limit: float, free: float, by: str, state: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have = Memory(limit_bytes=round(limit * GIB), free_bytes=round(free * GIB), limited_by=by)
    monkeypatch.setattr(machine, "memory", lambda: have)
    found = only(doctor_sizes.memory(request_with_watches(tmp_path)))
    assert found.state == state and what in found.what and found.what.startswith("stage train is estimated to need 1.1")
    assert [line.split()[0] for line in found.details] == ["stage", *STAGES]
    assert state == "ok" or found.fix


def test_the_finding_names_the_setting_that_reduces_a_stage_s_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have = Memory(limit_bytes=GIB // 2, free_bytes=GIB // 2, limited_by="machine")
    monkeypatch.setattr(machine, "memory", lambda: have)
    assert only(doctor_sizes.memory(request_with_watches(tmp_path))).fix.startswith("lower dimension ([model])")


@pytest.mark.parametrize(("free", "state"), [(10**12, "ok"), (10_000, "problem")])
def test_free_space_and_the_estimate(free: int, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_free_space(monkeypatch, free)
    found = only(doctor_sizes.disk(request_with_watches(tmp_path)))
    assert found.state == state and "a night is estimated to need " in found.what
    assert found.what.endswith(f"are free below {tmp_path / 'runs'}")


def test_time_and_money(tmp_path: Path) -> None:
    plain = only(doctor_sizes.time(request_with_watches(tmp_path))).what
    assert plain.startswith("about ") and plain.endswith("in stage train (within a factor of three)")
    priced = only(doctor_sizes.time(request_with_watches(tmp_path, price_per_core_hour=100.0))).what
    hours, cost = priced.split("Beam's stages need ")[1].split(" core-hours without worker start-up: ")
    assert cost.endswith(" at 100") and float(cost.split()[0]) == pytest.approx(100 * float(hours), abs=0.6)
    dataflow = request_with_watches(tmp_path, flags=DATAFLOW)
    assert "; --price-per-core-hour estimates the cost" in only(doctor_sizes.time(dataflow)).what


def test_settings_that_are_auto_are_estimated(tmp_path: Path) -> None:
    found = only(doctor_sizes.auto(request_with_watches(tmp_path, "[model]\nnegatives = 9")))
    assert any(line.startswith("loss = softmax (") for line in found.details)
    assert not any(line.startswith("negatives") for line in found.details)
    assert any(line.startswith("holdout_users = 0.5 (") for line in found.details)
    assert any(line.startswith("partial_watches = ") for line in found.details)
    assert any(line.startswith("transitions = 0.3 (") for line in found.details)
    for by_hand in ("holdout_users = 0.05", "holdout_days = 0"):
        found = only(doctor_sizes.auto(request_with_watches(tmp_path, f"[examples]\n{by_hand}\n")))
        assert not any(line.startswith("holdout_users") for line in found.details)


def test_without_logs_nothing_is_estimated(tmp_path: Path) -> None:
    request = request_of(tmp_path, 'watches = "nowhere"')
    assert only(doctor_sizes.memory(request)).what == "not checked: there are no logs for an estimate"
    assert only(doctor_sizes.disk(request)).what == "not checked: there are no logs for an estimate"
    assert list(doctor_sizes.time(request)) == []


@pytest.mark.parametrize(("seconds", "text"), [(7.4, "7 s"), (600, "10 min"), (9_000, "2.5 h")])
def test_durations_as_people_read_them(seconds: float, text: str) -> None:
    assert doctor_sizes.duration(seconds) == text
