"""SQLServerConfig: the one name that OPENHANDS_CONFIG_CLS gives to put an OpenHands server on this storage."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, Final

from openhands.core.config import load_openhands_config
from openhands.server.config.server_config import ServerConfig

from storage.config import StorageConfig
from storage.openhands.containers import refuse_what_a_container_loses
from storage.openhands.process_storage import process_storage
from storage.openhands.server import file_store_hook
from storage.openhands.switch_over import switch_over

log = logging.getLogger(__name__)

_HERE: Final = "storage.openhands.server"
_VALIDATOR: Final = "OPENHANDS_CONVERSATION_VALIDATOR_CLS"
_TAKEN_OVER: Final = ("file_store_web_hook_url", "file_store_web_hook_headers", "file_store_web_hook_batch")


class SQLServerConfig(ServerConfig):  # type: ignore[misc]
    """OpenHands' configuration with the stores of this library; everything else is as OpenHands has it.

    `verify_config`, which the server calls once while it starts, opens the storage of the process, puts the file store
    in its place, and moves what the state directory holds into the storage if that was not done before. It also names
    the validator, unless the environment does: the server's own asks the file store, whichever stores are configured.
    """

    conversation_store_class: str = f"{_HERE}.conversations.SQLConversationStore"
    settings_store_class: str = f"{_HERE}.settings.SQLSettingsStore"
    secret_store_class: str = f"{_HERE}.secrets.SQLSecretsStore"

    def verify_config(self) -> None:
        """Open the storage.

        Raises:
            ConfigurationError: a setting cannot be used; in a container, data or key would be lost with it.
            StorageError: the storage cannot be opened, or the state directory not be moved into it.
        """
        os.environ.setdefault(_VALIDATOR, f"{_HERE}.validator.SQLConversationValidator")
        openhands = load_openhands_config()
        place = process_storage(storage_config(openhands))
        file_store_hook.install()
        if openhands.file_store == "local" and openhands.file_store_path:
            switch_over(place, Path(openhands.file_store_path).expanduser())


def storage_config(openhands: Any) -> StorageConfig:
    """This library's configuration, with what OpenHands' says and this one leaves open.

    Taken over are the web hooks of the file store, and S3 or Google Cloud as the place of the files' contents.

    Args:
        openhands: OpenHands' own configuration.

    Raises:
        ConfigurationError: as verify_config.
    """
    config = StorageConfig.load()
    said = config.model_fields_set
    refuse_what_a_container_loses(said)
    further: dict[str, Any] = {}
    if "file_store_web_hook_url" not in said and getattr(openhands, "file_store_web_hook_url", None):
        further |= {name: getattr(openhands, name) for name in _TAKEN_OVER if getattr(openhands, name, None)}
    if not {"file_store", "file_store_path"} & said and openhands.file_store in ("s3", "google_cloud"):
        further |= {"file_store": openhands.file_store}
        further |= {"file_store_path": openhands.file_store_path} if openhands.file_store_path else {}
    return StorageConfig.load(**further) if further else config
