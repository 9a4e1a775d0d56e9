"""One user's files as plain files in a folder: for whoever leaves, or wants to see them with other programs.

It can be interrupted at any moment and run again. Nothing of the folder is lost by it, and nothing of the user's files
without being named in the result.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import tempfile
import unicodedata
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from storage.database.database import Database
from storage.errors import (
    Conflict,
    EncryptionError,
    FileCorrupted,
    FileExists,
    FileStoreUnavailable,
    InvalidInput,
)
from storage.files import sql
from storage.files.blobs import Contents
from storage.files.concurrency import each
from storage.files.maintenance.verification import (
    LOCKED,
    PAGE_ROWS,
    WHOLE_BYTES,
    Progress,
    present_entry,
    same_content,
)
from storage.files.paths import folder_path, under
from storage.files.rows import Entry, decode
from storage.files.store import missing
from storage.private_folder import make_private_folder

if TYPE_CHECKING:
    from storage.files.backends.local import LocalFileStore

FILES_AT_ONCE: Final = 8
"""A file is waited for three times until it is on the disk; as many as the local store has threads."""

SHOWN_PATHS: Final = 5
"""How many of the files in the way an error names."""

_NOT_HELD: Final[dict[int, str]] = {
    errno.ENAMETOOLONG: "its name is longer than this file system holds",
    errno.EILSEQ: "its name has characters that this file system does not hold",
    errno.EINVAL: "its name is not one that this file system holds",
}


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file that was not exported, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export has done.

    Attributes:
        files: written.
        bytes: the sum of their sizes.
        already: files that were in the folder with the same content.
        skipped: files of the user that are not in the folder now, by path.
    """

    files: int
    bytes: int
    already: int
    skipped: tuple[SkippedFile, ...]


