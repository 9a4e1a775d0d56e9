"""The storage of an app server's process, with what its state directory holds moved in before anybody reads."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Final

from storage.openhands.process_storage import ProcessStorage, process_storage
from storage.openhands.switch_over import switch_over

_lock: Final = threading.Lock()
_looked_at: Final[set[int]] = set()
"""The storages, by identity, for which the state directory was looked at."""


async def app_server_storage() -> ProcessStorage:
    """The storage; opens it, and imports the state directory if that was not done before.

    Raises:
        StorageError: it cannot be opened, or the state directory not be moved into it.
    """
    return await asyncio.to_thread(_opened)


def _opened() -> ProcessStorage:
    with _lock:
        place = process_storage()
        if id(place) not in _looked_at:
            state = _state_directory()
            if state is not None:
                switch_over(place, state)
            _looked_at.add(id(place))
        return place


def _state_directory() -> Path | None:
    """Where the server's own stores keep their files; None if that is no folder of this machine."""
    from openhands.app_server.config import get_global_config

    root = getattr(getattr(get_global_config(), "file_store", None), "root", None)
    return None if root is None else Path(root).expanduser()
