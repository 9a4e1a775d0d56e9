"""What is stored, where, and whether all is well: one reading for `storage status`, probes and people."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from sqlalchemy import BigInteger, cast, func, literal_column, select, union, union_all

from storage.database.migrate import SchemaState, SchemaStatus, check
from storage.database.statement import Statement
from storage.files.backends.cached import CachedFileStore
from storage.tables import (
    ConversationTable,
    CustomSecretTable,
    EventTable,
    FileTable,
    ProviderTokenTable,
    SettingsTable,
)

if TYPE_CHECKING:
    from storage.config import StorageConfig
    from storage.database.database import Database
    from storage.encryption.keyring import KeyRing
    from storage.encryption.status import KeyRingStatus
    from storage.files.backends.cached import CacheStatistics
    from storage.files.disk_guard import DiskGuard, DiskSpace
    from storage.files.store import FileStore
    from storage.webhooks.queue.status import WebhookStatus
    from storage.webhooks.verbs import Webhooks

_file: Final[Any] = FileTable.__table__  # type: ignore[attr-defined]


def _rows(name: str, model: Any) -> Any:
    return select(literal_column(f"'{name}'").label("name"), func.count().label("number")).select_from(model.__table__)


_OWNED: Final[tuple[Any, ...]] = (
    ConversationTable,
    FileTable,
    SettingsTable,
    ProviderTokenTable,
    CustomSecretTable,
)

# Whoever owns anything; UNION leaves each user once.
_USERS: Final = union(*[select(model.__table__.c.user_id) for model in _OWNED]).subquery()

# A report reads whole tables on purpose; the name says so to the test that looks for table scans.
_COUNTS: Final = Statement(
    "report.counts",
    union_all(
        _rows("conversations", ConversationTable),
        _rows("files", FileTable),
        _rows("settings", SettingsTable),
        _rows("provider_tokens", ProviderTokenTable),
        _rows("custom_secrets", CustomSecretTable),
        _rows("events", EventTable),
        select(literal_column("'users'"), func.count()).select_from(_USERS),
    ),
)
_FILE_BYTES: Final = Statement("report.file_bytes", select(cast(func.coalesce(func.sum(_file.c.size), 0), BigInteger)))
_SQLITE_BYTES: Final = Statement(
    "report.sqlite_bytes",
    select(literal_column("page_count * page_size")).select_from(
        func.pragma_page_count().table_valued("page_count"), func.pragma_page_size().table_valued("page_size")
    ),
)
_POSTGRESQL_BYTES: Final = Statement("report.postgresql_bytes", select(func.pg_database_size(func.current_database())))


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong.

    Attributes:
        code: stable, for programs: `schema`, `keys`, `disk`.
        message: what it is.
        remedy: the command or setting that mends it.
        severity: with a `warning` everything still works.
    """

    code: str
    message: str
    remedy: str
    severity: Literal["error", "warning"] = "error"


@dataclass(frozen=True, slots=True)
class WebhookTotals:
    """How web hooks are doing, all endpoints together.

    Attributes:
        endpoints: how many there are, by state (`active`, `paused`, `disabled`).
        breakers_open: endpoints to which nothing is sent for now, because their receivers failed.
        pending: events that wait for an endpoint; one that waits for two counts twice.
        oldest_pending_at: when the oldest of them happened; None if there is none.
        dead: events that were given up and may be replayed; likewise.
        to_fan_out: events that no dispatcher has looked at yet; without an endpoint they wait for none.
        oldest_to_fan_out_at: when the oldest of them happened; None if there is none.
    """

    endpoints: dict[str, int]
    breakers_open: int
    pending: int
    oldest_pending_at: datetime | None
    dead: int
    to_fan_out: int
    oldest_to_fan_out_at: datetime | None


