"""`storage settings`: a user's settings, with their secrets out of sight."""

from __future__ import annotations

from typing import Any

from cyclopts import App

from storage.cli.connection import DEFAULT, AsJSON, Connection, User, opened
from storage.cli.output import line, pairs, show_json

app = App(name="settings", help="Look at a user's settings.")


@app.command
async def show(*, user: User = None, connection: Connection = DEFAULT, json: AsJSON = False) -> None:
    """Show a user's settings. Of a secret it only says whether it is set, unset or unreadable; nothing is decrypted.

    JSON: `{settings, secrets}`: the settings that are not secret by name, or null if none were ever stored; and for
    each secret one `"set"`, `"unset"` or `"unreadable"`.
    """
    async with opened(connection) as storage:
        store = storage.user(user).settings
        settings = await store.load_without_secrets()
        states = await store.secret_states()
    values: dict[str, Any] | None = None
    if settings is not None:
        values = {name: value for name, value in settings.model_dump(mode="json").items() if name not in states}
    if json:
        show_json({"settings": values, "secrets": states})
        return
    if values is None:
        line("no settings are stored for this user")
        return
    pairs([*values.items(), *states.items()])
