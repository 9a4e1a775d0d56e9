"""Charts as SVG that is as wide as its place: shapes are placed in per cent and text keeps its size.

Colours are classes (`s0` …), so that one document serves the light and the dark scheme. Each chart stands above a table
of the same figures, which is what a screen reader reads and where the page's script finds what to show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from storage.reporting.page.markup import Html, element, joined
from storage.reporting.page.numbers import Measure, percent, ticks
from storage.reporting.periods import Periods

HEIGHT: Final = 200
"""Of the plot, CSS pixels."""

_AXIS: Final = 36
"""Below the plot, for the names of periods."""

_LABELS: Final = 6
"""Names below the plot at most, on a wide page; a narrow one leaves out every second."""

_FILLED: Final = 0.78
"""Of a bar's place; the rest separates it from the next."""

_WIDEST: Final = 9.0
"""Per cent of the plot: few bars stay bars, and do not become walls."""

_SEPARATOR: Final = 1.0
"""Pixels between the parts of a bar, where these are tall enough."""


@dataclass(frozen=True, slots=True)
class Series:
    """One colour of a chart.

    Attributes:
        name: in the legend.
        colour: its class.
        values: one for each period.
        total: in the legend; the sum of the values if None.
    """

    name: str
    colour: str
    values: Sequence[float]
    total: float | None = None

    @property
    def sum(self) -> float:
        return sum(self.values) if self.total is None else self.total


@dataclass(frozen=True, slots=True)
class Chart:
    """What a chart is about.

    Attributes:
        key: of its ids, unique on the page.
        title: what it shows.
        about: the unit, and what the days are days of.
        series: from the bottom up.
        periods: along the bottom.
        measure: of all its numbers.
        total: what the last column of its table is called; None for none.
        further: further columns of its table, each with its measure.
        wide: whether it takes the whole width of the page.
    """

    key: str
    title: str
    about: str
    series: Sequence[Series]
    periods: Periods
    measure: Measure
    total: str | None = None
    further: Sequence[tuple[Series, Measure]] = ()
    wide: bool = False


def stacked_bars(chart: Chart) -> Html:
    """Bars of the parts of a whole, period by period."""
    number = len(chart.periods.starts)
    sums = [sum(one.values[index] for one in chart.series) for index in range(number)]
    lines = ticks(max(sums, default=0), whole=chart.measure.whole)
    highest, place = lines[-1], 100 / number
    width = min(place * _FILLED, _WIDEST)
    bars = []
    for index in range(number):
        left = index * place + (place - width) / 2
        base = 0.0
        for one in chart.series:
            value = one.values[index]
            if value <= 0:
                continue
            bottom, top = HEIGHT * (1 - base / highest), HEIGHT * (1 - (base + value) / highest)
            base += value
            tall = bottom - top
            if tall > 3 * _SEPARATOR and base < sums[index] * (1 - 1e-9):
                top += _SEPARATOR
            # What there is must be seen, however little it is.
            tall = max(bottom - top, 1.0)
            bars.append(_rectangle(one.colour, left, bottom - tall, width, tall))
    return _figure(chart, joined((_legend(chart), _plot(chart, lines, joined(bars)))))


def area(chart: Chart) -> Html:
    """A line of one series with the area below it; its last value is written at its end."""
    (one,) = chart.series
    lines = ticks(max(one.values, default=0), whole=chart.measure.whole)
    highest, number = lines[-1], len(one.values)
    heights = [100 * (1 - value / highest) for value in one.values]
    middles = [100 * (index + 0.5) / number for index in range(number)]
    points = [(0.0, heights[0]), *zip(middles, heights, strict=True), (100.0, heights[-1])]
    path = " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
    shape = element(
        "svg",
        element("polygon", points=f"0,100 {path} 100,100", class_=f"below {one.colour}"),
        element("polyline", points=path, class_=f"line {one.colour}", vector_effect="non-scaling-stroke"),
        viewBox="0 0 100 100",
        preserveAspectRatio="none",
        width="100%",
        height=HEIGHT,
    )
    end = HEIGHT * heights[-1] / 100
    dot = element("circle", cx="100%", cy=f"{end:.1f}", r=4, class_=f"dot {one.colour}")
    value = element("text", chart.measure.short(one.values[-1]), x="100%", y=f"{max(end - 10, 12):.1f}", class_="value")
    return _figure(chart, _plot(chart, lines, joined((shape, dot, value))))


def share_bar(parts: Sequence[tuple[str, float]], whole: float) -> Html:
    """A bar in a table's cell: parts of a whole, each with its colour's class, left to right."""
    drawn, left = [], 0.0
    for colour, value in parts:
        if value > 0 and whole > 0:
            width = 100 * value / whole
            drawn.append(element("rect", x=f"{left:.2f}%", width=f"{max(width, 0.8):.2f}%", height=10, class_=colour))
            left += width
    return element("svg", *drawn, width="100%", height=10, class_="share", aria_hidden="true", focusable="false")


