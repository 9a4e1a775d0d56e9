"""OpenHands on this storage: its state directories moved in and out, and stores that its server and its agents use.

Names are loaded when first used: an installation without OpenHands has the importer all the same.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from storage.openhands.exporter import export_home
    from storage.openhands.importer import import_home
    from storage.openhands.sdk import SDKFileStore
    from storage.openhands.server.config import SQLServerConfig
    from storage.openhands.server.validator import SQLConversationValidator
    from storage.openhands.sync_files import SyncFileStore

_HOMES: Final = {
    "SDKFileStore": "storage.openhands.sdk",
    "SQLConversationValidator": "storage.openhands.server.validator",
    "SQLServerConfig": "storage.openhands.server.config",
    "SyncFileStore": "storage.openhands.sync_files",
    "export_home": "storage.openhands.exporter",
    "import_home": "storage.openhands.importer",
}

__all__ = [
    "SDKFileStore",
    "SQLConversationValidator",
    "SQLServerConfig",
    "SyncFileStore",
    "export_home",
    "import_home",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if name == "SQLServerConfig" and find_spec("openhands") is not None and find_spec("openhands.storage") is None:
        home = "storage.openhands.app_server.config"  # since 1.7 the server has other stores
    if home is None:
        raise AttributeError(f"module 'storage.openhands' has no attribute {name!r}")
    found = getattr(importlib.import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
