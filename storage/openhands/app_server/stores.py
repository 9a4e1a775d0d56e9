"""Settings and secrets as the app server of OpenHands 1.7 and later asks for them."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from openhands.app_server.secrets.file_secrets_store import FileSecretsStore
from openhands.app_server.secrets.secrets_models import Secrets
from openhands.app_server.settings.file_settings_store import FileSettingsStore
from openhands.app_server.settings.settings_models import Settings
from pydantic import SecretStr, ValidationError

from storage.openhands.app_server.account_files import SECRETS, SETTINGS, AccountFiles
from storage.openhands.app_server.opened import app_server_storage
from storage.secret_fields import exposed, secret_fields

_SECRET: Final = secret_fields(Settings)
"""Of the installed release."""

_WHOLE: Final = {"expose_secrets": True, "persist_settings": True}
"""The context by which the models of every release are written as a file, with their secrets."""


class SQLSettingsStore(FileSettingsStore):  # type: ignore[misc]
    """One user's settings in the storage of this process, with the models and rules of the installed release."""

    async def load(self, **how: Any) -> Settings | None:
        """The settings, None if never stored; without what is sealed while the master key is not at hand.

        A value that the installed release refuses is left at its default, and stays stored as it is.

        Args:
            how: what the installed release knows; it changes nothing without agent profiles of an organisation.
        """
        try:
            settings = await super().load(**how)
        except ValidationError as error:
            problems = error.errors(include_input=False, include_url=False, include_context=False)
            if not self.file_store.leave_out({str(problem["loc"][0]) for problem in problems if problem["loc"]}):
                raise
            return await self.load(**how)
        if settings is not None:
            self.file_store.given(SETTINGS, _settings_file(settings))
        return settings

    async def store(self, settings: Settings) -> None:
        """Store what was changed since `load`; the errors are those of AccountFiles.write."""
        content = json.dumps(_settings_file(settings))
        await asyncio.to_thread(self.file_store.write, SETTINGS, content, _SECRET)

    @classmethod
    async def get_instance(cls, *of_whom: Any) -> SQLSettingsStore:
        """The store of one user: the last argument; 1.7 gives its configuration before. None is the local user."""
        *config, user_id = of_whom
        return cls(AccountFiles(await app_server_storage(*config), user_id))


class SQLSecretsStore(FileSecretsStore):  # type: ignore[misc]
    """One user's provider tokens and custom secrets, likewise."""

    async def load(self) -> Secrets | None:
        """All secrets that can be opened and that the installed release knows; None if none was ever stored."""
        secrets = await super().load()
        if secrets is not None:
            self.file_store.given(SECRETS, secrets.model_dump(mode="json", context=_WHOLE))
        return secrets

    @classmethod
    async def get_instance(cls, *of_whom: Any) -> SQLSecretsStore:
        """The store of one user, as that of the settings."""
        *config, user_id = of_whom
        return cls(AccountFiles(await app_server_storage(*config), user_id))


def _settings_file(settings: Settings) -> dict[str, Any]:
    content: dict[str, Any] = settings.model_dump(mode="json", context=_WHOLE)
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            # Not every release writes every one of them in clear, though told so: the key would be lost for its mask.
            content[name] = exposed(value) if value.get_secret_value().strip() else None
    return content
