"""Puts this storage in the place of OpenHands' file store, which has no setting of its own for that.

The server builds it by `get_file_store`, a function that several of its modules import by name.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from openhands import storage as stock
from openhands.storage.files import FileStore

from storage.openhands.process_storage import ProcessStorage, process_storage
from storage.openhands.sync_files import SyncFileStore

_NAME: Final = "get_file_store"

_KEEPS_ITS_OWN: Final = "openhands.core.config.utils"
"""It keeps the server's own signing key, which is made anew on each machine and belongs into no user's files."""


class SQLFileStore(SyncFileStore, FileStore):  # type: ignore[misc]
    """Everybody's files, by the paths that OpenHands uses; see storage.openhands.sync_files."""

    def __init__(self, place: ProcessStorage) -> None:
        SyncFileStore.__init__(self, place)


def get_file_store(*_: Any, **__: Any) -> SQLFileStore:
    """The file store of this process, whatever kind and place OpenHands' configuration names.

    Where the files are is said to this library; storage.openhands.server.config has taken over what OpenHands says.
    """
    return SQLFileStore(process_storage())


def install() -> None:
    """Have every module of OpenHands, loaded or loaded later, take ours. A second call does nothing."""
    original = getattr(stock, _NAME)
    if original is get_file_store:
        return
    for name, module in list(sys.modules.items()):
        if name.startswith("openhands.") and name != _KEEPS_ITS_OWN and vars(module).get(_NAME) is original:
            setattr(module, _NAME, get_file_store)
    setattr(stock, _NAME, get_file_store)
