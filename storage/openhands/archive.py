"""An archive of a state directory, read without unpacking it into a folder.

Members go, one after the other, into one nameless temporary file: no name from the archive ever touches the
file system, and a crash leaves nothing behind.
"""

from __future__ import annotations

import errno
import importlib
import io
import lzma
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from storage.errors import InvalidInput
from storage.openhands.flaws import Flaw, printable
from storage.openhands.source import Entry, Kind, Limits, join, natural_key

_CHUNK: Final = 1024 * 1024
# tarfile reads an extended header whole into memory; real ones are below a kilobyte, a huge one is an attack.
_HEADER_BYTES: Final = 4 * 1024 * 1024
# Characters of an endless name that a flaw shows.
_SHOWN: Final = 200
# An epoch for members without a usable date, and the earliest that zip can express.
_NO_DATE: Final = datetime(1980, 1, 1, tzinfo=UTC)
_MAGIC: Final = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"PK", "zip"),
)
_MODULES: Final = {
    "gzip": ("gzip", "open"),
    "bzip2": ("bz2", "open"),
    "xz": ("lzma", "open"),
    "zstd": ("compression.zstd", "open"),
}
_DAMAGE: Final = (
    tarfile.TarError,
    EOFError,
    lzma.LZMAError,
    zlib.error,
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
)


@dataclass(frozen=True, slots=True)
class _Span:
    """Where a member's bytes lie in the temporary file."""

    start: int
    size: int
    modified: datetime


class ArchiveTree:
    """The members of a tar or zip file as a tree; a context manager, for the temporary file behind it."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path = path
        self._limits = limits
        self._packed = path.stat().st_size
        self._spans: dict[str, _Span] = {}
        self._folders: dict[str, dict[str, Kind]] = {"": {}}
        self._members = 0
        self._written = 0
        self.flaws: list[Flaw] = []
        self._spool: IO[bytes] = tempfile.TemporaryFile(prefix="storage-import-")  # noqa: SIM115 - closed in __exit__

    def __enter__(self) -> Self:
        try:
            with self._path.open("rb") as packed:
                self._unpack(packed)
        except BaseException:
            self._spool.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spool.close()

    def entries(self, folder: str) -> list[Entry]:
        if folder not in self._folders:
            raise FileNotFoundError(errno.ENOENT, "no such folder in the archive", folder)
        found = []
        for name, kind in self._folders[folder].items():
            span = self._spans.get(join(folder, name))
            found.append(Entry(name, kind, span.size if span else 0, span.modified if span else _NO_DATE))
        return sorted(found, key=lambda entry: natural_key(entry.name))

    def read(self, path: str) -> bytes:
        span = self._spans.get(path)
        if span is None:
            raise FileNotFoundError(errno.ENOENT, "no such file in the archive", path)
        self._spool.seek(span.start)
        return self._spool.read(span.size)

    # ---- unpacking

    def _unpack(self, packed: IO[bytes]) -> None:
        head = packed.read(8)
        packed.seek(0)
        packing = next((name for magic, name in _MAGIC if head.startswith(magic)), "none")
        try:
            if packing == "zip":
                self._unpack_zip(packed)
            else:
                with _decompressed(packing, packed, self._path) as stream:
                    self._unpack_tar(stream)
        except (*_DAMAGE, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise InvalidInput(
                    f"{self._path} could not be unpacked into a temporary file: {error.strerror}."
                ) from error
            if not self._spans:
                raise InvalidInput(
                    f"{self._path} is not an archive that can be read ({error}). "
                    "Expected tar, tar.gz, tar.bz2, tar.xz, tar.zst or zip."
                ) from error
            self.flaws.append(
                Flaw("damaged-archive", self._path.name, f"is damaged ({error}); what came before was read")
            )

    def _unpack_tar(self, stream: IO[bytes]) -> None:
        bounded = _Forward(stream, self._limits.total_bytes, self._path)
        # The stand-in answers read, seek and tell, which is all that tarfile asks of a file opened with "r:".
        with tarfile.open(fileobj=bounded, mode="r:", errors="surrogateescape") as archive:
            for member in _forgetful(archive):
                parts = self._accept(member.name)
                if parts is None:
                    continue
                path = "/".join(parts)
                modified = _date(member.mtime)
                if member.isdir():
                    self._add_folder(parts)
                elif member.isreg():
                    if self._too_large(path, member.size):
                        continue
                    body = archive.extractfile(member)
                    if body is not None:  # typed so for members that are not files
                        self._add_file(parts, body, modified)
                elif member.islnk() and self._inside(member.linkname) in self._spans:
                    # A second name of a file that is already here; tar stores the bytes once.
                    span = self._spans[self._inside(member.linkname)]
                    self._register(parts, _Span(span.start, span.size, modified))
                elif member.issym() or member.islnk():
                    self.flaws.append(Flaw("link", path, "is a link and was not followed"))
                else:
                    self.flaws.append(Flaw("special-file", path, "is not a regular file and was skipped"))

    def _unpack_zip(self, packed: IO[bytes]) -> None:
        with zipfile.ZipFile(packed) as archive:
            for info in archive.infolist():
                parts = self._accept(info.filename)
                if parts is None:
                    continue
                path = "/".join(parts)
                if info.is_dir():
                    self._add_folder(parts)
                elif stat.S_ISLNK(info.external_attr >> 16):
                    self.flaws.append(Flaw("link", path, "is a link and was not followed"))
                elif not self._too_large(path, info.file_size):
                    try:
                        with archive.open(info) as body:
                            self._add_file(parts, body, _zip_date(info))
                    except _DAMAGE as error:
                        self.flaws.append(Flaw("unreadable-file", path, f"is damaged or encrypted: {error}"))

    def _inside(self, name: str) -> str:
        return "/".join(part for part in name.split("/") if part not in ("", "."))

    def _accept(self, name: str) -> list[str] | None:
        """The name's parts, or None (and a flaw) when it points outside of the archive."""
        self._members += 1
        if self._members > self._limits.members:
            raise InvalidInput(
                f"{self._path} holds more than {self._limits.members:,} members. Unpack it and import the folder."
            )
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith(("/", "\\")) or ".." in parts or (parts and parts[0].endswith(":")) or "\x00" in name:
            self.flaws.append(Flaw("unsafe-member", name, "points outside the archive and was skipped"))
            return None
        if len(parts) > self._limits.depth:
            told = f"lies more than {self._limits.depth} folders deep and was skipped"
            self.flaws.append(Flaw("unsafe-member", f"{name[:_SHOWN]}…", told))
            return None
        return parts or None

    def _too_large(self, path: str, size: int) -> bool:
        if size <= self._limits.file_bytes:
            return False
        self.flaws.append(
            Flaw(
                "file-too-large",
                path,
                f"claims {size:,} bytes; the limit is {self._limits.file_bytes:,}",
            )
        )
        return True

    def _add_folder(self, parts: list[str]) -> bool:
        folder = ""
        for part in parts:
            if self._folders[folder].setdefault(part, "folder") != "folder":
                self.flaws.append(Flaw("unsafe-member", "/".join(parts), "uses a file as a folder and was skipped"))
                return False
            folder = join(folder, part)
            self._folders.setdefault(folder, {})
        return True

    def _register(self, parts: list[str], span: _Span) -> None:
        path = "/".join(parts)
        if path in self._folders:
            self.flaws.append(Flaw("unsafe-member", path, "has the name of a folder and was skipped"))
        elif self._add_folder(parts[:-1]):
            self._folders["/".join(parts[:-1])][parts[-1]] = "file"
            self._spans[path] = span  # a name that occurs twice: the later member wins, as when unpacking

    def _add_file(self, parts: list[str], body: IO[bytes], modified: datetime) -> None:
        start, size = self._written, 0
        while chunk := body.read(_CHUNK):
            size += len(chunk)
            self._written += len(chunk)
            self._check_bomb(size, "/".join(parts))
            self._spool.write(chunk)
        self._register(parts, _Span(start, size, modified))

    def _check_bomb(self, size: int, path: str) -> None:
        limits = self._limits
        if size > limits.file_bytes or self._written > limits.total_bytes:
            raise InvalidInput(
                f"{self._path} unpacks to more than {limits.file_bytes:,} bytes a file or {limits.total_bytes:,} "
                f"in all, at {printable(path)}. If that is right, unpack it and import the folder."
            )
        if self._written > max(limits.expansion_grace_bytes, limits.expansion * self._packed):
            raise InvalidInput(
                f"{self._path} grows more than {limits.expansion} times when unpacked, like a decompression "
                "bomb. If that is right, unpack it and import the folder."
            )