def swatch(colour: str) -> Html:
    """A sample of a colour."""
    square = element("rect", width=10, height=10, rx=2, class_=colour)
    return element("svg", square, width=10, height=10, class_="swatch", aria_hidden="true", focusable="false")


def _rectangle(colour: str, left: float, top: float, width: float, tall: float) -> Html:
    return element("rect", class_=colour, x=f"{left:.3f}%", y=f"{top:.1f}", width=f"{width:.3f}%", height=f"{tall:.1f}")


def _legend(chart: Chart) -> Html | None:
    whole = sum(one.sum for one in chart.series)
    lines = [
        element(
            "li",
            swatch(one.colour),
            element("bdi", one.name),
            element("b", chart.measure.exact(one.sum)),
            element("span", percent(one.sum, whole)) if len(chart.series) > 1 else None,
        )
        for one in chart.series
    ]
    return element("ul", *lines, class_="legend")


def _plot(chart: Chart, lines: Sequence[float], shapes: Html) -> Html:
    highest = lines[-1]
    grid = []
    for line in lines:
        y = HEIGHT * (1 - line / highest)
        grid.append(
            element("line", x1="0", x2="100%", y1=f"{y:.1f}", y2=f"{y:.1f}", class_="base" if not line else None)
        )
        grid.append(element("text", chart.measure.short(line), x="-8", y=f"{y:.1f}", dy="0.32em", class_="y"))
    number = len(chart.periods.starts)
    band = element("rect", class_="band", y=0, height=HEIGHT, width=f"{100 / number:.3f}%", visibility="hidden")
    drawing = element(
        "svg",
        element("g", *grid, class_="grid"),
        band,
        shapes,
        element("g", *_names(chart.periods), class_="x"),
        width="100%",
        height=HEIGHT + _AXIS,
        aria_hidden="true",
        focusable="false",
    )
    return element(
        "div",
        drawing,
        class_="plot",
        role="group",
        aria_roledescription="chart",
        aria_label=f"{chart.title}. The same figures are in the table that follows.",
        data_chart=chart.key,
    )


def _names(periods: Periods) -> list[Html]:
    number = len(periods.starts)
    step = -(-number // _LABELS)
    names: list[Html] = []
    year = None
    for order, index in enumerate(range(0, number, step)):
        start = periods.starts[index]
        middle = 100 * (index + 0.5) / number
        anchor = "first" if middle < 3 else "last" if middle > 97 else None  # noqa: PLR2004 - half a name's width
        classes = " ".join(filter(None, (anchor, "second" if order % 2 else None))) or None
        x = "0" if anchor == "first" else "100%" if anchor else f"{middle:.3f}%"
        names.append(element("text", periods.tick(index), x=x, y=HEIGHT + 17, class_=classes))
        if periods.within_years and start.year != year:
            names.append(element("text", str(start.year), x=x, y=HEIGHT + 32, class_=classes))
        year = start.year
    return names


def _figure(chart: Chart, drawn: Html) -> Html:
    return element(
        "section",
        element("h2", chart.title, id=f"{chart.key}-title"),
        element("p", chart.about, class_="about"),
        drawn,
        element(
            "details",
            element("summary", "Show as table"),
            element("div", _table(chart), class_="scroll", tabindex=0, role="region", aria_label=chart.title),
        ),
        class_="panel wide" if chart.wide else "panel",
        aria_labelledby=f"{chart.key}-title",
        id=chart.key,
    )


def _table(chart: Chart) -> Html:
    head = [element("th", chart.periods.unit.capitalize(), scope="col")]
    head += [
        element("th", element("bdi", one.name), scope="col", class_="n", data_colour=one.colour) for one in chart.series
    ]
    if chart.total is not None:
        head.append(element("th", chart.total, scope="col", class_="n"))
    head += [element("th", one.name, scope="col", class_="n") for one, _ in chart.further]
    rows = []
    for index in range(len(chart.periods.starts)):
        cells = [element("th", chart.periods.label(index), scope="row")]
        cells += [element("td", chart.measure.exact(one.values[index]), class_="n") for one in chart.series]
        if chart.total is not None:
            whole = sum(one.values[index] for one in chart.series)
            cells.append(element("td", chart.measure.exact(whole), class_="n"))
        cells += [element("td", measure.exact(one.values[index]), class_="n") for one, measure in chart.further]
        rows.append(element("tr", *cells))
    return element(
        "table",
        element("thead", element("tr", *head)),
        element("tbody", *rows),
        id=f"{chart.key}-table",
    )
