"""SQLServerConfig for OpenHands 1.7 and later."""

from __future__ import annotations

from typing import Final

try:
    from openhands.app_server.server_config.server_config import ServerConfig
except ImportError:  # 1.7 to 1.8
    from openhands.server.config.server_config import ServerConfig

from storage.config import StorageConfig
from storage.openhands.containers import refuse_what_a_container_loses
from storage.openhands.process_storage import process_storage

_HERE: Final = "storage.openhands.app_server.stores"


class SQLServerConfig(ServerConfig):  # type: ignore[misc]
    """OpenHands' configuration with the stores of this library; everything else is as OpenHands has it."""

    settings_store_class: str = f"{_HERE}.SQLSettingsStore"
    secret_store_class: str = f"{_HERE}.SQLSecretsStore"

    def verify_config(self) -> None:
        """Open the storage.

        Raises:
            ConfigurationError: a setting cannot be used; in a container, data or key would be lost with it.
            StorageError: the storage cannot be opened.
        """
        config = StorageConfig.load()
        refuse_what_a_container_loses(config.model_fields_set)
        process_storage(config)
