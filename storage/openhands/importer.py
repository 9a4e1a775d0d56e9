"""The main job: a state directory moved into a storage, in batches, so that it may be interrupted and run again.

What the storage has already wins, unless told otherwise: a person may have gone on working there since the last run.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from pydantic import SecretStr, ValidationError

from storage.conversations.model import ConversationMetadata
from storage.conversations.store import SaveOutcome
from storage.openhands.account_import import AccountImport
from storage.openhands.batches import Batch, batches
from storage.openhands.flaws import Flaw
from storage.openhands.reader import ConversationRecord, Home, SourceFile, open_home
from storage.openhands.report import ImportReport, Tally
from storage.openhands.source import Limits

if TYPE_CHECKING:
    from storage.files.store import FileStat
    from storage.storage import Storage, UserStorage


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an import has come: what was dealt with, imported or not, and the bytes that were imported."""

    conversations: int
    total_conversations: int
    files: int
    bytes: int


async def import_home(
    storage: Storage,
    source: str | os.PathLike[str] | Home,
    *,
    user: str | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
    limits: Limits | None = None,
    jwt_secrets: Sequence[SecretStr] = (),
) -> ImportReport:
    """Import a state directory, or an archive of one. The source is only read.

    Running it again imports what is missing and leaves the rest as it is, so that an interrupted import is continued
    by repeating it. A conversation's good metadata.json becomes its row, unknown fields included, and not a file; one
    that holds more than the row can is kept as a file too.

    Args:
        storage: where to.
        source: the state directory, a folder that has one directly below, or an archive of either; or a Home, for
            who wants to know that it can be read before there is a storage. A Home stays open.
        user: who gets what the layout gives to nobody; None is the local user.
        dry_run: write nothing; the report tells what would be done.
        overwrite: let the source win where the storage has something else.
        progress: called in the event loop's thread after every batch.
        limits: on what is read; a Home has its own already.
        jwt_secrets: to open values of settings and secrets that the source has encrypted; the source's own
            `.jwt_secret` and `.keys` are tried too. What no secret opens is left out and becomes a flaw.

    Returns:
        What was done, with every flaw of the source.

    Raises:
        InvalidInput: the source cannot be read as a state directory, or `user` cannot be a user's id.
        DatabaseError, FileStoreError: the storage failed; what was imported until then stays.
    """
    storage.user(user)  # refuses what cannot be a user's id before anything is read
    if not isinstance(source, Home):
        with await asyncio.to_thread(_Opened, source, limits) as home:
            return await import_home(
                storage,
                home,
                user=user,
                dry_run=dry_run,
                overwrite=overwrite,
                progress=progress,
                jwt_secrets=jwt_secrets,
            )
    report = ImportReport(source.source, dry_run)
    await _Import(storage, source, report, user, overwrite=overwrite).run(progress, jwt_secrets)
    return report


