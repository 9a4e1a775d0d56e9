"""`storage files put`: bringing in a file, a folder, or what comes through a pipe."""

from __future__ import annotations

import os
import stat as modes
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Final

from cyclopts import Parameter

from storage.cli.connection import DEFAULT, AsJSON, Connection, User, flag, opened
from storage.cli.file_rows import as_dict
from storage.cli.output import count, line, note, plain, progress, show_json, size
from storage.cli.prompt import STANDARD_INPUT

if TYPE_CHECKING:
    from storage.files.store import FileStat, FileStore

_SHOWN_FROM: Final = 8_000_000
"""Bytes from which on a single file gets a progress bar; a smaller one is stored before anybody looks."""

_AT_ONCE: Final = 8
"""Files of a folder on their way at once: hides the waiting for a disk or an object store, with few open files."""


@dataclass(frozen=True)
class Skipped:
    """What of a folder on the disk was left out."""

    path: str
    reason: str


async def put(
    source: Annotated[
        str,
        Parameter(allow_leading_hyphen=True, help="A file or a folder of this machine; - is the standard input."),
    ],
    path: Annotated[
        str | None,
        Parameter(
            help="Where to; by its own name if not given, and in the folder PATH if that ends in /. With"
            " --recursive, . is the root."
        ),
    ] = None,
    /,
    *,
    recursive: Annotated[
        bool, flag("SOURCE is a folder; what is in it goes below PATH.", name=["--recursive", "-r"])
    ] = False,
    media_type: Annotated[
        str | None, Parameter(help="What the content is, such as image/png; by the path's ending if not given.")
    ] = None,
    if_absent: Annotated[
        bool, flag("Do not replace a file. A single one fails if it is there; of a folder, those are left as they are.")
    ] = False,
    user: User = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> None:
    """Store a file, or with --recursive a folder, replacing what is there. Without PATH it keeps its own name.

    Each file is there whole or not at all. A folder is stored file by file: an interrupted run is continued by
    repeating it with --if-absent. Symbolic links in it, and what is no plain file, are left out and named.

    JSON: for a file that of `storage files stat`; for a folder `{files, bytes, kept, skipped: [{path, reason}]}`, where
    kept counts the files that --if-absent has left as they were.
    """
    from storage.errors import InvalidInput

    if source == STANDARD_INPUT:
        if path is None or path.endswith("/"):
            raise InvalidInput("what comes from the standard input has no name; give the file's whole PATH")
        if recursive:
            raise InvalidInput("the standard input is no folder; leave out --recursive")
        stat = await _put_one(
            _standard_input(),
            None,
            path,
            media_type=media_type,
            if_absent=if_absent,
            user=user,
            connection=connection,
            quiet=json,
        )
        _show(stat, json=json)
        return
    origin = Path(source)
    if recursive:
        if media_type is not None:
            raise InvalidInput("--media-type is for one file; leave it out with --recursive")
        await _put_folder(
            origin, _target(origin, path), if_absent=if_absent, user=user, connection=connection, json=json
        )
        return
    with _opened(origin) as file:
        total = os.fstat(file.fileno()).st_size
        stat = await _put_one(
            file,
            total,
            _target(origin, path),
            media_type=media_type,
            if_absent=if_absent,
            user=user,
            connection=connection,
            quiet=json,
        )
    _show(stat, json=json)


async def _put_one(
    file: BinaryIO,
    total: int | None,
    path: str,
    *,
    media_type: str | None,
    if_absent: bool,
    user: str | None,
    connection: Connection,
    quiet: bool,
) -> FileStat:
    quiet = quiet or (total is not None and total < _SHOWN_FROM)
    async with opened(connection) as storage:
        store: FileStore = storage.user(user).files
        with progress("storing", "bytes", quiet=quiet) as move:
            content = file if move is None else _Counted(file, total, move)
            return await store.write(path, content, media_type=media_type, if_absent=if_absent)


async def _put_folder(
    folder: Path, target: str, *, if_absent: bool, user: str | None, connection: Connection, json: bool
) -> None:
    from storage.errors import FileExists
    from storage.files.concurrency import each

    skipped: list[Skipped] = []
    wanted = _planned(folder, target, skipped)
    done = 0

    async with opened(connection) as storage:
        store: FileStore = storage.user(user).files
        with progress("storing", "files", quiet=json) as move:

            async def write(item: tuple[str, Path]) -> int | None:
                nonlocal done
                path, origin = item
                try:
                    with origin.open("rb") as file:
                        written: int | None = (await store.write(path, file, if_absent=if_absent)).size
                except FileExists:
                    written = None
                done += 1
                if move is not None:
                    move(done, len(wanted))
                return written

            sizes = await each(write, list(wanted.items()), _AT_ONCE)
    stored = [written for written in sizes if written is not None]
    kept = len(sizes) - len(stored)
    if json:
        rows = [asdict(left) for left in skipped]
        show_json({"files": len(stored), "bytes": sum(stored), "kept": kept, "skipped": rows})
        return
    line(f"{count(len(stored), 'file')}, {size(sum(stored))}{f', {kept:,} left as they were' if kept else ''}")
    for left in skipped:
        note(f"left out: {left.path}: {left.reason}")


def _planned(folder: Path, target: str, skipped: list[Skipped]) -> dict[str, Path]:
    """Every plain file below a folder by the path that it gets; refused as a whole before anything is stored.

    Raises:
        InvalidInput: a name breaks the path rule, or two names are one.
        OSError: a folder cannot be read.
    """
    from storage.errors import InvalidInput
    from storage.files.paths import file_path, folder_path

    start = folder_path(target)
    planned: dict[str, Path] = {}
    for file in _plain_files(folder, skipped):
        below = file.relative_to(folder).as_posix()
        path = file_path(f"{start}/{below}" if start else below)
        if path in planned:
            raise InvalidInput(f"{planned[path]} and {file} would be one file, {path!r}; rename one of them")
        planned[path] = file
    return planned


def _plain_files(folder: Path, skipped: list[Skipped]) -> Iterator[Path]:
    with os.scandir(folder) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_symlink():
            skipped.append(Skipped(entry.path, "a symbolic link"))
        elif entry.is_dir(follow_symlinks=False):
            yield from _plain_files(Path(entry.path), skipped)
        elif modes.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
            yield Path(entry.path)
        else:
            skipped.append(Skipped(entry.path, "not a plain file"))


def _target(origin: Path, path: str | None) -> str:
    """Where a file or folder goes: PATH, or its own name in the folder that PATH names by a `/` at its end."""
    if path is not None and not path.endswith("/"):
        return path
    name = origin.resolve().name if origin.name in ("", "..") else origin.name  # `.` has a name too
    return name if path is None else f"{path.lstrip('/')}{name}"


def _opened(origin: Path) -> BinaryIO:
    from storage.errors import InvalidInput

    if origin.is_dir():
        raise InvalidInput(f"{origin} is a folder; give --recursive to store what is in it")
    return origin.open("rb")


def _standard_input() -> BinaryIO:
    from storage.errors import InvalidInput

    if sys.stdin is None:
        raise InvalidInput("the content should come from the standard input, which is closed")
    if sys.stdin.isatty():
        raise InvalidInput("the standard input is a terminal; pipe the content into the command, or name a file")
    return sys.stdin.buffer


class _Counted:
    """A file that tells how much of it was read."""

    def __init__(self, file: BinaryIO, total: int | None, move: Callable[[int, int | None], None]) -> None:
        self._file = file
        self._total = total
        self._move = move
        self._done = 0

    def read(self, size: int, /) -> bytes:
        piece = self._file.read(size)
        self._done += len(piece)
        self._move(self._done, self._total)
        return piece


def _show(stat: FileStat, *, json: bool) -> None:
    if json:
        show_json(as_dict(stat.path, stat))
    else:
        how = "stored" if stat.version == 1 else f"stored as version {stat.version}"
        line(f"{plain(stat.path)}: {how}, {size(stat.size)}")
