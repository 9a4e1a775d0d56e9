"""Every sealed column, with how a user writes and reads it through the public interface, and how a thief edits it.

The tests of this folder walk this list, and one of them compares it with the registry: a sealed column that is added
later is swapped, corrupted and locked away like the others, or the tests fail.
"""

from __future__ import annotations

import json
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, cast

from pydantic import SecretStr
from sqlalchemy import LargeBinary, Table, insert, literal, select, update

from storage import ConversationMetadata, Settings, Storage, UserSecrets, errors
from storage.encryption.envelope import seal
from storage.encryption.registry import sealed_columns
from storage.files.blobs import ContentRules
from storage.files.catalog import FileCatalog
from storage.tables import metadata
from storage.webhooks.endpoints.model import Batching
from storage.webhooks.endpoints.rows import new_row

HOST = "git.example.com"
BASE_URL = "https://llm.example.com/v1"
NAMES = ("ONE", "TWO")
"""Each user has a row of either name wherever a user has several."""


class MoreConversation(ConversationMetadata):
    """With a secret field, since ConversationMetadata has none."""

    invite: SecretStr | None = None


class MoreSettings(Settings):
    """With a secret field that has no column of its own."""

    proxy_password: SecretStr | None = None


class MoreSecrets(UserSecrets):
    """With a secret field that is neither a token nor a custom secret."""

    recovery_phrase: SecretStr | None = None


MODELS = {
    "conversation_model": f"{__name__}.MoreConversation",
    "settings_model": f"{__name__}.MoreSettings",
    "secrets_model": f"{__name__}.MoreSecrets",
}


class Place(ABC):
    """One sealed column."""

    key: str | None = None
    """The column that tells a user's rows apart, None where a user has one row."""

    holds_the_value = True
    """Whether the sealed column holds what the user has written; otherwise it holds a key to that."""

    def __init__(self, column: str, table: str) -> None:
        (self.column,) = (entry for entry in sealed_columns() if (entry.table, entry.column) == (table, column))
        self.table: Table = metadata.tables[table]

    @property
    def has_names(self) -> bool:
        return self.key is not None

    def __repr__(self) -> str:
        return f"{self.column.table}.{self.column.column}"

    # ---- as a user

    @abstractmethod
    async def write(self, storage: Storage, user: str, name: str, value: str) -> None:
        """Set the secret."""

    @abstractmethod
    async def read(self, storage: Storage, user: str, name: str) -> str | None:
        """The secret in clear; raises EncryptionError where it cannot be opened."""

    @abstractmethod
    async def state(self, storage: Storage, user: str, name: str) -> str:
        """What a listing says of it: set, unset or unreadable."""

    # ---- as someone with access to the database

    async def row(self, storage: Storage, user: str, name: str) -> dict[str, Any]:
        async with storage.session() as session:
            connection = await session.connection()
            found = (await connection.execute(select(self.table).where(*self._this(user, name)))).mappings().one()
            return dict(found)

    async def sealed(self, storage: Storage, user: str, name: str) -> bytes:
        value = (await self.row(storage, user, name))[self.column.column]
        assert isinstance(value, bytes)
        return value

    async def put(self, storage: Storage, user: str, name: str, value: bytes) -> None:
        """Overwrite the sealed column, past the type that takes sealed values only."""
        await self.edit(storage, user, name, {self.column.column: literal(value, LargeBinary())})

    async def edit(self, storage: Storage, user: str, name: str, columns: Mapping[str, Any]) -> None:
        async with storage.session() as session:
            connection = await session.connection()
            result = await connection.execute(update(self.table).where(*self._this(user, name)).values(**columns))
            assert result.rowcount == 1
            await session.commit()

    def _this(self, user: str, name: str) -> list[Any]:
        conditions = [self.table.c.user_id == user]
        if self.key is not None:
            conditions.append(self.table.c[self.key] == name)
        return conditions


