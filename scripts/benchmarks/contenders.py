"""What is measured: this library, the raw drivers below it, and the repository one would write without it."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import event, select, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession

from storage import ConversationMetadata, Storage, StorageConfig
from storage.database.sqlite_connection import connect
from storage.database.types import dump_json, load_json
from storage.tables import ConversationTable

USER = "ada"
START = datetime(2025, 1, 1, tzinfo=UTC)
COLUMNS = tuple(column.name for column in ConversationTable.__table__.c)  # type: ignore[attr-defined]


def conversation(number: int, revision: int = 0) -> ConversationMetadata:
    """A conversation as an application saves it; `revision` makes an update differ."""
    return ConversationMetadata(
        conversation_id=f"conversation-{number:06}",
        title=f"Fix the flaky test number {number}",
        selected_repository="acme/api",
        selected_branch="main",
        git_provider="github",
        trigger="gui",
        llm_model="anthropic/claude-sonnet-4",
        pr_number=[number],
        accumulated_cost=1.5 + revision,
        prompt_tokens=120_000 + revision,
        completion_tokens=2_000,
        total_tokens=122_000 + revision,
        created_at=START + timedelta(seconds=number),
        last_updated_at=START + timedelta(seconds=number + 60),
    )


def row_values(item: ConversationMetadata, *, text: bool) -> dict[str, Any]:
    """The row of a conversation, as SQLite keeps its times if `text`, else as PostgreSQL's driver takes them."""
    values: dict[str, Any] = {name: getattr(item, name, None) for name in COLUMNS}
    values |= {"user_id": USER, "version": 1, "extra": {}, "sealed_extra": None}
    values |= {name: str(values[name]) for name in ("git_provider", "trigger")}
    for name in ("pr_number", "tags", "extra"):
        values[name] = json.dumps(values[name])
    if text:
        for name in ("created_at", "last_updated_at"):
            values[name] = int(values[name].timestamp() * 1_000_000)
    return values


class Contender(ABC):
    """One way to get, list and save conversations. `name` is its column in the report."""

    name: str

    @abstractmethod
    async def open(self) -> None:
        """Connect."""

    @abstractmethod
    async def get(self, number: int) -> Any:
        """One conversation by id."""

    @abstractmethod
    async def page(self, after: int) -> Sequence[Any]:
        """Twenty conversations, newest first, from a place in the list on."""

    @abstractmethod
    async def upsert(self, item: ConversationMetadata) -> None:
        """Save one, durably when this returns."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect."""


class Ours(Contender):
    """This library through its public surface: validated models, event rows, ownership, versions."""

    name = "agent-storage"

    def __init__(self, url: str, folder: Path) -> None:
        self._config = StorageConfig(
            database_url=url, data_dir=folder, file_store="memory", master_key_file=folder / "master.key"
        )
        self._cursors: dict[int, str] = {}

    async def open(self) -> None:
        self._storage = await Storage.open(self._config)
        self._conversations = self._storage.user(USER).conversations

    async def fill(self, rows: int) -> None:
        """Store the rows that all contenders of this database then work on."""
        for first in range(0, rows, 1000):
            await self._conversations.save_many([conversation(number) for number in range(first, first + 1000)])
        # What autovacuum does on a server that has been up for a minute: without statistics PostgreSQL sorts pages.
        async with self._storage.session() as session:
            await session.exec(text("ANALYZE"))  # type: ignore[call-overload]
            await session.commit()

    async def prepare_pages(self, places: Sequence[int]) -> None:
        """Cursors for the places that pages are read from, so that only reading the page is measured."""
        from storage.conversations.cursor import encode_cursor
        from storage.conversations.store import DEFAULT_SORT

        for place in places:
            at = START + timedelta(seconds=place)
            self._cursors[place] = encode_cursor(DEFAULT_SORT, at, f"conversation-{place:06}")

    async def get(self, number: int) -> Any:
        return await self._conversations.get_metadata(f"conversation-{number:06}")

    async def page(self, after: int) -> Sequence[Any]:
        return (await self._conversations.search(self._cursors[after], 20)).results

    async def upsert(self, item: ConversationMetadata) -> None:
        await self._conversations.save_metadata(item)

    async def close(self) -> None:
        await self._storage.close()


_NAMES = ", ".join(f'"{name}"' for name in COLUMNS)
_UPDATES = ", ".join(f'"{name}" = excluded."{name}"' for name in COLUMNS[2:])
GET = f"SELECT {_NAMES} FROM conversation WHERE user_id = %s AND conversation_id = %s"  # noqa: S608 - our own names
PAGE = (
    f"SELECT {_NAMES} FROM conversation WHERE user_id = %s AND (created_at, conversation_id) < (%s, %s)"  # noqa: S608
    " ORDER BY created_at DESC, conversation_id DESC LIMIT 20"
)
UPSERT = (
    f"INSERT INTO conversation ({_NAMES}) VALUES ({', '.join(['%s'] * len(COLUMNS))})"  # noqa: S608 - as above
    f" ON CONFLICT (user_id, conversation_id) DO UPDATE SET {_UPDATES}"
)


