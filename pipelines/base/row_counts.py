"""What became of the rows an ingest read: every row is kept or counted under why it was not.

read = kept + refused + duplicates + forgotten + other_days          for each table
rows in the store = all nights' kept - all nights' removed           for each table of events
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from transforms.core.records import Record

Account = dict[str, Any]
# other_days: rows of files that were read again for other days' sake.
LEFT_OUT = ("refused", "duplicates", "forgotten", "other_days")
# What left the store: days sent again, users forgotten, days beyond keep_days, events that it held twice.
REMOVED = ("reingested", "forgotten", "expired", "doubled")


def from_records(records: Iterable[Record]) -> Account:
    """The account of one reading of raw files, from its workers' records.

    tables: rows by table and what became of them; removed: rows that left the store, by table and why; rejects: refused
    rows by reason; rejects_files: where those are.
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
    kept = {name: rows | {"kept": rows["read"] - sum(rows[why] for why in LEFT_OUT)} for name, rows in tables.items()}
    return account(kept, removed, reasons, listed)


def from_removed(table: str, why: str, rows: int) -> Account:
    """The account of rows that left the store."""
    return account({}, {table: {why: rows}}, {}, []) if rows else account({}, {}, {}, [])


def account(tables: Any, removed: Any, rejects: Any, rejects_files: Iterable[str]) -> Account:
    most_first = sorted(rejects.items(), key=lambda reason: (-reason[1], reason[0]))
    return {
        "tables": {name: dict(rows) for name, rows in sorted(tables.items())},
        "removed": {name: dict(rows) for name, rows in sorted(removed.items())},
        "rejects": dict(most_first),
        "rejects_files": sorted(rejects_files),
    }


def total(accounts: Iterable[Account]) -> Account:
    """Several accounts as one."""
    every = list(accounts)

    def summed(part: str) -> dict[str, Counter[str]]:
        sums: dict[str, Counter[str]] = {}
        for one in every:
            for name, rows in one[part].items():
                sums.setdefault(name, Counter()).update(rows)
        return sums

    rejects: Counter[str] = Counter()
    for one in every:
        rejects.update(one["rejects"])
    listed = [name for one in every for name in one["rejects_files"]]
    return account(summed("tables"), summed("removed"), rejects, listed)
