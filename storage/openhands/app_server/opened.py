"""The storage of an app server's process, with what its state directory holds moved in before anybody reads."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any, Final

from storage.openhands.process_storage import ProcessStorage, process_storage
from storage.openhands.switch_over import switch_over

_lock: Final = threading.Lock()
_looked_at: Final[set[int]] = set()
"""The storages, by identity, for which the state directory was looked at."""


async def app_server_storage(config: Any = None) -> ProcessStorage:
    """The storage; opens it, and imports the state directory if that was not done before.

    Args:
        config: OpenHands' own, which 1.7 hands over; later releases are asked for theirs.

    Raises:
        StorageError: it cannot be opened, or the state directory not be moved into it.
    """
    return await asyncio.to_thread(_opened, config)


def _opened(config: Any) -> ProcessStorage:
    with _lock:
        place = process_storage()
        if id(place) not in _looked_at:
            state = _state_directory(config)
            if state is not None:
                switch_over(place, state)
            _looked_at.add(id(place))
        return place


def _state_directory(config: Any) -> Path | None:
    """Where the server's own stores keep their files; None if that is no folder of this machine."""
    if hasattr(config, "file_store_path"):
        path = config.file_store_path if config.file_store == "local" else None
    else:
        from openhands.app_server.config import get_global_config

        found = get_global_config()
        files = getattr(found, "file_store", None)
        # With this library's file store in the place of theirs, what theirs has left is where it is by default.
        ours = type(files).__module__.startswith(__name__.partition(".")[0] + ".")
        path = getattr(found, "persistence_dir", None) if ours else getattr(files, "root", None)
    return None if not path else Path(path).expanduser()
