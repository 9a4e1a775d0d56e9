"""A migrated database of each kind, shared; each test has a user of its own in it, and keys that fit."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from storage.database.database import Database
from storage.encryption.keyring import KeyRing
from storage.secrets.model import UserSecrets
from storage.secrets.sql import SQLSecretsStore
from storage.secrets.store import SecretsStore
from tests.databases import database, keyring, locked_keyring, query, shared_database, user_id

__all__ = ["database", "keyring", "locked_keyring", "query", "user_id"]

migrated_url = shared_database("sqlite", "postgresql")


@pytest.fixture
def store_for(database: Database, keyring: KeyRing) -> Callable[..., SecretsStore]:
    def make(user_id: str | None, model: type[UserSecrets] = UserSecrets) -> SecretsStore:
        return SQLSecretsStore(database, user_id, keyring, model)

    return make
