"""`storage users`: who has something stored, all of it for them to take, and its removal."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

from cyclopts import App, Parameter

from storage.cli.connection import DEFAULT, AsJSON, Connection, flag, opened
from storage.cli.output import Column, complain, line, note, plain, progress, show_json, size, table
from storage.cli.output import count as counted
from storage.cli.prompt import confirm

app = App(name="users", help="See who has something stored, export all of it, and delete a user whole.")

_SECRETS: Final = ("provider_token", "custom_secret")


@app.command(name="list")
async def list_(*, connection: Connection = DEFAULT, json: AsJSON = False) -> None:
    """List everyone who has something stored, by id. The one user of a desktop install is `local`.

    JSON: a list of `{user_id, rows: {table: number}}`; tables in which a user has nothing are left out.
    """
    async with opened(connection) as storage:
        found = await storage.list_users()
    if json:
        show_json([asdict(user) for user in found])
        return
    if not found:
        line("no users")
        return
    table(
        [
            Column("User", wrap=True),
            Column("Conversations", number=True),
            Column("Files", number=True),
            Column("Secrets", number=True),
            Column("Settings"),
        ],
        [
            (
                user.user_id,
                f"{user.rows.get('conversation', 0):,}",
                f"{user.rows.get('file', 0):,}",
                f"{sum(user.rows.get(name, 0) for name in _SECRETS):,}",
                "stored" if "settings" in user.rows else "",
            )
            for user in found
        ],
    )


@app.command
async def export(
    user_id: Annotated[str, Parameter(help="The user's id, as `storage users list` shows it.")],
    target: Annotated[Path, Parameter(help="A file whose name ends in .zip, or a folder that is not there yet.")],
    /,
    *,
    reveal: Annotated[
        bool, flag("Also write the values of secrets, in clear. The policy allow_reveal can forbid it.")
    ] = False,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> int:
    """Write everything that is stored of a user: each table as lines of JSON, each file at its own path.

    Values of secrets stand as "(sealed)"; with --reveal they are in secrets.json. It is there whole or not at all, and
    for its owner only. Exits with 1 if a file was left out, with its reason.

    JSON: `{path, user_id, made_at, rows: {table: number}, files, bytes, skipped: {path: reason}, secrets_revealed}`.
    """
    from storage.cli.secrets import require_reveal

    if reveal:
        require_reveal(allowed=connection.settings().allow_reveal)
    async with opened(connection) as storage:
        with progress("exporting", "files", quiet=json) as move:
            done = await storage.export_user(user_id, target, reveal=reveal, progress=move)
    if json:
        show_json(asdict(done))
    else:
        rows = counted(sum(done.rows.values()), "row")
        line(f"{plain(done.user_id)}: {rows}, {counted(done.files, 'file')}, {size(done.bytes)}")
        for path, reason in done.skipped.items():
            note(f"warning: {path} left out: {reason}")
    return 1 if done.skipped else 0


@app.command
async def delete(
    user_id: Annotated[str, Parameter(help="The user's id, as `storage users list` shows it.")],
    /,
    *,
    yes: Annotated[bool, flag("Do not ask.")] = False,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> int:
    """Delete a user for good: the data keys first, then every row, then the bytes of the files.

    It asks for the id to be typed once more; without a terminal it needs --yes. Copies made before, such as backups,
    still hold what they hold. Exits with 1 if nothing is stored for this id, and if the file store did not remove
    everything.

    JSON: `{user_id, rows: {table: number}, blobs, blobs_left: [key]}`.
    """
    from storage.errors import NotFound
    from storage.identity import user_key

    owner = user_key(user_id)
    async with opened(connection) as storage:
        users = {user.user_id: user for user in await storage.list_users()}
        if owner not in users:
            raise NotFound(f"nothing is stored for a user {owner!r}; `storage users list` shows who there is")
        rows = users[owner].rows
        confirm(
            owner,
            f"This deletes the user {owner!r} for good:"
            f" {', '.join(f'{number:,} {name}' for name, number in rows.items())}.",
            yes=yes,
        )
        deleted = await storage.delete_user(owner)
    if json:
        show_json(asdict(deleted))
    else:
        line(f"deleted the user {plain(deleted.user_id)}")
        table(
            [Column("Table"), Column("Rows", number=True)],
            [(name, f"{number:,}") for name, number in deleted.rows.items()],
        )
        line(f"{counted(deleted.blobs, 'blob')} of files removed")
    if deleted.blobs_left:
        complain(
            f"the file store did not remove {counted(len(deleted.blobs_left), 'blob')}, which nothing names any more;"
            f" remove by hand: {', '.join(deleted.blobs_left)}"
        )
        return 1
    return 0