class SQLiteFloor(Contender):
    """The stdlib's sqlite3 on the event loop's thread: one statement, one tuple, nothing decoded; FULL, WAL."""

    name = "stdlib sqlite3"

    def __init__(self, path: Path) -> None:
        self._path = path

    async def open(self) -> None:
        self._connection = connect(str(self._path))

    async def get(self, number: int) -> Any:
        return self._connection.execute(GET.replace("%s", "?"), (USER, f"conversation-{number:06}")).fetchone()

    async def page(self, after: int) -> Sequence[Any]:
        at = int((START + timedelta(seconds=after)).timestamp() * 1_000_000)
        return self._connection.execute(PAGE.replace("%s", "?"), (USER, at, f"conversation-{after:06}")).fetchall()

    async def upsert(self, item: ConversationMetadata) -> None:
        values = row_values(item, text=True)
        while True:
            try:
                self._connection.execute(UPSERT.replace("%s", "?"), [values[name] for name in COLUMNS])
            except sqlite3.OperationalError:
                await asyncio.sleep(0)
            else:
                return

    async def close(self) -> None:
        self._connection.close()


class PostgreSQLFloor(Contender):
    """asyncpg on a pool: one statement, one record, nothing decoded."""

    name = "raw asyncpg"

    def __init__(self, url: str) -> None:
        self._url = url

    async def open(self) -> None:
        self._pool = await asyncpg.create_pool(self._url, min_size=10, max_size=10)

    async def get(self, number: int) -> Any:
        return await self._pool.fetchrow(_numbered(GET), USER, f"conversation-{number:06}")

    async def page(self, after: int) -> Sequence[Any]:
        at = START + timedelta(seconds=after)
        return await self._pool.fetch(_numbered(PAGE), USER, at, f"conversation-{after:06}")

    async def upsert(self, item: ConversationMetadata) -> None:
        values = row_values(item, text=False)
        await self._pool.execute(_numbered(UPSERT), *[values[name] for name in COLUMNS])

    async def close(self) -> None:
        await self._pool.close()


def _numbered(sql: str) -> str:
    parts = sql.split("%s")
    return "".join(part + (f"${index + 1}" if index + 1 < len(parts) else "") for index, part in enumerate(parts))


class PlainSQLModel(Contender):
    """What one would write without this library: a repository on SQLModel's AsyncSession, a session for each call."""

    name = "SQLModel AsyncSession"

    def __init__(self, url: str) -> None:
        self._url = url

    async def open(self) -> None:
        options: dict[str, Any] = {"json_serializer": dump_json, "json_deserializer": load_json}
        if self._url.startswith("sqlite"):
            self._engine = create_async_engine(self._url.replace("sqlite:", "sqlite+aiosqlite:"), **options)

            @event.listens_for(self._engine.sync_engine, "connect")
            def _set_pragmas(connection: Any, record: Any) -> None:
                cursor = connection.cursor()
                for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000"):
                    cursor.execute(f"PRAGMA {pragma}")
                cursor.close()
        else:
            self._engine = create_async_engine(
                "postgresql+asyncpg://",
                async_creator=lambda *_a, **_k: asyncpg.connect(self._url),
                pool_size=10,
                max_overflow=0,
                **options,
            )
        self._sessions = async_sessionmaker(self._engine, class_=AsyncSession, expire_on_commit=False)

    async def get(self, number: int) -> Any:
        async with self._sessions() as session:
            return await session.get(ConversationTable, (USER, f"conversation-{number:06}"))

    async def page(self, after: int) -> Sequence[Any]:
        table: Any = ConversationTable
        at = START + timedelta(seconds=after)
        query = (
            select(table)
            .where(table.user_id == USER, table.created_at < at)
            .order_by(table.created_at.desc(), table.conversation_id.desc())
            .limit(20)
        )
        async with self._sessions() as session:
            return (await session.exec(query)).scalars().all()  # type: ignore[call-overload,no-any-return]

    async def upsert(self, item: ConversationMetadata) -> None:
        values = {name: getattr(item, name) for name in COLUMNS if hasattr(item, name)}
        values |= {"user_id": USER, "version": 1, "extra": {}, "sealed_extra": None}
        async with self._sessions() as session:
            await session.merge(ConversationTable(**values))
            await session.commit()

    async def close(self) -> None:
        await self._engine.dispose()
