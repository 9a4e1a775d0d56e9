"""The interface of every place that keeps files, so that a backend is five methods and its promises are the same.

The public methods check their arguments and apply the path rule once, here; a backend overrides the methods that start
with an underscore, which get paths in normal form. Overriding the optional ones only makes it faster.
"""

from __future__ import annotations

import asyncio
import mimetypes
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal, Protocol, Self, TypeAlias, runtime_checkable

from storage.errors import FileChanged, FileExists, FileNotFound, InvalidInput, NotSupported
from storage.files.paths import file_path, folder_path, tree_path

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType


@runtime_checkable
class BinaryFile(Protocol):
    """A file that is open for reading in binary mode, or anything that reads like one."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; empty at the end."""
        ...


Content: TypeAlias = str | bytes | bytearray | memoryview | AsyncIterable[bytes] | BinaryFile
"""What can be written. A str is stored as UTF-8; an async iterable is stored as it comes and a binary file from its
position to its end, both in bounded memory. The file is read in a thread, and not closed."""

Paths: TypeAlias = list[str]
"""A listing; by this name because `list` is a method below."""

CHUNK_BYTES: Final = 256 * 1024
"""Default size of a streamed piece: large enough that a thread hop per piece costs little, small enough that
hundreds of streams fit in memory."""

FILE_PIECE_BYTES: Final = 1024 * 1024
"""Size of one read of a file that is being written into a store: as CHUNK_BYTES, but a write has one such piece at a
time, and larger ones save thread hops."""

LARGEST_CHUNK_BYTES: Final = 16 * 1024 * 1024
"""Who asks for larger pieces gets these: `chunk_size=2**40` means "in one", and must not reserve a tebibyte."""

LARGEST_OFFSET: Final = 2**62
"""No file reaches it, and no system call or header takes much more."""

LONGEST_SIGNED_URL: Final = timedelta(days=7)
"""What both S3's and Google Cloud Storage's V4 signatures allow."""

# Not the module's functions: those read the machine's own tables, so one file would have two types on two machines.
_MEDIA_TYPES = mimetypes.MimeTypes(filenames=())


def guess_media_type(path: str) -> str | None:
    """The media type that the path's ending stands for, by Python's own table; None when unknown."""
    media_type, encoding = _MEDIA_TYPES.guess_type(f"file:///{path.rpartition('/')[2]}", strict=True)
    return None if encoding else media_type


@dataclass(frozen=True, slots=True)
class FileStat:
    """What is known of a file without reading it.

    Attributes:
        path: in normal form, relative to the store's root.
        size: in bytes.
        updated_at: of the last write; aware, UTC.
        sha256: of the content, as 64 hex digits; None where the backend does not record it.
        media_type: as given at the write where the backend records it, otherwise by the path's ending.
        created_at: of the first write; None where the backend does not record it.
        version: counts the writes of this path from 1; None where the backend does not count.
        etag: names this content at this path, for `if_match`: another content gives another one (on S3 the same
            bytes give the same one). Opaque; the quotes of HTTP are not part of it.
    """

    path: str
    size: int
    updated_at: datetime
    sha256: str | None = None
    media_type: str | None = None
    created_at: datetime | None = None
    version: int | None = None
    etag: str | None = None


class FileStoreConfig(Protocol):
    """What of the configuration a file store that is named there can be built from."""

    @property
    def file_store_path(self) -> Path | str | None:
        """`[core] file_store_path`: a folder, or a bucket."""


