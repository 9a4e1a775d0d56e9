"""A user's files: rows in the database say what exists, immutable blobs in a backend hold the bytes.

So a listing is SQL whatever the backend, a write is one transaction with its event, and no name of a user's choosing
reaches a backend. Every write puts a new blob first and then commits the row; what a rollback or a crash leaves behind
is at worst a blob that no row names.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Final, Self, TypeVar

from storage.database.statement import Statement
from storage.database.unit import Executor, Unit
from storage.errors import ConfigurationError, FileCorrupted, FileStoreUnavailable, InvalidInput, KeyMissing
from storage.files import sql
from storage.files.blobs import BLOB_CONCURRENCY, ContentRules, Contents, sha256
from storage.files.concurrency import each
from storage.files.incoming import chained
from storage.files.masking import FileMasking, masked
from storage.files.paths import file_path, under
from storage.files.rows import (
    Blob,
    Entry,
    Written,
    copy,
    decode,
    delete_conversation_files,
    move,
    remove,
    remove_tree,
    replace_by_copy,
    save,
    save_all,
    save_if,
)
from storage.files.search import FilePage, FileSort, checked_query, read_page
from storage.files.store import (
    Content,
    FileStat,
    FileStore,
    FileStoreConfig,
    as_bytes,
    guess_media_type,
    missing,
)
from storage.identity import user_key
from storage.masking.masker import Secrets

if TYPE_CHECKING:
    from storage.encryption.keyring import KeyRing
    from storage.encryption.keyset import KeySet
    from storage.files.disk_guard import DiskGuard
    from storage.files.quota import Allowance, Quota
    from storage.webhooks.verbs import Webhooks

__all__ = ["FileCatalog", "Usage", "Written", "delete_conversation_files", "total_usage"]

T = TypeVar("T")

PAGE_ROWS: Final = 1_000
"""Rows per statement of a listing or a walk: a page takes milliseconds, and holds a megabyte at most."""

_ASK_FIRST_BYTES: Final = 1024 * 1024
"""From here on an upload takes longer than a look at the quota before it."""

_LONG_ROW_BYTES: Final = 64 * 1024
"""Contents in the database up to this size are read on the event loop's own thread."""


@dataclass(frozen=True, slots=True)
class Usage:
    """How many files there are, and the sum of their sizes in bytes."""

    files: int
    bytes: int


