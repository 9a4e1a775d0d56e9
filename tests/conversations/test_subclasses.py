"""Subclasses of ConversationMetadata: more fields, typed through `extra`; secret ones sealed and opened again."""

from __future__ import annotations

import enum
import uuid
from datetime import UTC, date, datetime
from typing import Any

import pytest
from pydantic import BaseModel, Field, Secret, SecretBytes, SecretStr, field_validator
from sqlalchemy import bindparam, select, update

from storage.conversations.model import ConversationMetadata
from storage.conversations.sql import SQLConversationStore
from storage.conversations.store import SaveOutcome
from storage.database import Database, Row, Statement, Unit, execute
from storage.encryption.envelope import data_key_id_of
from storage.encryption.keyring import KeyRing
from storage.encryption.providers.environment import EnvironmentKeys
from storage.encryption.providers.local_keys import MasterKey
from storage.encryption.rotation.generation import begin_generation
from storage.errors import DatabaseError, InvalidInput, KeyMismatch, KeyMissing, KeyUnavailable
from storage.secret_models import MASK
from storage.tables import ConversationTable, EventTable

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

_table = ConversationTable.__table__  # type: ignore[attr-defined]
STORED = Statement(
    "test.stored", select(_table.c.extra, _table.c.sealed_extra).order_by(_table.c.conversation_id), register=False
)
EVENTS = Statement("test.payloads", select(EventTable.__table__.c.payload), register=False)  # type: ignore[attr-defined]


class Colour(enum.Enum):
    RED = "red"


class Reviewer(BaseModel):
    name: str
    since: date


class Reviewed(ConversationMetadata):
    colour: Colour = Colour.RED
    due: datetime | None = None
    reviewers: list[Reviewer] = Field(default_factory=list)
    points: dict[str, int] = Field(default_factory=dict)


class Account(BaseModel):
    login: str
    password: SecretStr


class Guarded(Reviewed):
    token: SecretStr | None = None
    blob: SecretBytes | None = None
    number: Secret[int] | None = None
    accounts: list[Account] = Field(default_factory=list)


class Demanding(ConversationMetadata):
    token: SecretStr


def guarded(conversation_id: str = "c1", **values: Any) -> Guarded:
    return Guarded(
        conversation_id=conversation_id,
        **{
            "token": SecretStr("t0p s3cret"),
            "blob": SecretBytes(b"bl0b"),
            "number": Secret(42),
            "accounts": [Account(login="ann", password=SecretStr("passw0rd"))],
            "points": {"a": 1},
            **values,
        },
    )


@pytest.fixture
async def keyring(database: Database) -> KeyRing:
    ring = KeyRing(database, EnvironmentKeys(SecretStr(MasterKey.generate().encoded())), retry_seconds=0)
    await ring.start()
    return ring


@pytest.fixture
async def locked(database: Database, keyring: KeyRing) -> KeyRing:
    """A key ring with another master key than the one that the database's secrets were sealed under."""
    await SQLConversationStore(database, "elsewhere", keyring, Guarded).save_metadata(guarded("elsewhere"))
    ring = KeyRing(database, EnvironmentKeys(SecretStr(MasterKey.generate().encoded())))
    await ring.start()
    assert ring.state == "locked"
    return ring


async def stored(database: Database) -> Row:
    return (await database.read(STORED, {}))[0]


# ---- typed


async def test_declared_fields_come_back_typed(database: Database) -> None:
    store = SQLConversationStore(database, "alice", model=Reviewed)
    metadata = Reviewed(
        conversation_id="c1",
        colour=Colour.RED,
        due=NOON,
        reviewers=[Reviewer(name="Ann", since=date(2020, 2, 29))],
        points={"a": 1},
        mystery="kept",
    )
    await store.save_metadata(metadata)
    found = await store.get_metadata("c1")
    assert isinstance(found, Reviewed)
    assert found.model_dump(exclude={"user_id"}) == metadata.model_dump(exclude={"user_id"})
    assert found.reviewers[0].since == date(2020, 2, 29)
    assert found.model_extra == {"mystery": "kept"}
    assert [type(item) for item in (await store.search()).results] == [Reviewed]


