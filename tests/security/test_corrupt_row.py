"""One value that cannot be opened breaks no list, is named by whoever meets it, and is mended by entering it again.

Every sealed column is spoilt in every way; each time all other secrets stay readable.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import LargeBinary, literal, select, update

from storage import Storage
from storage.errors import EncryptionError, KeyMissing, Tampered
from storage.tables import metadata
from tests.security.places import (
    NAMES,
    PLACES,
    ConversationPlace,
    ListedPlace,
    Place,
    SecretSetPlace,
    SettingPlace,
    fill,
)

ONE, TWO = NAMES
EVERYWHERE = pytest.mark.parametrize("place", PLACES, ids=repr)
DATA_KEY = metadata.tables["data_key"]


def flipped(at: int) -> Callable[[bytes], bytes]:
    return lambda sealed: sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]


def shares_its_column(place: Place) -> bool:
    """Whether other secrets of the same user may be in the same sealed value."""
    return place.column.column == "sealed_extra" and not isinstance(place, ConversationPlace)


# What is done to the value, what reading it raises, and what a listing, which opens nothing, says of it.
CORRUPTIONS: list[tuple[Callable[[bytes], bytes], type[EncryptionError], str]] = [
    (lambda _: b"", Tampered, "unreadable"),
    (lambda sealed: sealed[:1], Tampered, "unreadable"),
    (lambda sealed: sealed[:60], Tampered, "unreadable"),
    (lambda _: b"postgres://user:password@db/production" * 4, Tampered, "unreadable"),
    (lambda sealed: b"\xe1\x02" + sealed[2:], Tampered, "unreadable"),
    (lambda sealed: sealed[:2] + bytes(16) + sealed[18:], KeyMissing, "unreadable"),
    (flipped(20), Tampered, "set"),
    (flipped(60), Tampered, "set"),
    (flipped(-20), Tampered, "set"),
    (lambda sealed: sealed + b"\0", Tampered, "set"),
]


@EVERYWHERE
async def test_reading_a_corrupt_value_raises_its_error_and_a_listing_still_shows_it(
    storage: Storage, alice: str, place: Place
) -> None:
    await fill(storage, alice)
    whole = await place.sealed(storage, alice, ONE)
    for corrupt, error, state in CORRUPTIONS:
        await place.put(storage, alice, ONE, corrupt(whole))
        with pytest.raises(error):
            await place.read(storage, alice, ONE)
        if isinstance(place, ListedPlace | SettingPlace):
            assert await place.state(storage, alice, ONE) == state
    await place.put(storage, alice, ONE, whole)
    assert await place.read(storage, alice, ONE) == f"{place!r} of {alice} ONE"


@EVERYWHERE
async def test_all_others_stay_readable(storage: Storage, alice: str, bob: str, place: Place) -> None:
    values = await fill(storage, alice, bob)
    for corrupt, _, _ in (CORRUPTIONS[2], CORRUPTIONS[5], CORRUPTIONS[8]):
        await place.put(storage, alice, ONE, corrupt(await place.sealed(storage, alice, ONE)))
        states = {info.name: info.state for info in await storage.user(alice).secrets.list() if info.name == TWO}
        assert states == {TWO: "set"}
        # The settings have no verb for a single one: an update gives those that can be read.
        updated = await storage.user(alice).settings.update(language=f"language {corrupt}"[:20])
        assert updated.is_complete != isinstance(place, SettingPlace)
        for other in PLACES:
            for name in NAMES if other.has_names else (ONE,):
                expected = values[repr(other), alice, name]
                if other is place and name == ONE:
                    continue
                if isinstance(other, SettingPlace) and isinstance(place, SettingPlace):
                    opened = getattr(updated, other.field).get_secret_value()
                    assert opened in (expected, {"key": expected})
                elif isinstance(other, SecretSetPlace) and isinstance(place, ListedPlace):
                    with pytest.raises(EncryptionError):
                        await other.read(storage, alice, name)  # `load` is all or nothing
                else:
                    assert await other.read(storage, alice, name) == expected
        for other in PLACES:
            assert await other.read(storage, bob, ONE) == values[repr(other), bob, ONE]


async def test_loading_all_secrets_names_every_one_that_cannot_be_opened(storage: Storage, alice: str) -> None:
    await fill(storage, alice)
    places = [place for place in PLACES if isinstance(place, ListedPlace | SecretSetPlace)]
    named = ["provider token 'ONE'", "custom secret 'ONE'", "the secret fields of the set"]
    spoilt: list[str] = []
    for place, name in zip(places, named, strict=True):
        await place.put(storage, alice, ONE, flipped(-1)(await place.sealed(storage, alice, ONE)))
        spoilt.append(name)
        with pytest.raises(Tampered) as caught:
            await storage.user(alice).secrets.load()
        message = str(caught.value)
        assert message.startswith(f"{len(spoilt)} of the secrets of {alice!r} cannot be opened")
        assert [name for name in named if name in message] == spoilt
        assert "TWO" not in message


@pytest.mark.parametrize("place", [place for place in PLACES if isinstance(place, SettingPlace)], ids=repr)
async def test_loading_the_settings_names_the_column_and_what_is_not_secret_is_still_there(
    storage: Storage, alice: str, place: Place
) -> None:
    await fill(storage, alice)
    await storage.user(alice).settings.update(language="de")
    await place.put(storage, alice, ONE, flipped(-1)(await place.sealed(storage, alice, ONE)))
    with pytest.raises(Tampered, match=rf"settings\.{place.column.column} of '{alice}'"):
        await storage.user(alice).settings.load()
    public = await storage.user(alice).settings.load_without_secrets()
    assert public is not None
    assert public.language == "de"


@pytest.mark.parametrize("place", [place for place in PLACES if not shares_its_column(place)], ids=repr)
async def test_a_corrupt_secret_is_entered_again_and_no_other_is_touched(
    storage: Storage, alice: str, place: Place
) -> None:
    await fill(storage, alice)
    for corrupt, _, _ in (CORRUPTIONS[2], CORRUPTIONS[5], CORRUPTIONS[8]):
        await place.put(storage, alice, ONE, corrupt(await place.sealed(storage, alice, ONE)))
        before = await sealed_values(storage, alice)
        await place.write(storage, alice, ONE, "entered again")
        assert await place.read(storage, alice, ONE) == "entered again"
        after = await sealed_values(storage, alice)
        assert [place for place in after if after[place] != before[place]] == [repr(place)]
        assert len(set(after[repr(place)]) - set(before[repr(place)])) == 1


async def test_secret_fields_that_share_a_column_and_were_altered_are_lost_together_and_entered_again(
    storage: Storage, alice: str
) -> None:
    await fill(storage, alice)
    stores = storage.user(alice)
    secrets = await stores.secrets.load()
    assert secrets is not None
    before = await sealed_values(storage, alice)
    for place in filter(shares_its_column, PLACES):
        await place.put(storage, alice, ONE, flipped(-1)(await place.sealed(storage, alice, ONE)))
    await stores.secrets.store(secrets.model_copy(update={"recovery_phrase": "entered again"}))
    await stores.settings.update(proxy_password="entered again")
    for place in filter(shares_its_column, PLACES):
        assert await place.read(storage, alice, ONE) == "entered again"
    after = await sealed_values(storage, alice)
    assert {place for place in after if after[place] != before[place]} == {
        repr(place) for place in filter(shares_its_column, PLACES)
    }


async def test_secret_fields_that_share_a_column_are_not_replaced_while_their_key_may_come_back(
    storage: Storage, alice: str
) -> None:
    await fill(storage, alice)
    stores = storage.user(alice)
    secrets = await stores.secrets.load()
    assert secrets is not None
    for place in filter(shares_its_column, PLACES):
        sealed = await place.sealed(storage, alice, ONE)
        await place.put(storage, alice, ONE, sealed[:2] + bytes(16) + sealed[18:])
    before = await sealed_values(storage, alice)
    with pytest.raises(KeyMissing):
        await stores.secrets.store(secrets.model_copy(update={"recovery_phrase": "entered again"}))
    with pytest.raises(KeyMissing):
        await stores.settings.update(proxy_password="entered again")
    assert await sealed_values(storage, alice) == before


async def test_a_corrupt_data_key_breaks_its_user_and_nobody_else(storage: Storage, alice: str, bob: str) -> None:
    values = await fill(storage, alice, bob)
    async with storage.session() as session:
        connection = await session.connection()
        spoilt = literal(b"\x01" + bytes(60), LargeBinary())
        await connection.execute(update(DATA_KEY).where(DATA_KEY.c.user_id == alice).values(wrapped=spoilt))
        await session.commit()
    storage.keyring.forget()
    for place in PLACES:
        with pytest.raises(Tampered, match="wrapped data key"):
            await place.read(storage, alice, ONE)
        assert await place.read(storage, bob, ONE) == values[repr(place), bob, ONE]
    assert {info.state for info in await storage.user(alice).secrets.list()} == {"unreadable"}
    assert {info.state for info in await storage.user(bob).secrets.list()} == {"set"}


async def sealed_values(storage: Storage, user: str) -> dict[str, list[bytes | None]]:
    """All sealed values of a user by column."""
    found: dict[str, list[bytes | None]] = {}
    async with storage.session(read_only=True) as session:
        connection = await session.connection()
        for place in PLACES:
            column = place.table.c[place.column.column]
            statement = select(column).where(place.table.c.user_id == user).order_by(*place.table.primary_key)
            found[repr(place)] = list((await connection.execute(statement)).scalars())
    return found
