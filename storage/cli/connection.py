"""The options that every command has: which storage is meant, and whose part of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

from cyclopts import Group, Parameter

if TYPE_CHECKING:
    from storage.config import StorageConfig
    from storage.database.database import Database
    from storage.storage import Storage

_GROUP: Final = Group("Which storage", sort_key=100)


def flag(text: str, *, name: str | Sequence[str] | None = None) -> Parameter:
    """An option that is either given or not: without a `--no-` twin, and without a default worth printing."""
    return Parameter(name=name, negative="", show_default=False, help=text)


@Parameter(name="*", group=_GROUP)
@dataclass(frozen=True)
class Connection:
    """Which storage a command works on; what is not given comes from the environment or the configuration file."""

    database: Annotated[
        str | None,
        Parameter(
            help="Database URL: sqlite:///path or postgresql://user@host/database (environment: STORAGE_DATABASE_URL)."
            " A password is better kept in the environment or in ~/.pgpass: other users can see command lines."
        ),
    ] = None
    data_dir: Annotated[
        Path | None,
        Parameter(help="Folder of the SQLite database and the files (environment: STORAGE_DATA_DIR)."),
    ] = None
    config: Annotated[Path | None, Parameter(help="Configuration file in TOML (environment: STORAGE_CONFIG).")] = None
    debug: Annotated[bool, flag("Show the traceback of an error.")] = False

    def settings(self) -> StorageConfig:
        """The configuration that these options, the environment and the file make.

        Raises:
            ConfigurationError: a value that cannot be used.
        """
        from storage.config import StorageConfig

        arguments: dict[str, Any] = {}
        if self.database is not None:
            arguments["database_url"] = self.database
        if self.data_dir is not None:
            arguments["data_dir"] = self.data_dir
        return StorageConfig.load(self.config, **arguments)


DEFAULT: Final = Connection()

User: TypeAlias = Annotated[
    str | None, Parameter(name="--user", help="Whose data; the one local user of a desktop install if not given.")
]
EveryUser: TypeAlias = Annotated[
    str | None, Parameter(name="--user", help="Only this user's data; all users' if not given.")
]
AsJSON: TypeAlias = Annotated[bool, flag("Print JSON, for programs.", name="--json")]


@asynccontextmanager
async def opened(
    connection: Connection, *, create: bool = False, locked: bool = False, delivers: bool = False
) -> AsyncIterator[Storage]:
    """The storage, open.

    Args:
        connection: which one.
        create: make the database and bring its schema up to date. A command that only reads does neither: a misspelt
            path must not leave an empty database behind.
        locked: open it also where the policy require_master_key would refuse: for the commands that look at the keys
            and mend them.
        delivers: deliver web hooks while it is open.

    Raises:
        StorageError: it cannot be opened, does not exist, or needs `storage migrate`.
    """
    from storage.storage import Storage

    # A command is over before an answer is there; it tells those that deliver, or they find what it has done.
    config = connection.settings().model_copy(update={"webhook_delivery": delivers})
    if locked:
        config = config.model_copy(update={"require_master_key": False})
    if not create:
        require_database(config)
        config = config.model_copy(update={"migrate_on_open": False})
    async with Storage.open(config) as storage:
        yield storage


@asynccontextmanager
async def opened_for_comparison(connection: Connection) -> AsyncIterator[Storage]:
    """The storage for a command that only tells what it would do: an empty one in memory if there is no SQLite file.

    Raises:
        StorageError: it cannot be opened, or needs `storage migrate`.
    """
    from storage.database.url import parse_url
    from storage.storage import Storage

    config = connection.settings()
    file = parse_url(config.database_url or config.sqlite_default()).file
    if file is None or file.exists():
        async with opened(connection) as storage:
            yield storage
        return
    nowhere = {
        "database_url": "sqlite:///:memory:",
        "file_store": "memory",
        "migrate_on_open": True,
        "webhook_delivery": False,
        "file_store_web_hook_url": None,
    }
    async with Storage.open(config.model_copy(update=nowhere)) as storage:
        yield storage


def file_place(storage: Storage) -> tuple[str, str | None]:
    """Where the files' bytes are: the kind of store, and its folder if it is one of this machine's."""
    from storage.files.backends.cached import uncached

    root = getattr(uncached(storage.blobs), "root", None)
    return storage.config.file_store, None if root is None else str(root)


@asynccontextmanager
async def database_only(config: StorageConfig) -> AsyncIterator[Database]:
    """The database without stores and keys, whatever its schema is."""
    from storage.database.database import Database
    from storage.database.url import parse_url

    database = Database(parse_url(config.database_url or config.sqlite_default()))
    try:
        yield database
    finally:
        await database.close()


def require_database(config: StorageConfig) -> None:
    """Pass if there is a database, as far as that can be seen without connecting to it; else DatabaseUnavailable."""
    from storage.database.url import parse_url
    from storage.errors import DatabaseUnavailable

    file = parse_url(config.database_url or config.sqlite_default()).file
    if file is not None and not file.exists():
        raise DatabaseUnavailable(
            f"there is no database at {file}; make one with `storage init`,"
            " or name another with --database or --data-dir"
        )
