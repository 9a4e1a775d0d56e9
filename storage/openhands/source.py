"""Where a state directory is read from: a folder or an archive of one, asked the same questions.

Nothing here writes to the source, follows a link, or trusts a name or a size that the source claims.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, Protocol

from storage.errors import InvalidInput
from storage.openhands.flaws import Flaw

Kind = Literal["file", "folder", "link", "special"]

_GIB: Final = 1024**3


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what is read.

    The defaults are far above real state directories (one with 10,000 conversations is about 2 GiB) and below
    what fills a disk unnoticed.
    """

    file_bytes: int = 1 * _GIB
    total_bytes: int = 64 * _GIB
    members: int = 5_000_000
    # Only of archives, which may nest without end; state directories are about seven deep.
    depth: int = 100
    # A JSON event log shrinks 10 to 60 times; what grows by more than this, beyond the grace, is a bomb.
    expansion: int = 500
    expansion_grace_bytes: int = 256 * 1024**2


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a folder. `size` is in bytes and 0 for what is not a file; `modified` is aware, in UTC."""

    name: str
    kind: Kind
    size: int
    modified: datetime


class Tree(Protocol):
    """A read-only tree of files. Paths are relative, with `/` between parts; `""` is the root."""

    @property
    def flaws(self) -> list[Flaw]:
        """What was skipped while the source was opened."""

    def entries(self, folder: str) -> list[Entry]:
        """The folder's names in natural order (`2` before `10`); raises OSError when it cannot be listed."""

    def read(self, path: str) -> bytes:
        """The file's bytes; raises OSError when it cannot be read or has grown over the limit."""


@contextmanager
def open_source(path: str | os.PathLike[str], limits: Limits | None = None) -> Iterator[Tree]:
    """Open a folder or an archive (tar, tar.gz, tar.bz2, tar.xz, zip; tar.zst on Python 3.14 or later).

    Raises InvalidInput when the path does not exist, is neither, or the archive breaks a limit.
    """
    from storage.openhands.archive import ArchiveTree  # archive.py builds on this module

    limits = limits or Limits()
    place = Path(path).expanduser()
    try:
        mode = place.stat().st_mode
    except OSError as error:
        raise InvalidInput(
            f"{place} cannot be opened: {error.strerror}. Name a state directory or an archive."
        ) from error
    if stat.S_ISDIR(mode):
        yield DirectoryTree(place, limits)
    elif stat.S_ISREG(mode):
        with ArchiveTree(place, limits) as tree:
            yield tree
    else:
        raise InvalidInput(f"{place} is neither a folder nor an archive. Name a state directory or an archive of one.")


class DirectoryTree:
    """A folder on disk. Links are never opened, not even one that appears between listing and reading."""

    def __init__(self, root: Path, limits: Limits) -> None:
        self._root = root.resolve()
        self._limits = limits
        self.flaws: list[Flaw] = []

    def entries(self, folder: str) -> list[Entry]:
        found = []
        with os.scandir(self._root / folder) as names:
            for name in names:
                try:
                    status = name.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # a live directory: removed since it was listed
                kind = _kind(status.st_mode)
                modified = datetime.fromtimestamp(status.st_mtime, UTC)
                found.append(Entry(name.name, kind, status.st_size if kind == "file" else 0, modified))
        return sorted(found, key=lambda entry: natural_key(entry.name))

    def read(self, path: str) -> bytes:
        # O_NONBLOCK: opening a pipe that was put in a file's place must not hang.
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(self._root / path, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "not a regular file", path)
            data = file.read(self._limits.file_bytes + 1)
        if len(data) > self._limits.file_bytes:
            raise OSError(errno.EFBIG, f"larger than {self._limits.file_bytes:,} bytes", path)
        return data


def _kind(mode: int) -> Kind:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    return "link" if stat.S_ISLNK(mode) else "special"


_DIGITS: Final = re.compile(r"([0-9]+)")


def natural_key(name: str) -> tuple[tuple[int, str, str], ...]:
    """A sort key under which runs of digits compare as numbers, so that event 2 comes before event 10.

    No run becomes a number: Python refuses to convert those of more than 4,300 digits.
    """
    key = []
    for part in _DIGITS.split(name):
        digits = part.lstrip("0") if part.isascii() and part.isdigit() else None
        key.append((-1, part, part) if digits is None else (len(digits), digits, part))
    return tuple(key)


def join(folder: str, name: str) -> str:
    """`folder/name`, or the bare name at the root."""
    return f"{folder}/{name}" if folder else name
