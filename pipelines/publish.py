"""Stage 9: publish the night in its files and in all configured sinks, or in none of them.

neighbours (or ranking), evaluation -> every file to serve is checked -> gates
                                    -> nights/DATE/publish/lists-DIGEST.json names the files
                                    -> every sink is loaded -> each is switched
                                    -> ROOT/published.json names the night and its file list

`published.json` decides which night is served; if it is lost, the newest publication that was not withdrawn is served
again. `publishing.json` is written before any sink changes: after an interruption, the next start completes the
publication if all sinks were loaded, and undoes it otherwise (`recover`).
"""

from __future__ import annotations

import sys

from pipelines import gates
from pipelines.base import command_lines, published_lists
from pipelines.base.published_lists import PublishedLists
from pipelines.night import publication_file, retention, sink_protocol
from pipelines.night.errors import StageError
from pipelines.night.night import Night
from pipelines.night.outputs import PublishOutputs
from pipelines.night.publication_file import NEIGHBOURS
from pipelines.night.stage import Plan, StageResult, complete, stage_main
from pipelines.reports import nights_page
from pipelines.serving.publication import add_served_night, check_files, finish, restore, serve_lists
from transforms.core import files


def plan(night: Night) -> Plan:
    """Return the plan: the lists, their evaluation, and the settings of the sinks."""
    stages = (NEIGHBOURS, sink_protocol.served_stage(night), "evaluation")
    inputs, places = {stage: night.require(stage).digest for stage in stages}, sink_protocol.settings(night.job)
    return Plan("publish", inputs, {"storage": places} if places else {}, _due(night))


def _due(night: Night) -> str:
    """Return why the stage must run although these lists were published before; empty if it need not."""
    if files.exists(night.root.publishing):
        return "a publication was interrupted"
    if publication_file.is_lost(night.root):
        return f"{night.root.published} is lost"
    if not publication_file.matches_stages(night.root, night.date):
        return "its lists were written again"
    return ""


add_arguments = command_lines.add_publish_arguments


def run(night: Night) -> None:
    """Publish the night, unless a later night is published: a backfill does not replace a later night."""
    with nights_page.refreshing_index(night):
        complete(night, plan(night), _work, keep=published_lists.PREFIX)
    retention.apply(night, publication_file.served_date(night.root))


def _work(night: Night, _folder: str, _attempt: str) -> StageResult:
    finish(night)
    later = publication_file.served_date(night.root)
    is_backfill = later is not None and later > night.date
    if is_backfill:  # otherwise this publication restores it
        restore(night)
    lists = publication_file.from_stages(night.root, night.date, night.ingested.snapshot.buckets)
    with add_served_night(night):
        check_files(night, lists)
        gate_results = gates.check(night)
    reference = published_lists.write(night.root, lists)
    gate_summary, notes = gate_results.summary(), gates.notes(gate_results)
    if is_backfill:
        before = _still_published(night, lists)
        outputs = PublishOutputs(
            published=False,
            lists=reference.file,
            published_lists=published_lists.write(night.root, before).file if before else None,
            gates=gate_summary,
        )
        return StageResult([], outputs, {"later": str(later), "notes": notes})
    summary = gates.summary(night)
    loaded = serve_lists(night, lists, summary, ())
    outputs = PublishOutputs(
        published=True,
        lists=reference.file,
        published_lists=reference.file,
        gates=gate_summary,
        recall=summary.recall,
    )
    return StageResult([], outputs, {"notes": notes, **({"sinks": loaded} if loaded else {})})


def _still_published(night: Night, lists: PublishedLists) -> PublishedLists | None:
    """Return the lists that a rollback to the night serves: those it was last published with, or the new ones if the
    content is the same or the old ones are damaged. None if it was never published."""
    before = publication_file.last_published(night.root, night.date)
    if before is None:
        return lists if publication_file.was_published(night.root, night.date) else None
    try:
        check_files(night, before)
    except StageError:
        return lists
    return lists if before.has_content_of(lists) else before


if __name__ == "__main__":
    raise SystemExit(stage_main(sys.modules[__name__]))
