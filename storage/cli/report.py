"""`storage report`: what was used, what it cost and how much is stored; for a terminal, a browser and programs."""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from storage.cli.connection import DEFAULT, AsJSON, Connection, EveryUser, opened
from storage.cli.output import Column, count, line, money, note, show_json, size, table
from storage.cli.report_serve import serve

if TYPE_CHECKING:
    from storage.reporting.cost import CostLine, CostReport
    from storage.reporting.usage import UsageReport

app = App(name="report", help="What was used and what it cost, over one user or all.")
app.command(serve)


@app.default
async def summary(
    *,
    month: Annotated[
        str | None,
        Parameter(help="Which month (UTC), as 2025-11; the last one in which a conversation began if not given."),
    ] = None,
    user: EveryUser = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> None:
    """Show one month at a glance: cost by day and by model, top repositories, what is stored, and the web hooks.

    A conversation counts on the day it began, with all it has cost since.

    JSON: `{month, so_far, user_id, usage, previous, by_day: [{day, conversations, cost_usd}], by_model,
    top_repositories, files, bytes, new_files, new_bytes, webhooks, unwell_webhooks, pending, dead}`; usage and previous
    (the month before) are `{conversations, cost_usd, prompt_tokens, completion_tokens, total_tokens,
    cache_read_tokens}`, models and repositories the same with a name.
    """
    from storage.cli.report_summary import show_summary, summary_as_json
    from storage.reporting.summary import parse_month, read_summary

    which = None if month is None else parse_month(month)
    async with opened(connection) as storage:
        found = await read_summary(storage.database, user, month=which)
    if json:
        show_json(summary_as_json(found))
    else:
        show_summary(found)


@app.command
async def html(
    *,
    output: Annotated[
        Path,
        Parameter(
            name=["--output", "-o"], allow_leading_hyphen=True, help="The file to write; - is the standard output."
        ),
    ],
    since: Annotated[date | None, Parameter(help="The first day (UTC) that counts, as 2025-11-02.")] = None,
    until: Annotated[date | None, Parameter(help="The last day (UTC) that counts, itself included.")] = None,
    user: EveryUser = None,
    connection: Connection = DEFAULT,
) -> None:
    """Write a page of charts and tables: one HTML file that needs no network and nothing besides.

    Cost over time by model, tokens, what began the conversations, storage growth, web hook deliveries, and what is the
    most expensive. What is stored and the web hooks are shown as they are now, whatever days count. A new file is its
    owner's alone (0600); one that is there is replaced when the new one is complete.
    """
    from storage.cli.whole_file import whole_file
    from storage.reporting.figures import read_figures
    from storage.reporting.page.document import render

    async with opened(connection) as storage:
        figures = await read_figures(storage.database, user, since=since, until=until)
    page = render(figures).encode()
    if output == Path("-"):
        sys.stdout.buffer.write(page)
        return
    with whole_file(output) as file:
        file.write(page)
    note(f"{output}: {count(figures.usage.conversations, 'conversation')}, {size(len(page))}")


@app.command
async def cost(*, user: EveryUser = None, connection: Connection = DEFAULT, json: AsJSON = False) -> None:
    """Show what conversations cost, by model, by month of creation (UTC), and the ten dearest repositories.

    JSON: `{total, by_model, by_month, top_repositories}`; each line is `{name, conversations, cost, prompt_tokens,
    completion_tokens, total_tokens}`, cost in US dollars, name null for conversations without one.
    """
    from storage.reporting.cost import cost_report

    async with opened(connection) as storage:
        found = await cost_report(storage.database, user)
    if json:
        show_json(asdict(found))
    else:
        _show_cost(found)


@app.command
async def usage(*, user: EveryUser = None, connection: Connection = DEFAULT, json: AsJSON = False) -> None:
    """Show how much each user stores, and the ten conversations whose files take the most room.

    JSON: `{users: [{user_id, conversations, files, bytes}], largest_conversations: [{user_id, conversation_id, title,
    files, bytes}]}`.
    """
    from storage.reporting.usage import usage_report

    async with opened(connection) as storage:
        found = await usage_report(storage.database, user)
    if json:
        show_json(asdict(found))
    else:
        _show_usage(found)


def _show_cost(report: CostReport) -> None:
    total = report.total
    line(f"Cost: {money(total.cost)} in {count(total.conversations, 'conversation')}, {total.total_tokens:,} tokens")
    for title, lines in (
        ("Model", report.by_model),
        ("Month", report.by_month),
        ("Repository", report.top_repositories),
    ):
        if lines:
            line()
            _lines(title, lines)


def _lines(title: str, lines: list[CostLine]) -> None:
    columns = [
        Column(title, wrap=True),
        Column("Conversations", number=True),
        Column("Tokens", number=True),
        Column("Cost", number=True),
    ]
    table(
        columns, [(each.name, f"{each.conversations:,}", f"{each.total_tokens:,}", money(each.cost)) for each in lines]
    )


def _show_usage(report: UsageReport) -> None:
    files, stored = sum(user.files for user in report.users), sum(user.bytes for user in report.users)
    line(f"Stored: {count(files, 'file')} of {count(len(report.users), 'user')}, {size(stored)}")
    if report.users:
        line()
        table(
            [
                Column("User", wrap=True),
                Column("Conversations", number=True),
                Column("Files", number=True),
                Column("Size", number=True),
            ],
            [(user.user_id, f"{user.conversations:,}", f"{user.files:,}", size(user.bytes)) for user in report.users],
        )
    if report.largest_conversations:
        line()
        table(
            [
                Column("Largest conversation"),
                Column("Title", wrap=True),
                Column("User", wrap=True),
                Column("Files", number=True),
                Column("Size", number=True),
            ],
            [
                (found.conversation_id, found.title, found.user_id, f"{found.files:,}", size(found.bytes))
                for found in report.largest_conversations
            ],
        )
