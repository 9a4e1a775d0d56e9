"""Database URLs as people write them, checked and taken apart once; the async drivers are chosen here."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from storage.database.statement import DialectName
from storage.errors import ConfigurationError

_DIALECTS: Final[dict[str, DialectName]] = {
    "sqlite": "sqlite",
    "postgresql": "postgresql",
    "postgres": "postgresql",
}

_EXPECTED: Final = "expected sqlite:///path/to/file.db, sqlite:///:memory: or postgresql://user@host/database"


@dataclass(frozen=True, slots=True)
class DatabaseURL:
    """Where a database is.

    Attributes:
        dialect: which SQL is spoken there.
        location: SQLite's absolute file path or memory URI; PostgreSQL's DSN, password included, hence not in the repr.
        display: the URL for people: absolute, the password masked.
    """

    dialect: DialectName
    location: str = field(repr=False)
    display: str

    @property
    def file(self) -> Path | None:
        """The SQLite file; None for PostgreSQL and for a database in memory."""
        if self.dialect == "postgresql" or self.location.startswith("file:"):
            return None
        return Path(self.location)


def parse_url(text: str) -> DatabaseURL:
    """Take a database URL apart.

    Raises:
        ConfigurationError: not a URL, or of a database that is not supported. The text is not quoted: it may hold a
            password.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # of a port that is no number, or of a password with an unescaped @ or :
        raise ConfigurationError(
            f"the database URL cannot be read; {_EXPECTED}. Percent-encode special characters of a password"
        ) from None
    dialect = _DIALECTS.get(url.get_backend_name())
    if dialect is None:
        raise ConfigurationError(f"databases of kind {url.get_backend_name()!r} are not supported; {_EXPECTED}")
    if dialect == "sqlite":
        return _sqlite(url)
    dsn = url.set(drivername="postgresql")
    if not dsn.database:
        raise ConfigurationError(f"the PostgreSQL URL names no database; {_EXPECTED}")
    # As libpq does, asyncpg also takes passwords among the parameters, which SQLAlchemy would show.
    masked = dsn.update_query_dict({name: "***" for name in dsn.query if "password" in name.lower()})
    return DatabaseURL(
        "postgresql", dsn.render_as_string(hide_password=False), masked.render_as_string(hide_password=True)
    )


def _sqlite(url: URL) -> DatabaseURL:
    if url.host or url.username or url.password:
        raise ConfigurationError(
            "a SQLite URL has three slashes before the path: sqlite:///relative or sqlite:////absolute"
        )
    if not url.database or url.database == ":memory:":
        # A name of its own: every connection of this storage shares the database, another storage gets another one.
        return DatabaseURL("sqlite", f"file:/{uuid.uuid4().hex}?vfs=memdb", "sqlite:///:memory:")
    if url.query:
        raise ConfigurationError("a SQLite URL takes no parameters here; remove what follows the question mark")
    if "\0" in url.database:
        raise ConfigurationError("the path in the SQLite URL contains a NUL character; remove it")
    try:
        path = Path(url.database).expanduser().absolute()
    except (RuntimeError, OSError) as error:  # ~somebody who does not exist; a working directory that is gone
        raise ConfigurationError(f"the path in the SQLite URL cannot be resolved: {error}") from error
    return DatabaseURL("sqlite", str(path), f"sqlite:///{path}")