class _Forward(io.RawIOBase):
    """The part of a file object that tarfile needs, forward only, with every byte counted."""

    def __init__(self, stream: IO[bytes], limit: int, path: Path) -> None:
        super().__init__()
        self._stream = stream
        self._limit = limit + limit // 4 + 64 * 1024 * 1024  # headers and padding come on top of the members' bytes
        self._path = path
        self._position = 0

    def read(self, size: int = -1, /) -> bytes:
        if size > _HEADER_BYTES or size < 0:
            raise InvalidInput(f"{self._path} has a member header of {size:,} bytes; it is damaged or hostile.")
        data = self._stream.read(size)
        self._position += len(data)
        if self._position > self._limit:
            raise InvalidInput(f"{self._path} unpacks to more than the limit of {self._limit:,} bytes.")
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if whence != io.SEEK_SET or offset < self._position:
            raise tarfile.ReadError("the archive's members are not in order")
        while self._position < offset:
            if not self.read(min(_CHUNK, offset - self._position)):
                raise tarfile.ReadError("unexpected end of data")
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _forgetful(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members one by one, without the list of all that tarfile would keep: a gigabyte for millions."""
    while (member := archive.next()) is not None:
        yield member
        archive.members = []  # type: ignore[attr-defined]


def _decompressed(packing: str, packed: IO[bytes], path: Path) -> AbstractContextManager[IO[bytes]]:
    if packing == "zstd" and find_spec("compression") is None:
        raise InvalidInput(f"{path}: zstd needs Python 3.14 or later. Unpack it first: zstd -d {path.name}")
    opened: AbstractContextManager[IO[bytes]] = nullcontext(packed)
    if packing in _MODULES:
        module, name = _MODULES[packing]
        opened = getattr(importlib.import_module(module), name)(packed)
    return opened


def _date(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):
        return _NO_DATE


def _zip_date(info: zipfile.ZipInfo) -> datetime:
    try:
        return datetime(*info.date_time, tzinfo=UTC)  # zip stores no zone
    except ValueError:
        return _NO_DATE
