"""The file store of OpenHands' app server (openhands-ai 1.7 and later) over the catalogues of all users.

There a file store is a pydantic model. From 1.8 on the environment chooses it, by its class's dotted path:
OH_FILE_STORE_KIND=storage.openhands.app_server_files.SQLFileStore.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from openhands.app_server.file_store.files import FileStore

from storage.errors import ConfigurationError
from storage.openhands.process_storage import process_storage
from storage.openhands.sync_files import SyncFileStore

Names: TypeAlias = list[str]
"""A listing; by this name because `list` is a method below."""

_ROWS: Final = frozenset(("settings.json", "secrets.json"))
"""Where the app server's own stores keep keys, in clear."""


class SQLFileStore(FileStore):  # type: ignore[misc]
    """Files in the storage of this process, opened with the first call. What each method says: see SyncFileStore.

    Settings and secrets are rows, and sealed. So this refuses the files that the app server's own stores of them would
    fill with keys in clear, by a ConfigurationError.

    Attributes:
        user: whose the files are that the path gives to nobody; None is the local user.
    """

    user: str | None = None

    def write(self, path: str, contents: str | bytes) -> None:
        self._at(path).write(path, contents)

    def write_from_path(self, path: str, source_path: str) -> None:
        """Store a copy of the local file `source_path` at `path`, in bounded memory."""
        self._at(path).write_from_path(path, source_path)

    def read(self, path: str) -> str:
        return self._at(path).read(path)

    def list(self, path: str) -> Names:
        return self._at(path).list(path)

    def delete(self, path: str) -> None:
        self._at(path).delete(path)

    def _at(self, path: str) -> SyncFileStore:
        if path.removeprefix("./").removeprefix("/") in _ROWS:
            raise ConfigurationError(
                f"{path} would hold keys in clear; this storage keeps settings and secrets in rows: configure its"
                " stores of both, too (docs/openhands.md)"
            )
        return SyncFileStore(process_storage(), self.user)
