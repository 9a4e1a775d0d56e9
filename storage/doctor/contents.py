"""Orphans both ways: files whose content is not there, and contents that no file has."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from sqlalchemy import exists, literal_column, select
from sqlalchemy.types import Text

from storage.database.statement import Statement
from storage.doctor.finding import Finding, some
from storage.errors import ConfigurationError
from storage.files.backends.cached import uncached
from storage.files.backends.memory import MemoryFileStore
from storage.files.blobs import BLOB_CONCURRENCY, IN_BACKEND, IN_DATABASE, is_in_database
from storage.files.concurrency import each
from storage.files.maintenance.verification import OwnedEntry, pages, present_entry, same_content
from storage.tables import metadata

if TYPE_CHECKING:
    from storage.database.database import Database
    from storage.doctor.parts import OpenParts
    from storage.files.store import FileStore

_file: Final = metadata.tables["file"]
_content: Final = metadata.tables["file_content"]

_WITHOUT_ROW: Final = Statement(
    "report.doctor_files_without_content",
    select(_file.c.user_id, _file.c.path)
    .where(
        _file.c.blob_key.like(literal_column(f"'{IN_DATABASE}%'", Text)),
        ~exists().where(_content.c.user_id == _file.c.user_id, _content.c.blob_key == _file.c.blob_key),
    )
    .order_by(_file.c.user_id, _file.c.path),
)


async def orphans(database: Database, opened: OpenParts) -> list[Finding]:
    """Compares the catalogue with a listing of the file store; reads no content, which `storage files verify` does."""
    store = uncached(opened.blobs)
    missing = [f"{path!r} of {user_id!r}" for user_id, path in await database.read(_WITHOUT_ROW, {}, scan=True)]
    missing += await _without_blob(database, store)
    findings = []
    if missing:
        message = f"the contents of {len(missing):,} files are missing: {some(missing)}"
        if isinstance(store, MemoryFileStore):
            remedy = "`memory` keeps files as long as a process runs; set file_store to a place that lasts"
        else:
            remedy = "check that file_store_path is what it was, or restore the files from a backup"
        findings.append(Finding("error", message, remedy))
    return findings + await _unnamed(opened)


async def _without_blob(database: Database, store: FileStore) -> list[str]:
    """The files whose blob is not listed, and is not there either when it is asked for by its key."""
    # A blob's name ends with its id, of 16 bytes: a million of them are held without harm.
    listed = set()
    async with aclosing(store.walk(IN_BACKEND.rstrip("/"))) as files:
        async for file in files:
            listed.add(_short(file.path))
    missing: list[str] = []

    async def look(owned: OwnedEntry) -> None:
        key, path = owned.entry.blob_key, owned.entry.stat.path
        if await store.exists(key):
            return  # written since the listing
        present = await present_entry(database, owned.user_id, path)
        if present is not None and same_content(present, owned.entry):
            missing.append(f"{path!r} of {owned.user_id!r}")

    async with aclosing(pages(database)) as every:
        async for page in every:
            suspects = [
                owned
                for owned in page
                if not is_in_database(owned.entry.blob_key) and _short(owned.entry.blob_key) not in listed
            ]
            await each(look, suspects, BLOB_CONCURRENCY)
            await asyncio.sleep(0)
    return sorted(missing)


def _short(key: str) -> bytes:
    try:
        return bytes.fromhex(key.rpartition("/")[2].replace("-", ""))
    except ValueError:
        return key.encode(errors="surrogatepass")


async def _unnamed(opened: OpenParts) -> list[Finding]:
    try:
        found = await opened.files.collect(dry_run=True)
    except ConfigurationError as error:
        return [Finding("warning", str(error), "`storage files collect --empty-catalog`, if the two belong together")]
    findings = []
    if found.blobs or found.rows:
        message = f"{found.blobs + found.rows:,} contents, {found.bytes:,} bytes, belong to no file any more"
        # Not for --fix: were this another database's file store, it would take that one's files.
        findings.append(Finding("note", message, "`storage files collect` removes them; run it daily"))
    if found.foreign:
        message = f"{found.foreign:,} files under {IN_BACKEND} were not written by this library"
        findings.append(Finding("note", message, "look what put them there; nothing here removes them"))
    return findings
