"""A database with something in every sealed column, of several users and of nobody, and looks at all of it.

What a rotation must not lose and must not touch is said once here, for the tests of rotation, of the doctor, and of
both being killed.
"""

from __future__ import annotations

import asyncio
import contextvars
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final

import pytest
from pydantic import SecretStr
from sqlalchemy import insert, select

from storage.clock import now
from storage.conversations.model import ConversationMetadata
from storage.conversations.sql import SQLConversationStore
from storage.database import Database, Executor, Statement, Unit, execute, execute_many
from storage.encryption import statements as sql
from storage.encryption.envelope import DataKey, data_key_id_of, seal
from storage.encryption.keyring import EVERYONE, KeyRing
from storage.encryption.keyset import KeySet
from storage.encryption.providers.environment import EnvironmentKeys
from storage.encryption.providers.local_keys import MasterKey
from storage.encryption.providers.provider import KeyProvider
from storage.encryption.registry import sealed_columns
from storage.encryption.rotation.verbs import KeyRotation
from storage.encryption.sealed_rows import SealedValue, sealed_values
from storage.files.backends.memory import MemoryFileStore
from storage.files.blobs import ContentRules
from storage.files.catalog import FileCatalog
from storage.identity import new_id
from storage.secrets.model import UserSecrets
from storage.secrets.sql import SQLSecretsStore
from storage.secrets.statements import CUSTOM
from storage.secrets.table import CUSTOM_SEALED
from storage.settings.model import Settings
from storage.settings.sql import SQLSettingsStore
from storage.tables import WebhookEndpointTable, metadata
from storage.webhooks.endpoints.model import Batching
from storage.webhooks.endpoints.rows import new_row
from storage.webhooks.table import HEADERS, PREVIOUS_SECRET, SECRET

USERS: Final = ("ada", "bob", "zoë")
VALUES_OF_A_USER: Final = 15
VALUES_OF_NOBODY: Final = 3
ALL_VALUES: Final = len(USERS) * VALUES_OF_A_USER + VALUES_OF_NOBODY
ALL_OWNERS: Final = len(USERS) + 1


class SettingsWithMore(Settings):
    pager_token: SecretStr | None = None


class SecretsWithMore(UserSecrets):
    pager_token: SecretStr | None = None


class ConversationWithMore(ConversationMetadata):
    door_code: SecretStr | None = None


def as_text(*keys: MasterKey) -> SecretStr:
    """Master keys as the environment has them."""
    return SecretStr(",".join(key.encoded() for key in keys))


def environment(*keys: MasterKey) -> EnvironmentKeys:
    return EnvironmentKeys(as_text(*keys))


async def started(database: Database, *keys: MasterKey, provider: KeyProvider | None = None) -> KeyRing:
    """The ring of a process that has these master keys, the first of them to wrap with."""
    ring = KeyRing(database, provider or environment(*keys), retry_seconds=0)
    await ring.start()
    return ring


def rotation(database: Database, ring: KeyRing) -> KeyRotation:
    return KeyRotation(database, ring, sealed_columns())


async def fill(database: Database, ring: KeyRing, users: Iterable[str] = USERS) -> None:
    """Something in every sealed column for each user, and a web hook of nobody."""
    async with database.transaction() as transaction:
        for user in users:
            await fill_user(transaction, ring, user)
        await add_endpoint(transaction, ring, None)


async def fill_user(executor: Executor, ring: KeyRing, user: str) -> None:
    settings = SQLSettingsStore(executor, user, ring, SettingsWithMore)
    await settings.update(
        language="de",
        llm_base_url="https://llm.example",
        llm_api_key=f"llm key of {user}",
        search_api_key=f"search key of {user}",
        sandbox_api_key=f"sandbox key of {user}",
        mcp_config={"sse_servers": [{"url": "https://mcp.example", "api_key": f"mcp key of {user}"}]},
        pager_token=f"pager token of {user}",
    )
    secrets = SQLSecretsStore(executor, user, ring, SecretsWithMore)
    await secrets.store(SecretsWithMore(pager_token=SecretStr(f"other pager token of {user}")))
    await secrets.set_provider_token("github", f"token of {user}", host="github.example")
    await secrets.set_custom_secret("ONE", f"first secret of {user}", "the first")
    await secrets.set_custom_secret("TWO", f"second secret of {user}")
    conversations = SQLConversationStore(executor, user, ring, ConversationWithMore)
    await conversations.save_metadata(
        ConversationWithMore(conversation_id=f"of {user}", title="T", door_code=SecretStr(f"door code of {user}"))
    )
    rules = ContentRules(small_bytes=100, seal=True)
    await FileCatalog(executor, MemoryFileStore(), user, keyring=ring, rules=rules).write("a.txt", f"file of {user}")
    await add_endpoint(executor, ring, user)