async def export(
    database: Database,
    contents: Contents,
    folder: Path,
    *,
    user_id: str,
    path: str = "",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write a user's files below `folder`, each at its own path.

    Each file is verified, and appears whole or not at all. Folders are made with mode 0700 and files with 0600. What
    else is in the folder stays as it is. The paths are held in memory, the contents are not.

    Args:
        database: the catalogue.
        contents: reads the contents.
        folder: made if it is missing. May itself be a symbolic link; none below it is followed.
        user_id: whose, in stored form.
        path: only this file, or the files of this folder; they keep their whole paths.
        overwrite: replace files that are there with another content.
        progress: told after each file.

    Raises:
        FileNotFound: a `path` is given, and nothing is there.
        Conflict: the folder has files of another content at some paths and `overwrite` is not given, or something that
            is no plain file or folder. Nothing was written.
        InvalidInput: `folder` is a file.
        KeyMissing, KeyMismatch, KeyUnavailable: a file is sealed, and its key is not at hand.
        FileStoreUnavailable, FileAccessDenied, FileStoreFull: of the backend, or of the folder's file system. What was
            written is left, so that running it again goes on.
        ConfigurationError: the platform has no descriptor-relative file functions (Windows).
    """
    from storage.files.backends.local import LocalFileStore

    if await asyncio.to_thread(_is_in_the_way, folder):
        raise InvalidInput(f"{str(folder)!r} is no folder; name one, or one that is yet to be made")
    paths = [each_path async for each_path in _paths(database, user_id, folder_path(path))]
    if not paths and folder_path(path):
        raise missing(path)
    async with LocalFileStore(folder) as target:
        run = _Run(database, contents, target, user_id, progress)
        return await run.all(paths, overwrite=overwrite)


def unholdable(paths: Sequence[str], *, folds_case: bool) -> list[SkippedFile]:
    """Those of a user's paths that no file system, or none that folds case, can hold together with the others.

    Args:
        paths: in normal form, in byte order.
        folds_case: whether `A` and `a` are one name there.
    """
    skipped: dict[str, SkippedFile] = {}
    folders = {parent for path in paths for parent in _parents(_folded(path, folds_case=folds_case))}
    taken: dict[str, str] = {}
    for path in paths:
        name = _folded(path, folds_case=folds_case)
        if name in folders:
            skipped[path] = SkippedFile(path, "a folder of this name has other files, and takes its place")
        elif name in taken:
            reason = f"its name is the same as that of {taken[name]!r} where upper and lower case do not differ"
            skipped[path] = SkippedFile(path, reason)
        else:
            taken[name] = path
    return list(skipped.values())


class _Run:
    """One export on its way."""

    def __init__(
        self, database: Database, contents: Contents, target: LocalFileStore, user_id: str, progress: Progress | None
    ) -> None:
        self._database = database
        self._contents = contents
        self._target = target
        self._user_id = user_id
        self._progress = progress
        self._skipped: dict[str, SkippedFile] = {}
        self._overwrite = False
        self._there: dict[str, bytes] = {}
        self._different: list[str] = []
        self._in_the_way: list[str] = []
        self._files = self._bytes = self._already = self._done = self._total = 0

    async def all(self, paths: Sequence[str], *, overwrite: bool) -> Exported:
        """Compare everything, then write."""
        self._overwrite = overwrite
        # To ask the file system takes a file in it, so it is only asked where the answer matters.
        folds_case = len(unholdable(paths, folds_case=True)) > len(unholdable(paths, folds_case=False))
        folds_case = folds_case and await asyncio.to_thread(_folds_case, self._target.root)
        self._skipped = {skipped.path: skipped for skipped in unholdable(paths, folds_case=folds_case)}
        async for entries in self._batches(paths):
            await each(self._compare, entries, FILES_AT_ONCE)
        self._refuse()
        self._total = len(paths) - len(self._skipped)
        async for entries in self._batches(paths):
            await each(self._export, entries, FILES_AT_ONCE)
        skipped = tuple(self._skipped[path] for path in sorted(self._skipped))
        return Exported(self._files, self._bytes, self._already, skipped)

    async def _batches(self, paths: Sequence[str]) -> AsyncGenerator[list[Entry], None]:
        """The rows of what is to be exported, as they are now; those that were deleted meanwhile are left out."""
        for start in range(0, len(paths), PAGE_ROWS):
            wanted = [path for path in paths[start : start + PAGE_ROWS] if path not in self._skipped]
            rows = await self._database.read(sql.FIND_ALL, {"user_id": self._user_id, "paths": wanted}, scan=True)
            yield [decode(row) for row in rows]

    async def _compare(self, entry: Entry) -> None:
        path = entry.stat.path
        try:
            found = await asyncio.to_thread(_present, self._target.root, path)
        except OSError as error:
            if not self._skip_if_not_held(path, error):
                raise FileStoreUnavailable(
                    f"cannot look for {path!r} in {str(self._target.root)!r}: {error}"
                ) from error
            return
        if found == "something else":
            self._in_the_way.append(path)
        elif found == "file":
            digest = sha256()
            async with aclosing(self._target.stream(path)) as pieces:
                async for piece in pieces:
                    digest.update(piece)
            self._there[path] = digest.digest()
            if self._there[path] != entry.digest:
                self._different.append(path)

    async def _compare_again(self, entry: Entry, refused: FileExists) -> None:
        """With what another export has put there just now; raises what refused the write if that is no file."""
        await self._compare(entry)
        if entry.stat.path not in self._there:
            raise refused

    def _refuse(self) -> None:
        if self._in_the_way:
            raise Conflict(
                f"in {str(self._target.root)!r} a symbolic link, a folder or a file is in the way of "
                f"{_some(self._in_the_way)}; nothing was written. Remove it, or export into another folder"
            )
        if self._different and not self._overwrite:
            raise Conflict(
                f"{str(self._target.root)!r} has files of another content at {_some(self._different)}; nothing was "
                "written. Export into another folder, or with overwrite to replace them"
            )

    async def _export(self, entry: Entry) -> None:
        path = entry.stat.path
        present: Entry | None = entry
        while present is not None:
            entry = present
            if self._there.get(path) == entry.digest:
                self._already += 1
                break
            if path in self._there and not self._overwrite:
                self._skipped[path] = SkippedFile(path, "it was changed during the export, after its copy was compared")
                break
            try:
                await self._write(entry)
            except FileExists as error:
                await self._compare_again(entry, error)
                continue
            except (FileCorrupted, EncryptionError) as error:
                # A row that was changed since it was read may name what is rightly gone, or a key that was replaced.
                present = await present_entry(self._database, self._user_id, path)
                if present is None or not same_content(present, entry):
                    continue
                if isinstance(error, LOCKED):
                    raise
                self._skipped[path] = SkippedFile(path, str(error))
            except FileStoreUnavailable as error:
                if not (isinstance(error.__cause__, OSError) and self._skip_if_not_held(path, error.__cause__)):
                    raise
            else:
                self._files += 1
                self._bytes += entry.stat.size
            break
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)

    async def _write(self, entry: Entry) -> None:
        # Whoever has put a file there since the comparison does not lose it.
        create = entry.stat.path not in self._there
        if entry.stat.size <= WHOLE_BYTES:
            content = await self._contents.read(self._database, self._user_id, entry)
            await self._target.write(entry.stat.path, content, if_absent=create)
            return
        async with aclosing(self._contents.stream(self._database, self._user_id, entry)) as pieces:
            await self._target.write(entry.stat.path, pieces, if_absent=create)

    def _skip_if_not_held(self, path: str, error: OSError) -> bool:
        reason = _NOT_HELD.get(error.errno or 0)
        if reason is not None:
            self._skipped[path] = SkippedFile(path, reason)
        return reason is not None


async def _paths(database: Database, user_id: str, path: str) -> AsyncGenerator[str, None]:
    """The file `path` and those below it, in byte order; every one of the user's for `""`."""
    if path and await present_entry(database, user_id, path) is not None:
        yield path
    low, high = under(path)
    while True:
        parameters = {"user_id": user_id, "low": low, "high": high, "limit": PAGE_ROWS}
        rows = await database.read(sql.WALK, parameters, scan=True)
        for row in rows:
            yield row[0]
        if len(rows) < PAGE_ROWS:
            return
        low = rows[-1][0] + sql.AFTER_FILE


def _present(root: Path, path: str) -> Literal["nothing", "file", "something else"]:
    """What is at a path of the folder. It only has to tell people in time: the writing itself follows no link.

    Raises:
        OSError: the file system does not hold such a path, or fails.
    """
    whole = root / path
    with suppress(FileNotFoundError, NotADirectoryError):
        os.lstat(whole)  # refuses what is too long for other programs to open, though its folders are not there yet
    for at in (*reversed(list(whole.parents)[: path.count("/")]), whole):
        try:
            mode = os.lstat(at).st_mode
        except FileNotFoundError:
            return "nothing"
        if at == whole:
            return "file" if stat.S_ISREG(mode) else "something else"
        if not stat.S_ISDIR(mode):
            return "something else"
    raise AssertionError("unreachable: the last of the places is the whole path")


def _is_in_the_way(folder: Path) -> bool:
    return os.path.lexists(folder) and not folder.is_dir()


def _folds_case(folder: Path) -> bool:
    """Whether the file system takes `A` and `a` for one name."""
    make_private_folder(folder)
    with tempfile.NamedTemporaryFile(prefix=".storage-case-", dir=folder) as probe:
        name = Path(probe.name)
        return name.with_name(name.name.upper()).exists()


def _folded(path: str, *, folds_case: bool) -> str:
    """What a file system compares. NFC again, because folding may take it away."""
    return unicodedata.normalize("NFC", path.casefold()) if folds_case else path


def _parents(path: str) -> Iterator[str]:
    while slash := path.rfind("/") + 1:
        path = path[: slash - 1]
        yield path


def _some(paths: Sequence[str]) -> str:
    shown = ", ".join(repr(path) for path in sorted(paths)[:SHOWN_PATHS])
    return shown if len(paths) <= SHOWN_PATHS else f"{shown} and {len(paths) - SHOWN_PATHS} more"
