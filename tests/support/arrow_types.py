"""Two values and a null of every Arrow type that a Parquet file can hold."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal
from typing import Any

import pyarrow as pa

BEFORE = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)
AT = dt.datetime(2026, 11, 20, 10, 0, 1)
DAY, CLOCK, LAPSE = dt.date(2026, 11, 20), dt.time(10, 0, 1), dt.timedelta(seconds=12)
UUID = uuid.UUID("d7a5c3f0-0001-4c00-8000-0000000000ff")


def list_view(kind: pa.DataType) -> pa.Array:
    return pa.array([[1, 2], [], None], pa.list_view(kind))


def arrays() -> dict[str, pa.Array]:
    """Two values and a null of every type that a Parquet file can hold, also at the ends of their ranges."""
    made: dict[str, pa.Array] = {"null": pa.nulls(3)}

    def add(kind: pa.DataType, *values: Any, name: str = "") -> None:
        made[f"{kind}{name}"] = pa.array([*values, None], kind)

    for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()):
        add(kind, 1, 0)
        bits = kind.bit_width - (not str(kind).startswith("u"))
        add(kind, 2**bits - 1, 0 if bits == kind.bit_width else -(2**bits), name=" ends")
    for kind in (pa.float16(), pa.float32(), pa.float64()):
        add(kind, 2.0, 1.5)
        add(kind, float("inf"), float("nan"), name=" ends")
    for kind in (pa.decimal32(5, 2), pa.decimal64(12, 2), pa.decimal128(20, 2), pa.decimal256(60, 2)):
        add(kind, Decimal("2.00"), Decimal("1.50"))
    for name, pair in {
        " words": ("cats", "\u6771\u4eac"),
        " numbers": ("2.0", "1990"),
        " times": ("2026-11-20T10:00:01Z", "2026-11-20"),
        " nulls": ("\\N", "nan"),
        " strange": ("\x00", "\u2028"),
        " truths": ("true", "no"),
        " large": ("9" * 60, "-1e999"),
    }.items():
        add(pa.string(), *pair, name=name)
    add(pa.large_string(), "cats", "2.0")
    add(pa.string_view(), "cats", "2.0")
    for kind in (pa.binary(), pa.large_binary(), pa.binary_view()):
        add(kind, UUID.bytes, bytes(16), name=" uuids")
    add(pa.binary(), b"cats", b"7", name=" text")
    add(pa.binary(), b"\xff", b"7", name=" bytes")
    add(pa.binary(4), b"cats", b"2026")
    add(pa.binary(4), b"\xff\xfe\x00\x01", b"2026", name=" bytes")
    add(pa.binary(16), UUID.bytes, b"sixteen letters!")
    add(pa.bool_(), True, False)
    for kind in (pa.date32(), pa.date64()):
        add(kind, DAY, dt.date(1970, 1, 1))
    made["date32 ends"] = pa.array([2**31 - 1, -(2**31), None], pa.int32()).view(pa.date32())
    for kind in (pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")):
        add(kind, CLOCK, dt.time())
    for unit in ("s", "ms", "us", "ns"):
        zones = (None, "UTC", "Europe/Berlin", "+05:30", "-03:00", "Nowhere/Atall")
        for zone in zones if unit == "us" else zones[:2]:
            add(
                pa.timestamp(unit, zone),
                *[int(AT.timestamp()) * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]] * 2,
            )
        ends = [2**63 - 1, -(2**63) + 1] if unit != "s" else [2**53, -(2**53)]  # Parquet has no seconds
        add(pa.timestamp(unit, "UTC"), *ends, name=" ends")
        add(pa.duration(unit), 12, 0)
    for values in ("cats", "2.0"), (2, 1), (2.5, 1.0), (AT, AT), (DAY, DAY), (Decimal("2.00"), Decimal("3.00")):
        encoded = pa.array([*values, None]).dictionary_encode()
        made[f"{encoded.type}{values[0]}"] = encoded
    add(pa.list_(pa.int64()), [1, 2], [])
    add(pa.list_(pa.string()), ["DE", None], ["at"])
    add(pa.large_list(pa.string()), ["DE"], [])
    made["fixed_size_list"] = pa.array([["DE", "AT"], ["SE", None], ["NO", "SE"]], pa.list_(pa.string(), 2))
    made["list_view"] = list_view(pa.int8())
    add(pa.list_(pa.struct([("a", pa.int8())])), [{"a": 1}], [])
    add(pa.struct([("a", pa.int8())]), {"a": 1}, {"a": None})
    add(pa.map_(pa.string(), pa.int8()), [("a", 1)], [])
    made["uuid"] = pa.array([UUID.bytes, bytes(16), None], pa.uuid())
    made["json"] = pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}', "7", None]))
    made["bool8"] = pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, 0, None], pa.int8()))
    return made


TYPES = arrays()
