"""A migrated database of each kind, shared; each test has a user of its own in it, and keys that fit."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from storage.database.database import Database
from storage.encryption.keyring import KeyRing
from storage.settings.model import Settings
from storage.settings.sql import SQLSettingsStore
from storage.settings.store import SettingsStore
from tests.databases import database, keyring, locked_keyring, query, shared_database, user_id

__all__ = ["database", "keyring", "locked_keyring", "query", "user_id"]

migrated_url = shared_database("sqlite", "postgresql")


@pytest.fixture
def store_for(database: Database, keyring: KeyRing) -> Callable[..., SettingsStore]:
    def make(user_id: str | None, model: type[Settings] = Settings) -> SettingsStore:
        return SQLSettingsStore(database, user_id, keyring, model)

    return make
