"""The main job: a state directory moved into a storage, in batches, so that it may be interrupted and run again.

What the storage has already wins, unless told otherwise: a person may have gone on working there since the last run.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from storage.errors import IdentifierTaken, InvalidInput
from storage.openhands.account_import import AccountImport
from storage.openhands.batches import Batch, batches
from storage.openhands.flaws import Flaw
from storage.openhands.reader import ConversationRecord, Home, SourceFile, open_home
from storage.openhands.report import ImportReport, Tally
from storage.openhands.source import Limits

if TYPE_CHECKING:
    from storage.conversations.model import ConversationMetadata
    from storage.files.store import FileStat
    from storage.storage import Storage, UserStorage


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an import has come: conversations and files dealt with, and their bytes."""

    conversations: int
    total_conversations: int
    files: int
    bytes: int


async def import_home(
    storage: Storage,
    source: str | os.PathLike[str],
    *,
    user: str | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
    limits: Limits | None = None,
) -> ImportReport:
    """Import a state directory, or an archive of one. The source is only read.

    Running it again imports what is missing and leaves the rest as it is, so that an interrupted import is continued
    by repeating it.

    Args:
        storage: where to.
        source: the state directory, a folder that has one directly below, or an archive of either.
        user: who gets what the layout gives to nobody; None is the local user.
        dry_run: write nothing; the report tells what would be done.
        overwrite: let the source win where the storage has something else.
        progress: called from the event loop after every batch.
        limits: on what is read.

    Returns:
        What was done, with every flaw of the source.

    Raises:
        InvalidInput: the source cannot be read as a state directory.
        DatabaseError, FileStoreError: the storage failed; what was imported until then stays.
    """
    report = ImportReport(os.fspath(source), dry_run)
    with await asyncio.to_thread(_Opened, source, limits) as home:
        run = _Import(storage, home, report, user, overwrite=overwrite)
        await run.all(progress)
    return report


class _Opened:
    """open_home for a thread: unpacking an archive takes its time."""

    def __init__(self, source: str | os.PathLike[str], limits: Limits | None) -> None:
        self._context = open_home(source, limits)
        self._home = self._context.__enter__()

    def __enter__(self) -> Home:
        return self._home

    def __exit__(self, *raised: Any) -> None:
        self._context.__exit__(*raised)


