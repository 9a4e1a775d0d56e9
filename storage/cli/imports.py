"""`storage import`: moving what another system wrote into this storage."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

from cyclopts import App, Parameter

from storage.cli.connection import DEFAULT, AsJSON, Connection, flag, opened, opened_for_comparison
from storage.cli.output import complain, line, plain, show_json
from storage.cli.prompt import ask_secret

if TYPE_CHECKING:
    from pydantic import SecretStr

    from storage.openhands.importer import Progress
    from storage.openhands.report import ImportReport

app = App(name="import", help="Move in what another system has stored.")

_JWT_SECRET: Final = "JWT_SECRET"  # noqa: S105 - the name of OpenHands' own variable
_UNOPENED: Final = "encrypted-secret"
_REFUSED: Final = "rejected"

JWTSecretFile: TypeAlias = Annotated[
    Path | None,
    Parameter(
        name="--jwt-secret-file",
        help="File with the JWT secret that OpenHands encrypted values with; - is the standard input"
        f" (environment: {_JWT_SECRET}, as OpenHands names it).",
    ),
]
DryRun: TypeAlias = Annotated[bool, flag("Write nothing; report what would be done.")]
Overwrite: TypeAlias = Annotated[bool, flag("Let the source win where the storage has something else.")]


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
    jwt_secret_file: JWTSecretFile = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> int:
    """Import an OpenHands state directory: conversations, events, settings and secrets.

    The source is only read. Running it again imports what is missing and changes nothing else, so an interrupted import
    is continued by repeating it. What is broken is repaired as far as the source tells, and each repair, skip and
    guess is reported as a flaw; flaws alone do not make it fail. It exits with 1 when secrets were left out because the
    master key is not at hand, or because they are encrypted and no JWT secret opens them; the directory's own
    `.jwt_secret` and `.keys` are tried too.

    JSON: `{source, dry_run, changed, recovered, total, users, flaw_counts, flaws: [{code, path, message}]}`, where
    `total` and each user have `{conversations, files, settings, secrets}`, each `{found, imported, overwritten,
    unchanged, kept, skipped, bytes}`.
    """
    from storage.identity import user_key
    from storage.openhands.importer import import_home
    from storage.openhands.reader import open_home

    user_key(user)
    secrets = _jwt_secrets(jwt_secret_file)
    # The source comes first: a misspelt one must not leave an empty database behind.
    with open_home(source) as home:
        async with opened_for_comparison(connection) if dry_run else opened(connection, create=True) as storage:
            with _progress(quiet=json) as progress:
                report = await import_home(
                    storage,
                    home,
                    user=user,
                    dry_run=dry_run,
                    overwrite=overwrite,
                    progress=progress,
                    jwt_secrets=secrets,
                )
            locked = storage.keyring.state == "locked"
    return _finish(report, locked=locked, json=json)


@app.command
async def openhands_enterprise(
    source: Annotated[
        str,
        Parameter(
            help="Its database: postgresql://user@host/database or sqlite:///path. A password is better kept in"
            " ~/.pgpass or PGPASSWORD: other users can see command lines."
        ),
    ],
    /,
    *,
    user: Annotated[str | None, Parameter(name="--user", help="Only this user's, by the id in the source.")] = None,
    jwt_secret_file: JWTSecretFile = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> int:
    """Import settings, custom secrets and git providers' tokens from the database of an OpenHands enterprise server.

    Read are the tables user_settings, custom_secrets (formerly user_secrets) and auth_tokens, and of the later releases
    user, org_member and each user's own row of org, with the columns that there are. Users keep their ids. Values that
    are encrypted under the JWT secret are opened, plain ones taken as they are, and both are sealed on the way in; no
    value is ever shown. Keys of shared organisations, keys that the server issued and conversations are not read.

    The source is read in one read-only transaction. Running it again imports what is missing and changes nothing else.
    It exits with 1 when secrets were left out because the master key is not at hand, or because no JWT secret opens
    them.

    JSON: as that of `storage import openhands`.
    """
    from storage.openhands.enterprise import import_enterprise, open_enterprise

    secrets = _jwt_secrets(jwt_secret_file)
    async with (
        open_enterprise(source) as enterprise,
        opened_for_comparison(connection) if dry_run else opened(connection, create=True) as storage,
    ):
        report = await import_enterprise(
            storage, enterprise, jwt_secrets=secrets, user=user, dry_run=dry_run, overwrite=overwrite
        )
        locked = storage.keyring.state == "locked"
    return _finish(report, locked=locked, json=json)


def _jwt_secrets(file: Path | None) -> list[SecretStr]:
    """That of the file, or else of the environment; none if there is neither."""
    from pydantic import SecretStr

    if file is not None:
        return [ask_secret("JWT secret", file)]
    text = os.environ.get(_JWT_SECRET)
    return [SecretStr(text)] if text else []


def _finish(report: ImportReport, *, locked: bool, json: bool) -> int:
    """Show the report; the exit code."""
    if json:
        show_json(report.as_dict())
    else:
        for text in report.lines():
            indent = text[: len(text) - len(text.lstrip())]
            line(indent + plain(text.strip()))
    code = 0
    flaws = {found.code for found in report.flaws}
    if _UNOPENED in flaws:
        complain(
            "values were left out: they are encrypted, and no JWT secret at hand opens them. Give the right one with"
            " --jwt-secret-file, and import again"
        )
        code = 1
    if locked and _REFUSED in flaws:
        complain(
            "secrets were left out: the master key is not at hand. Mend what `storage status` says, and import again"
        )
        code = 1
    return code


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
