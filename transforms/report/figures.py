"""Format values and intervals for people."""

from __future__ import annotations

import math
from typing import Any


def format_value(value: Any) -> str:
    """Format a value: 1,234,567; 0.1963; 12.50; yes; a comma-separated list; - if there is none."""
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


def _decimal(value: float) -> str:
    """Format a float with about four significant digits."""
    if math.isinf(value) or (value and abs(value) < 0.001):
        return f"{value:.3g}"
    if value == round(value):
        return f"{value:,.0f}"
    return f"{value:.4f}" if abs(value) < 1 else f"{value:,.2f}" if abs(value) < 1_000 else f"{value:,.0f}"


def escape_mathtext(text: str) -> str:
    """Escape dollar signs in a plot's label, which start a formula in Matplotlib."""
    return text.replace("$", r"\$")


def format_interval(interval: Any) -> str:
    """Format an interval; empty if there is none."""
    return f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
