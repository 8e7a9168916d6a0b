"""The columns of a raw frame, whatever their types, read as what a table has: ids, texts, numbers, words for true and
false, moments.

A value that is there but cannot be read becomes null, and so does one that is not there: `RawColumns.reasons` tells
the two apart.
"""

from __future__ import annotations

import polars as pl

from transforms.schemas import TIME

# Epoch numbers below are seconds, from there on milliseconds: 1e11 s is the year 5138, 1e11 ms is March 1973.
_FIRST_MILLISECONDS = 100_000_000_000
_LAST_MILLISECONDS = 100_000_000_000_000
_LARGEST_WHOLE_FLOAT = 2**53
_ISO_8601 = r"^(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d)(:\d\d)?(\.\d+)?)? ?(Z|[+-]\d\d(?::?\d\d)?)?$"

Reason = tuple[pl.Series | pl.Expr, str]  # which rows, and why they are refused


def ident(name: str, kind: pl.DataType) -> pl.Expr:
    """A column of ids, of any type, as strings; null where there is none or it cannot be read.

    Whole floats count as integers: what pandas makes of integers with gaps.
    """
    column = pl.col(name)
    if kind.is_float():
        whole = column.is_finite() & (column == column.round()) & (column.abs() < _LARGEST_WHOLE_FLOAT)
        column = pl.when(whole).then(column).cast(pl.Int64)
    elif not (kind.is_integer() or kind in (pl.String, pl.Categorical, pl.Enum)):
        column = pl.lit(None, pl.Int64)
    return column.cast(pl.String).replace("", None).alias(name)


class RawColumns:
    """Reads the columns of one raw frame, whatever their types; remembers which, to say what could not be read."""

    def __init__(self, raw: pl.DataFrame) -> None:
        self.raw = raw
        self.required: list[str] = []
        self.checked: list[str] = []

    def _type(self, name: str) -> pl.DataType | None:
        return self.raw.schema.get(name)

    def _absent(self, name: str, kind: type[pl.DataType] | pl.DataType) -> pl.Expr:
        return pl.lit(None, kind).alias(name)

    def ident(self, name: str) -> pl.Expr:
        """An id as string."""
        self.required.append(name)
        self.checked.append(name)
        kind = self._type(name)
        return self._absent(name, pl.String) if kind is None else ident(name, kind)

    def text(self, name: str) -> pl.Expr:
        if self._type(name) is None:
            return self._absent(name, pl.String)
        return pl.col(name).cast(pl.String).replace("", None)

    def texts(self, name: str) -> pl.Expr:
        """A list of texts, or one text, as one text with commas."""
        kind = self._type(name)
        if not isinstance(kind, pl.List):
            return self.text(name)
        return pl.col(name).cast(pl.List(pl.String)).list.join(",", ignore_nulls=True)

    def number(self, name: str) -> pl.Expr:
        """A finite number as Float32."""
        self.checked.append(name)
        if self._type(name) is None:
            return self._absent(name, pl.Float32)
        value = pl.col(name).cast(pl.Float64, strict=False)
        return pl.when(value.is_finite()).then(value).cast(pl.Float32).alias(name)

    def boolean(self, name: str) -> pl.Expr:
        """true/false, t/f, yes/no, 1/0 in text; 1 and 0 as numbers."""
        self.checked.append(name)
        kind = self._type(name)
        if kind is None:
            return self._absent(name, pl.Boolean)
        if kind == pl.Boolean:
            return pl.col(name)
        word = pl.col(name).cast(pl.Float64 if kind.is_float() else pl.String).cast(pl.String).str.to_lowercase()
        yes = word.is_in(["true", "t", "yes", "y", "1", "1.0"])
        no = word.is_in(["false", "f", "no", "n", "0", "0.0"])
        return pl.when(yes).then(True).when(no).then(False).alias(name)

    def time(self, zone: str, name: str = "time") -> pl.Expr:
        """A moment: a timestamp, epoch seconds or milliseconds, or ISO 8601; without an offset, in `zone`."""
        if name == "time":
            self.required.append(name)
        self.checked.append(name)
        kind = self._type(name)
        if kind is None:
            return self._absent(name, TIME)
        if isinstance(kind, pl.Datetime):
            moment = pl.col(name).cast(pl.Datetime("us", kind.time_zone))
            return moment.dt.convert_time_zone("UTC") if kind.time_zone else _in_utc(moment, zone)
        if kind == pl.Date:
            return _in_utc(pl.col(name).cast(pl.Datetime("us")), zone)
        if kind == pl.String:
            epoch = _from_epoch(pl.col(name).cast(pl.Float64, strict=False), pl.col(name).cast(pl.Int64, strict=False))
            return pl.coalesce(epoch, _from_iso_8601(pl.col(name), zone)).alias(name)
        if kind.is_numeric():
            whole = pl.col(name).cast(pl.Int64, strict=False) if kind.is_integer() else pl.lit(None, pl.Int64)
            return _from_epoch(pl.col(name).cast(pl.Float64), whole).alias(name)
        return self._absent(name, TIME)

    def reasons(self, read: pl.DataFrame) -> list[Reason]:
        """Null ids and times, and values that were there but could not be read; one mask over the rows each."""
        found: list[Reason] = []
        for name in self.checked:
            if name not in self.raw.columns:
                continue
            given = self.raw[name].is_not_null()
            if self.raw.schema[name] == pl.String:
                given &= (self.raw[name] != "").fill_null(False)
            if name in self.required:
                found.append((~given, f"{name} is null"))
            found.append((given & read[name].is_null(), f"{name} cannot be read"))
        return found


def _from_epoch(value: pl.Expr, whole: pl.Expr) -> pl.Expr:
    """Epoch seconds or milliseconds -> time; null outside of what is either."""
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
    """Wall-clock times of `zone` in UTC: the first of the two in an hour that comes twice, null in one that does
    not."""
    return local.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null").dt.convert_time_zone("UTC")
