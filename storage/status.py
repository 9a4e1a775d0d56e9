"""What is stored, where, and whether all is well: one reading for `storage status`, probes and people."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

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
    from storage.files.store import FileStore

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
    """Something that is wrong: a stable code, what it is, and the command or setting that mends it."""

    code: str
    message: str
    remedy: str


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
    file_cache: CacheStatistics | None = None
    problems: list[Problem] = field(default_factory=list)


async def read_status(config: StorageConfig, database: Database, keyring: KeyRing, blobs: FileStore) -> StorageStatus:
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
    status = StorageStatus(
        dialect=database.dialect,
        database=database.url.display,
        schema=schema,
        counts=counts,
        file_bytes=int(file_bytes),
        database_bytes=int(database_bytes),
        file_store=f"{config.file_store}: {blobs.location}",
        keys=keys,
        file_cache=file_cache,
    )
    if schema.state is not SchemaState.CURRENT:
        status.problems.append(
            Problem("schema", f"the schema is {schema.state} ({schema.stored})", "run `storage migrate`")
        )
    if not keys.complete:
        status.problems.append(
            Problem("keys", keys.message, f"put the right master key into {keys.where}; nothing was overwritten")
        )
    if config.file_store_web_hook_url is not None:
        status.problems.append(
            Problem(
                "webhooks",
                "file_store_web_hook_url is set, but this release only records events and delivers none",
                "remove file_store_web_hook_url; the recorded events stay in the table `event`",
            )
        )
    return status
