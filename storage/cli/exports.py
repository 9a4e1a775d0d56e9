"""`storage export`: moving out, into what another system reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from storage.cli.connection import DEFAULT, AsJSON, Connection, flag, opened
from storage.cli.output import complain, count, line, note, plain, progress, show_json, size

app = App(name="export", help="Move out, into what another system reads.")


@app.command
async def openhands(
    folder: Annotated[Path, Parameter(help="The new state directory; it must not be there yet, or be empty.")],
    /,
    *,
    user: Annotated[
        str | None,
        Parameter(name="--user", help="Only this user's, as a state directory of their own; everyone's if not given."),
    ] = None,
    repair: Annotated[
        bool, flag("Write metadata anew also for conversations that came with a broken metadata.json.")
    ] = False,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> int:
    """Write a state directory as OpenHands' own stores keep it: conversations, files, settings and secrets.

    Files come byte for byte. Settings and secrets are in clear, because that is how OpenHands reads them; the folder is
    for its owner only. Importing it into an empty storage gives the same again. It is in its place once it is whole:
    one that is interrupted leaves nothing there, and beside it at most a folder whose name begins with a dot. Exits
    with 1 if something was left out, each with its reason: a file that is damaged, or whose name the file system cannot
    hold or something else has; a conversation whose id no folder can have.

    JSON: `{folder, users, conversations, files, bytes, settings, secrets, skipped: [{path, reason}],
    broken: [conversation_id]}`.
    """
    from storage.openhands.exporter import export_home

    async with opened(connection) as storage:
        with progress("exporting", "files", quiet=json) as move:
            report = await export_home(storage, folder, user=user, repair=repair, progress=move)
    if json:
        show_json(report.as_dict())
    else:
        line(
            f"{plain(str(report.folder))}: {count(report.conversations, 'conversation')}, {count(report.files, 'file')}"
            f" ({size(report.bytes)}), {count(report.settings, 'user')} with settings,"
            f" {count(report.secrets, 'secret')} in clear"
        )
        if report.broken:
            note(
                f"{count(len(report.broken), 'conversation')} with the broken metadata.json of before, which OpenHands"
                " does not list; --repair writes it anew"
            )
        for left in report.skipped:
            complain(f"left out: {left.path}: {left.reason}")
    return 1 if report.skipped else 0
