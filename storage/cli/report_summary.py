"""`storage report`: one month at a glance."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from storage.cli.bars import bar, columns
from storage.cli.output import NOTHING, console, count, line, money, plain, size

if TYPE_CHECKING:
    from storage.reporting.figures import Named
    from storage.reporting.summary import Summary

PIPE_WIDTH: Final = 80
"""Characters of a line where there is no terminal to fill."""

_HEIGHT: Final = 6
"""Lines of the chart by day."""

_DAYS: Final = 31
_WEEK: Final = 7
_SHORTEST_BAR: Final = 8
_LONGEST_BAR: Final = 40
_LONGEST_NAME: Final = 36
_NAMES: Final = 8
"""Models that are listed; more are no glance."""


def summary_as_json(summary: Summary) -> dict[str, Any]:
    """What `storage report --json` prints."""
    value = asdict(summary)
    value["month"] = f"{summary.month:%Y-%m}"
    for day in value["by_day"]:
        day["day"] = day["day"].isoformat()
    value["by_model"] = [_flat(each) for each in summary.by_model]
    value["top_repositories"] = [_flat(each) for each in summary.top_repositories]
    return value


def _flat(named: Named) -> dict[str, Any]:
    return {"name": named.name, **asdict(named.usage)}


def show_summary(summary: Summary) -> None:
    """Print it for a person."""
    width = console().width if sys.stdout.isatty() else PIPE_WIDTH
    used = summary.usage
    line(f"{summary.month:%B %Y}{', so far' if summary.so_far else ''}")
    line(
        f"{money(used.cost_usd)} for {count(used.conversations, 'conversation')}, {used.total_tokens:,} tokens;"
        f" the month before: {money(summary.previous.cost_usd)}"
    )
    if used.cost_usd > 0:
        line()
        line("Cost by day")
        _by_day(summary, width)
    for title, lines in (("Cost by model", summary.by_model), ("Top repositories", summary.top_repositories)):
        if lines:
            line()
            line(title)
            _named(lines[:_NAMES], used.cost_usd, width)
            if len(lines) > _NAMES:
                line(f"and {count(len(lines) - _NAMES, 'other')}, see `storage report cost`")
    line()
    line(
        f"Stored: {size(summary.bytes)} in {count(summary.files, 'file')};"
        f" first written in this month: {size(summary.new_bytes)} in {count(summary.new_files, 'file')}"
    )
    line(_webhooks(summary))


def _by_day(summary: Summary, width: int) -> None:
    costs = [day.cost_usd for day in summary.by_day]
    highest = max(costs)
    label = money(highest)
    indent = len(label) + 1
    thickness = max(min((width - indent) // _DAYS, 3), 1)
    for level, drawn in enumerate(columns(costs, highest, _HEIGHT, thickness)):
        _drawn(f"{label if level == 0 else '':>{indent - 1}} ", drawn)
    numbers = "".join(
        f"{day.day.day if day.day.day % _WEEK == 1 else '':<{thickness}}"[:thickness].ljust(thickness)
        if thickness > 1
        else ""
        for day in summary.by_day
    )
    if thickness == 1:
        numbers = "".join(f"{day:<7}" for day in range(1, len(costs) + 1, _WEEK))
    line(f"{'':{indent}}{numbers}".rstrip())


def _named(lines: Sequence[Named], whole: float, width: int) -> None:
    from rich.cells import cell_len, set_cell_size

    from storage.reporting.page.numbers import percent

    names = [plain(each.name) if each.name else NOTHING for each in lines]
    costs = [money(each.usage.cost_usd) for each in lines]
    shares = [percent(each.usage.cost_usd, whole) for each in lines]
    cost_width = max(map(len, costs))
    # Into a pipe names go whole; on a terminal they leave the bars some room.
    longest = max(map(cell_len, names))
    if sys.stdout.isatty():
        longest = min(longest, max(width - cost_width - _SHORTEST_BAR - 10, _SHORTEST_BAR), _LONGEST_NAME)
    room = max(min(width - longest - cost_width - 10, _LONGEST_BAR), 0)
    highest = max(each.usage.cost_usd for each in lines)
    for name, cost, share, each in zip(names, costs, shares, lines, strict=True):
        shown = set_cell_size(name, longest) if cell_len(name) <= longest else f"{set_cell_size(name, longest - 1)}…"
        _drawn(f"{shown}  {cost:>{cost_width}}  {share:>4}  ", bar(each.usage.cost_usd, highest, room))


def _webhooks(summary: Summary) -> str:
    if not summary.webhooks:
        return "Web hooks: none"
    state = f"{summary.pending:,} waiting, {summary.dead:,} dead"
    if summary.unwell_webhooks:
        state = f"{state}; {summary.unwell_webhooks:,} not well, see `storage webhooks list`"
    return f"Web hooks: {summary.webhooks:,}, {state}"


def _drawn(before: str, drawn: str) -> None:
    """A line that ends in a drawing, which has a colour on a terminal that has any."""
    if not sys.stdout.isatty():
        line(f"{before}{drawn}".rstrip())
        return
    from rich.text import Text

    console().print(Text.assemble(before, (drawn, "blue")), soft_wrap=True)
