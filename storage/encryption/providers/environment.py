"""Master keys from the configuration, usually the variable STORAGE_MASTER_KEY: the way of servers.

Read once and checked at once, so that a bad key stops a deployment at its start and not at its first secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from storage.encryption.providers.local_keys import HOW_TO_MAKE_ONE, LocalKeys, parse_master_keys
from storage.encryption.providers.provider import ProviderHealth, RegisteredKey
from storage.errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic import SecretStr

    from storage.config import StorageConfig


class EnvironmentKeys(LocalKeys):
    """Keys given as text. Several, separated by commas, are for rotation: the first wraps, all unwrap.

    Raises:
        ConfigurationError: not base64, not 32 bytes, or a publicly known value; says how to make a key.
    """

    name = "environment"

    def __init__(self, value: SecretStr, variable: str = "STORAGE_MASTER_KEY") -> None:
        super().__init__()
        self._variable = variable
        self.use(parse_master_keys(value.get_secret_value(), variable))

    @classmethod
    async def get_instance(cls, config: StorageConfig) -> Self:
        if config.master_key is None:
            raise ConfigurationError(
                "key_provider is 'environment', and master_key (STORAGE_MASTER_KEY) is not set; " + HOW_TO_MAKE_ONE
            )
        return cls(config.master_key)

    @property
    def where(self) -> str:
        return self._variable

    async def health(self) -> ProviderHealth:
        return ProviderHealth(has_key=True, detail=f"{len(self._keys)} key(s) from {self._variable}")

    async def add(self) -> RegisteredKey:
        raise ConfigurationError(
            f"put a further key into {self._variable} yourself, after a comma behind the present one; {HOW_TO_MAKE_ONE}"
        )

    async def promote(self, kek_id: bytes) -> None:
        raise ConfigurationError(f"put the key {kek_id.hex()} first in {self._variable}, and start again")
