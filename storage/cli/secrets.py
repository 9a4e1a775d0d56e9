"""`storage secrets`: which secrets a user has; their values never leave the library this way."""

from __future__ import annotations

from dataclasses import asdict

from cyclopts import App

from storage.cli.connection import DEFAULT, AsJSON, Connection, User, opened
from storage.cli.output import Column, line, moment, show_json, table

app = App(name="secrets", help="See which secrets a user has. Values are never shown.")


@app.command(name="list")
async def list_(*, user: User = None, connection: Connection = DEFAULT, json: AsJSON = False) -> None:
    """List a user's provider tokens and custom secrets. Nothing is decrypted, and it works without the master key.

    JSON: a list of `{kind, name, description, state, host, provider_user_id, created_at, updated_at}`; state is
    `"set"`, `"unset"` or `"unreadable"`.
    """
    async with opened(connection) as storage:
        found = await storage.user(user).secrets.list()
    if json:
        show_json([asdict(info) for info in found])
        return
    if not found:
        line("no secrets")
        return
    columns = [
        Column("Kind"),
        Column("Name", wrap=True),
        Column("State"),
        Column("Host", wide=True),
        Column("Description", wrap=True),
        Column("Updated (UTC)"),
    ]
    table(
        columns,
        [(info.kind, info.name, info.state, info.host, info.description, moment(info.updated_at)) for info in found],
    )
