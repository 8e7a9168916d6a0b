"""Counts of the rows that an ingest read: each row is either kept, or counted under the reason it was left out.

read = kept + refused + duplicates + forgotten + other_days            for each table
rows in the store = kept of all nights - removed of all nights         for each table of events
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from transforms.core.records import Record

Account = dict[str, Any]
# other_days: rows outside the requested days, in files that were read again.
LEFT_OUT = ("refused", "duplicates", "forgotten", "other_days")


def from_records(records: Iterable[Record]) -> Account:
    """Return the account of one read of raw files, from the records of its workers.

    Keys: tables: rows by table and outcome; removed: rows removed from the store, by table and reason (`reingested`,
    `forgotten`, `expired`, `doubled`); rejects: refused rows by reason; rejects_files: the files that list these.
    """
    tables: dict[str, Counter[str]] = {}
    removed: dict[str, Counter[str]] = {}
    reasons: Counter[str] = Counter()
    listed = []
    for record in records:
        if counts := {name: record[name] for name in ("read", *LEFT_OUT) if name in record}:
            tables.setdefault(record["table"], Counter(dict.fromkeys(("read", *LEFT_OUT), 0))).update(counts)
        if record.get("doubled"):
            removed.setdefault(record["table"], Counter())["doubled"] += record["doubled"]
        if "reason" in record:
            reasons[f"{record['table']}: {record['reason']}"] += record["rejected"]
        listed += [record["rejects_file"]] if "rejects_file" in record else []
    kept = {
        name: rows | {"kept": rows["read"] - sum(rows[reason] for reason in LEFT_OUT)} for name, rows in tables.items()
    }
    return account(kept, removed, reasons, listed)


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
