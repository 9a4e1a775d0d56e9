"""Master keys in a file of the user's own: the default of a desktop, where nobody sets variables.

It lies in the configuration folder, away from the database and its backups: a copy of one is worth nothing
without the other. The file is made at the first secret and never replaced.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from storage.encryption.local_keys import LocalKeys, MasterKey, parse_master_keys
from storage.encryption.providers import ProviderHealth
from storage.errors import KeyMissing, KeyUnavailable
from storage.private_folder import make_private_folder

_POSIX: Final = os.name == "posix"
"""On Windows a file in the user's profile is private by its inherited ACL, and mode bits say nothing."""

_MOST_BYTES: Final = 64 * 1024
"""A file of keys is a few hundred bytes; whatever is larger is some other file."""

_COMMENT: Final = (
    "# Master key of agent-storage. Without this file nobody can read the secrets in the database.\n"
    "# Keep a copy of it in a safe place, apart from the database's backups.\n"
)


class KeyFile(LocalKeys):
    """Keys in a text file, base64, one a line, the first one active; lines that begin with `#` are comments.

    On POSIX the file must not be readable by group or others, as ssh demands it of its keys.
    """

    name = "key-file"
    can_generate = True

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @property
    def where(self) -> str:
        return f"the key file {self.path}"

    async def health(self) -> ProviderHealth:
        text = await asyncio.to_thread(_read, self.path)
        if text is None:
            self.use(())
            return ProviderHealth(has_key=False, detail=f"{self.where} does not exist")
        self.use(parse_master_keys(text, self.where))
        return ProviderHealth(has_key=True, detail=f"{len(self._keys)} key(s) in {self.where}")

    async def generate(self) -> None:
        await asyncio.to_thread(_create, self.path)
        health = await self.health()
        if not health.has_key:
            raise KeyMissing(f"{self.where} was removed right after it was made; what else cleans that folder?")


def _read(path: Path) -> str | None:
    """The file's text, or None where there is none.

    Raises:
        KeyUnavailable: there is something, but it cannot be read, or others can read it too.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeyUnavailable(f"the key file {path} cannot be opened: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise KeyUnavailable(f"the key file {path} is not a regular file")
        if _POSIX and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            mode = stat.S_IMODE(status.st_mode)
            raise KeyUnavailable(
                f"the key file {path} is open to other users (mode {mode:04o}); mend it: chmod 600 '{path}'"
            )
        if status.st_size > _MOST_BYTES:
            raise KeyUnavailable(f"{path} has {status.st_size} bytes, which no key file has; check the path")
        return os.read(descriptor, _MOST_BYTES).decode()
    except UnicodeDecodeError:
        raise KeyUnavailable(f"the key file {path} is not text; it holds keys in base64, one a line") from None
    except OSError as error:
        raise KeyUnavailable(f"the key file {path} cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _create(path: Path) -> None:
    """Put a new key at `path` unless something is there already: whole and on disk, or not at all.

    A link cannot replace a file. So of several processes that start at once, exactly one makes the key; and
    no reader ever sees half of one, because what is linked has been written and synced.

    Raises:
        KeyUnavailable: the folder or file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(8)}")
    try:
        make_private_folder(path.parent)
        try:
            _write_durably(temporary, f"{_COMMENT}{MasterKey.generate().encoded()}\n".encode())
            with suppress(FileExistsError):
                os.link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise KeyUnavailable(
            f"the key file {path} cannot be created: {error.strerror}. Choose another place with "
            "STORAGE_MASTER_KEY_FILE (its file system must support hard links), or set STORAGE_MASTER_KEY"
        ) from error


def _write_durably(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if not _POSIX:
        return  # Windows cannot open a folder; NTFS journals the link
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
