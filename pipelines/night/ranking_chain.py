"""The chain of nights whose rankers go on from one another: what a night may skip, and what it learns again.

A night's ranker goes on from that of the newest earlier night that was not withdrawn. It learns the impressions that
are new to that ranker, and a share of those in the records of the chain's nights. The earlier night and the nights of
these records are fixed in the manifest, as the base of a warm start is: a complete night stays complete if they are
gone, and runs again if they changed.

    chain = ranking_chain.open_chain(night)
    chain.earlier      # the night to go on from, None in a cold start
    chain.written      # the impressions that need not be written again
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pipelines.base import manifest, paths
from pipelines.base.manifest import Manifest
from pipelines.night import publication_file
from pipelines.night.night import Night
from pipelines.night.outcome_files import TABLES
from pipelines.night.outputs import EarlierRanker, HeldOutUsers, NightRecords, RankingChain, RankingOutputs
from transforms.core import days
from transforms.logs.event_window import Holdout
from transforms.ranking.records import FOLDER
from transforms.ranking.written import NOTHING, WrittenImpressions

RECORDS = f"{FOLDER}/train/"
# Settings without which the variables or the output of a ranker mean something else.
_SHAPE = {"ranking": ("hidden", "powers", "positive_weights", "watch_history"), "examples": ("search_history",)}
MOST_CHANGED = 0.5  # share of the window's days that may have been ingested again in a warm start


@dataclass(frozen=True, kw_only=True)
class Chain:
    """What a night's ranker goes on from. In a cold start `before` is None, and `why` has the reason if it has one."""

    considered: EarlierRanker | None = None  # the earlier ranker, also if it cannot be continued
    before: RankingChain | None = None  # of the earlier night
    why: str = ""
    written: WrittenImpressions = NOTHING
    new_days: tuple[dt.date, ...] = ()  # days with events of which nothing was written, if something was
    records: Mapping[str, NightRecords] = field(default_factory=dict)  # of earlier nights, with their valid days

    @property
    def earlier(self) -> str | None:
        """The date of the night to go on from; None in a cold start."""
        return self.considered.date if self.considered and self.before else None

    @property
    def valid_days(self) -> set[dt.date]:
        """The days whose records are valid."""
        return {dt.date.fromisoformat(day) for found in self.records.values() for day in found.days}

    def cold(self, why: str) -> Chain:
        """Return the cold start for a reason."""
        return Chain(considered=self.considered, why=f"cold start of the ranker: {why}")

    def first_new(self, night: Night) -> dt.datetime:
        """Return a moment before which the window has no new impression."""
        if self.written.holdout is None:
            return night.dates.start
        starts = [days.midnight(day, self.written.zone) for day in self.new_days]
        return max(night.dates.start, min([self.written.holdout.start, *starts]))


def earlier_ranker(night: Night) -> EarlierRanker | None:
    """Return the ranker that a night's ranker goes on from, with the digests that it has now: that of the complete
    night, or `newest`. None: there is none."""
    if not night.job.ranking.warm_start:
        return None
    done = manifest.load_outputs(night.folder("ranking"), RankingOutputs)
    if done is None or done.ranked is None or done.ranked.chain is None:
        return newest(night)
    fixed = done.ranked.chain.earlier
    if fixed is None:
        return None

    def digest(date: str, pinned: str) -> str:
        found = _ranking(night, date)
        return found.digest if found else pinned

    replayed = {date: digest(date, pinned) for date, pinned in fixed.replayed.items()}
    return EarlierRanker(date=fixed.date, digest=digest(fixed.date, fixed.digest), replayed=replayed)


def newest(night: Night) -> EarlierRanker | None:
    """Return the ranker of the newest earlier night that was not withdrawn, and the records of its chain that are whole
    and unchanged; None if there is none that can be continued."""
    withdrawn = publication_file.withdrawn(night.root)
    for date in reversed(paths.nights(night.root)):
        if date >= night.date or date.isoformat() in withdrawn:
            continue
        folder = night.root.stage(date, "ranking")
        found, before = manifest.load_readable(folder), chain_of(folder)
        if found is not None and before is not None and has_records(found, found.digest):
            pinned = {of: records.digest or found.digest for of, records in before.records.items()}
            replayed = {of: one for of, one in pinned.items() if has_records(_ranking(night, of), one)}
            return EarlierRanker(date=date.isoformat(), digest=found.digest, replayed=replayed)
    return None