class _Opened:
    """open_home for a thread, because unpacking an archive takes its time."""

    def __init__(self, source: str | os.PathLike[str], limits: Limits | None) -> None:
        self._context = open_home(source, limits)
        self._home = self._context.__enter__()

    def __enter__(self) -> Home:
        return self._home

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.__exit__(kind, error, trace)


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

    async def run(self, progress: Callable[[Progress], None] | None, jwt_secrets: Sequence[SecretStr]) -> None:
        total = await asyncio.to_thread(self._home.count_conversations)
        for account in await asyncio.to_thread(lambda: list(self._home.accounts(jwt_secrets))):
            stores = self._storage.user(account.user or self._user)
            await AccountImport(account, stores, self._report, overwrite=self._overwrite).run()
        source = batches(self._home)
        while (batch := await asyncio.to_thread(next, source, None)) is not None:
            await self._batch(batch)
            if progress is not None:
                conversations, files = self._report.total("conversations"), self._report.total("files")
                progress(Progress(conversations.found, total, files.found, files.bytes))
        self._report.flaws.extend(self._home.flaws)

    async def _batch(self, batch: Batch) -> None:
        self._report.flaws.extend(batch.flaws)
        if not batch.records and not batch.files and not batch.unreadable:
            return
        stores = self._storage.user(batch.user or self._user)
        part = self._report.user(stores.user_id)
        part.files.skipped += batch.unreadable
        await self._conversations(stores, batch.records, part.conversations)
        await self._files(stores, batch.files, part.files)

    # ---- conversations

    async def _conversations(self, stores: UserStorage, records: Sequence[ConversationRecord], tally: Tally) -> None:
        rows: list[tuple[ConversationRecord, ConversationMetadata]] = []
        for record in records:
            self._report.recovered += record.fields.recovered is not None
            owner = self._owners.setdefault(record.conversation_id, stores.user_id)
            if owner == stores.user_id:
                rows.append((record, self._row(record)))
            else:
                tally.skipped += 1
                told = f"has an id that a conversation of {owner}'s has too; it was skipped"
                self._refuse(stores, record, "duplicate-conversation", told)
        if not rows:
            return
        metadata = [row for _, row in rows]
        save = _would_save if self._report.dry_run else _save
        for (record, row), outcome in zip(rows, await save(stores, metadata), strict=True):
            if outcome is SaveOutcome.CREATED:
                tally.imported += 1
            elif outcome is SaveOutcome.UNCHANGED:
                tally.unchanged += 1
            elif outcome is SaveOutcome.TAKEN:
                tally.skipped += 1
                told = "has an id that cannot be used by this user in the storage; it was skipped"
                self._refuse(stores, record, "identifier-taken", told)
            elif self._overwrite:
                tally.overwritten += 1
                if not self._report.dry_run:
                    await stores.conversations.save_metadata(row)
            else:
                tally.kept += 1
                told = "differs from the conversation in the storage, which was kept"
                self._flaw("kept-existing", record.source_path, told)

    def _row(self, record: ConversationRecord) -> ConversationMetadata:
        """The record as the model, without the values that it refuses; those are reported."""
        fields = record.fields
        values = {**fields.extra, **fields.values}
        while True:
            try:
                return ConversationMetadata(**values)
            except ValidationError as error:
                problems = error.errors(include_input=False, include_url=False, include_context=False)
            for name in {str(problem["loc"][0]) for problem in problems}:
                del values[name]
                self._flaw("bad-value", record.source_path, f"{name} does not fit; it was left out")

    def _refuse(self, stores: UserStorage, record: ConversationRecord, code: str, message: str) -> None:
        self._refused.add((stores.user_id, record.conversation_id))
        self._flaw(code, record.source_path, message)

    # ---- files

    async def _files(self, stores: UserStorage, files: list[tuple[SourceFile, bytes]], tally: Tally) -> None:
        refused = tuple(f"sessions/{name}/" for user, name in self._refused if user == stores.user_id)
        wanted = [(file, data) for file, data in files if not file.path.startswith(refused)]
        tally.skipped += len(files) - len(wanted)
        existing = await _existing(stores, [file.path for file, _ in wanted])
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
                told = "differs from the file in the storage, which was kept"
                self._flaw("path-taken", file.source_path, told)
                continue
            tally.bytes += len(data)
            writing.append((file.path, data))
        if writing and not self._report.dry_run:
            await stores.files.write_many(writing, mask_secrets=False)  # to the byte: what is kept is what was there

    def _flaw(self, code: str, path: str, message: str) -> None:
        self._report.flaws.append(Flaw(code, path, message))


async def _save(stores: UserStorage, metadata: Sequence[ConversationMetadata]) -> list[SaveOutcome]:
    return await stores.conversations.save_many(metadata)


async def _would_save(stores: UserStorage, metadata: Sequence[ConversationMetadata]) -> list[SaveOutcome]:
    """What save_many would answer; that an id is another user's is only found out by saving."""
    outcomes = []
    there = await stores.conversations.get_all_metadata([row.conversation_id for row in metadata])
    for found, row in zip(there, metadata, strict=True):
        if found is None:
            outcomes.append(SaveOutcome.CREATED)
        else:
            owned = row.model_copy(update={"user_id": found.user_id})
            same = found.model_dump() == owned.model_dump()
            outcomes.append(SaveOutcome.UNCHANGED if same else SaveOutcome.KEPT)
    return outcomes


async def _existing(stores: UserStorage, paths: Sequence[str]) -> dict[str, FileStat]:
    """What the storage has at these paths, by one listing for each conversation's folder."""
    found: dict[str, FileStat] = {}
    for folder in dict.fromkeys("/".join(path.split("/")[:2]) for path in paths if path.count("/") > 1):
        async for stat in stores.files.walk(folder):
            found[stat.path] = stat
    for path in paths:
        if path.count("/") <= 1 and await stores.files.exists(path):
            found[path] = await stores.files.stat(path)
    return found
