"""Convert the columns of a raw frame, of any type, to ids, texts, numbers, booleans and times.

Missing and unreadable values both become null; `RawColumns.reasons` distinguishes them. In every format, text is
missing if it is empty or a word for null (`NULL_WORDS`).
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from transforms.logs.arrow_values import BOOLEANS, IDS, NUMBERS, SECONDS, TIMES
from transforms.logs.id_text import clean_ids, read_ids
from transforms.logs.schemas import TIME, column_type

NULL_WORDS = ("", "null", "NULL", "\\N")  # for text other than ids
# Smaller epoch numbers are seconds, others milliseconds: 1e11 s is the year 5138, 1e11 ms is March 1973.
_FIRST_MILLISECONDS = 100_000_000_000
_LAST_MILLISECONDS = 100_000_000_000_000
_LARGEST_WHOLE_FLOAT = 2**53
_LARGEST_FLOAT_32 = 3.4e38
_TICKS = {"ms": 10**3, "us": 10**6, "ns": 10**9}  # per second
_ISO_8601 = r"^(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d)(:\d\d)?(\.\d+)?)? ?(Z|[+-]\d\d(?::?\d\d)?)?$"

Reason = tuple[pl.Series | pl.Expr, str]  # a mask of rows, and the reason to reject them


def parse_ids(values: pl.Series) -> pl.Series:
    """Convert ids of any type to their canonical text; null if an id is missing or unreadable.

    Numbers without a fraction become integers, text is normalised by `id_text`. Fractional numbers and ids with control
    characters are unreadable.
    """
    kind = values.dtype
    if kind.is_float():
        whole = values.is_finite() & (values == values.round()) & (values.abs() < _LARGEST_WHOLE_FLOAT)
        values = values.set(~whole, None).cast(pl.Int64)
    if kind.is_decimal():
        texts = values.cast(pl.String)
        return texts.str.extract(r"^(-?\d+)(?:\.0*)?$", 1).replace("-0", "0")
    if kind in (pl.String, pl.Categorical, pl.Enum):
        return clean_ids(values.cast(pl.String))
    if not kind.is_numeric():
        values = pl.repeat(None, len(values), dtype=pl.Int64, eager=True)
    return values.cast(pl.String)


class RawColumns:
    """Convert the columns of one raw frame, and record which, so that `reasons` can report unreadable values."""

    def __init__(self, raw: pl.DataFrame) -> None:
        self.raw = raw
        self.checked: list[str] = []
        self._ids: dict[str, pl.Series] = {}
        self._plain: dict[str, pl.Series] = {}

    def convert(self, *names: str, zone: str = "UTC") -> Iterator[pl.Expr]:
        """Convert columns of the log tables as their names require; absent ones are null. zone: as for `time`."""
        texts = {"query": self.typed_text, "countries": self.texts}
        for name in names:
            if name not in self.raw.columns:
                yield pl.lit(None, column_type(name)).alias(name)
            elif name in IDS:
                yield self.id(name)
            elif name in TIMES:
                yield self.time(zone, name)
            elif name in SECONDS:
                yield self.number(name)
            elif name in NUMBERS:
                yield self.number(name).cast(pl.Int32, strict=False)
            elif name in BOOLEANS:
                yield self.boolean(name)
            else:
                yield texts.get(name, self.text)(name)

    def _values(self, name: str) -> pl.Series:
        """Return a column that is not an id, with words for null replaced."""
        if name not in self._plain:
            values = self.raw[name]
            if values.dtype in (pl.Categorical, pl.Enum):
                values = values.cast(pl.String)
            self._plain[name] = _without_null_words(values) if values.dtype == pl.String else values
        return self._plain[name]

    def id(self, name: str) -> pl.Expr:
        """Convert a required id to its canonical text."""
        self.checked.append(name)
        self._ids[name] = parse_ids(self.raw[name]).alias(name)
        return pl.lit(self._ids[name])

    def text(self, name: str) -> pl.Expr:
        """Convert a column to text; null if the frame does not have it."""
        values = pl.lit(_as_text(self._values(name)) if name in self.raw.columns else None, pl.String)
        return values.alias(name)

    def typed_text(self, name: str) -> pl.Expr:
        """Convert text that a person typed, in which words for null are ordinary words."""
        return pl.lit(_as_text(self.raw[name]).replace("", None)).alias(name)

    def texts(self, name: str) -> pl.Expr:
        """Convert lists of texts, or texts, to comma-separated text."""
        if not isinstance(self._values(name).dtype, pl.List):
            return self.text(name)
        return pl.col(name).cast(pl.List(pl.String)).list.join(",", ignore_nulls=True)

    def number(self, name: str) -> pl.Expr:
        """Convert finite numbers, and durations in seconds, to Float32."""
        self.checked.append(name)
        values = self._values(name)
        kind = values.dtype
        if isinstance(kind, pl.Duration):
            number = pl.lit(values.to_physical()) / _TICKS[kind.time_unit]
        elif kind.is_numeric() or kind == pl.String:
            number = pl.lit(values).cast(pl.Float64, strict=False)
        else:
            return pl.lit(None, pl.Float32).alias(name)
        small = number.is_finite() & (number.abs() <= _LARGEST_FLOAT_32)
        return pl.when(small).then(number).cast(pl.Float32).alias(name)

    def boolean(self, name: str) -> pl.Expr:
        """Convert booleans, the texts true/false, t/f, yes/no, y/n and 1/0, and the numbers 1 and 0."""
        self.checked.append(name)
        values = self._values(name)
        kind = values.dtype
        if kind == pl.Boolean:
            return pl.lit(values)
        if not (kind.is_numeric() or kind == pl.String):
            return pl.lit(None, pl.Boolean).alias(name)
        number = kind.is_float() or kind.is_decimal()
        word = pl.lit(values).cast(pl.Float64 if number else pl.String).cast(pl.String).str.to_lowercase()
        yes = word.is_in(["true", "t", "yes", "y", "1", "1.0"])
        no = word.is_in(["false", "f", "no", "n", "0", "0.0"])
        return pl.when(yes).then(True).when(no).then(False).alias(name)

    def time(self, zone: str, name: str = "time") -> pl.Expr:
        """Convert timestamps, dates, epoch seconds or milliseconds, and ISO 8601 text to UTC.

        Values without an offset are local times of `zone`.
        """
        self.checked.append(name)
        values = self._values(name)
        kind, column = values.dtype, pl.lit(values)
        if isinstance(kind, pl.Datetime):
            moment = column.cast(pl.Datetime("us", kind.time_zone))
            return (moment.dt.convert_time_zone("UTC") if kind.time_zone else _in_utc(moment, zone)).alias(name)
        if kind == pl.Date:
            return _in_utc(column.cast(pl.Datetime("us")), zone).alias(name)
        if kind == pl.String:
            epoch = _from_epoch(column.cast(pl.Float64, strict=False), column.cast(pl.Int64, strict=False))
            return pl.coalesce(epoch, _from_iso_8601(column, zone)).alias(name)
        if kind.is_numeric():
            whole = column.cast(pl.Int64, strict=False) if kind.is_integer() else pl.lit(None, pl.Int64)
            return _from_epoch(column.cast(pl.Float64), whole).alias(name)
        return pl.lit(None, TIME).alias(name)

    def reasons(self, read: pl.DataFrame) -> list[Reason]:
        """Return reasons to reject rows: missing ids and times, and unreadable values. read: the converted columns."""
        reasons: list[Reason] = []
        for name in self.checked:
            if name in self._ids:
                reasons += self._id_reasons(name)
                continue
            present = self._values(name).is_not_null()
            if name == "time":
                reasons.append((~present, "time is null"))
            reasons.append((present & read[name].is_null(), f"{name} cannot be read"))
        return reasons

    def _id_reasons(self, name: str) -> list[Reason]:
        raw, read = self.raw[name], self._ids[name]
        if not read.null_count():
            return []
        missing, present = read.is_null(), raw.is_not_null()
        if raw.dtype not in (pl.String, pl.Categorical, pl.Enum):
            return [(~present, f"{name} is null"), (present & missing, f"{name} cannot be read")]
        _, has_control = read_ids(raw.cast(pl.String))
        if has_control is None:
            return [(missing, f"{name} is null")]
        return [(has_control, f"{name} holds control characters"), (missing & ~has_control, f"{name} is null")]


def _without_null_words(values: pl.Series) -> pl.Series:
    """Replace `NULL_WORDS` with null. Comparisons of whole columns are faster than `is_in`."""
    is_null = values == ""
    if (values >= min(filter(None, NULL_WORDS))).any():  # not so of numbers
        for word in filter(None, NULL_WORDS):
            is_null |= values == word
    return values.set(is_null, None) if is_null.any() else values


def _as_text(values: pl.Series) -> pl.Series:
    """Convert values of any type to text; null for types without a text form."""
    kind = values.dtype
    if kind == pl.String:
        return values
    if kind.is_nested() or kind in (pl.Duration, pl.Binary, pl.Object):
        return pl.repeat(None, len(values), dtype=pl.String, eager=True)
    return values.cast(pl.String)


def _from_epoch(value: pl.Expr, whole: pl.Expr) -> pl.Expr:
    """Convert epoch seconds or milliseconds to UTC; null if the value is too large for either.

    value: Float64. whole: the same as Int64 if it is an integer, else null.
    """
    milliseconds = value.abs() >= _FIRST_MILLISECONDS
    exact = pl.when(milliseconds).then(whole * 1_000).otherwise(whole * 1_000_000)
    rounded = pl.when(milliseconds).then(value * 1e3).otherwise(value * 1e6).round()
    usable = value.is_finite() & (value.abs() < _LAST_MILLISECONDS)
    return (
        pl.when(usable)
        .then(pl.coalesce(exact, rounded.cast(pl.Int64, strict=False)))
        .cast(pl.Datetime("us"))
        .dt.replace_time_zone("UTC")
    )


def _from_iso_8601(text: pl.Expr, zone: str) -> pl.Expr:
    part = text.str.strip_chars().str.extract_groups(_ISO_8601)
    day, minute, second, fraction, offset = (part.struct[at] for at in range(5))
    local = pl.concat_str(
        day, pl.lit("T"), minute.fill_null("00:00"), second.fill_null(":00"), fraction.fill_null(".0")
    ).str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False)
    sign = pl.when(offset.str.starts_with("-")).then(-1).otherwise(1)
    hours = offset.str.slice(1, 2).cast(pl.Int64, strict=False)
    minutes = offset.str.replace(":", "").str.slice(3, 2).cast(pl.Int64, strict=False).fill_null(0)
    ahead = pl.duration(minutes=pl.when(offset == "Z").then(0).otherwise(sign * (hours * 60 + minutes)))
    return pl.when(offset.is_null()).then(_in_utc(local, zone)).otherwise((local - ahead).dt.replace_time_zone("UTC"))


def _in_utc(local: pl.Expr, zone: str) -> pl.Expr:
    """Convert local times of `zone` to UTC: the earlier one if a time is ambiguous, null if it does not exist."""
    return local.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null").dt.convert_time_zone("UTC")
