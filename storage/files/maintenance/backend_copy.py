"""All contents of a backend copied to another, while everything is in use: the way from a folder to a bucket, or back.

Contents are immutable and their keys are the same in every backend, so it can be interrupted at any moment and run
again; and nothing changes for anybody until the configuration names the other backend.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Integer, bindparam, literal_column

from storage.database.database import Database
from storage.database.statement import Row, Statement
from storage.database.types import PlainText
from storage.errors import FileExists, FileNotFound, InvalidInput
from storage.files.blobs import BLOB_CONCURRENCY, IN_BACKEND, is_in_database
from storage.files.concurrency import each
from storage.files.maintenance.verification import (
    PAGE_ROWS,
    WHOLE_BYTES,
    Flaw,
    OwnedEntry,
    Progress,
    Reason,
    pages,
    present_entry,
    stored_size,
)
from storage.files.rows import Entry
from storage.files.store import FileStat, FileStore
from storage.webhooks.needed import EVENT_BLOB_KEY, needed_blobs
from storage.webhooks.table import EventTable

MOST_PASSES: Final = 10
"""Each pass finds what was written during the one before, which is less each time; under writers who never pause it is
never nothing, and what is left then is copied by the check at the end."""

REMEMBERED: Final = 200_000
"""Contents of which is remembered that they were read back, some 50 MB; those beyond are read once more at the end."""

_DETAILS: Final[dict[Reason, str]] = {
    "missing": "neither the source nor the target has it. Restore it from a backup, then run this again",
    "altered": "the target does not have what was written. Verify the source; if it has, delete the blob in the "
    "target, then run this again",
    "unreadable": "the source does not have it, so that what the target has cannot be compared. Restore it there "
    "from a backup, then run this again",
}

_BATCH: Final = 256
"""Contents copied between two looks at the listings."""

_event: Final[Any] = EventTable.__table__  # type: ignore[attr-defined]
_whose: Final = (_event.c.user_id, _event.c.key)

BLOBS_TO_SEND: Final = Statement(
    "event.blobs_to_send",
    needed_blobs(bindparam("after", type_=PlainText()) < EVENT_BLOB_KEY)
    .add_columns(*_whose)
    .order_by(EVENT_BLOB_KEY)
    .limit(bindparam("limit", type_=Integer)),
)
IS_TO_SEND: Final = Statement(
    "event.is_blob_to_send", needed_blobs(bindparam("blob_key") == EVENT_BLOB_KEY).limit(literal_column("1"))
)


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy has done.

    Attributes:
        copied: blobs written to the target.
        already: blobs that the target had with the same size.
        bytes: written to the target.
        missing: blobs that are needed and that neither backend has; each is among the flaws.
        flaws: needed blobs that the target does not have as they were written, by user and path. Without flaws the
            target can take the source's place.
    """

    copied: int
    already: int
    bytes: int
    missing: int
    flaws: tuple[Flaw, ...]


async def copy_blobs(
    database: Database,
    source: FileStore,
    target: FileStore,
    *,
    verify: bool = True,
    progress: Progress | None = None,
) -> Copied:
    """Copy every blob to the target, then check that it has what the catalogue and web hooks need.

    What is written meanwhile is found by another pass over the source. What is written after the check is not: stop
    the writers for a last run, which has little left to copy, before the configuration names the target. A blob that
    the target has with another size is not replaced, but named as a flaw if it is needed.

    Args:
        database: the catalogue.
        source: where the blobs are.
        target: where they go; used for nothing else under `blobs/`.
        verify: read back what was written and compare sha256; the sizes only if False.
        progress: told after each blob how many have been looked at; of how many is not known.

    Raises:
        InvalidInput: source and target are the same.
        FileStoreUnavailable, FileStoreFull, FileAccessDenied: of either backend; what was copied is left.
        DatabaseError: the database cannot be read.
    """
    if target is source:
        raise InvalidInput(f"the files are in {source.location} already; name another place to copy them to")
    run = _Run(database, source, target, progress, verify=verify)
    for _ in range(MOST_PASSES):
        if not await run.copy_all():
            break
    await run.check_rows()
    await run.check_events()
    return run.result()


