"""Master keys in a file of the user's own: the default of a desktop, where nobody sets variables.

It lies in the configuration folder, away from the database and its backups: a copy of one is worth nothing
without the other. The file is made at the first secret; later it is only added to and reordered, whole or not at all.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from storage.durable import flush, sync
from storage.encryption.providers.file_lock import exclusive
from storage.encryption.providers.key_file_text import new_text, with_key_first, with_keys_behind
from storage.encryption.providers.local_keys import MasterKey, parse_master_keys
from storage.encryption.providers.provider import ProviderHealth
from storage.encryption.providers.stored_keys import StoredKeys
from storage.errors import KeyMissing, KeyUnavailable
from storage.private_folder import make_private_folder

if TYPE_CHECKING:
    from storage.config import StorageConfig

_POSIX: Final = os.name == "posix"
"""On Windows a file in the user's profile is private by its inherited ACL, and mode bits say nothing."""

_MOST_BYTES: Final = 64 * 1024
"""A file of keys is a few hundred bytes; whatever is larger is some other file."""

_LEFT_BEHIND_SECONDS: Final = 60.0
"""Age from which on a temporary file is that of a killed process: a living one has it for milliseconds."""


class KeyFile(StoredKeys):
    """Keys in a text file, base64, one a line, the first one active; lines that begin with `#` are comments.

    On POSIX the file must not be readable by group or others, as ssh demands it of its keys. Several processes may
    create it and add to it at once (see `file_lock`); a person's editor takes no lock, so close it before.

    Args:
        path: the file; its folder is made if need be.
    """

    name = "key-file"

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @classmethod
    async def get_instance(cls, config: StorageConfig) -> Self:
        return cls(config.master_key_file.expanduser())

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

    async def create(self, keys: Sequence[MasterKey]) -> bool:
        return await asyncio.to_thread(_create, self.path, new_text(keys))

    async def append(self, keys: Sequence[MasterKey]) -> None:
        await asyncio.to_thread(_rewrite, self.path, lambda text: with_keys_behind(text, keys))

    async def put_first(self, key: MasterKey) -> None:
        def reorder(text: str) -> str:
            if key not in parse_master_keys(text, self.where):
                raise KeyMissing(f"that master key was taken out of {self.where} meanwhile")
            return with_key_first(text, key)

        await asyncio.to_thread(_rewrite, self.path, reorder)


def _read(path: Path) -> str | None:
    """The file's text, or None where there is none.

    Raises:
        KeyUnavailable: there is something, but it cannot be read, or others can read it too.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        if path.is_symlink():  # the key is somewhere else, perhaps on a volume that is not mounted
            message = f"the key file {path} is a symbolic link to nothing; bring back what it leads to"
            raise KeyUnavailable(message) from None
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
        return os.read(descriptor, _MOST_BYTES).decode("utf-8-sig")  # editors of Windows begin a file with a BOM
    except UnicodeDecodeError:
        raise KeyUnavailable(f"the key file {path} is not text; it holds keys in base64, one a line") from None
    except OSError as error:
        raise KeyUnavailable(f"the key file {path} cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _create(path: Path, text: str) -> bool:
    """Put a file at `path` unless something is there already: whole and on disk, or not at all.

    A link cannot replace a file. So of several processes that start at once, exactly one makes the key; and
    no reader ever sees half of one, because what is linked has been written and synced.

    Returns:
        whether this call made it.

    Raises:
        KeyUnavailable: the folder or file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(8)}")
    made = False
    _sweep(path)
    try:
        if path.exists():
            return False
        make_private_folder(path.parent)
        try:
            _write_durably(temporary, text.encode())
            with suppress(FileExistsError):
                os.link(temporary, path)
                made = True
        finally:
            temporary.unlink(missing_ok=True)
        sync(path.parent)
    except OSError as error:
        raise KeyUnavailable(
            f"the key file {path} cannot be created: {error.strerror}. Choose another place with "
            "STORAGE_MASTER_KEY_FILE (its file system must support hard links), or set STORAGE_MASTER_KEY"
        ) from error
    return made


def _rewrite(path: Path, edit: Callable[[str], str]) -> None:
    """Replace the file's text by `edit` of it; at every moment the old or the new file is there, whole.

    A symbolic link stays one: what it points to is replaced.

    Raises:
        KeyMissing: there is no file.
        KeyUnavailable: it cannot be read or replaced, or was changed meanwhile by something that takes no lock.
        ConfigurationError: it holds something else than keys.
    """
    target = Path(os.path.realpath(path))
    _sweep(path)
    try:
        with exclusive(target if _POSIX else target.with_name(f"{target.name}.lock"), create=not _POSIX):
            old = _read(target)
            if old is None:
                raise KeyMissing(f"the key file {path} does not exist")
            new = edit(old)
            if not set(parse_master_keys(old, str(path))) <= set(parse_master_keys(new, str(path))):
                raise KeyUnavailable(f"the key file {path} was left as it is: the change would have lost a key")
            if len(new.encode()) > _MOST_BYTES:
                raise KeyUnavailable(
                    f"the key file {path} is full; take out keys that were retired and that no backup needs"
                )
            # Under the lock nobody else uses this name; what is there was left by a process that was killed.
            temporary = target.with_name(f".{target.name}.new")
            temporary.unlink(missing_ok=True)
            try:
                _write_durably(temporary, new.encode(), like=target.stat())
                if _read(target) != old:
                    raise KeyUnavailable(f"the key file {path} was changed by another program just now; try again")
                temporary.replace(target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            # The lock went with the old file: from here on the temporary name is the next holder's.
            sync(target.parent)
    except FileNotFoundError:
        raise KeyMissing(f"the key file {path} does not exist") from None
    except OSError as error:
        raise KeyUnavailable(
            f"the key file {path} cannot be replaced: {error.strerror}. The file and its folder must be writable "
            "for the one who runs this; the file is as it was"
        ) from error


def _sweep(path: Path) -> None:
    """Remove what killed processes left beside the key file, because there are keys in it."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.[0-9]+\.[0-9a-f]{{16}}")
    before = time.time() - _LEFT_BEHIND_SECONDS
    with suppress(OSError):  # whoever writes to the folder next says what is wrong with it
        for entry in path.parent.iterdir():
            if ours.fullmatch(entry.name) and entry.lstat().st_mtime < before:
                entry.unlink(missing_ok=True)


def _write_durably(path: Path, content: bytes, like: os.stat_result | None = None) -> None:
    """Write a new private file; owned as `like`, so that an administrator does not lock out the service."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
    with os.fdopen(descriptor, "wb") as file:
        if _POSIX and like is not None and like.st_uid != os.geteuid():
            os.fchown(file.fileno(), like.st_uid, like.st_gid)
        file.write(content)
        file.flush()
        flush(file.fileno())
