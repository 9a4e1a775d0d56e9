"""Days put together into as many periods as a bar chart can show: days, weeks, months, quarters, years and longer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

MOST: Final = 62
"""Bars of a chart that can still be told apart on a phone; two months by day, and a year by week."""

_WEEK: Final = 7
_YEARS: Final = (1, 10, 100, 1000)


@dataclass(frozen=True, slots=True)
class Periods:
    """Periods without a gap, the earliest first.

    Attributes:
        unit: what one is: `day`, `week`, `month`, `quarter`, `year` or `decade`, `century`, `millennium`.
        starts: the first day of each.
    """

    unit: str
    starts: tuple[date, ...]

    def index(self, day: date) -> int:
        """The place of the period that holds a day, which is in one of them."""
        low, high = 0, len(self.starts)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.starts[middle] <= day else (low, middle)
        return low

    def label(self, index: int) -> str:
        """What one is called where nothing else says which year it is."""
        start = self.starts[index]
        if self.unit == "day":
            return short_day(start, year=True)
        if self.unit == "week":
            return f"week of {short_day(start, year=True)}"
        if self.unit == "month":
            return f"{start:%b} {start.year}"
        if self.unit == "quarter":
            return f"Q{(start.month + 2) // 3} {start.year}"
        return str(start.year) if self.unit == "year" else f"from {start.year}"

    @property
    def within_years(self) -> bool:
        """Whether it takes the year besides to know one of them by its `tick`."""
        return self.unit in ("day", "week", "month", "quarter")

    def tick(self, index: int) -> str:
        """What one is called on an axis."""
        start = self.starts[index]
        if self.unit in ("day", "week"):
            return short_day(start, year=False)
        if self.unit == "month":
            return f"{start:%b}"
        return f"Q{(start.month + 2) // 3}" if self.unit == "quarter" else str(start.year)


def short_day(day: date, *, year: bool) -> str:
    """A day for people: `2 Nov`, `2 Nov 2025`."""
    return f"{day.day} {day:%b} {day.year}" if year else f"{day.day} {day:%b}"


def span(first: date, last: date) -> str:
    """Two days and all between them, with a dash: `3 Mar – 9 Nov 2025`."""  # noqa: RUF002 - an en dash, as in print
    if first == last:
        return short_day(last, year=True)
    if (first.year, first.month) == (last.year, last.month):
        return f"{first.day}–{short_day(last, year=True)}"  # noqa: RUF001 - an en dash, as between numbers in print
    return f"{short_day(first, year=first.year != last.year)} – {short_day(last, year=True)}"  # noqa: RUF001 - as above


def periods(first: date, last: date, most: int = MOST) -> Periods:
    """The shortest periods that cover both days and are no more than `most`."""
    for unit, begin, following in _UNITS:
        starts = [begin(first)]
        while len(starts) <= most:
            after = following(starts[-1])
            if after is None or after > last:
                return Periods(unit, tuple(starts))
            starts.append(after)
    raise AssertionError("ten millennia are no more than ten periods")


def _days(number: int) -> Callable[[date], date | None]:
    def following(day: date) -> date | None:
        try:
            return day + timedelta(days=number)
        except OverflowError:  # after the year 9999
            return None

    return following


def _months(number: int) -> Callable[[date], date | None]:
    def following(day: date) -> date | None:
        years, month = divmod(day.month - 1 + number, 12)
        return None if day.year + years > date.max.year else date(day.year + years, month + 1, 1)

    return following


def _monday(day: date) -> date:
    return date.fromordinal(max(day.toordinal() - day.weekday(), 1))


def _year_of(length: int) -> Callable[[date], date]:
    return lambda day: date(max(day.year - day.year % length, 1), 1, 1)


def _years(length: int) -> Callable[[date], date | None]:
    def following(day: date) -> date | None:
        # The first of them begins with the year 1 for want of a year 0.
        year = day.year - day.year % length + length
        return None if year > date.max.year else date(year, 1, 1)

    return following


_UNITS: Final[tuple[tuple[str, Callable[[date], date], Callable[[date], date | None]], ...]] = (
    ("day", lambda day: day, _days(1)),
    ("week", _monday, _days(_WEEK)),
    ("month", lambda day: day.replace(day=1), _months(1)),
    ("quarter", lambda day: date(day.year, (day.month - 1) // 3 * 3 + 1, 1), _months(3)),
    *(
        (name, _year_of(length), _years(length))
        for name, length in zip(("year", "decade", "century", "millennium"), _YEARS, strict=True)
    ),
)