async def test_a_base_store_keeps_what_a_subclass_has_saved(database: Database) -> None:
    typed = SQLConversationStore(database, "alice", model=Reviewed)
    plain = SQLConversationStore(database, "alice")
    await typed.save_metadata(Reviewed(conversation_id="c1", due=NOON, points={"a": 1}))
    seen = await plain.get_metadata("c1")
    assert seen.model_extra is not None
    assert seen.model_extra["points"] == {"a": 1}
    seen.title = "renamed"
    await plain.save_metadata(seen)
    found = await typed.get_metadata("c1")
    assert isinstance(found, Reviewed)
    assert (found.title, found.due, found.points) == ("renamed", NOON, {"a": 1})


async def test_an_update_of_a_declared_field_keeps_the_other_extra_fields(database: Database) -> None:
    store = SQLConversationStore(database, "alice", model=Reviewed)
    await store.save_metadata(Reviewed(conversation_id="c1", points={"a": 1}, mystery="kept"))
    await store.update_metadata("c1", due=NOON, title="new")
    found = await store.get_metadata("c1")
    assert isinstance(found, Reviewed)
    assert (found.due, found.title, found.points, found.model_extra) == (NOON, "new", {"a": 1}, {"mystery": "kept"})
    with pytest.raises(InvalidInput, match="points"):
        await store.update_metadata("c1", point={"a": 1})
    with pytest.raises(InvalidInput, match="points"):
        await store.update_metadata("c1", points={"a": "many"})


async def test_a_validator_of_the_subclass_converts_what_is_stored(database: Database) -> None:
    class Converting(ConversationMetadata):
        points: int = 0

        @field_validator("points", mode="before")
        @classmethod
        def _sum(cls, value: Any) -> Any:
            return sum(value.values()) if isinstance(value, dict) else value

    await SQLConversationStore(database, "alice", model=Reviewed).save_metadata(
        Reviewed(conversation_id="c1", points={"a": 1, "b": 2})
    )
    found = await SQLConversationStore(database, "alice", model=Converting).get_metadata("c1")
    assert isinstance(found, Converting)
    assert found.points == 3


async def test_a_field_without_default_that_was_never_stored_is_named(database: Database) -> None:
    class Team(ConversationMetadata):
        team: str

    await SQLConversationStore(database, "alice").save_metadata(ConversationMetadata(conversation_id="c1"))
    with pytest.raises(DatabaseError, match=r"'c1' .*Team.*default.*team"):
        await SQLConversationStore(database, "alice", model=Team).get_metadata("c1")


async def test_an_undeclared_value_without_json_form_is_refused(database: Database) -> None:
    store = SQLConversationStore(database, "alice")
    for value in (object(), float("nan"), "nul\0", {"deep": float("inf")}):
        with pytest.raises(InvalidInput):
            await store.save_metadata(ConversationMetadata(conversation_id="c1", odd=value))


# ---- sealed


async def test_secret_fields_come_back_and_are_nowhere_in_plain(
    database: Database, keyring: KeyRing, user_id: str
) -> None:
    store = SQLConversationStore(database, user_id, keyring, Guarded)
    metadata = guarded(conversation_id="c1")
    await store.save_metadata(metadata)
    for found in (
        await store.get_metadata("c1"),
        (await store.search()).results[0],
        (await store.get_all_metadata(["c1"]))[0],
    ):
        assert isinstance(found, Guarded)
        assert found.unreadable_secrets is None
        exposed = found.model_dump(mode="json", context={"expose_secrets": True}, exclude={"user_id"})
        assert exposed == metadata.model_dump(mode="json", context={"expose_secrets": True}, exclude={"user_id"})
    extra, sealed = await stored(database)
    assert extra == {"colour": "red", "due": None, "reviewers": [], "points": {"a": 1}}
    for secret in (b"t0p", b"bl0b", b"passw0rd", b"42"):
        assert secret not in sealed
        assert secret not in str(await database.read(EVENTS, {})).encode()


async def test_a_secret_is_sealed_for_its_conversation(database: Database, keyring: KeyRing, user_id: str) -> None:
    store = SQLConversationStore(database, user_id, keyring, Guarded)
    await store.save_many([guarded("c1"), guarded("c2", token=SecretStr("other"))])
    moved = Statement(
        "test.move",
        update(_table).where(_table.c.conversation_id == "c2").values(sealed_extra=bindparam("sealed")),
        register=False,
    )

    def move() -> Unit[None]:
        rows = yield from execute(STORED)
        yield from execute(moved, sealed=rows[0][1])

    await database.run(move)
    found = await store.get_metadata("c2")
    assert isinstance(found, Guarded)
    assert found.token is None
    assert found.unreadable_secrets is not None
    assert "Tampered" in found.unreadable_secrets
    assert [item.conversation_id for item in (await store.search(sort="title.asc")).results] == ["c1", "c2"]


