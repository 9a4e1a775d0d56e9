"""Agent storage: conversations, settings, secrets and files of AI agents, in SQLite or PostgreSQL.

Names are loaded when first used, so that `import storage` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from storage.config import StorageConfig
    from storage.conversations.model import ConversationMetadata, ConversationMetadataResultSet, ConversationTrigger
    from storage.conversations.store import ConversationStore
    from storage.database.change import Change
    from storage.errors import StorageError
    from storage.files.search import FilePage
    from storage.files.store import FileStat, FileStore
    from storage.providers import ProviderType
    from storage.secrets.model import CustomSecret, ProviderToken, UserSecrets
    from storage.secrets.store import SecretsStore
    from storage.settings.model import Settings
    from storage.settings.store import SettingsStore
    from storage.storage import Storage, UserStorage
    from storage.webhooks.file_stores import BatchedWebHookFileStore, WebHookFileStore

_HOMES: Final = {
    "BatchedWebHookFileStore": "storage.webhooks.file_stores",
    "Change": "storage.database.change",
    "ConversationMetadata": "storage.conversations.model",
    "ConversationMetadataResultSet": "storage.conversations.model",
    "ConversationStore": "storage.conversations.store",
    "ConversationTrigger": "storage.conversations.model",
    "CustomSecret": "storage.secrets.model",
    "FilePage": "storage.files.search",
    "FileStat": "storage.files.store",
    "FileStore": "storage.files.store",
    "ProviderToken": "storage.secrets.model",
    "ProviderType": "storage.providers",
    "SecretsStore": "storage.secrets.store",
    "Settings": "storage.settings.model",
    "SettingsStore": "storage.settings.store",
    "Storage": "storage.storage",
    "StorageConfig": "storage.config",
    "StorageError": "storage.errors",
    "UserSecrets": "storage.secrets.model",
    "UserStorage": "storage.storage",
    "WebHookFileStore": "storage.webhooks.file_stores",
}

__all__ = [
    "BatchedWebHookFileStore",
    "Change",
    "ConversationMetadata",
    "ConversationMetadataResultSet",
    "ConversationStore",
    "ConversationTrigger",
    "CustomSecret",
    "FilePage",
    "FileStat",
    "FileStore",
    "ProviderToken",
    "ProviderType",
    "SecretsStore",
    "Settings",
    "SettingsStore",
    "Storage",
    "StorageConfig",
    "StorageError",
    "UserSecrets",
    "UserStorage",
    "WebHookFileStore",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'storage' has no attribute {name!r}")
    found = getattr(importlib.import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
