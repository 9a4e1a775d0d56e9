"""A migrated database of each kind for the tests of files. They share it, each with a user of its own."""

from __future__ import annotations

from tests.databases import database, keyring, locked_keyring, query, shared_database, user_id

__all__ = ["database", "keyring", "locked_keyring", "query", "user_id"]

migrated_url = shared_database("sqlite", "postgresql")
