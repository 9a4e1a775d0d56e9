"""The agent SDK's file store over a user's catalogue: a conversation's state and events are in SQL too."""

from __future__ import annotations

import uuid
from contextlib import AbstractContextManager
from typing import TypeAlias

from storage.errors import FileNotFound
from storage.files.paths import folder_path
from storage.identity import checked_id, user_key
from storage.openhands.locations import SESSIONS, home_path
from storage.openhands.process_storage import ProcessStorage, process_storage
from storage.openhands.sync_files import SyncFileStore, joined_to

try:
    from openhands.sdk.io import FileStore
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "SDKFileStore needs the package openhands-sdk, which needs Python 3.12 or later", name=error.name
    ) from error

Names: TypeAlias = list[str]
"""A listing; by this name because `list` is a method below."""


class SDKFileStore(FileStore):  # type: ignore[misc]
    """What `LocalConversation(file_store=…)` takes. One conversation's files: its paths begin below `sessions/<id>/`.

    Safe to use from any number of threads and processes. Keeps no copies, so that what another process wrote is seen.
    What the storage refuses or fails at is raised as a StorageError, also by `delete`.

    Args:
        conversation_id: whose files these are; a UUID stands for its 32 hex digits, as in the SDK's own folders.
        user: whose conversation it is; None is the local user.
        place: the open storage; the process's own, opened with the first call, if None. That one survives a fork.
    """

    def __init__(
        self, conversation_id: uuid.UUID | str, user: str | None = None, *, place: ProcessStorage | None = None
    ) -> None:
        name = conversation_id.hex if isinstance(conversation_id, uuid.UUID) else conversation_id
        self._folder = folder_path(f"{SESSIONS}/{checked_id('conversation_id', name)}")
        self._user = user_key(user)
        self._place = place

    def write(self, path: str, contents: str | bytes) -> None:
        self._files.write(self._full(path), contents)

    def read(self, path: str) -> str:
        return self._files.read(self._full(path))

    def list(self, path: str) -> Names:
        """As SyncFileStore.list, but a missing folder is empty, and a file lists itself."""
        full = self._full(path)
        try:
            found = self._files.list(full)
        except FileNotFound:
            return [path] if self._files.exists(full) else []
        return joined_to(path, (name[len(full) :].lstrip("/") for name in found))

    def delete(self, path: str) -> None:
        self._files.delete(self._full(path))

    def exists(self, path: str) -> bool:
        return self._files.exists(self._full(path))

    def get_absolute_path(self, path: str) -> str:
        """A path of the file system that is this file's alone. The file is not there: it is in the storage."""
        data = self._open.storage.config.data_dir.expanduser().absolute()
        return str(data / "openhands" / home_path(self._user, self._full(path)))

    def lock(self, path: str, timeout: float = 30.0) -> AbstractContextManager[None]:
        """Hold the lock of a path against all threads of all processes on the same database. Not re-entrant.

        Let go when the block ends, or its process.

        Args:
            path: names the lock; no file is made there.
            timeout: seconds to wait for it.

        Raises (when entered):
            TimeoutError: someone else held it all the time.
        """
        return self._open.locks.hold(home_path(self._user, self._full(path)), timeout)

    @property
    def _open(self) -> ProcessStorage:
        return process_storage() if self._place is None else self._place

    @property
    def _files(self) -> SyncFileStore:
        return SyncFileStore(self._open, self._user)

    def _full(self, path: str) -> str:
        inner = path.removeprefix("./").removeprefix("/")
        return f"{self._folder}/{inner}" if inner and inner != "." else self._folder

    def __repr__(self) -> str:
        return f"<SDKFileStore {self._folder!r} of {self._user!r}>"