async def test_an_update_seals_only_what_it_names(database: Database, keyring: KeyRing, user_id: str) -> None:
    store = SQLConversationStore(database, user_id, keyring, Guarded)
    await store.save_metadata(guarded())
    _, before = await stored(database)
    await store.update_metadata("c1", title="new", points={})
    _, same = await stored(database)
    assert same == before
    await store.update_metadata("c1", token="n3w")
    found = await store.get_metadata("c1")
    assert isinstance(found, Guarded)
    assert found.token is not None
    assert found.token.get_secret_value() == "n3w"
    assert found.number is not None
    assert found.number.get_secret_value() == 42
    await store.update_metadata("c1", token=None, blob=None, number=None, accounts=[])
    assert (await stored(database))[1] is None


async def test_the_mask_of_a_dump_is_not_taken_for_a_secret(database: Database, keyring: KeyRing, user_id: str) -> None:
    store = SQLConversationStore(database, user_id, keyring, Guarded)
    await store.save_metadata(guarded())
    masked = Guarded.model_validate(
        {**(await store.get_metadata("c1")).model_dump(mode="json"), "number": None, "blob": None, "accounts": []}
    )
    with pytest.raises(InvalidInput, match="token"):
        await store.save_metadata(masked)
    with pytest.raises(InvalidInput, match="token"):
        await store.update_metadata("c1", token=MASK)
    found = await store.get_metadata("c1")
    assert isinstance(found, Guarded)
    assert found.token is not None
    assert found.token.get_secret_value() == "t0p s3cret"


async def test_a_class_without_the_secret_fields_does_not_lose_them(
    database: Database, keyring: KeyRing, user_id: str
) -> None:
    await SQLConversationStore(database, user_id, keyring, Guarded).save_metadata(guarded())
    for model in (ConversationMetadata, Reviewed, Demanding):
        store = SQLConversationStore(database, user_id, keyring, model)
        seen = await store.get_metadata("c1")
        assert "bl0b" not in repr(seen) + seen.model_dump_json(context={"expose_secrets": True})
        seen.title = model.__name__
        await store.save_metadata(seen)
    found = await SQLConversationStore(database, user_id, keyring, Guarded).get_metadata("c1")
    assert isinstance(found, Guarded)
    assert found.title == "Demanding"
    assert found.blob is not None
    assert found.blob.get_secret_value() == b"bl0b"


async def test_a_copy_under_another_id_does_not_carry_sealed_bytes_along(
    database: Database, keyring: KeyRing, user_id: str
) -> None:
    await SQLConversationStore(database, user_id, keyring, Guarded).save_metadata(guarded())
    plain = SQLConversationStore(database, user_id)
    seen = await plain.get_metadata("c1")
    await plain.save_metadata(seen.model_copy(update={"conversation_id": "c2"}))
    found = await SQLConversationStore(database, user_id, keyring, Guarded).get_metadata("c2")
    assert isinstance(found, Guarded)
    assert (found.token, found.unreadable_secrets) == (None, None)


async def test_a_secret_that_nobody_declared_is_refused(database: Database, keyring: KeyRing, user_id: str) -> None:
    store = SQLConversationStore(database, user_id, keyring)
    for value in (SecretStr("t0p"), {"deep": [SecretStr("t0p")]}, Account(login="ann", password=SecretStr("t0p"))):
        with pytest.raises(InvalidInput, match="'loose'") as refusal:
            await store.save_metadata(ConversationMetadata(conversation_id="c1", loose=value))
        assert "t0p" not in str(refusal.value)
    assert not await store.exists("c1")


async def test_without_a_key_ring_secrets_are_refused_and_the_rest_works(database: Database, user_id: str) -> None:
    store = SQLConversationStore(database, user_id, None, Guarded)
    with pytest.raises(KeyMissing):
        await store.save_metadata(guarded())
    await store.save_metadata(Guarded(conversation_id="c1", points={"a": 1}))
    assert (await store.get_metadata("c1")).unreadable_secrets is None


# ---- locked