class _Import:
    """One run."""

    def __init__(
        self, storage: Storage, home: Home, report: ImportReport, user: str | None, *, overwrite: bool
    ) -> None:
        self._storage = storage
        self._home = home
        self._report = report
        self._user = user
        self._overwrite = overwrite
        self._owners: dict[str, str] = {}
        self._refused: set[tuple[str, str]] = set()  # user, conversation id

    async def all(self, progress: Callable[[Progress], None] | None) -> None:
        total = await asyncio.to_thread(self._home.count_conversations)
        for account in await asyncio.to_thread(lambda: list(self._home.accounts())):
            stores = self._storage.user(account.user or self._user)
            importing = AccountImport(account, stores, self._report, overwrite=self._overwrite)
            await importing.run()
        source = batches(self._home)
        while (batch := await asyncio.to_thread(next, source, None)) is not None:
            await self._batch(batch)
            if progress is not None:
                conversations, files = self._report.total("conversations"), self._report.total("files")
                progress(Progress(conversations.found, total, files.found, files.bytes))
        self._report.flaws.extend(self._home.flaws)

    async def _batch(self, batch: Batch) -> None:
        if not batch.records and not batch.files and not batch.flaws:
            return
        stores = self._storage.user(batch.user or self._user)
        self._report.flaws.extend(batch.flaws)
        part = self._report.user(stores.user_id)
        part.files.skipped += batch.unreadable
        await self._rows(stores, batch.records, part.conversations)
        await self._files(stores, batch.files, part.files)

    # ---- conversations

    async def _rows(self, stores: UserStorage, records: list[ConversationRecord], tally: Tally) -> None:
        rows: dict[str, tuple[ConversationRecord, ConversationMetadata]] = {}
        for record in records:
            self._report.recovered += record.fields.recovered is not None
            row = self._row(stores, record)
            if row is None:
                tally.skipped += 1
            else:
                rows[row.conversation_id] = (record, row)
        if not rows:
            return
        existing = await stores.conversations.get_all_metadata(list(rows))
        saving: list[ConversationMetadata] = []
        for found, (record, row) in zip(existing, rows.values(), strict=True):
            if found is None:
                tally.imported += 1
                saving.append(row)
            elif _same(found, row):
                tally.unchanged += 1
            elif self._overwrite:
                tally.overwritten += 1
                saving.append(row)
            else:
                tally.kept += 1
                self._flaw("kept-existing", record.source_path, "is in the storage with other metadata, which was kept")
        if not self._report.dry_run:
            await self._save(stores, saving, rows, tally)

    def _row(self, stores: UserStorage, record: ConversationRecord) -> ConversationMetadata | None:
        owner = self._owners.setdefault(record.conversation_id, stores.user_id)
        if owner != stores.user_id:
            told = f"has an id that {owner}'s conversation has too; it was skipped"
            self._refuse(stores, record, "duplicate-conversation", told)
            return None
        try:
            row, flaws = build_row(record)
        except InvalidInput as error:
            self._refuse(stores, record, "rejected", f"{error}; it was skipped")
            return None
        self._report.flaws.extend(flaws)
        return row

    async def _save(
        self,
        stores: UserStorage,
        saving: list[ConversationMetadata],
        rows: dict[str, tuple[ConversationRecord, ConversationMetadata]],
        tally: Tally,
    ) -> None:
        if not saving:
            return
        try:
            await stores.conversations.save_many(saving)
        except IdentifierTaken:
            if len(saving) > 1:
                # One of them is another user's: find it by halves, so that the others still go in large portions.
                middle = len(saving) // 2
                await self._save(stores, saving[:middle], rows, tally)
                await self._save(stores, saving[middle:], rows, tally)
                return
            tally.imported -= 1
            tally.skipped += 1
            record, _ = rows[saving[0].conversation_id]
            told = "has an id that is another user's in the storage; it was skipped"
            self._refuse(stores, record, "identifier-taken", told)

    def _refuse(self, stores: UserStorage, record: ConversationRecord, code: str, message: str) -> None:
        self._refused.add((stores.user_id, record.conversation_id))
        self._flaw(code, record.source_path, message)

    # ---- files

    async def _files(self, stores: UserStorage, files: list[tuple[SourceFile, bytes]], tally: Tally) -> None:
        refused = {f"sessions/{conversation}/" for user, conversation in self._refused if user == stores.user_id}
        wanted = [(file, data) for file, data in files if not file.path.startswith(tuple(refused))]
        tally.skipped += len(files) - len(wanted)
        existing = await self._existing(stores, [file.path for file, _ in wanted])
        writing: list[tuple[str, bytes]] = []
        for file, data in wanted:
            stat = existing.get(file.path)
            if stat is None:
                tally.imported += 1
            elif stat.size == len(data) and stat.sha256 == hashlib.sha256(data).hexdigest():
                tally.unchanged += 1
                continue
            elif self._overwrite:
                tally.overwritten += 1
            else:
                tally.kept += 1
                self._flaw("path-taken", file.source_path, "is in the storage with other bytes, which were kept")
                continue
            tally.bytes += len(data)
            writing.append((file.path, data))
        if writing and not self._report.dry_run:
            await stores.files.write_many(writing)

    async def _existing(self, stores: UserStorage, paths: list[str]) -> dict[str, FileStat]:
        """What the storage has at these paths, by one listing for each conversation's folder."""
        found: dict[str, FileStat] = {}
        for folder in dict.fromkeys("/".join(path.split("/")[:2]) for path in paths if path.count("/") > 1):
            async for stat in stores.files.walk(folder):
                found[stat.path] = stat
        for path in paths:
            if path.count("/") <= 1 and await stores.files.exists(path):
                found[path] = await stores.files.stat(path)
        return found

    def _flaw(self, code: str, path: str, message: str) -> None:
        self._report.flaws.append(Flaw(code, path, message))
