"""A database with endpoints and events, and a person's view of its queue."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

import pytest
from sqlalchemy import insert, select, text

from storage.clock import now
from storage.database import Database, parse_url
from storage.identity import new_id
from storage.tables import metadata
from storage.webhooks import outbox
from storage.webhooks.queue.exchange import Claim, Exchanged, Settled, exchange
from storage.webhooks.queue.fan_out import FannedOut, fan_out
from tests.servers.postgres import PostgresServer

LEASE = timedelta(seconds=60)

_ENDPOINT = metadata.tables["webhook_endpoint"]
_DELIVERY = metadata.tables["delivery"]


class QueuePlace:
    def __init__(self, url: str) -> None:
        self.url = url
        self.database = Database(parse_url(url))

    async def query(self, statement: Any) -> list[tuple[Any, ...]]:
        async with self.database.session() as session:
            result = await session.exec(statement)
            rows = [tuple(row) for row in result] if result.returns_rows else []
            await session.commit()
        return rows

    async def add_endpoint(self, **values: Any) -> uuid.UUID:
        endpoint_id = new_id()
        [(newest,)] = await self.query(select(text("COALESCE(MAX(seq), 0) FROM event")))
        defaults = {
            "id": endpoint_id,
            "user_id": None,
            "url": "http://127.0.0.1:1/",
            "description": "",
            "event_types": ["*"],
            "mode": "standard",
            "format": "standard",
            "include": "nothing",
            "include_bytes": 1000,
            "secret_names": False,
            "on_dead": "skip",
            "batch_events": 3,
            "batch_bytes": 10_000_000,
            "batch_seconds": 3600.0,
            "state": "active",
            "from_seq": newest,
            "failures": 0,
            "created_at": now(),
            "updated_at": now(),
        }
        await self.query(insert(_ENDPOINT).values(**(defaults | values)))
        return endpoint_id

    async def record(self, *keys: str, user_id: str = "alice", type_: str = "file.deleted") -> None:
        """One committed event for each key."""
        for key in keys:
            await self.database.run(lambda key=key: outbox.record(user_id, type_, key=key))  # type: ignore[misc]

    async def fan_out(self) -> FannedOut:
        return await self.database.run(fan_out)

    async def exchange(
        self, endpoint_id: uuid.UUID, settled: Sequence[Settled] = (), *, slots: int = 100, lease: timedelta = LEASE
    ) -> Exchanged:
        return await self.database.run(
            lambda: exchange(endpoint_id, settled, slots=slots, lease=lease, random=lambda: 1.0)
        )

    async def claim(self, endpoint_id: uuid.UUID, **options: Any) -> list[Claim]:
        return list((await self.exchange(endpoint_id, **options)).claims)

    async def deliveries(self, endpoint_id: uuid.UUID) -> list[Mapping[str, Any]]:
        columns = _DELIVERY.c
        rows = await self.query(select(*columns).where(columns.endpoint_id == endpoint_id).order_by(columns.event_seq))
        return [dict(zip(columns.keys(), row, strict=True)) for row in rows]

    async def make_due(self, endpoint_id: uuid.UUID) -> None:
        """Let the time pass that the next attempt waits for."""
        past = now() - timedelta(seconds=1)
        await self.query(
            _DELIVERY.update().where(_DELIVERY.c.endpoint_id == endpoint_id).values(next_at=past, lease_until=None)
        )
        await self.query(_ENDPOINT.update().where(_ENDPOINT.c.id == endpoint_id).values(blocked_until=None))

    async def end_lease(self, endpoint_id: uuid.UUID) -> None:
        """Let the time pass that a dispatcher which died had."""
        past = now() - timedelta(seconds=1)
        await self.query(_DELIVERY.update().where(_DELIVERY.c.endpoint_id == endpoint_id).values(lease_until=past))

    async def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return await self.query(text(sql))

    async def fan_out_elsewhere(self) -> FannedOut:
        """By another process."""
        other = Database(parse_url(self.url))
        try:
            return await other.run(fan_out)
        finally:
            await other.close()

    async def empty(self) -> None:
        """As it was made."""
        for table in _EMPTIED:
            await self.rows(f"DELETE FROM {table}")

    async def count(self, table: str) -> int:
        [(number,)] = await self.query(text(f"SELECT COUNT(*) FROM {table}"))
        return int(number)


_EMPTIED: Final = ("webhook_endpoint", "event", "file", "file_content", "settings", "data_key", "key_encryption_key")
"""Children first. Deliveries go with their endpoints."""


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def own_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A migrated database of this module's own: a queue is of the whole database, so tests cannot share it at once."""
    if request.param == "sqlite":
        path = tmp_path_factory.mktemp("queue") / "storage.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        path.chmod(0o600)
        yield f"sqlite:///{path}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    url = server.create_database(template=request.getfixturevalue("postgres_template"))
    yield url
    server.drop_database(url)


@pytest.fixture
async def place(own_url: str) -> AsyncIterator[QueuePlace]:
    """That database, empty."""
    place = QueuePlace(own_url)
    yield place
    await place.empty()
    await place.database.close()


def keys_of(claims: Sequence[Claim]) -> list[str]:
    return [item.event.key for claim in claims for item in claim.items]