async def test_locked_everything_but_the_secrets_is_read_listed_and_changed(
    database: Database, keyring: KeyRing, locked: KeyRing, user_id: str
) -> None:
    await SQLConversationStore(database, user_id, keyring, Guarded).save_metadata(guarded())
    _, before = await stored(database)
    store = SQLConversationStore(database, user_id, locked, Guarded)
    found = await store.get_metadata("c1")
    assert isinstance(found, Guarded)
    assert (found.token, found.accounts, found.points) == (None, [], {"a": 1})
    assert found.unreadable_secrets is not None
    assert "KeyMismatch" in found.unreadable_secrets
    assert await store.count() == 1
    found.title = "renamed while locked"
    await store.save_metadata(found)
    await store.update_metadata("c1", points={"b": 2})
    await store.add_usage("c1", cost=1)
    assert (await stored(database))[1] == before
    with pytest.raises(KeyMismatch):
        await store.update_metadata("c1", token="n3w")
    found.token = SecretStr("n3w")
    with pytest.raises(KeyMismatch):
        await store.save_metadata(found)
    opened = await SQLConversationStore(database, user_id, keyring, Guarded).get_metadata("c1")
    assert isinstance(opened, Guarded)
    assert opened.token is not None
    assert (opened.token.get_secret_value(), opened.title) == ("t0p s3cret", "renamed while locked")


async def test_locked_a_secret_without_default_reads_as_none(
    database: Database, keyring: KeyRing, locked: KeyRing, user_id: str
) -> None:
    await SQLConversationStore(database, user_id, keyring, Demanding).save_metadata(
        Demanding(conversation_id="c1", token=SecretStr("t0p"), title="x")
    )
    store = SQLConversationStore(database, user_id, locked, Demanding)
    found = await store.get_metadata("c1")
    assert isinstance(found, Demanding)
    assert found.model_dump(include={"token", "title"}) == {"token": None, "title": "x"}
    await store.update_metadata("c1", title="y")
    opened = await SQLConversationStore(database, user_id, keyring, Demanding).get_metadata("c1")
    assert isinstance(opened, Demanding)
    assert (opened.token.get_secret_value(), opened.title) == ("t0p", "y")


async def test_saving_many_never_overwrites_secrets(database: Database, keyring: KeyRing, user_id: str) -> None:
    store = SQLConversationStore(database, user_id, keyring, Guarded)
    assert await store.save_many([guarded("c1"), guarded("c2", token=None)]) == [SaveOutcome.CREATED] * 2
    again = [guarded("c1", token=SecretStr("other"), created_at=NOON)]
    assert await store.save_many(again) == [SaveOutcome.KEPT]
    found = await store.get_metadata("c1")
    assert isinstance(found, Guarded)
    assert found.token is not None
    assert found.token.get_secret_value() == "t0p s3cret"


async def test_setting_one_secret_of_a_conversation_that_was_read_while_locked_keeps_the_others(
    database: Database, keyring: KeyRing, locked: KeyRing, user_id: str
) -> None:
    store = SQLConversationStore(database, user_id, keyring, Guarded)
    await store.save_metadata(guarded())
    found = await SQLConversationStore(database, user_id, locked, Guarded).get_metadata("c1")
    assert isinstance(found, Guarded)
    found.token = SecretStr("n3w")
    await store.save_metadata(found)  # the key is back
    opened = await store.get_metadata("c1")
    assert isinstance(opened, Guarded)
    assert (opened.token, opened.blob, opened.number) == (SecretStr("n3w"), SecretBytes(b"bl0b"), Secret(42))
    assert opened.accounts == guarded().accounts


async def test_a_secret_is_not_set_over_others_whose_key_service_is_down(
    database: Database, keyring: KeyRing, user_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SQLConversationStore(database, user_id, keyring, Guarded)
    await store.save_metadata(guarded())
    before = (await stored(database))[1]
    masters, under = keyring.master_keys, data_key_id_of(before)
    await begin_generation(database, masters)
    unwrap = masters.unwrap

    async def down_for_the_old_key(kek_id: bytes, owner: str, row_id: uuid.UUID, wrapped: bytes) -> Any:
        if row_id.bytes == under:
            raise KeyUnavailable("the key service is down")
        return await unwrap(kek_id, owner, row_id, wrapped)

    keyring.forget()
    monkeypatch.setattr(masters, "unwrap", down_for_the_old_key)
    with pytest.raises(KeyUnavailable, match="is down"):
        await store.update_metadata("c1", token="n3w")
    assert (await stored(database))[1] == before
