"""The suite for settings stores, run on the SQL store and on one that has nothing but the three required methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import pytest

from storage.errors import VersionConflict
from storage.secret_models import check_secrets
from storage.settings.model import Settings
from storage.settings.store import SettingsStore, refuse_incomplete
from storage.testing.settings import SettingsStoreContract, StoreFor


class TestSQLSettingsStore(SettingsStoreContract):
    @pytest.fixture
    def store_for(self, store_for: Callable[..., SettingsStore]) -> StoreFor:
        return store_for


class DictSettingsStore(SettingsStore):
    """The least that a replacement has to be."""

    def __init__(self, rows: dict[str, Settings], user_id: str, model: type[Settings] = Settings) -> None:
        self.rows, self.user_id, self.model = rows, user_id, model

    @classmethod
    async def get_instance(cls, config: Any, user_id: str | None = None) -> Self:
        return cls(config, user_id or "local")

    async def load(self) -> Settings | None:
        row = self.rows.get(self.user_id)
        return None if row is None else self._with_version(row, row.version)

    async def store(self, settings: Settings, expected_version: int | None = None) -> int:
        refuse_incomplete(settings)
        check_secrets(settings)
        current = self.rows.get(self.user_id)
        version = 0 if current is None else current.version
        if expected_version not in {None, version}:
            raise VersionConflict("changed since")
        if current != settings:
            version += 1
            self.rows[self.user_id] = self._with_version(settings, version)
        return version

    @staticmethod
    def _with_version(settings: Settings, version: int) -> Settings:
        copy = settings.model_copy(deep=True)
        copy._version = version
        return copy


class TestDictSettingsStore(SettingsStoreContract):
    @pytest.fixture
    def store_for(self) -> StoreFor:
        rows: dict[str, Settings] = {}
        return lambda user_id, model=Settings: DictSettingsStore(rows, user_id, model)