class _Run:
    """One copy on its way."""

    def __init__(
        self, database: Database, source: FileStore, target: FileStore, progress: Progress | None, *, verify: bool
    ) -> None:
        self._database = database
        self._source = source
        self._target = target
        self._progress = progress
        self._verify = verify
        self._digests: dict[str, bytes] = {}
        self._copied = self._already = self._bytes = self._done = 0
        self._missing: set[str] = set()
        self._flaws: dict[tuple[str, str], Flaw] = {}

    def result(self) -> Copied:
        flaws = tuple(self._flaws[place] for place in sorted(self._flaws))
        return Copied(self._copied, self._already, self._bytes, len(self._missing), flaws)

    # ---- copying

    async def copy_all(self) -> bool:
        """One pass over the source; whether there was something to copy."""
        before, first = self._copied, self._done == 0
        batch: list[FileStat] = []
        async with aclosing(_merged(self._source, self._target)) as blobs:
            async for blob, there in blobs:
                if there is None:
                    batch.append(blob)
                    if len(batch) == _BATCH:
                        await each(self._copy, batch, BLOB_CONCURRENCY)
                        batch = []
                elif first:
                    self._already += there.size == blob.size
                    self._tell()
        await each(self._copy, batch, BLOB_CONCURRENCY)
        return self._copied > before

    async def _copy(self, blob: FileStat) -> None:
        await self._copied_now(blob)
        self._tell()

    async def _copied_now(self, blob: FileStat) -> bool:
        """Copy one; whether the target has it now. Not one that was collected from the source since it was listed."""
        key = blob.path
        try:
            digest = await self._write(blob)
        except FileNotFound:
            return False
        except FileExists:  # of another copy at the same time
            self._already += 1
            return True
        if self._verify:
            try:
                equal = await _digest(self._target, key) == digest
            except FileNotFound:
                return False
            if not equal:
                await self._target.delete(key)  # another pass, or another run, tries again
                return False
            if len(self._digests) < REMEMBERED:
                self._digests[key] = digest
        self._copied += 1
        self._bytes += blob.size
        return True

    async def _write(self, blob: FileStat) -> bytes:
        """The sha256 of what was written."""
        if blob.size <= WHOLE_BYTES:
            content = await self._source.read(blob.path)
            await self._target.write(blob.path, content, if_absent=True)
            return hashlib.sha256(content).digest()
        digest = hashlib.sha256()
        async with aclosing(self._source.stream(blob.path)) as pieces, aclosing(_hashed(pieces, digest)) as hashed:
            await self._target.write(blob.path, hashed, if_absent=True)
        return digest.digest()

    def _tell(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, None)

    # ---- checking

    async def check_rows(self) -> None:
        """That the target has what the catalogue names."""
        async with aclosing(pages(self._database)) as every:
            async for page in every:
                stored = [owned for owned in page if not is_in_database(owned.entry.blob_key)]
                await each(self._check_row, stored, BLOB_CONCURRENCY)

    async def check_events(self) -> None:
        """That the target has what web hooks are still to send."""
        after = ""
        while True:
            rows = await self._database.read(BLOBS_TO_SEND, {"after": after, "limit": PAGE_ROWS}, scan=True)
            await each(self._check_event, [row for row in rows if not is_in_database(row[0])], BLOB_CONCURRENCY)
            if len(rows) < PAGE_ROWS:
                return
            after = rows[-1][0]

    async def _check_row(self, owned: OwnedEntry) -> None:
        entry = owned.entry
        while (reason := await self._fault(entry.blob_key, entry)) is not None:
            present = await present_entry(self._database, owned.user_id, entry.stat.path)
            if present is None or is_in_database(present.blob_key):
                return
            if present.blob_key == entry.blob_key:
                self._report(owned.user_id, entry.stat.path, entry.blob_key, reason)
                return
            entry = present

    async def _check_event(self, row: Row) -> None:
        key, user_id, path = row
        reason = await self._fault(key, None)
        if reason is not None and await self._database.read(IS_TO_SEND, {"blob_key": key}):
            self._report(user_id, path, key, reason)

    def _report(self, user_id: str, path: str, key: str, reason: Reason) -> None:
        if reason == "missing":
            self._missing.add(key)
        self._flaws.setdefault((user_id, path), Flaw(user_id, path, key, reason, f"blob {key!r}: {_DETAILS[reason]}"))

    async def _fault(self, key: str, entry: Entry | None) -> Reason | None:
        """What is wrong with a blob in the target, after it was copied if it was not there; None if nothing is."""
        for attempt in (1, 2):
            try:
                return await (self._fault_of_content(key, entry) if self._verify else self._fault_of_size(key, entry))
            except FileNotFound:
                if attempt == 2:  # noqa: PLR2004 - the last one
                    break
            try:
                late = await self._source.stat(key)
            except FileNotFound:
                break
            if not await self._copied_now(late):
                break
        return "missing"

    async def _fault_of_content(self, key: str, entry: Entry | None) -> Reason | None:
        """Raises FileNotFound: the target does not have it."""
        remembered = self._digests.get(key)
        digest = remembered or await _digest(self._target, key)
        if entry is not None and entry.content_key is None:
            return None if digest == entry.digest else "altered"
        if remembered is not None:
            return None
        # What is sealed has no recorded sha256; nor do events say whether theirs is sealed.
        try:
            return None if digest == await _digest(self._source, key) else "altered"
        except FileNotFound:
            return "unreadable"

    async def _fault_of_size(self, key: str, entry: Entry | None) -> Reason | None:
        """Raises FileNotFound: the target does not have it."""
        found = await self._target.stat(key)
        try:
            expected = stored_size(entry) if entry is not None else (await self._source.stat(key)).size
        except FileNotFound:
            return "unreadable"
        return None if found.size == expected else "altered"


async def _merged(source: FileStore, target: FileStore) -> AsyncGenerator[tuple[FileStat, FileStat | None], None]:
    """Each blob of the source, and what the target has of that key: two listings in byte order, no call per blob."""
    async with aclosing(source.walk(IN_BACKEND)) as ours, aclosing(target.walk(IN_BACKEND)) as theirs:
        there = await anext(theirs, None)
        async for blob in ours:
            while there is not None and there.path < blob.path:
                there = await anext(theirs, None)
            yield blob, there if there is not None and there.path == blob.path else None


async def _hashed(pieces: AsyncIterable[bytes], digest: hashlib._Hash) -> AsyncGenerator[bytes, None]:
    async for piece in pieces:
        digest.update(piece)
        yield piece


async def _digest(store: FileStore, key: str) -> bytes:
    """The sha256 of what a store has; raises FileNotFound."""
    digest = hashlib.sha256()
    async with aclosing(store.stream(key)) as pieces:
        async for piece in pieces:
            digest.update(piece)
    return digest.digest()
