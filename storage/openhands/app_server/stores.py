"""Settings and secrets as the app server of OpenHands 1.7 and later asks for them."""

from __future__ import annotations

from typing import Any

from openhands.app_server.secrets.file_secrets_store import FileSecretsStore
from openhands.app_server.settings.file_settings_store import FileSettingsStore

from storage.openhands.app_server.account_files import AccountFiles
from storage.openhands.app_server.opened import app_server_storage


class SQLSettingsStore(FileSettingsStore):  # type: ignore[misc]
    """One user's settings in the storage of this process, with the models and rules of the installed release."""

    @classmethod
    async def get_instance(cls, *of_whom: Any) -> SQLSettingsStore:
        """The store of one user: the last argument; 1.7 gives its configuration before. None is the local user."""
        return cls(AccountFiles(await app_server_storage(), of_whom[-1]))


class SQLSecretsStore(FileSecretsStore):  # type: ignore[misc]
    """One user's provider tokens and custom secrets, likewise."""

    @classmethod
    async def get_instance(cls, *of_whom: Any) -> SQLSecretsStore:
        """The store of one user, as that of the settings."""
        return cls(AccountFiles(await app_server_storage(), of_whom[-1]))
