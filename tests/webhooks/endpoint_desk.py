"""What tests of endpoints' management share: a database of each kind, and a thief's hands on its rows."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import pytest
from sqlalchemy import LargeBinary, insert, literal, select, update

from storage.database.database import Database
from storage.encryption.keyring import KeyRing
from storage.tables import metadata
from storage.webhooks.endpoints.rows import SendingSecrets, read_secrets
from storage.webhooks.endpoints.store import Endpoints
from storage.webhooks.sending.egress import Egress
from tests.databases import database, keyring, locked_keyring, query, shared_database, user_id

__all__ = ["database", "keyring", "locked_keyring", "migrated_url", "query", "user_id"]

migrated_url = shared_database("sqlite", "postgresql")

URL = "https://receiver.example.com/hook"
TOKEN = {"Authorization": "Bearer letmein-letmein"}
TABLE = metadata.tables["webhook_endpoint"]


@pytest.fixture
def egress() -> Egress:
    return Egress(["127.0.0.0/8"])


@pytest.fixture
def alice(database: Database, keyring: KeyRing, egress: Egress, user_id: str) -> Endpoints:
    """The endpoints of the test's user."""
    return Endpoints(database, keyring, egress, user_id)


@pytest.fixture
def bob(database: Database, keyring: KeyRing, egress: Egress, user_id: str) -> Endpoints:
    """The endpoints of somebody else."""
    return Endpoints(database, keyring, egress, f"bob-{user_id}")


@pytest.fixture
def operator(database: Database, keyring: KeyRing, egress: Egress) -> Endpoints:
    return Endpoints(database, keyring, egress, None)


async def row_of(database: Database, endpoint_id: uuid.UUID) -> dict[str, Any]:
    """The whole row."""
    async with database.session() as session:
        connection = await session.connection()
        return dict((await connection.execute(select(TABLE).where(TABLE.c.id == endpoint_id))).mappings().one())


async def edit(database: Database, endpoint_id: uuid.UUID, **columns: Any) -> None:
    """Change a row past everything that guards it."""
    values: Mapping[str, Any] = {
        name: literal(value, LargeBinary()) if isinstance(value, bytes) else value for name, value in columns.items()
    }
    async with database.session() as session:
        connection = await session.connection()
        done = await connection.execute(update(TABLE).where(TABLE.c.id == endpoint_id).values(**values))
        assert done.rowcount == 1
        await session.commit()


async def secrets(database: Database, keyring: KeyRing, endpoint_id: uuid.UUID) -> SendingSecrets:
    """What a dispatcher would open."""
    return await read_secrets(database, keyring, await row_of(database, endpoint_id))


async def add_event(database: Database, user_id: str = "someone") -> int:
    """One event; its number."""
    event = metadata.tables["event"]
    from storage.webhooks.outbox import change

    item = change(user_id, "file.deleted", key="a")
    values = {"id": item.id, "user_id": user_id, "type": item.type, "key": "a", "payload": {}}
    async with database.session() as session:
        connection = await session.connection()
        made = await connection.execute(
            insert(event).values(**values, created_at=item.created_at).returning(event.c.seq)
        )
        seq = int(made.scalar_one())
        await session.commit()
    return seq
