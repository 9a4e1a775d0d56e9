"""`storage backup`, `restore` and `copy`: everything as an archive, and from one database to another."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from storage.cli.connection import DEFAULT, AsJSON, Connection, flag, opened
from storage.cli.output import count, line, note, pairs, progress, show_json, size

if TYPE_CHECKING:
    from storage.config import StorageConfig


async def backup(
    target: Annotated[
        Path, Parameter(help="A file whose name ends in .tar, or a folder, which later backups make use of.")
    ],
    /,
    *,
    files: Annotated[bool, flag("Also the contents that are in the file store; into a folder, only new ones.")] = False,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> int:
    """Write everything to an archive, while everybody goes on writing. It restores onto SQLite and onto PostgreSQL.

    It holds what was committed before it began. It is read again and compared before it is in its place, and whole at
    once. Secrets are in it as they are stored, sealed; master keys are not: keep those elsewhere, `storage keys status`
    says where they are. Exits with 1 if contents are missing from the file store, or damaged; the rest is whole.

    JSON: `{path, made_at, rows, blobs, bytes, copied, left_out, missing: [key], missing_number, damaged: [key],
    damaged_number, master_keys}`; blobs and bytes are of contents in the file store, copied those that were not there
    from an earlier backup, left_out those that --files would have added, missing and damaged the first ten of those
    that the file store does not have, or has otherwise than they were written.
    """
    async with opened(connection, locked=True) as storage:
        with progress("backing up", "rows and contents", quiet=json) as move:
            done = await storage.backup(target, files=files, progress=move)
    if json:
        show_json(asdict(done))
        return 1 if done.missing_number or done.damaged_number else 0
    pairs(
        [
            ("backup", str(done.path)),
            ("rows", f"{done.rows:,}"),
            ("contents", f"{done.blobs:,}, {size(done.bytes)}" if files else "none"),
            *([("copied now", f"{done.copied:,}")] if files else []),
            ("needs master keys", ", ".join(done.master_keys) or "none"),
        ]
    )
    if done.left_out:
        note(f"warning: {count(done.left_out, 'content')} of the file store left out; --files adds them")
    if done.missing_number:
        note(f"warning: {count(done.missing_number, 'content')} missing from the file store, first {done.missing[0]}")
    if done.damaged_number:
        note(f"warning: {count(done.damaged_number, 'content')} damaged in the file store, first {done.damaged[0]}")
    return 1 if done.missing_number or done.damaged_number else 0


async def restore(
    source: Annotated[Path, Parameter(help="A file or folder that `storage backup` has written.")],
    /,
    *,
    verify: Annotated[bool, flag("Only read all of the archive and compare it with what it says of itself.")] = False,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> None:
    """Put an archive into an empty storage, on either database. The archive is read whole and compared first.

    The rows come in one transaction, and are read back before it ends: interrupted, the database is as empty as before,
    and the same command begins again. A storage in which anything is stored is refused. Events that waited for web
    hooks wait again: set STORAGE_WEBHOOK_DELIVERY=false where a copy is only to be tried out.

    JSON: `{rows, tables: {name: rows}, blobs, present, left_out, master_keys, keys}`; blobs are contents written to the
    file store, present those that were there, left_out those that the archive does not have; keys is `"unlocked"` or
    what the secrets lack. With --verify `{rows, blobs, bytes, made_at, revision, dialect, master_keys}`.
    """
    from storage.backup.archive import open_archive, verified
    from storage.storage import Storage

    if verify:
        with open_archive(source) as archive, progress("reading", "bytes", quiet=json) as move:
            await verified(archive, move)
            found = archive.manifest
        facts = {
            "rows": found.rows,
            "blobs": found.blobs.number,
            "bytes": found.blobs.bytes,
            "made_at": found.made_at,
            "revision": found.revision,
            "dialect": found.dialect,
            "master_keys": list(found.master_keys),
        }
        show_json(facts) if json else pairs((name.replace("_", " "), str(value)) for name, value in facts.items())
        return
    config = connection.settings()
    with progress("restoring", "rows and contents", quiet=json) as move:
        done = await Storage.restore(source, config, progress=move)
    state = await _keys(config)
    if json:
        show_json({**asdict(done), "keys": state})
        return
    line(f"restored {count(done.rows, 'row')} and {count(done.blobs + done.present, 'content')}")
    if done.left_out:
        note(f"warning: {count(done.left_out, 'content')} of the file store are not in the archive")
    if state not in ("unlocked", "empty"):
        note(f"warning: the secrets are locked ({state}); they need the master key {', '.join(done.master_keys)}")


async def copy(
    *,
    to: Annotated[str, Parameter(help="The other database: its URL. It must hold nothing of ours.")],
    to_data_dir: Annotated[
        Path | None,
        Parameter(help="Copy the contents of files too, into this folder; they stay where they are if not given."),
    ] = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> int:
    """Copy everything to another, empty database: from SQLite to PostgreSQL, when a desktop's install has grown.

    Secrets go as they are, sealed, so the same master key opens them. Every row is read back and compared before the
    one transaction ends; interrupted, run it again. Stop what writes to this storage first: what comes later stays
    behind. Then let the other programs' configuration name the new database.

    JSON: `{rows, tables: {name: rows}, files, master_keys}`; files is null unless contents were copied.
    """
    from storage.backup.copying import copy_storage
    from storage.database.url import parse_url
    from storage.files.backends.local import LocalFileStore

    async with opened(connection, locked=True) as storage:
        blobs = None if to_data_dir is None else LocalFileStore(to_data_dir / "files")
        with progress("copying", "rows", quiet=json) as move:
            done = await copy_storage(storage.database.url, storage.files, parse_url(to), blobs, progress=move)
    if json:
        show_json(asdict(done))
    else:
        pairs([*((name.replace("_", " "), f"{number:,}") for name, number in done.tables.items()), ("rows", done.rows)])
        if done.files is None:
            note(
                "the contents of files stay where they are: the copy's file_store and file_store_path are to name that"
            )
    return 0 if done.files is None or not done.files.flaws else 1


async def _keys(config: StorageConfig) -> str:
    """What the key ring of the restored storage says."""
    from storage.storage import Storage

    unlocked = config.model_copy(update={"require_master_key": False, "webhook_delivery": False})
    async with Storage.open(unlocked) as storage:
        return str(storage.keyring.state)