@dataclass(frozen=True, slots=True)
class StorageStatus:
    """A reading of a storage.

    Attributes:
        dialect: sqlite or postgresql.
        database: the URL, password masked.
        schema: the stored and the needed revision.
        counts: rows by kind.
        file_bytes: sum of the sizes of all catalogued files.
        database_bytes: size of the database on disk, without SQLite's WAL.
        file_store: kind and place of the blobs; for `memory` it says that they are gone when the process ends.
        file_cache: what this process's cache of blobs did and holds, and what all processes hold if it is in a folder;
            None if there is none.
        keys: the key ring's state.
        disks: the room on this machine's disks that hold the database or the files.
        webhooks: how they are doing.
        problems: empty when all is well.
    """

    dialect: str
    database: str
    schema: SchemaStatus
    counts: dict[str, int]
    file_bytes: int
    database_bytes: int
    file_store: str
    keys: KeyRingStatus
    disks: tuple[DiskSpace, ...]
    webhooks: WebhookTotals
    file_cache: CacheStatistics | None = None
    problems: list[Problem] = field(default_factory=list)


async def read_status(
    config: StorageConfig,
    database: Database,
    keyring: KeyRing,
    blobs: FileStore,
    *,
    guard: DiskGuard,
    webhooks: Webhooks,
) -> StorageStatus:
    """Read everything `StorageStatus` has. Changes nothing.

    Raises:
        DatabaseError: the database cannot be read.
    """
    schema = await check(database)
    counts = {str(name): int(number) for name, number in await database.read(_COUNTS, {}, scan=True)}
    ((file_bytes,),) = await database.read(_FILE_BYTES, {}, scan=True)
    size = _SQLITE_BYTES if database.dialect == "sqlite" else _POSTGRESQL_BYTES
    ((database_bytes,),) = await database.read(size, {}, scan=True)
    keys = await keyring.status()
    file_cache = await blobs.measure() if isinstance(blobs, CachedFileStore) else None
    disks = await asyncio.to_thread(guard.read)
    return StorageStatus(
        dialect=database.dialect,
        database=database.url.display,
        schema=schema,
        counts=counts,
        file_bytes=int(file_bytes),
        database_bytes=int(database_bytes),
        file_store=f"{config.file_store}: {blobs.location}",
        keys=keys,
        disks=disks,
        webhooks=_totals(await webhooks.status()),
        file_cache=file_cache,
        problems=_problems(schema, keys, disks),
    )


def _totals(status: WebhookStatus) -> WebhookTotals:
    endpoints = status.endpoints
    since = [endpoint.oldest_pending_at for endpoint in endpoints if endpoint.oldest_pending_at is not None]
    return WebhookTotals(
        endpoints=dict(sorted(Counter(endpoint.state for endpoint in endpoints).items())),
        breakers_open=sum(endpoint.breaker == "open" for endpoint in endpoints),
        pending=sum(endpoint.pending for endpoint in endpoints),
        oldest_pending_at=min(since, default=None),
        dead=sum(endpoint.dead for endpoint in endpoints),
        to_fan_out=status.to_fan_out,
        oldest_to_fan_out_at=status.oldest_to_fan_out_at,
    )


def _problems(schema: SchemaStatus, keys: KeyRingStatus, disks: tuple[DiskSpace, ...]) -> list[Problem]:
    problems = []
    if schema.state is not SchemaState.CURRENT:
        problems.append(Problem("schema", f"the schema is {schema.state} ({schema.stored})", "run `storage migrate`"))
    if not keys.complete:
        problems.append(
            Problem("keys", keys.message, f"put the right master key into {keys.where}; nothing was overwritten")
        )
    problems += [disk_problem(disk) for disk in disks if disk.state != "ok"]
    return problems


def disk_problem(disk: DiskSpace) -> Problem:
    """What is to be said of a disk that is low or full."""
    room = f"{disk.free_bytes:,} of {disk.total_bytes:,} bytes are free on the disk of {disk.path} ({disk.place})"
    if disk.state == "full":
        return Problem("disk", f"{room}; new files are refused", "make room on that disk, or lower disk_refuse_bytes")
    return Problem("disk", room, "make room on that disk: `storage files collect`, `storage retention run`", "warning")
