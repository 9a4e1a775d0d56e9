"""Which key provider a configuration asks for."""

from __future__ import annotations

from typing import Any, Final

from storage.config import StorageConfig
from storage.encryption.providers.provider import KeyProvider
from storage.errors import ConfigurationError
from storage.extension import load_class

_CLASSES: Final = {
    "environment": "storage.encryption.providers.environment.EnvironmentKeys",
    "key-file": "storage.encryption.providers.key_file.KeyFile",
    "keyring": "storage.encryption.providers.os_keyring.OSKeyring",
    "aws-kms": "storage.encryption.providers.aws_kms.AWSKMS",
}
"""Our own by name; loaded as others are by dotted path, so that nobody pays for a provider that is not used."""


async def provider_for(config: StorageConfig) -> KeyProvider:
    """The provider that the configuration names; if none, the key itself where one is given, else the key file.

    Raises:
        ConfigurationError: a dotted path that leads to no KeyProvider, a key that is none, an extra that is not
            installed, or settings of a provider that is not the chosen one: with them, people expect another key.
    """
    chosen = config.key_provider or ("environment" if config.master_key is not None else "key-file")
    if chosen in _CLASSES:  # a provider of somebody else's may use any setting
        for setting, given, user in (
            ("master_key", config.master_key is not None, "environment"),
            ("aws_kms_key_ids", bool(config.aws_kms_key_ids), "aws-kms"),
        ):
            if given and chosen != user:
                raise ConfigurationError(
                    f"{setting} is set, and the key provider is {chosen!r}, which does not use it; set key_provider to "
                    f"{user!r}, or unset {setting}"
                )
    provider_class: Any = load_class("key_provider", _CLASSES.get(chosen, chosen), KeyProvider)
    provider: KeyProvider = await provider_class.get_instance(config)
    return provider
