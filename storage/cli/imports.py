"""`storage import`: moving what another system wrote into this storage."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from storage.cli.connection import DEFAULT, AsJSON, Connection, flag, opened, opened_for_comparison
from storage.cli.output import complain, line, plain, show_json

if TYPE_CHECKING:
    from storage.openhands.importer import Progress

app = App(name="import", help="Move in what another system has stored.")


@app.command
async def openhands(
    source: Annotated[
        Path, Parameter(help="The state directory (such as ~/.openhands), or a tar or zip archive of one.")
    ],
    /,
    *,
    user: Annotated[
        str | None,
        Parameter(name="--user", help="Who gets what the source assigns to no user; the local user if not given."),
    ] = None,
    dry_run: Annotated[bool, flag("Write nothing; report what would be done.")] = False,
    overwrite: Annotated[bool, flag("Let the source win where the storage has something else.")] = False,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> int:
    """Import an OpenHands state directory: conversations, events, settings and secrets.

    The source is only read. Running it again imports what is missing and changes nothing else, so an interrupted import
    is continued by repeating it. What is broken is repaired as far as the source tells, and each repair, skip and
    guess is reported as a flaw; flaws alone do not make it fail. It exits with 1 when secrets were left out because the
    master key is not at hand.

    JSON: `{source, dry_run, changed, recovered, total, users, flaw_counts, flaws: [{code, path, message}]}`, where
    `total` and each user have `{conversations, files, settings, secrets}`, each `{found, imported, overwritten,
    unchanged, kept, skipped, bytes}`.
    """
    from storage.identity import user_key
    from storage.openhands.importer import import_home
    from storage.openhands.reader import open_home

    user_key(user)
    # The source comes first: a misspelt one must not leave an empty database behind.
    with open_home(source) as home:
        async with opened_for_comparison(connection) if dry_run else opened(connection, create=True) as storage:
            with _progress(quiet=json) as progress:
                report = await import_home(
                    storage, home, user=user, dry_run=dry_run, overwrite=overwrite, progress=progress
                )
            locked = storage.keyring.state == "locked"
    if json:
        show_json(report.as_dict())
    else:
        for text in report.lines():
            indent = text[: len(text) - len(text.lstrip())]
            line(indent + plain(text.strip()))
    if locked and (report.total("secrets").skipped or report.total("settings").skipped):
        complain(
            "secrets were left out: the master key is not at hand. Mend what `storage status` says, and import again"
        )
        return 1
    return 0


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[Progress], None] | None]:
    """A bar on a terminal, a line after each batch otherwise; on stderr, so that the report stays clean."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _bar() as move:
            yield move
    else:
        yield _told


def _told(progress: Progress) -> None:
    sys.stderr.write(
        f"{progress.conversations:,} of {progress.total_conversations:,} conversations,"
        f" {progress.files:,} files, {progress.bytes:,} bytes\n"
    )


@contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("importing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("conversations, {task.fields[files]:,} files"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("importing", total=None, files=0)

        def move(progress: object) -> None:
            done, total = getattr(progress, "conversations", 0), getattr(progress, "total_conversations", 0)
            bar.update(task, completed=done, total=total, files=getattr(progress, "files", 0))

        yield move