class SettingPlace(Place):
    def __init__(self, column: str, field: str | None = None) -> None:
        super().__init__(column, "settings")
        self.field = field or column

    async def write(self, storage: Storage, user: str, name: str, value: str) -> None:
        secret: Any = {"key": value} if self.field == "mcp_config" else value
        await storage.user(user).settings.update(**{self.field: secret, "llm_base_url": BASE_URL})

    async def read(self, storage: Storage, user: str, name: str) -> str | None:
        settings = await storage.user(user).settings.load()
        secret = getattr(settings, self.field)
        if secret is None:
            return None
        value = secret.get_secret_value()
        return cast("str", value["key"] if self.field == "mcp_config" else value)

    async def state(self, storage: Storage, user: str, name: str) -> str:
        return (await storage.user(user).settings.secret_states())[self.field]


class ListedPlace(Place):
    """A token or a custom secret."""

    async def state(self, storage: Storage, user: str, name: str) -> str:
        states = {(info.kind, info.name): info.state for info in await storage.user(user).secrets.list()}
        return states[cast("Any", self.column.table), name]


class TokenPlace(ListedPlace):
    key = "provider"

    async def write(self, storage: Storage, user: str, name: str, value: str) -> None:
        await storage.user(user).secrets.set_provider_token(name, value, host=HOST, user_id="account")

    async def read(self, storage: Storage, user: str, name: str) -> str | None:
        token = (await storage.user(user).secrets.get_provider_token(name)).token
        return None if token is None else token.get_secret_value()


class CustomPlace(ListedPlace):
    key = "name"

    async def write(self, storage: Storage, user: str, name: str, value: str) -> None:
        await storage.user(user).secrets.set_custom_secret(name, value, "described")

    async def read(self, storage: Storage, user: str, name: str) -> str | None:
        return (await storage.user(user).secrets.get_custom_secret(name)).secret.get_secret_value()


class SecretSetPlace(Place):
    """The secret fields of the set as a whole."""

    async def write(self, storage: Storage, user: str, name: str, value: str) -> None:
        store = storage.user(user).secrets
        current = await store.load() or MoreSecrets()
        await store.store(current.model_copy(update={"recovery_phrase": value}))

    async def read(self, storage: Storage, user: str, name: str) -> str | None:
        secrets = cast("MoreSecrets", await storage.user(user).secrets.load())
        return None if secrets.recovery_phrase is None else secrets.recovery_phrase.get_secret_value()

    async def state(self, storage: Storage, user: str, name: str) -> str:
        return await opened_state(self, storage, user, name)


class ConversationPlace(Place):
    """Reading a conversation never fails for its secrets; it tells why they are not there."""

    key = "conversation_id"

    async def write(self, storage: Storage, user: str, name: str, value: str) -> None:
        conversation = MoreConversation(conversation_id=f"{user} {name}", invite=value)
        await storage.user(user).conversations.save_metadata(conversation)

    async def read(self, storage: Storage, user: str, name: str) -> str | None:
        found = await storage.user(user).conversations.get_metadata(f"{user} {name}")
        assert isinstance(found, MoreConversation)
        if found.unreadable_secrets is not None:
            assert found.invite is None
            kind, _, message = found.unreadable_secrets.partition(": ")
            raise getattr(errors, kind)(message)
        return None if found.invite is None else found.invite.get_secret_value()

    async def state(self, storage: Storage, user: str, name: str) -> str:
        return await opened_state(self, storage, user, name)

    def _this(self, user: str, name: str) -> list[Any]:
        return super()._this(user, f"{user} {name}")