class FileStore(ABC):
    """Files at paths. Every method is async, every path follows the rule of storage.files.paths.

    A folder exists exactly while there is a file below it. Writing replaces the whole content at once: a reader sees
    the old or the new one, never a mix. A file `a` and a folder `a/` do not exclude each other, except where the
    backend is a file system: there the second of the two is refused with Conflict.

    Every method may raise FileStoreUnavailable, FileAccessDenied or FileStoreFull (each with the backend's error as
    its cause); an outage is never reported as a missing file.
    """

    @classmethod
    async def get_instance(cls, config: FileStoreConfig, user_id: str | None = None) -> Self:  # noqa: ARG003
        """A store for this configuration, as the seed system builds what its configuration names by dotted path.

        One instance serves all users: `user_id` is part of the seed system's signature and is not needed here.
        """
        return cls()

    @property
    def location(self) -> str:
        """Where the bytes are, for people: a folder, a bucket; never with credentials."""
        return type(self).__name__

    # ---- what callers use

    async def write(
        self,
        path: str,
        content: Content,
        *,
        media_type: str | None = None,
        if_absent: bool = False,
        if_match: str | None = None,
    ) -> FileStat:
        """Store `content` at `path`, replacing what is there.

        Args:
            path: of a file.
            content: see Content.
            media_type: guessed by the path's ending if None.
            if_absent: only create; of several writers at once exactly one succeeds.
            if_match: only replace the file that has this etag (FileStat.etag).

        Raises:
            PathRejected: the path breaks the rule.
            InvalidInput: the content is of another type, or a str with lone surrogates; or both conditions are given.
            FileExists: with `if_absent`, a file is there.
            FileChanged: with `if_match`, the file is gone or has another etag.
            Conflict: the backend is a file system, and a folder is at `path` or a file at one of its parents.
        """
        normal, data = self._checked_write(path, content, if_absent=if_absent, if_match=if_match)
        return await self._write(normal, data, media_type, if_absent=if_absent, if_match=if_match)

    async def read(self, path: str) -> bytes:
        """The whole content.

        Raises:
            FileNotFound: no file is at `path`.
            FileCorrupted: the content is not what was written (where the store can tell).
        """
        return await self._read(file_path(path))

    async def read_text(self, path: str) -> str:
        """The whole content as text.

        Raises:
            FileNotFound: no file is at `path`.
            InvalidInput: the content is not UTF-8; use read().
        """
        content = await self.read(path)
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise InvalidInput(
                f"file {file_path(path)!r} is not UTF-8 text (at byte {error.start}); use read() for its bytes"
            ) from error

    def stream(
        self, path: str, start: int | None = None, end: int | None = None, *, chunk_size: int = CHUNK_BYTES
    ) -> AsyncGenerator[bytes, None]:
        """The content, or the bytes `start <= offset < end` of it, in pieces of at most `chunk_size` bytes.

        A range that reaches beyond the content is cut at its end, so that it may be empty. Who stops before the end
        closes it (`contextlib.aclosing`), so that what it holds is released at once.

        Raises:
            InvalidInput: a negative offset, `end` before `start`, or a chunk size below one.
            FileNotFound: at the first piece: no file is at `path`.
        """
        first = 0 if start is None else start
        if first < 0 or (end is not None and end < first):
            raise InvalidInput(f"range {start}..{end} refused: offsets are 0 or more, and end is not before start")
        if chunk_size < 1:
            raise InvalidInput(f"chunk_size must be at least 1, not {chunk_size}")
        first = min(first, LARGEST_OFFSET)
        last = None if end is None else min(end, LARGEST_OFFSET)
        return self._stream(file_path(path), first, last, min(chunk_size, LARGEST_CHUNK_BYTES))

    async def exists(self, path: str) -> bool:
        """Whether a file (not a folder) is at `path`."""
        return await self._stat(file_path(path)) is not None

    async def stat(self, path: str) -> FileStat:
        """What is known of the file.

        Raises:
            FileNotFound: no file is at `path`.
        """
        normal = file_path(path)
        found = await self._stat(normal)
        if found is None:
            raise missing(normal)
        return found

    async def list(self, path: str = "") -> list[str]:
        """The files and folders directly in a folder, in byte order, as full paths; folders end in `/`.

        A missing folder is an empty list.
        """
        return await self._list(folder_path(path))

    def walk(self, path: str = "") -> AsyncGenerator[FileStat, None]:
        """Every file below a folder, at any depth, in byte order of the paths, fetched as it is consumed."""
        return self._walk(folder_path(path))

    async def delete(self, path: str) -> int:
        """Delete the file `path` and everything under `path/` (never `pathology`); returns how many files that were.

        Deleting what does not exist is no error.

        Raises:
            PathRejected: the path breaks the rule, or names the root.
        """
        return await self._delete(tree_path(path))

    async def copy(self, source: str, target: str) -> FileStat:
        """Write the content of the file `source` to `target` as well, replacing what is there.

        Raises:
            FileNotFound: no file is at `source`.
        """
        origin, destination = file_path(source), file_path(target)
        if origin == destination:
            return await self.stat(origin)
        return await self._copy(origin, destination)

    async def move(self, source: str, target: str) -> FileStat:
        """Give the file `source` (one file, not a folder) the path `target`, replacing what is there.

        Raises:
            FileNotFound: no file is at `source`.
        """
        origin, destination = file_path(source), file_path(target)
        if origin == destination:
            return await self.stat(origin)
        return await self._move(origin, destination)

    async def signed_url(
        self, path: str, expires: timedelta = timedelta(hours=1), method: Literal["GET", "PUT"] = "GET"
    ) -> str:
        """A URL that lets whoever has it read (GET) or replace (PUT) this one file for a while, without credentials.

        The file need not exist. The URL is as secret as the file.

        Raises:
            NotSupported: the backend serves no URLs.
            InvalidInput: `expires` is not positive or longer than 7 days, or another method.
        """
        normal = file_path(path)
        if not timedelta(0) < expires <= LONGEST_SIGNED_URL:
            raise InvalidInput(f"expires must be more than 0 and at most {LONGEST_SIGNED_URL}, not {expires}")
        if method not in ("GET", "PUT"):
            raise InvalidInput(f"a signed URL is for GET or PUT, not {method!r}")
        return await self._signed_url(normal, expires, method)

    async def close(self) -> None:  # noqa: B027 - most stores hold nothing
        """Release what the store holds (threads, connections). Closing twice is no error."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @staticmethod
    def _checked_write(
        path: str, content: Content, *, if_absent: bool, if_match: str | None
    ) -> tuple[str, bytes | AsyncIterable[bytes]]:
        """The normal path and the bytes of a write; raises as `write` does for its arguments."""
        if if_absent and if_match is not None:
            raise InvalidInput("if_absent and if_match exclude each other; give one of them")
        return file_path(path), as_bytes(content)

    # ---- what a backend implements

    @abstractmethod
    async def _write(
        self,
        path: str,
        content: bytes | AsyncIterable[bytes],
        media_type: str | None,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
    ) -> FileStat:
        """Replace the content at `path` atomically; on any error the old content is still there, whole.

        A condition is checked in the same atomic step: raises FileExists (see `already_there`) or FileChanged (see
        `changed`). At most one of the two is given.
        """

    @abstractmethod
    async def _read(self, path: str) -> bytes:
        """The whole content; raises FileNotFound (see `missing`)."""

    @abstractmethod
    async def _stat(self, path: str) -> FileStat | None:
        """What is known of the file; None when there is none."""

    @abstractmethod
    def _walk(self, folder: str) -> AsyncGenerator[FileStat, None]:
        """Every file below `folder` (`""` is the root), in byte order of the paths, lazily."""

    @abstractmethod
    async def _remove(self, path: str) -> bool:
        """Delete this one file and nothing below it; returns whether it was there."""

    # ---- what a backend may implement to be faster

    async def _list(self, folder: str) -> Paths:
        """One level of `folder`. This default reads everything below it."""
        prefix = f"{folder}/" if folder else ""
        entries: dict[str, None] = {}
        async with aclosing(self._walk(folder)) as files:
            async for file in files:
                name, slash, _ = file.path.removeprefix(prefix).partition("/")
                entries[prefix + name + slash] = None
        return list(entries)

    async def _delete(self, path: str) -> int:
        """Delete the file `path` and everything under `path/`."""
        async with aclosing(self._walk(path)) as files:
            below = [file.path async for file in files]
        removed = [await self._remove(each) for each in (path, *below)]
        return sum(removed)

    async def _stream(self, path: str, start: int, end: int | None, chunk_size: int) -> AsyncGenerator[bytes, None]:
        """The bytes `start <= offset < end`. This default reads the whole file first."""
        content = memoryview(await self._read(path))[start:end]
        for offset in range(0, len(content), chunk_size):
            yield bytes(content[offset : offset + chunk_size])

    async def _signed_url(self, path: str, expires: timedelta, method: Literal["GET", "PUT"]) -> str:
        """A URL for one file; `expires` is in the range that signatures allow."""
        raise NotSupported(
            f"{self.location} serves no URLs, so {path!r} cannot be handed out by one; "
            "use the backend 's3' or 'google_cloud', or stream() the file through your own server"
        )

    async def _copy(self, source: str, target: str) -> FileStat:
        """Copy one file onto another path."""
        found = await self._stat(source)
        if found is None:
            raise missing(source)
        async with aclosing(self._stream(source, 0, None, CHUNK_BYTES)) as chunks:
            return await self._write(target, chunks, found.media_type)

    async def _move(self, source: str, target: str) -> FileStat:
        """Move one file. This default is a copy and a removal, so a crash between them leaves both."""
        written = await self._copy(source, target)
        await self._remove(source)
        return written


def as_bytes(content: Content) -> bytes | AsyncIterable[bytes]:
    """Content as the bytes to be stored; an async iterable stays one, and a binary file becomes one.

    Raises:
        InvalidInput: of another type, or a str that UTF-8 cannot encode.
    """
    if isinstance(content, bytes):
        return content
    if isinstance(content, str):
        try:
            return content.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(
                f"content has a lone surrogate at character {error.start}, which UTF-8 cannot encode; pass bytes"
            ) from None
    if isinstance(content, bytearray | memoryview):
        return bytes(content)
    if isinstance(content, AsyncIterable):
        return content
    if isinstance(content, BinaryFile):
        return _pieces(content)
    raise InvalidInput(
        f"content must be str, bytes, an async iterable of bytes or a binary file, not {type(content).__name__}"
    )


async def _pieces(file: BinaryFile) -> AsyncGenerator[bytes, None]:
    while piece := checked_chunk(await asyncio.to_thread(file.read, FILE_PIECE_BYTES)):
        yield piece


def checked_chunk(chunk: object) -> bytes:
    """A piece of a streamed content.

    Raises:
        InvalidInput: it is not bytes.
    """
    if isinstance(chunk, bytes):
        return chunk
    if isinstance(chunk, bytearray | memoryview):
        return bytes(chunk)
    raise InvalidInput(f"the content must give bytes, but it gave {type(chunk).__name__}; open files in binary mode")


def missing(path: str) -> FileNotFound:
    """The error for a path without a file."""
    return FileNotFound(f"no file at {path!r}; list() shows what a folder holds")


def already_there(path: str) -> FileExists:
    """The error for a write that was to create a file where there is one."""
    return FileExists(f"a file is at {path!r} already, and the write was to create it; nothing was changed")


def changed(path: str) -> FileChanged:
    """The error for a write whose expected etag is not the one of the file."""
    return FileChanged(
        f"the file {path!r} was changed or deleted since its etag was read; nothing was changed. Read it again"
    )


def check(path: str, present: str | None, *, if_absent: bool, if_match: str | None) -> None:
    """Whether a conditional write may go on, given the etag of the file that is there (None: there is none).

    Raises:
        FileExists: it was to create the file.
        FileChanged: it was to replace another file.
    """
    if if_absent and present is not None:
        raise already_there(path)
    if if_match is not None and if_match != present:
        raise changed(path)
