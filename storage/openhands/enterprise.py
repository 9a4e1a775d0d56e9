"""The settings and secrets of an OpenHands enterprise installation, moved from its database into a storage.

Its secrets are Fernet tokens under a JWT secret, or plain; on the way in each is opened and sealed with a key of ours.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from pydantic import SecretStr

from storage.errors import InvalidInput
from storage.openhands.account_import import AccountImport
from storage.openhands.enterprise_rows import KEYED_BY_USER, UserRows, account_of, holds_keys
from storage.openhands.flaws import Flaw
from storage.openhands.legacy_values import LegacyValues
from storage.openhands.report import ImportReport
from storage.openhands.source_database import SourceDatabase, SourceRow, open_source_database

if TYPE_CHECKING:
    from storage.openhands.account import Account
    from storage.storage import Storage

_USERS_AT_ONCE: Final = 200
"""Users whose rows are read by one statement for each table: a few MB of settings."""

_UUID_TABLES: Final = frozenset({"user", "org_member", "org"})
_UUID_COLUMNS: Final = ("id", "user_id", "org_id", "current_org_id")
_BARE_UUID: Final = re.compile(r"[0-9a-f]{32}")
"""As SQLAlchemy writes a UUID into SQLite; Keycloak's own form has hyphens."""

_UNREAD: Final = {"settings": "is keyed by accounts of GitHub, not by users; it was not read"}
"""Tables of older releases that hold keys."""


class Enterprise:
    """An installation's database that is open for reading. Get one from `open_enterprise`.

    Attributes:
        source: the database's URL without its password.
    """

    def __init__(self, database: SourceDatabase) -> None:
        self.source = database.display
        self._database = database
        self._keys = {table: column for table, column in KEYED_BY_USER.items() if _is_read(database, table, column)}

    async def users(self) -> list[str]:
        """Whose settings or secrets are here, sorted."""
        found: set[str] = set()
        for table in self._keys:
            if table != "org":
                found.update(user for user in await self._ids(table) if user)
        return sorted(found)

    async def accounts(self, users: Sequence[str], values: LegacyValues) -> AsyncIterator[Account]:
        """The settings and secrets of these users, in clear as far as `values` opens them."""
        for start in range(0, len(users), _USERS_AT_ONCE):
            some = users[start : start + _USERS_AT_ONCE]
            rows = {user: UserRows(user) for user in some}
            for table, key in self._keys.items():
                for row in await self._rows(table, key, some):
                    owner = rows.get(str(row[key]))
                    if owner is not None:
                        owner.tables.setdefault(table, []).append(row)
            for user in some:
                yield account_of(rows[user], values)

    async def flaws(self) -> list[Flaw]:
        """What concerns no user: rows of nobody's, organisations' keys, tables that are not read."""
        told = "has rows that name no user; they were left out"
        found = [Flaw("ownerless-row", table, told) for table in self._keys if not all(await self._ids(table))]
        for table, told in _UNREAD.items():
            if self._database.has(table, "id", "llm_api_key") and await self._database.distinct(table, "id"):
                found.append(Flaw("unread-table", table, told))
        for table, key in KEYED_BY_USER.items():
            if self._database.has(table) and table not in self._keys:
                found.append(
                    Flaw("unread-table", table, f"has no column {key} of the kind that is known; it was not read")
                )
        found.extend(await self._organizations())
        return found

    async def _organizations(self) -> list[Flaw]:
        if "org" not in self._keys:
            return []
        users = set(await self.users())
        others = [org for org in await self._ids("org") if org and org not in users]
        told = "is an organisation with keys that belong to no single user; they were left out"
        return [
            Flaw("organization-secret", f"org/{row['id']}", told)
            for start in range(0, len(others), _USERS_AT_ONCE)
            for row in await self._rows("org", "id", others[start : start + _USERS_AT_ONCE])
            if holds_keys(row)
        ]

    async def _ids(self, table: str) -> list[str | None]:
        """Whose rows there are; None or nothing for nobody's."""
        ids = await self._database.distinct(table, self._keys[table])
        return [_hyphenated(value) for value in ids] if table in _UUID_TABLES else ids

    async def _rows(self, table: str, key: str, ids: Sequence[str]) -> list[SourceRow]:
        forms = [*ids, *(value.replace("-", "") for value in ids)] if table in _UUID_TABLES else ids
        rows = await self._database.rows(table, key, list(dict.fromkeys(forms)))
        for row in rows:
            row.update({name: _hyphenated(row[name]) for name in _UUID_COLUMNS if name in row})
        return rows