class FilePlace(Place):
    """A sealed file, with its content in the database: some of these tests open the storage again."""

    key = "path"
    holds_the_value = False

    async def write(self, storage: Storage, user: str, name: str, value: str) -> None:
        await self._files(storage, user).write(name, value)

    async def read(self, storage: Storage, user: str, name: str) -> str | None:
        return await self._files(storage, user).read_text(name)

    async def state(self, storage: Storage, user: str, name: str) -> str:
        return await opened_state(self, storage, user, name)

    @staticmethod
    def _files(storage: Storage, user: str) -> FileCatalog:
        rules = ContentRules(small_bytes=1024, seal=True)
        return FileCatalog(storage.database, storage.blobs, user, keyring=storage.keyring, rules=rules)


class EndpointPlace(Place):
    """Past the verbs, as a secret to sign with has a form of its own: sealed with the registry's context."""

    key = "id"

    async def write(self, storage: Storage, user: str, name: str, value: str) -> None:
        row = new_row(
            self._id(user, name),
            user,
            f"https://{name.lower()}.example.com/hook",
            event_types=["*"],
            format_="standard",
            mode="standard",
            batching=Batching(),
        )
        row["state"] = "disabled"  # nobody listens there
        key = await storage.keyring.active_key(storage.database, user)
        sealed = seal(key, self.column.context(row), value.encode())
        async with storage.session() as session:
            connection = await session.connection()
            there = await connection.execute(select(self.table.c.id).where(*self._this(user, name)))
            if there.first() is None:
                await connection.execute(insert(self.table).values(**row))
            await connection.execute(
                update(self.table).where(*self._this(user, name)).values({self.column.column: sealed})
            )
            await session.commit()

    async def read(self, storage: Storage, user: str, name: str) -> str | None:
        row = await self.row(storage, user, name)
        sealed = row[self.column.column]
        if sealed is None:
            return None
        keys = await storage.keyring.keys_for(storage.database, user, [sealed])
        return keys.open(self.column.context(row), sealed).decode()

    async def state(self, storage: Storage, user: str, name: str) -> str:
        return await opened_state(self, storage, user, name)

    def _id(self, user: str, name: str) -> uuid.UUID:
        return uuid.uuid5(uuid.NAMESPACE_OID, f"{user} {name}")

    def _this(self, user: str, name: str) -> list[Any]:
        return [self.table.c.user_id == user, self.table.c.id == self._id(user, name)]


async def opened_state(place: Place, storage: Storage, user: str, name: str) -> str:
    """For what no listing shows: found out by opening it."""
    try:
        return "unset" if await place.read(storage, user, name) is None else "set"
    except errors.EncryptionError:
        return "unreadable"


PLACES: tuple[Place, ...] = (
    SettingPlace("llm_api_key"),
    SettingPlace("search_api_key"),
    SettingPlace("sandbox_api_key"),
    SettingPlace("mcp_config"),
    SettingPlace("sealed_extra", "proxy_password"),
    TokenPlace("token", "provider_token"),
    CustomPlace("value", "custom_secret"),
    SecretSetPlace("sealed_extra", "user_secrets"),
    ConversationPlace("sealed_extra", "conversation"),
    FilePlace("content_key", "file"),
    EndpointPlace("secret", "webhook_endpoint"),
    EndpointPlace("previous_secret", "webhook_endpoint"),
    EndpointPlace("headers", "webhook_endpoint"),
)


def plaintext_of(place: Place, opened: bytes) -> str:
    """The value in what a column holds in clear: text, or JSON around it."""
    if place.column.column not in {"sealed_extra", "mcp_config"}:
        return opened.decode()
    (value,) = json.loads(opened).values()
    return cast("str", value)


async def fill(storage: Storage, *users: str) -> dict[tuple[str, str, str], str]:
    """A secret of its own in every place of these users; returns them by place, user and name."""
    values: dict[tuple[str, str, str], str] = {}
    for user in users:
        for place in PLACES:
            for name in NAMES if place.has_names else NAMES[:1]:
                values[repr(place), user, name] = f"{place!r} of {user} {name}"
                await place.write(storage, user, name, values[repr(place), user, name])
    return values