class FileCatalog(FileStore):
    """The files of one user. A FileStore; beyond it write_many, read_many, stat_many and usage.

    Given a transaction as executor, its writes belong to that transaction. Reads verify the sha256 that was recorded
    at the write and raise FileCorrupted if a blob is missing or altered; a range of a stream is not verified, unless it
    is sealed.

    What is written to a path that the configuration's `masked_paths` name is masked (see `write`), and what is copied
    or moved there from one that they do not name. Between two that they name, bytes stay as they are.

    Args:
        executor: a Database or an open Transaction.
        blobs: where the bytes go; shared by all users, and not closed by this object.
        user_id: None is the local user.
        masking: which files are written without the user's secrets in them; none if None.
        keyring: the users' keys; what is sealed can neither be written nor read without it.
        rules: where new contents go, how, and how long they may be.
        quota: what the user's files may come to; anything if None.
        guard: refuses contents that there is too little room for.
        webhooks: gives the user's web hooks; see `webhooks`.
    """

    def __init__(
        self,
        executor: Executor,
        blobs: FileStore,
        user_id: str | None,
        masking: FileMasking | None = None,
        *,
        keyring: KeyRing | None = None,
        rules: ContentRules = ContentRules(),  # noqa: B008 - immutable
        quota: Quota | None = None,
        guard: DiskGuard | None = None,
        webhooks: Callable[[], Webhooks] | None = None,
    ) -> None:
        self._executor = executor
        self._contents = Contents(blobs, keyring, rules, guard)
        self._user_id = user_key(user_id)
        self._masking = masking
        self._quota = quota
        self._webhooks = webhooks

    @property
    def webhooks(self) -> Webhooks | None:
        """The web hooks of the files' user, for a file store that tells of changes; None without a Storage."""
        return None if self._webhooks is None else self._webhooks()

    @classmethod
    async def get_instance(cls, config: FileStoreConfig, user_id: str | None = None) -> Self:  # noqa: ARG003
        """Not available: a catalogue needs an open database.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(
            "a FileCatalog is not a backend; configure 'local' or another one, and use Storage.user(…).files"
        )

    # ---- beyond FileStore

    async def write(
        self,
        path: str,
        content: Content,
        *,
        media_type: str | None = None,
        if_absent: bool = False,
        if_match: str | None = None,
        mask_secrets: bool | None = None,
    ) -> FileStat:
        """Store `content` at `path`, replacing what is there. See FileStore.write.

        Args:
            path: where to.
            content: what.
            media_type: as the path's ending says if None.
            if_absent: only create.
            if_match: only replace the file that has this etag.
            mask_secrets: whether the user's secrets are replaced by `<secret_hidden>` before anything is stored or
                announced: True, False, or None for what the configuration's `masked_paths` say of the path. JSON stays
                JSON, but for an async iterable of more than 256 KiB, which is taken for plain text.

        Raises:
            KeyMissing, KeyMismatch, KeyUnavailable, Tampered: with True, some secrets cannot be opened. By the
                configuration, those that can be are masked.
            ConfigurationError: True, and this object was made without `masking`.
            FileTooLarge: the content is longer than `max_file_bytes`; nothing is left of it.
            QuotaExceeded: the user's files would come to more than the quota; likewise.
            DiskSpaceLow: a disk of this machine has too little room; likewise.
            KeyMissing, KeyMismatch, KeyUnavailable: contents are to be sealed (`seal_files`), and the key is not at
                hand.
        """
        normal, data = self._checked_write(path, content, if_absent=if_absent, if_match=if_match)
        secrets = await self._secrets([normal], wanted=mask_secrets)
        content = await masked(secrets, data)
        return await self._write(normal, content, media_type, if_absent=if_absent, if_match=if_match)

    async def write_many(
        self, items: Iterable[tuple[str, Content]], *, mask_secrets: bool | None = None
    ) -> list[Written]:
        """Store many files in one transaction; the results are in the order of the items.

        A file that holds the same bytes already is left as it is, so that repeating a call changes nothing. If its blob
        is gone, repeating the call brings it back.

        Args:
            items: path and content of each.
            mask_secrets: as in `write`, for each path on its own.

        Raises:
            PathRejected: a path breaks the rule; nothing was written.
            InvalidInput: two items have the same path; nothing was written.
            KeyMissing, KeyMismatch, KeyUnavailable, Tampered, ConfigurationError, FileTooLarge, QuotaExceeded: see
                write; nothing was written.
        """
        contents: dict[str, bytes | AsyncIterable[bytes]] = {}
        for path, content in items:
            normal = file_path(path)
            if normal in contents:
                raise InvalidInput(f"path {normal!r} is given twice; give each file once")
            contents[normal] = as_bytes(content)
        secrets = await self._secrets(contents, wanted=mask_secrets)
        if secrets is not None:
            for path, content in contents.items():
                if mask_secrets or (self._masking is not None and self._masking.covers(path)):
                    contents[path] = await masked(secrets, content)
        present = await self._find_all(list(contents))
        allowance = await self._before(contents)
        stored = await self._put_all(contents, present, allowance)
        written: dict[str, Written] = {}
        if stored:
            written = await self._run(stored, lambda keys: save_all(self._user_id, stored, keys))
        return [written[path] if path in written else Written(present[path].stat, "unchanged") for path in contents]

    async def _put_all(
        self,
        contents: dict[str, bytes | AsyncIterable[bytes]],
        present: dict[str, Entry],
        allowance: Allowance | None,
    ) -> list[Blob]:
        """Store the contents that are not there yet; if one is refused, none is left."""
        stored: list[Blob] = []
        refused: list[Exception] = []

        async def put(item: tuple[str, bytes | AsyncIterable[bytes]]) -> None:
            # Not by an error out of here, which would cancel what is under way, and leave behind what has just arrived.
            if refused:
                return
            try:
                await put_one(*item)
            except FileStoreUnavailable:
                raise  # it would not remove them either
            except Exception as error:  # noqa: BLE001 - raised below
                refused.append(error)

        async def put_one(path: str, content: bytes | AsyncIterable[bytes]) -> None:
            entry, gone = present.get(path), None
            if entry is not None and isinstance(content, bytes) and await _is_content_of(entry, content):
                if await self._contents.exists(entry):
                    return
                gone = entry.blob_key
            blob = await self._contents.put(self._user_id, path, content, guess_media_type(path), allowance=allowance)
            stored.append(replace(blob, replaces=gone))

        await each(put, list(contents.items()), BLOB_CONCURRENCY)
        if refused:
            await self._contents.discard(stored)
            raise refused[0]
        return stored

    async def read_many(self, paths: Iterable[str]) -> dict[str, bytes]:
        """The contents of many files, by the paths as they were given; a path without a file is left out.

        One statement for all rows and what the database has of their contents, then the others, several at a time.

        Raises:
            PathRejected: a path breaks the rule.
            FileCorrupted: a content is not what was written.
            KeyMissing, KeyMismatch, KeyUnavailable, Tampered: a content is sealed, and cannot be opened.
        """
        wanted = {path: file_path(path) for path in paths}

        async def read() -> dict[str, bytes]:
            entries = await self._find_all(list(set(wanted.values())), sql.READ_ALL)
            contents = await self._contents.read_all(self._executor, self._user_id, list(entries.values()))
            return dict(zip(entries, contents, strict=True))

        contents = await _once_more(read)
        return {path: contents[normal] for path, normal in wanted.items() if normal in contents}

    async def stat_many(self, paths: Iterable[str]) -> dict[str, FileStat]:
        """What is known of many files, by the paths as they were given; a path without a file is left out.

        One statement.

        Raises:
            PathRejected: a path breaks the rule.
        """
        wanted = {path: file_path(path) for path in paths}
        entries = await self._find_all(list(set(wanted.values())))
        return {path: entries[normal].stat for path, normal in wanted.items() if normal in entries}

    async def search(
        self,
        *,
        prefix: str = "",
        glob: str | None = None,
        media_type: str | None = None,
        min_size: int | None = None,
        max_size: int | None = None,
        updated_after: datetime | None = None,
        updated_before: datetime | None = None,
        sort: FileSort = "path",
        descending: bool = False,
        limit: int = 100,
        cursor: str | None = None,
    ) -> FilePage:
        """One page of the files for which all that is given holds.

        Args:
            prefix: what the path begins with; `sessions/c1/ev` finds what is in `sessions/c1/events/`.
            glob: a pattern of the whole path: `sessions/*/events/**/*.json`. See storage.files.glob_pattern.parse_glob.
            media_type: a whole one (`image/png`) or one family (`image/*`).
            min_size: in bytes, at least.
            max_size: in bytes, at most.
            updated_after: last written then or later; aware.
            updated_before: last written earlier; aware.
            sort: `path` (bytewise), `size` or `updated_at`; equal ones by path.
            descending: the largest or latest first.
            limit: results on the page, 1 to 1,000.
            cursor: `next_cursor` of the page before, with the same arguments but for `limit`.

        Raises:
            InvalidInput: an argument cannot be used, or the cursor belongs to another search.
        """
        query = checked_query(
            prefix=prefix,
            glob=glob,
            media_type=media_type,
            min_size=min_size,
            max_size=max_size,
            updated_after=updated_after,
            updated_before=updated_before,
            sort=sort,
            descending=descending,
        )
        return await read_page(self._executor, self._user_id, query, limit=limit, cursor=cursor)

    async def usage(self) -> Usage:
        """How much this user stores."""
        [(files, size)] = await self._executor.read(sql.USAGE, {"user_id": self._user_id}, scan=True)
        return Usage(files, size)

    # ---- FileStore

    async def _write(
        self,
        path: str,
        content: bytes | AsyncIterable[bytes],
        media_type: str | None,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
    ) -> FileStat:
        allowance = await self._before({path: content})
        blob = await self._contents.put(
            self._user_id, path, content, media_type or guess_media_type(path), allowance=allowance
        )
        if not if_absent and if_match is None:
            return await self._run([blob], lambda keys: save(self._user_id, blob, keys))
        return await self._run(
            [blob], lambda keys: save_if(self._user_id, blob, keys, if_absent=if_absent, if_match=if_match)
        )

    async def _read(self, path: str) -> bytes:
        async def read() -> bytes:
            return await self._contents.read(self._executor, self._user_id, await self._find(path))

        return await _once_more(read)

    async def _stream(self, path: str, start: int, end: int | None, chunk_size: int) -> AsyncGenerator[bytes, None]:
        async def begin() -> tuple[AsyncGenerator[bytes, None], bytes]:
            content = self._contents.stream(
                self._executor, self._user_id, await self._find(path), start=start, end=end, chunk_size=chunk_size
            )
            return content, await anext(content, b"")

        content, first = await _once_more(begin)
        async with aclosing(chained([first] if first else [], content)) as pieces, aclosing(content):
            async for piece in pieces:
                yield piece

    async def _stat(self, path: str) -> FileStat | None:
        rows = await self._executor.read(sql.FIND, {"user_id": self._user_id, "path": path})
        return decode(rows[0]).stat if rows else None

    async def _list(self, folder: str) -> list[str]:
        low, high = under(folder)
        parameters = {
            "user_id": self._user_id,
            "high": high,
            "folder_length": len(folder) + 1 if folder else 0,
            "limit": PAGE_ROWS,
        }
        entries: list[str] = []
        while True:
            rows = await self._executor.read(sql.CHILDREN, {**parameters, "low": low}, scan=True)
            entries.extend(row[0] for row in rows)
            if len(rows) < PAGE_ROWS:
                return entries
            last = entries[-1]
            low = last[:-1] + sql.AFTER_FOLDER if last.endswith("/") else last + sql.AFTER_FILE

    async def _walk(self, folder: str) -> AsyncGenerator[FileStat, None]:
        low, high = under(folder)
        while True:
            parameters = {"user_id": self._user_id, "low": low, "high": high, "limit": PAGE_ROWS}
            rows = await self._executor.read(sql.WALK, parameters, scan=True)
            for row in rows:
                yield decode(row).stat
            if len(rows) < PAGE_ROWS:
                return
            low = rows[-1][0] + sql.AFTER_FILE

    async def _remove(self, path: str) -> bool:
        return bool(await self._executor.run(lambda: remove(self._user_id, path)))

    async def _delete(self, path: str) -> int:
        return await self._executor.run(lambda: remove_tree(self._user_id, path))

    async def _copy(self, source: str, target: str) -> FileStat:
        secrets = await self._secrets_on_the_way(source, target)
        if secrets is not None:
            return await self._transfer_masked(secrets, source, target, keep=True)
        return await self._executor.run(lambda: copy(self._user_id, source, target, self._quota))

    async def _move(self, source: str, target: str) -> FileStat:
        secrets = await self._secrets_on_the_way(source, target)
        if secrets is not None:
            return await self._transfer_masked(secrets, source, target, keep=False)
        return await self._executor.run(lambda: move(self._user_id, source, target))

    # ---- masking

    async def _secrets(self, paths: Iterable[str], *, wanted: bool | None) -> Secrets | None:
        if self._masking is not None:
            return await self._masking.for_write(paths, wanted=wanted)
        if wanted:
            raise ConfigurationError("this catalogue knows no secrets to mask; use Storage.user(…).files")
        return None

    async def _secrets_on_the_way(self, source: str, target: str) -> Secrets | None:
        """What to mask when a file comes to a path that is masked from one that is not."""
        if self._masking is None or self._masking.covers(source):
            return None
        return await self._secrets([target], wanted=None)

    async def _transfer_masked(self, secrets: Secrets, source: str, target: str, *, keep: bool) -> FileStat:
        while True:
            entry = await self._find(source)
            content = await masked(secrets, await self._contents.read(self._executor, self._user_id, entry))
            await self._contents.require_keys(self._executor, self._user_id)
            blob = await self._contents.put(self._user_id, target, content, entry.stat.media_type)

            def unit(keys: KeySet | None, entry: Entry = entry, blob: Blob = blob) -> Unit[FileStat | None]:
                return replace_by_copy(self._user_id, source, entry, blob, keys, keep=keep)

            stat = await self._run([blob], unit, without=() if keep else (source,))
            if stat is not None:
                return stat
            await self._contents.discard([blob])  # the source was written meanwhile

    # ---- rows and contents

    async def _find(self, path: str) -> Entry:
        """The row, with what the database has of the content."""
        scan = self._contents.rules.small_bytes > _LONG_ROW_BYTES
        rows = await self._executor.read(sql.READ, {"user_id": self._user_id, "path": path}, scan=scan)
        if not rows:
            raise missing(path)
        return decode(rows[0])

    async def _find_all(self, paths: list[str], statement: Statement = sql.FIND_ALL) -> dict[str, Entry]:
        if not paths:
            return {}
        rows = await self._executor.read(statement, {"user_id": self._user_id, "paths": paths}, scan=True)
        return {row[0]: decode(row) for row in rows}

    async def _before(self, contents: Mapping[str, bytes | AsyncIterable[bytes]]) -> Allowance | None:
        """What is asked before contents are stored: for the keys, and for room if a refusal could come late."""
        await self._contents.require_keys(self._executor, self._user_id)
        if self._quota is None:
            return None
        known = sum(len(content) for content in contents.values() if isinstance(content, bytes))
        if known < _ASK_FIRST_BYTES and all(isinstance(content, bytes) for content in contents.values()):
            return None
        return await self._quota.allowance(self._executor, self._user_id, contents)

    async def _run(
        self, blobs: Sequence[Blob], unit: Callable[[KeySet | None], Unit[T]], without: Sequence[str] = ()
    ) -> T:
        """Run the unit that writes these blobs' rows, within the quota."""
        quota = self._quota

        def limited(keys: KeySet | None) -> Unit[T]:
            if quota is not None:
                yield from quota.hold(self._user_id)
                yield from quota.check(self._user_id, {blob.path: blob.size for blob in blobs}, without)
            return (yield from unit(keys))

        return await self._contents.run(self._executor, self._user_id, blobs, limited)


async def _once_more(read: Callable[[], Awaitable[T]]) -> T:
    """What `read` gives, rows and contents.

    Since a row was read, a rotation may have replaced its key, or the file was overwritten and its content collected.
    And a cache that gave something wrong has forgotten it by now.
    """
    try:
        return await read()
    except (KeyMissing, FileCorrupted):
        return await read()


async def _is_content_of(entry: Entry, content: bytes) -> bool:
    return len(content) == entry.stat.size and await sha256(content) == entry.digest


async def total_usage(executor: Executor) -> Usage:
    """How much all users store. Reads the whole table."""
    [(files, size)] = await executor.read(sql.TOTAL, {}, scan=True)
    return Usage(files, size)
