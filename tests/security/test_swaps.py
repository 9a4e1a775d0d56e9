"""Who writes to the database cannot move a secret: to another row, column, user, name or host, or under another key.

Everything is done by SQL on the real tables, for every sealed column that the registry has.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import LargeBinary, literal, select, update

from storage import Storage
from storage.encryption.registry import sealed_columns
from storage.errors import EncryptionError, KeyMissing, Tampered
from storage.tables import metadata
from tests.databases import MASTER_KEY, OTHER_KEY
from tests.security.conftest import configured
from tests.security.places import NAMES, PLACES, CustomPlace, Place, fill, plaintext_of

ONE, TWO = NAMES
EVERYWHERE = pytest.mark.parametrize("place", PLACES, ids=repr)
WITH_NAMES = pytest.mark.parametrize("place", [place for place in PLACES if place.has_names], ids=repr)
DATA_KEY = metadata.tables["data_key"]
MASTER = metadata.tables["key_encryption_key"]


def test_these_tests_cover_every_sealed_column() -> None:
    # What repeats another column is never entered; see tests/files/test_sealed_files.py.
    columns = [f"{column.table}.{column.column}" for column in sealed_columns() if column.repeats is None]
    assert sorted(map(repr, PLACES)) == columns


async def test_what_the_repositories_seal_opens_with_the_registrys_context(storage: Storage, alice: str) -> None:
    # Rotation and the doctor open and seal with that context. Where it differed, a rotation would destroy secrets.
    values = await fill(storage, alice)
    for place in PLACES:
        for name in NAMES if place.has_names else (ONE,):
            row = await place.row(storage, alice, name)
            sealed = row[place.column.column]
            keys = await storage.keyring.keys_for(storage.database, alice, [sealed])
            opened = keys.open(place.column.context(row), sealed)
            if place.holds_the_value:
                assert plaintext_of(place, opened) == values[repr(place), alice, name]
            assert await place.read(storage, alice, name) == values[repr(place), alice, name]


@EVERYWHERE
async def test_a_secret_does_not_open_in_another_column(storage: Storage, alice: str, place: Place) -> None:
    values = await fill(storage, alice)
    own = await place.sealed(storage, alice, ONE)
    for source in PLACES:
        if source is not place:
            await place.put(storage, alice, ONE, await source.sealed(storage, alice, ONE))
            with pytest.raises(Tampered):
                await place.read(storage, alice, ONE)
    await place.put(storage, alice, ONE, own)
    assert await place.read(storage, alice, ONE) == values[repr(place), alice, ONE]


@WITH_NAMES
async def test_a_secret_does_not_open_in_another_row_of_the_same_user(
    storage: Storage, alice: str, place: Place
) -> None:
    await fill(storage, alice)
    one, two = [await place.sealed(storage, alice, name) for name in NAMES]
    await place.put(storage, alice, ONE, two)
    await place.put(storage, alice, TWO, one)
    for name in NAMES:
        with pytest.raises(Tampered):
            await place.read(storage, alice, name)


@EVERYWHERE
async def test_a_secret_does_not_open_for_another_user(storage: Storage, alice: str, bob: str, place: Place) -> None:
    for user in (alice, bob):
        await place.write(storage, user, ONE, "value")
    await place.put(storage, bob, ONE, await place.sealed(storage, alice, ONE))
    with pytest.raises(Tampered):
        await place.read(storage, bob, ONE)
    # Nor if the key that it names is brought along.
    await edit_keys(storage, alice, state="retired")
    await edit_keys(storage, alice, user_id=bob)
    storage.keyring.forget()
    with pytest.raises(Tampered, match="belongs to another user"):
        await place.read(storage, bob, ONE)


@EVERYWHERE
async def test_a_row_that_is_given_to_another_user_does_not_open(
    storage: Storage, alice: str, bob: str, place: Place
) -> None:
    await place.write(storage, alice, ONE, "alice's")
    row = await place.row(storage, alice, ONE)
    await place.edit(storage, alice, ONE, {"user_id": bob})
    if place.key == "conversation_id":
        await rename(storage, place, bob, row["conversation_id"], f"{bob} {ONE}")
    elif place.key == "id":
        return  # found by an id of its own; see the context columns below
    with pytest.raises(Tampered):
        await place.read(storage, bob, ONE)


def _context_columns() -> list[Any]:
    return [
        pytest.param(place, column, id=f"{place!r}-{column}")
        for place in PLACES
        for column in place.column.context_columns
        if column != "user_id"
    ]


@pytest.mark.parametrize(("place", "column"), _context_columns())
async def test_a_secret_does_not_open_once_its_id_its_name_or_its_host_was_changed(
    storage: Storage, alice: str, place: Place, column: str
) -> None:
    await place.write(storage, alice, ONE, "value")
    before = await place.row(storage, alice, ONE)
    sealed, context = before[place.column.column], place.column.context(before)
    keys = await storage.keyring.keys_for(storage.database, alice, [sealed])
    assert keys.open(context, sealed)
    other: Any = uuid.uuid4() if isinstance(before[column], uuid.UUID) else f"{before[column]}.evil.example"
    changed = {**before, column: other}
    with pytest.raises(Tampered):
        keys.open(place.column.context(changed), sealed)
    if column == place.key:
        if column != "id":
            await place.edit(storage, alice, ONE, {column: other})
            with pytest.raises((Tampered, EncryptionError)):
                await read_under(storage, alice, place, other)
        return
    for value in (other, None) if place.table.c[column].nullable else (other,):
        await place.edit(storage, alice, ONE, {column: value})
        with pytest.raises(Tampered):
            await place.read(storage, alice, ONE)
    await place.edit(storage, alice, ONE, {column: before[column]})
    assert await place.read(storage, alice, ONE) == "value"


async def test_an_older_secret_put_back_into_its_own_row_opens(storage: Storage, alice: str) -> None:
    # Not promised otherwise: whoever can restore an old row restores an old secret.
    place = PLACES[6]
    assert isinstance(place, CustomPlace)
    await place.write(storage, alice, ONE, "older")
    older = await place.sealed(storage, alice, ONE)
    await place.write(storage, alice, ONE, "newer")
    await place.put(storage, alice, ONE, older)
    assert await place.read(storage, alice, ONE) == "older"


# ---- wrapped data keys


async def test_wrapped_data_keys_do_not_move_between_users(storage: Storage, alice: str, bob: str) -> None:
    await fill(storage, alice, bob)
    alices, bobs = await keys_of(storage, alice), await keys_of(storage, bob)
    await edit_keys(storage, alice, wrapped=literal(bobs["wrapped"], LargeBinary()))
    await edit_keys(storage, bob, wrapped=literal(alices["wrapped"], LargeBinary()))
    storage.keyring.forget()
    for user in (alice, bob):
        for place in PLACES:
            with pytest.raises(Tampered, match="belongs to another user"):
                await place.read(storage, user, ONE)
    await edit_keys(storage, alice, wrapped=literal(alices["wrapped"], LargeBinary()))
    storage.keyring.forget()
    for place in PLACES:
        assert await place.read(storage, alice, ONE)


async def test_a_wrapped_data_key_does_not_open_under_another_id(storage: Storage, alice: str) -> None:
    await fill(storage, alice)
    other = uuid.uuid4()
    await edit_keys(storage, alice, id=other)
    for place in PLACES:
        sealed = await place.sealed(storage, alice, ONE)
        await place.put(storage, alice, ONE, sealed[:2] + other.bytes + sealed[18:])
    storage.keyring.forget()
    for place in PLACES:
        with pytest.raises(Tampered):
            await place.read(storage, alice, ONE)


async def test_wrapped_data_keys_do_not_move_between_master_keys(
    database_url: str, tmp_path: Path, alice: str, bob: str
) -> None:
    async with Storage.open(configured(database_url, tmp_path)) as storage:
        await fill(storage, alice)
    both = f"{OTHER_KEY.get_secret_value()},{MASTER_KEY.get_secret_value()}"
    async with Storage.open(configured(database_url, tmp_path, master_key=both)) as storage:
        await fill(storage, bob)
        alices, bobs = await keys_of(storage, alice), await keys_of(storage, bob)
        assert alices["kek_id"] != bobs["kek_id"]
        for user, kek_id in ((alice, bobs["kek_id"]), (bob, alices["kek_id"])):
            await edit_keys(storage, user, kek_id=kek_id)
            storage.keyring.forget()
            for place in PLACES:
                with pytest.raises(Tampered, match="another user or master key"):
                    await place.read(storage, user, ONE)


async def test_a_master_key_that_is_registered_under_anothers_id_is_not_taken_for_it(
    database_url: str, tmp_path: Path, alice: str
) -> None:
    async with Storage.open(configured(database_url, tmp_path)) as storage:
        await fill(storage, alice)
        old = await keys_of(storage, alice)
    both = f"{OTHER_KEY.get_secret_value()},{MASTER_KEY.get_secret_value()}"
    async with Storage.open(configured(database_url, tmp_path, master_key=both)) as storage:
        await storage.keyring.active_key(storage.database, "someone else")
        async with storage.session() as session:
            connection = await session.connection()
            checks = select(MASTER.c.check_value).where(MASTER.c.kek_id != old["kek_id"]).scalar_subquery()
            statement = update(MASTER).where(MASTER.c.kek_id == old["kek_id"]).values(check_value=checks)
            await connection.execute(statement)
            await session.commit()
    # The other key's check value under this id: made with another key and for another id, so nobody's.
    async with Storage.open(configured(database_url, tmp_path, master_key=both)) as storage:
        with pytest.raises(KeyMissing):
            await storage.user(alice).secrets.get_custom_secret(ONE)
        assert not (await storage.keyring.status()).complete


async def keys_of(storage: Storage, user: str) -> dict[str, Any]:
    async with storage.session() as session:
        connection = await session.connection()
        rows = await connection.execute(select(DATA_KEY).where(DATA_KEY.c.user_id == user))
        return dict(rows.mappings().one())


async def edit_keys(storage: Storage, user: str, **columns: Any) -> None:
    async with storage.session() as session:
        connection = await session.connection()
        await connection.execute(update(DATA_KEY).where(DATA_KEY.c.user_id == user).values(**columns))
        await session.commit()


async def rename(storage: Storage, place: Place, user: str, before: str, after: str) -> None:
    key = place.table.c[place.key or ""]
    async with storage.session() as session:
        connection = await session.connection()
        where = (place.table.c.user_id == user, key == before)
        await connection.execute(update(place.table).where(*where).values({key.name: after}))
        await session.commit()


async def read_under(storage: Storage, user: str, place: Place, name: str) -> str | None:
    """Read what has got another name."""
    if place.key == "conversation_id":
        await rename(storage, place, user, name, f"{user} {TWO}")
        return await place.read(storage, user, TWO)
    return await place.read(storage, user, name)
