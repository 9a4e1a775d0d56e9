"""`storage report`: what the conversations cost, and how much is stored."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from cyclopts import App

from storage.cli.connection import DEFAULT, AsJSON, Connection, EveryUser, opened
from storage.cli.output import Column, count, line, money, show_json, size, table

if TYPE_CHECKING:
    from storage.reporting.cost import CostLine, CostReport
    from storage.reporting.usage import UsageReport

app = App(name="report", help="Add up what is stored, over one user or all.")


@app.default
async def both(*, user: EveryUser = None, connection: Connection = DEFAULT, json: AsJSON = False) -> None:
    """Show the cost report and the usage report, one after the other.

    JSON: `{cost, usage}`, as the two commands print them.
    """
    from storage.reporting.cost import cost_report
    from storage.reporting.usage import usage_report

    async with opened(connection) as storage:
        costs = await cost_report(storage.database, user)
        usages = await usage_report(storage.database, user)
    if json:
        show_json({"cost": asdict(costs), "usage": asdict(usages)})
        return
    _show_cost(costs)
    line()
    _show_usage(usages)


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