def chain_of(folder: str) -> RankingChain | None:
    """Return the chain in the manifest of stage ranking in a folder; None if its ranker cannot be continued."""
    done = manifest.load_outputs(folder, RankingOutputs)
    return done.ranked.chain if done and done.ranked else None


def has_records(found: Manifest | None, digest: str) -> bool:
    """Return whether a night has its training records, and is the one with this digest."""
    kept = found is not None and (found.dropped is None or not RECORDS.startswith(found.dropped))
    return kept and found is not None and found.digest == digest


def open_chain(night: Night) -> Chain:
    """Return what the night's ranker goes on from, as far as the earlier nights and the store tell."""
    considered = earlier_ranker(night)
    found = _ranking(night, considered.date) if considered else None
    before = chain_of(_folder(night, considered.date)) if considered else None
    if considered is None or found is None or before is None:
        return Chain(considered=considered)
    cold = Chain(considered=considered)
    if why := _other_shape(night, found):
        return cold.cold(f"{why} in the ranker of {considered.date}")
    zone, now = night.job.logs.time_zone, night.ingested.day_digests(TABLES)
    if {before.time_zone, night.ingested.snapshot.time_zone} != {zone}:
        return cold.cold(f"the time zone is {zone}, but was {before.time_zone}")
    holdout, was = night.holdout, before.held_out
    earlier_end = replace(night, date=dt.date.fromisoformat(considered.date)).dates.end
    if holdout.start < earlier_end and (holdout.seed != was.seed or holdout.share > was.share):
        return cold.cold("users are held out whose impressions the earlier ranker learned")
    changed = [day for day, digest in now.items() if before.days.get(day, digest) != digest]
    if len(changed) > MOST_CHANGED * len(now):
        return cold.cold(
            f"the events of {len(changed)} of {len(now)} days were ingested again, or users were forgotten"
        )
    valid = {day for day in now.keys() & before.days.keys() if day not in changed}
    records = {}
    for date in considered.replayed:
        if (of := before.records.get(date)) and (kept := {d: n for d, n in of.days.items() if d in valid}):
            records[date] = NightRecords(digest=considered.replayed[date], days=kept)
    return Chain(
        considered=considered,
        before=before,
        written=WrittenImpressions(
            days=frozenset(map(dt.date.fromisoformat, valid)),
            holdout=Holdout(start=was.start, share=was.share, seed=was.seed),
            zone=zone,
        ),
        new_days=tuple(dt.date.fromisoformat(day) for day in sorted(now.keys() - valid)),
        records=records,
    )


def _other_shape(night: Night, found: Manifest) -> str:
    """Return how the settings that determine the shape of a ranker differ from those of an earlier night."""
    for table, names in _SHAPE.items():
        now = getattr(night.job, table).model_dump(mode="json")
        for name in names:
            if now[name] != (was := found.settings.get(table, {}).get(name)):
                return f"{name} is {now[name]}, but was {was}"
    return ""


def to_output(
    night: Night,
    chain: Chain,
    *,
    state: str,
    written: Mapping[str, int],
    covered: Mapping[str, float],
    longest_seconds: float,
) -> RankingChain:
    """Return what a later night needs. written: impressions by day in the night's own records."""
    holdout, own = night.holdout, NightRecords(digest="", days=dict(written))
    return RankingChain(
        earlier=chain.considered,
        began=chain.before.began if chain.before else night.date.isoformat(),
        state=state,
        time_zone=night.job.logs.time_zone,
        days=night.ingested.day_digests(TABLES),
        held_out=HeldOutUsers(start=holdout.start, share=holdout.share, seed=holdout.seed),
        records={**chain.records, night.date.isoformat(): own},
        longest_seconds=longest_seconds,
        covered=dict(covered),
    )


def needed_records(night: Night) -> set[dt.date]:
    """Return the nights whose training records the next night may learn again."""
    dates = [*paths.nights(night.root), night.date]
    found = newest(replace(night, date=max(dates) + dt.timedelta(days=1)))
    return {dt.date.fromisoformat(date) for date in found.replayed} if found else set()


def _ranking(night: Night, date: str) -> Manifest | None:
    """Return the manifest of a night's ranking; None if it is not complete, or damaged."""
    return manifest.load_readable(_folder(night, date))


def _folder(night: Night, date: str) -> str:
    return night.root.stage(dt.date.fromisoformat(date), "ranking")
