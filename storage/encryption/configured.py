"""Which key provider a configuration asks for."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from storage.encryption.environment import EnvironmentKeys
from storage.encryption.key_file import KeyFile
from storage.encryption.providers import KeyProvider


def provider_for(master_key: SecretStr | None, key_file: Path) -> KeyProvider:
    """The provider that the configuration asks for: the key itself if one is given, else the key file.

    Raises:
        ConfigurationError: `master_key` is not 32 random bytes in base64.
    """
    if master_key is not None:
        return EnvironmentKeys(master_key)
    return KeyFile(key_file)
