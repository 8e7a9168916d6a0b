"""Format values and intervals for people."""

from __future__ import annotations

import math
from typing import Any


def format_value(value: Any) -> str:
    """Format a value: 1,234,567; 0.20; 0.054; 12.50; yes; a comma-separated list; - if there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return _decimal(value)
    if isinstance(value, list | tuple):
        return ", ".join(format_value(item) for item in value) or "none"
    return str(value)


def format_setting(value: Any) -> str:
    """Format a setting: as `format_value`, but floats with all their digits."""
    if isinstance(value, list | tuple):
        return ", ".join(format_setting(item) for item in value) or "none"
    return repr(value) if isinstance(value, float) else format_value(value)


def _decimal(value: float) -> str:
    """Format a float with two decimals; below 0.1 with two significant digits, from 1,000 on with none."""
    if math.isnan(value):
        return "-"
    if math.isinf(value) or value == round(value):
        return f"{value + 0.0:,.0f}"  # not -0
    if abs(value) >= 0.0995:
        return f"{value:,.2f}" if abs(value) < 1_000 else f"{value:,.0f}"
    digits = 1 - math.floor(math.log10(abs(value)))
    return f"{value:.{digits}f}" if digits < 6 else f"{value:.2g}"


def escape_mathtext(text: str) -> str:
    """Escape dollar signs in a plot's label, which start a formula in Matplotlib."""
    return text.replace("$", r"\$")


def format_interval(interval: Any) -> str:
    """Format an interval; empty if there is none."""
    return f"{_decimal(interval[0])} to {_decimal(interval[1])}" if interval else ""
