"""Counts of the rows that an ingest read: each row is either kept, or counted under the reason it was left out.

read = kept + refused + duplicates + forgotten + other_days            for each table; refused: the rejected rows
rows in the store = kept of all nights - removed of all nights         for each table of events
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from transforms.core.records import Records
from transforms.logs.ingest import DuplicateRows, RejectedFile, RejectedRows, RowsRead

Account = dict[str, Any]
# other_days: rows outside the requested days, in files that were read again.
LEFT_OUT = ("refused", "duplicates", "forgotten", "other_days")


def from_records(records: Records) -> Account:
    """Return the account of one read of raw files, from the records of its workers.

    Keys: tables: rows by table and outcome; removed: rows removed from the store, by table and reason (`reingested`,
    `forgotten`, `expired`, `doubled`); rejects: rejected rows by reason; rejects_files: the files that list these.
    """
    read, duplicates = records.of(RowsRead), records.of(DuplicateRows)
    names = {rows.table for rows in read} | {rows.table for rows in duplicates}
    tables = {name: Counter(dict.fromkeys(("read", *LEFT_OUT), 0)) for name in names}
    removed: dict[str, Counter[str]] = {}
    reasons: Counter[str] = Counter()
    for rows in read:
        counts = {"read": rows.read, "refused": rows.rejected, "forgotten": rows.forgotten}
        tables[rows.table].update(counts | {"other_days": rows.other_days})
    for equal in duplicates:
        tables[equal.table]["duplicates"] += equal.duplicates
        if equal.doubled:
            removed.setdefault(equal.table, Counter())["doubled"] += equal.doubled
    for rejected in records.of(RejectedRows):
        reasons[f"{rejected.table}: {rejected.reason}"] += rejected.rows
    kept = {
        name: rows | {"kept": rows["read"] - sum(rows[reason] for reason in LEFT_OUT)} for name, rows in tables.items()
    }
    return account(kept, removed, reasons, [file.name for file in records.of(RejectedFile)])


def from_removed(table: str, reason: str, rows: int) -> Account:
    """Return the account of rows that were removed from the store."""
    return account({}, {table: {reason: rows}}, {}, []) if rows else account({}, {}, {}, [])


def account(tables: Any, removed: Any, rejects: Any, rejects_files: Iterable[str]) -> Account:
    """Return an account in its JSON form: tables in alphabetical order, the most frequent reasons first."""
    most_first = sorted(rejects.items(), key=lambda reason: (-reason[1], reason[0]))
    return {
        "tables": {name: dict(rows) for name, rows in sorted(tables.items())},
        "removed": {name: dict(rows) for name, rows in sorted(removed.items())},
        "rejects": dict(most_first),
        "rejects_files": sorted(rejects_files),
    }


def total(accounts: Iterable[Account]) -> Account:
    """Return the sum of several accounts."""
    parts = list(accounts)

    def summed(key: str) -> dict[str, Counter[str]]:
        sums: dict[str, Counter[str]] = {}
        for part in parts:
            for name, rows in part[key].items():
                sums.setdefault(name, Counter()).update(rows)
        return sums

    rejects: Counter[str] = Counter()
    for part in parts:
        rejects.update(part["rejects"])
    listed = [name for part in parts for name in part["rejects_files"]]
    return account(summed("tables"), summed("removed"), rejects, listed)