async def fill_many(database: Database, ring: KeyRing, users: Sequence[str], secrets: int) -> None:
    """Some custom secrets for each of many users, all with the same few statements."""
    masters, moment = ring.master_keys, now()
    kek_id = masters.provider.active_id
    assert kek_id is not None
    keys, rows = [], []
    for user in users:
        key = DataKey.generate()
        wrapped = await masters.wrap(kek_id, user, key)
        row_id = uuid.UUID(bytes=key.id)
        keys.append({"id": row_id, "user_id": user, "kek_id": kek_id, "wrapped": wrapped, "created_at": moment})
        for number in range(secrets):
            row: dict[str, Any] = {"user_id": user, "name": f"S{number}", "id": new_id(), "description": ""}
            sealed = seal(key, CUSTOM_SEALED.context(row), f"secret {number} of {user}".encode())
            rows.append({**row, "value": sealed, "created_at": moment, "updated_at": moment})

    def unit() -> Unit[None]:
        yield from execute_many(sql.ADD_DATA_KEY, keys)
        yield from execute_many(CUSTOM.insert, rows)

    await database.run(unit)


async def add_endpoint(executor: Executor, ring: KeyRing, user_id: str | None) -> None:
    """A web hook endpoint of a user, or of nobody."""
    row = new_row(
        new_id(),
        user_id,
        "https://hook.example",
        event_types=["*"],
        format_="standard",
        mode="standard",
        batching=Batching(),
    )

    def unit(keys: KeySet) -> Unit[None]:
        sealed = {
            column.column: keys.seal(column.context(row), f"{column.column} of {user_id}".encode())
            for column in (SECRET, PREVIOUS_SECRET, HEADERS)
        }
        yield from execute(Statement("test", insert(WebhookEndpointTable), register=False), **{**row, **sealed})

    await ring.run(executor, EVERYONE if user_id is None else user_id, unit)


async def stored(database: Database, users: Sequence[str] = (*USERS, EVERYONE)) -> list[SealedValue]:
    """Every sealed value of these users."""
    return [value for column in sealed_columns() for value in await sealed_values(database, column, users)]


def place(value: SealedValue) -> tuple[str, ...]:
    return (value.column.table, value.column.column, *map(str, value.key.values()))


async def opened(
    database: Database, ring: KeyRing, users: Sequence[str] = (*USERS, EVERYONE)
) -> dict[tuple[str, ...], bytes]:
    """Every sealed value in clear, by its place."""
    found = {}
    for value in await stored(database, users):
        keys = await ring.keys_for(database, value.context.user_id, [value.sealed])
        found[place(value)] = keys.open(value.context, value.sealed)
    return found


async def under(database: Database, users: Sequence[str] = (*USERS, EVERYONE)) -> set[bytes]:
    """The ids of the data keys that values name."""
    return {data_key_id_of(value.sealed) for value in await stored(database, users)}


_SEALED: Final = {(column.table, column.column) for column in sealed_columns()}


async def everything_else(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, without its sealed columns and without the tables of keys."""
    found = {}
    for table in metadata.sorted_tables:
        if table.name in ("data_key", "key_encryption_key"):
            continue
        columns = [column for column in table.c if (table.name, column.name) not in _SEALED]
        statement = Statement("test", select(*columns), register=False)
        found[table.name] = sorted(await database.read(statement, {}), key=repr)
    return found


_keys = metadata.tables["data_key"].c
_ALL_DATA_KEYS: Final = Statement("test", select(_keys.id, _keys.user_id, _keys.kek_id, _keys.state), register=False)


async def data_keys(database: Database) -> list[tuple[bytes, str, str, str]]:
    """(id, user, hex id of the master key, state) of every data key."""
    return sorted((row[0].bytes, row[1], row[2].hex(), row[3]) for row in await database.read(_ALL_DATA_KEYS, {}))


def in_another_task(awaitable: Any) -> asyncio.Task[Any]:
    """As another request would: in a context that knows nothing of a transaction."""

    async def run() -> Any:
        return await awaitable

    return asyncio.get_running_loop().create_task(run(), context=contextvars.Context())


# ---- fixtures, to be imported


@pytest.fixture
def old() -> MasterKey:
    return MasterKey.generate()


@pytest.fixture
def new() -> MasterKey:
    return MasterKey.generate()


@pytest.fixture
async def ring(database: Database, old: MasterKey) -> KeyRing:
    """The ring of the process that has filled the database, with the old master key."""
    made = await started(database, old)
    await fill(database, made)
    return made


@pytest.fixture
async def other_process(database: Database) -> AsyncIterator[Database]:
    """The same database, opened a second time."""
    opened_again = Database(database.url)
    yield opened_again
    await opened_again.close()


async def change(database: Database, element: Any, **parameters: Any) -> None:
    def unit() -> Unit[None]:
        yield from execute(Statement("test", element, register=False), **parameters)

    await database.run(unit)


def secrets(database: Any, ring: KeyRing, user: str = "ada") -> SQLSecretsStore:
    return SQLSecretsStore(database, user, ring)


async def value_of(database: Any, ring: KeyRing, user: str = "ada", name: str = "ONE") -> str:
    found = await secrets(database, ring, user).get_custom_secret(name)
    return found.secret.get_secret_value()
