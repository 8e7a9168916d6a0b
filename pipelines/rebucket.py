"""Rewrite the store with another number of user buckets. Complete nights do not change.

watchnext rebucket JOB.toml BUCKETS [--runner-config FILE] [Beam options]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from pipelines.base import command_lines, lock, snapshot_store
from pipelines.base.snapshot_store import Snapshot
from pipelines.config.jobs import JobError
from pipelines.logs import rewriting
from pipelines.night.errors import StageError, run_command
from pipelines.night.night import Night
from pipelines.night.stage import night_from_args
from transforms.core.digests import check_buckets

parser = command_lines.rebucket


def run(night: Night, buckets: int) -> Snapshot:
    """Commit a snapshot of the same events in `buckets` buckets. Return the newest snapshot, changed or not.

    Earlier nights keep the snapshots that they refer to. The next ingest removes files that no snapshot lists.
    """
    before = snapshot_store.latest(night.root.snapshots)
    if before is None:
        raise StageError(f"there is no store in {night.root.path} yet: set buckets ([storage]) for its first night")
    if before.buckets == buckets:
        return before
    arranged = rewriting.rearrange(night, before, buckets=buckets, zone=before.time_zone)
    done = replace(arranged, number=before.number + 1)
    snapshot_store.commit(night.root.snapshots, done)
    return done


def main(argv: Sequence[str] | None = None) -> int:
    """Rewrite the store, and print its size."""
    args, flags = parser().parse_known_args(argv)

    def work() -> int:
        night = night_from_args(args, flags)
        try:
            check_buckets(args.buckets)
        except ValueError as error:
            raise JobError(str(error)) from error
        with lock.hold(night.root.lock):
            done = run(night, args.buckets)
        rows = sum(file.file.rows for file in done.files)
        print(f"the store has {done.buckets} buckets, {rows:,} events, {len(done.files):,} files", file=sys.stderr)
        return 0

    return run_command(work)


if __name__ == "__main__":
    raise SystemExit(main())
