"""Master keys on their way: a new one for where this program cannot put it, and bundles for another machine.

Whatever is written here is a file of its owner's alone, and never in the place of another file.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

from cyclopts import Parameter

from storage.cli.connection import DEFAULT, AsJSON, Connection, flag, opened
from storage.cli.output import count as counted
from storage.cli.output import line, note, plain, show_json
from storage.cli.prompt import ask_passphrase
from storage.cli.secrets import require_reveal
from storage.durable import flush

if TYPE_CHECKING:
    from storage.config import StorageConfig
    from storage.encryption.providers.provider import KeyProvider
    from storage.encryption.status import KeyRingStatus

PassphraseFile: TypeAlias = Annotated[
    Path | None,
    Parameter(
        allow_leading_hyphen=True,
        help="Read the passphrase from this file, or from the standard input: `-`. It is asked for if not given.",
    ),
]

_MOST_BYTES: Final = 1024 * 1024
"""A bundle is some hundred bytes; whatever is larger is some other file."""

_DEPLOYMENT: Final = (
    "nothing uses it yet. Put it behind the key in use on every machine (STORAGE_MASTER_KEY=old,new), then in front on"
    " every machine (STORAGE_MASTER_KEY=new,old), then run `storage keys rewrap` and `storage keys retire OLD`"
)


async def new(
    *,
    output: Annotated[
        Path | None, Parameter(help="Only make a key, and write it to this new file (mode 0600), for you to deploy.")
    ] = None,
    reveal: Annotated[
        bool, flag("Only make a key, and print it, for you to deploy. The policy allow_reveal can forbid it.")
    ] = False,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> None:
    """Add a master key behind the active one: the first phase of a rotation.

    It goes into the key file or the keyring and is registered in the database. `storage keys promote` makes it the
    active one, after every machine has it. Keys that are in the environment are yours to change: --output or --reveal
    makes one, and nothing else.

    JSON: `{kek_id, output, key}`: kek_id is null for a key that was only made, output is its file or null, and key is
    there with --reveal.
    """
    from storage.encryption.providers.local_keys import MasterKey
    from storage.errors import InvalidInput

    config = connection.settings()
    if output is not None and reveal:
        raise InvalidInput("--output and --reveal are two ways to hand out a key; give one of them")
    if reveal:
        require_reveal(allowed=config.allow_reveal)
    if reveal or output is not None:
        key = MasterKey.generate().encoded()
        if output is not None:
            write_new(output, f"{key}\n".encode())
        if json:
            show_json({"kek_id": None, "output": output, **({"key": key} if reveal else {})})
            return
        line(key if reveal else f"a new master key is in {plain(str(output))}")
        note(_DEPLOYMENT)
        return
    if _in_environment(config):
        raise InvalidInput(
            "the master keys are in STORAGE_MASTER_KEY, which this program cannot change; --output FILE makes a key"
            " for you to add there"
        )
    async with opened(connection, locked=True) as storage:
        kek_id = await storage.keys.new()
        ring = (await storage.keys.status()).ring
    if json:
        show_json({"kek_id": kek_id, "output": None})
    elif ring.kek_id == kek_id:
        line(f"the master key {kek_id} is in {plain(ring.where)}, and is the active one")
    else:
        line(f"the master key {kek_id} is in {plain(ring.where)}, behind the active one")
        line(f"next, once every machine has it: storage keys promote {kek_id}")


async def export(
    file: Annotated[Path, Parameter(help="A file that does not exist yet.")],
    /,
    *,
    passphrase_file: PassphraseFile = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> None:
    """Write the master keys to a bundle, sealed under a passphrase, for another machine or for a safe place.

    Whoever has the bundle and the passphrase has the keys.

    JSON: `{file}`.
    """
    from storage.encryption.providers.bundle import export_bundle

    config = connection.settings()
    _refuse_existing(file)
    async with opened(connection, locked=True) as storage:
        registered = await storage.keys.registered()
    async with _provider(config) as provider:
        passphrase = ask_passphrase("passphrase", passphrase_file, twice=True)
        bundle = await export_bundle(provider, registered, passphrase.get_secret_value())
    write_new(file, bundle)
    if json:
        show_json({"file": file})
    else:
        line(f"the master keys are in {plain(str(file))}, sealed under the passphrase")


async def import_(
    file: Annotated[Path, Parameter(help="A bundle that `storage keys export` wrote.")],
    /,
    *,
    passphrase_file: PassphraseFile = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> int:
    """Put the master keys of a bundle into the key file or the keyring. Keys that are there stay, and stay in front.

    It works before there is a database. If there is one, it says whether its keys are complete now, and exits with 1
    if they are not.

    JSON: `{imported: [kek_id], database}`: imported are those that were not there, `"unregistered"` if no database
    knew a key; database is null if there is none, else `{state, reason, message, complete, kek_id, provider, where,
    data_keys}`.
    """
    from storage.encryption.providers.bundle import import_bundle
    from storage.errors import StorageError

    with file.open("rb") as bundle:
        content = bundle.read(_MOST_BYTES)
    async with _provider(connection.settings()) as provider:
        where = provider.where
        passphrase = ask_passphrase("passphrase", passphrase_file, twice=False)
        imported = await import_bundle(provider, content, passphrase.get_secret_value())
    ring: KeyRingStatus | None = None
    failure: StorageError | None = None
    try:
        ring = await _ring_of_database(connection)
    except StorageError as error:
        failure = error  # what was imported is told first
    if json:
        show_json({"imported": imported, "database": None if ring is None else asdict(ring)})
    else:
        if imported:
            line(f"{counted(len(imported), 'master key')} imported into {plain(where)}: {', '.join(imported)}")
        else:
            line(f"every master key of the bundle is in {plain(where)} already")
        if ring is not None:
            line(f"of the database: {plain(ring.message)}")
        elif failure is None:
            line("there is no database yet")
    if failure is not None:
        raise failure
    return 0 if ring is None or ring.complete else 1


@asynccontextmanager
async def _provider(config: StorageConfig) -> AsyncIterator[KeyProvider]:
    from storage.encryption.providers.configured import provider_for

    provider = await provider_for(config)
    try:
        yield provider
    finally:
        await provider.close()


async def _ring_of_database(connection: Connection) -> KeyRingStatus | None:
    """What the database says to the keys; None if there is no SQLite file."""
    from storage.database.url import parse_url

    config = connection.settings()
    file = parse_url(config.database_url or config.sqlite_default()).file
    if file is not None and not file.exists():
        return None
    async with opened(connection, locked=True) as storage:
        return await storage.keyring.status()


def _in_environment(config: StorageConfig) -> bool:
    return config.key_provider == "environment" or (config.key_provider is None and config.master_key is not None)


def write_new(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, and that was not there before.

    Raises:
        InvalidInput: something is at that path.
        OSError: it cannot be written; then it is not there.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
    except FileExistsError:
        _refuse_existing(path)
        raise
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            flush(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _refuse_existing(path: Path) -> None:
    from storage.errors import InvalidInput

    if path.exists() or path.is_symlink():
        raise InvalidInput(f"{path} is there already, and is not overwritten; name another file")
