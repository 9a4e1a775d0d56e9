"""Numbers as a page shows them: exact in tables, short on axes and tiles."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_STEPS: Final = (1.0, 2.0, 5.0, 10.0)
_LINES: Final = 4
"""Grid lines at most, without the base line."""

_EXACT_BELOW: Final = 10_000
"""Counts below are written out also where there is little room."""

_HALF_A_CENT: Final = 0.005
_CENTS_BELOW: Final = 100
_BYTES: Final = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_SHORT: Final = ("", "k", "M", "B", "T")
_THOUSAND: Final = 1000


@dataclass(frozen=True, slots=True)
class Measure:
    """How numbers of one kind are written.

    Attributes:
        exact: in a table.
        short: on an axis, or large on a tile.
        whole: whether there is nothing between 0 and 1.
    """

    exact: Callable[[float], str]
    short: Callable[[float], str]
    whole: bool = True


def count(value: float) -> str:
    """`1,234,567`."""
    return f"{round(value):,}"


def short_count(value: float) -> str:
    """`9,999`, `12.3k`, `4.57M`, `1.2B` (10⁹)."""
    return count(value) if value < _EXACT_BELOW else _scaled(value, _SHORT, "")


def money(value: float) -> str:
    """US dollars to the cent; what costs something never shows as nothing."""
    return "<$0.01" if 0 < value < _HALF_A_CENT else f"${value:,.2f}"


def short_money(value: float) -> str:
    """`$0.02`, `$45.60`, `$1,234`, `$12.3k`; on an axis a whole number of dollars goes without cents."""
    if value >= _EXACT_BELOW:
        return f"${_scaled(value, _SHORT, '')}"
    if value == round(value) or value >= _CENTS_BELOW:
        return f"${value:,.0f}"
    return money(value)


def axis_money(value: float) -> str:
    """As short_money, and with as many digits as the step of an axis needs, which may be far below a cent."""
    return f"${value:.1g}" if 0 < value < _HALF_A_CENT * 2 else short_money(value)


def size(value: float) -> str:
    """Bytes: `12 B`, `3.4 MB`."""
    return f"{round(value)} B" if value < _THOUSAND else _scaled(value, _BYTES, " ")


def percent(part: float, whole: float) -> str:
    """A share: `12%`, `<1%`, `100%` only of all."""
    if whole <= 0 or part <= 0:
        return "0%"
    share = 100 * part / whole
    if share < 1:
        return "<1%"
    return f"{min(round(share), 99)}%" if part < whole else "100%"


def _scaled(value: float, units: tuple[str, ...], gap: str) -> str:
    place = 0
    # What would round up to 1000 of a unit is 1 of the next.
    while value >= _THOUSAND - 0.5 and place < len(units) - 1:
        value /= _THOUSAND
        place += 1
    digits = 0 if value >= 100 or value == round(value) else 1 if value >= 10 else 2  # noqa: PLR2004 - three digits
    figure = f"{value:,.{digits}f}"
    if "." in figure:
        figure = figure.rstrip("0").rstrip(".")
    return f"{figure}{gap}{units[place]}"


def ticks(highest: float, *, whole: bool) -> list[float]:
    """Round numbers from 0 on, the last at or above `highest`; the lines of an axis."""
    if highest <= 0:
        return [0.0, 1.0]
    size_of_ten = 10.0 ** math.floor(math.log10(highest / _LINES))
    step = next(factor * size_of_ten for factor in _STEPS if factor * size_of_ten * _LINES >= highest * (1 - 1e-9))
    if whole:
        step = max(step, 1.0)
    lines = math.ceil(highest / step - 1e-9)
    return [round(step * line, 12) for line in range(max(lines, 1) + 1)]


MONEY: Final = Measure(money, axis_money, whole=False)
COUNT: Final = Measure(count, short_count)
SIZE: Final = Measure(size, size)
