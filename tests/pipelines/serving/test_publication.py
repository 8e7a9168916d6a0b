"""The decisions of a publication's recovery; whole recoveries are in tests/pipelines/test_publish.py."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.night.publication_file import Published, SinkVersions
from pipelines.serving.publication import Recovery, UndoStep, recovery_of, served_versions, undo_steps
from pipelines.serving.publish_journal import Intent

ENTRY: dict[str, Any] = {
    "date": "2026-11-21",
    "published_at": "2026-11-21T04:05:06+00:00",
    "lists": {"file": "nights/2026-11-21/publish/lists-aa.json", "digest": "aa"},
    "sinks": {"redis": {"serves": "v2", "before": "v1"}, "bigtable": {"serves": "w2", "before": None}},
}


@pytest.mark.parametrize(
    ("published", "loaded", "recovery"),
    [
        (ENTRY | {"users": 7}, True, "settle"),
        (ENTRY, False, "settle"),
        (ENTRY | {"published_at": "2026-11-20T04:05:06+00:00"}, True, "finish"),
        ({}, True, "finish"),
        ({}, False, "undo"),
        (ENTRY | {"sinks": {}}, False, "undo"),
    ],
)
def test_recovery_depends_on_the_publication(published: dict[str, Any], loaded: bool, recovery: Recovery) -> None:
    given = Published.model_validate(published) if published else None
    assert recovery_of(Intent(entry=ENTRY, loaded=loaded), given) == recovery


@pytest.mark.parametrize("loaded", [False, True])
def test_undo_restores_the_served_version_and_drops_the_new_one(loaded: bool) -> None:
    published = Published(date="2026-11-20", sinks={"redis": SinkVersions(serves="v1", before="v0")})
    assert undo_steps(Intent(entry=ENTRY, loaded=loaded), published) == {
        "redis": UndoStep(switch=loaded, serves="v1", drop="v2"),
        "bigtable": UndoStep(switch=loaded, serves=None, drop="w2"),
    }


@pytest.mark.parametrize("known", [{"serves": "v2"}, {"serves": "v3", "before": "v2"}])
def test_undo_keeps_a_version_that_was_served_before(known: dict[str, str]) -> None:
    steps = undo_steps(Intent(entry=ENTRY), Published(date="2026-11-20", sinks={"redis": known}))
    assert steps["redis"] == UndoStep(switch=False, serves=known["serves"], drop=None)


def test_undo_of_a_publication_without_sinks_has_no_steps() -> None:
    assert undo_steps(Intent(entry={"date": "2026-11-21"}), Published.model_validate(ENTRY)) == {}


@pytest.mark.parametrize(
    ("before", "versions"),
    [
        ({}, {"serves": "v2", "before": None}),
        ({"serves": "v1", "before": "v0"}, {"serves": "v2", "before": "v1"}),
        ({"serves": "v2", "before": "v1"}, {"serves": "v2", "before": "v1"}),
    ],
)
def test_the_version_before_stays(before: dict[str, str | None], versions: dict[str, str | None]) -> None:
    assert served_versions("v2", SinkVersions(**before)) == SinkVersions(**versions)
