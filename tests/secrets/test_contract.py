"""The suite for secrets stores, run on the SQL store and on one that has nothing but the three required methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import pytest

from storage.errors import VersionConflict
from storage.secret_models import check_secrets
from storage.secrets.model import UserSecrets
from storage.secrets.store import SecretsStore
from storage.testing.secrets import SecretsStoreContract, StoreFor


class TestSQLSecretsStore(SecretsStoreContract):
    @pytest.fixture
    def store_for(self, store_for: Callable[..., SecretsStore]) -> StoreFor:
        return store_for


class DictSecretsStore(SecretsStore):
    """The least that a replacement has to be."""

    def __init__(self, rows: dict[str, UserSecrets], user_id: str, model: type[UserSecrets] = UserSecrets) -> None:
        self.rows, self.user_id, self.model = rows, user_id, model

    @classmethod
    async def get_instance(cls, config: Any, user_id: str | None = None) -> Self:
        return cls(config, user_id or "local")

    async def load(self) -> UserSecrets | None:
        return self.rows.get(self.user_id)

    async def store(self, secrets: UserSecrets, expected_version: int | None = None) -> int:
        check_secrets(secrets)
        current = self.rows.get(self.user_id)
        version = 0 if current is None else current.version
        if expected_version not in {None, version}:
            raise VersionConflict("changed since")
        if current != secrets:
            version += 1
            self.rows[self.user_id] = secrets.model_copy()
            self.rows[self.user_id]._version = version
        return version


class TestDictSecretsStore(SecretsStoreContract):
    @pytest.fixture
    def store_for(self) -> StoreFor:
        rows: dict[str, UserSecrets] = {}
        return lambda user_id, model=UserSecrets: DictSecretsStore(rows, user_id, model)