@asynccontextmanager
async def open_enterprise(url: str) -> AsyncIterator[Enterprise]:
    """Open an installation's database: a SQLite file or a PostgreSQL database, read only.

    Raises:
        ConfigurationError: the URL cannot be read.
        DatabaseUnavailable: there is no such database, or it cannot be read.
        InvalidInput: it has none of the tables that matter.
    """
    async with open_source_database(url, [*KEYED_BY_USER, *_UNREAD]) as database:
        enterprise = Enterprise(database)
        if not any(_is_read(database, table, key) for table, key in KEYED_BY_USER.items()):
            expected = ", ".join(KEYED_BY_USER)
            raise InvalidInput(f"{database.display} is no OpenHands enterprise database: it has none of {expected}")
        yield enterprise


async def import_enterprise(
    storage: Storage,
    source: str | Enterprise,
    *,
    jwt_secrets: Sequence[SecretStr] = (),
    user: str | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """Import the users' settings, custom secrets and tokens of git providers. The source is only read.

    Users keep their ids. Running it again imports what is missing and leaves the rest as it is. A value that is
    encrypted and that no secret opens is left out and becomes a flaw; what is not encrypted is taken as it is.

    Args:
        storage: where to; everything secret is sealed there.
        source: the database's URL, or what open_enterprise gave, for who wants to know that it can be read before
            there is a storage.
        jwt_secrets: the installation's JWT secret, and former ones if there are any.
        user: import only this user's.
        dry_run: write nothing; the report tells what would be done.
        overwrite: let the source win where the storage has something else.
        progress: called with the users dealt with and their number, after each.

    Returns:
        What was done, with every flaw of the source. It shows no value.

    Raises:
        InvalidInput: the source is no such database, or has nothing of `user`.
        ConfigurationError, DatabaseUnavailable: the source cannot be read.
        DatabaseError: the storage failed; what was imported until then stays.
    """
    if not isinstance(source, Enterprise):
        async with open_enterprise(source) as opened:
            return await import_enterprise(
                storage,
                opened,
                jwt_secrets=jwt_secrets,
                user=user,
                dry_run=dry_run,
                overwrite=overwrite,
                progress=progress,
            )
    report = ImportReport(source.source, dry_run)
    users = await source.users()
    if user is not None:
        if user not in users:
            raise InvalidInput(f"{source.source} has nothing of a user {user!r}; nothing was imported")
        users = [user]
    done = 0
    async for account in source.accounts(users, LegacyValues(jwt_secrets)):
        try:
            stores = storage.user(account.user)
        except InvalidInput as error:
            report.flaws.append(Flaw("rejected", account.user or "", f"was not imported: {error}"))
        else:
            await AccountImport(account, stores, report, overwrite=overwrite).run()
        done += 1
        if progress is not None:
            progress(done, len(users))
    if user is None:
        report.flaws.extend(await source.flaws())
    return report


def _is_read(database: SourceDatabase, table: str, key: str) -> bool:
    """Whether the table has the key of the releases that are known; `user.id` was a number in one that never was."""
    return database.has(table, key) and not (table in _UUID_TABLES and "int" in database.tables[table][key])


def _hyphenated(value: Any) -> Any:
    return str(uuid.UUID(value)) if isinstance(value, str) and _BARE_UUID.fullmatch(value) else value
