"""What is sealed of an endpoint: whose key seals it, what opens it, and what cannot be done without the key."""

from __future__ import annotations

import itertools
import pickle
import uuid
from datetime import timedelta
from typing import Any

import pytest

from storage.clock import now
from storage.database import Database
from storage.encryption.keyring import KeyRing
from storage.errors import (
    EncryptionError,
    EndpointNotFound,
    InvalidInput,
    KeyMismatch,
    Tampered,
)
from storage.webhooks.endpoints.rows import SendingSecrets, secrets_of
from storage.webhooks.endpoints.store import Endpoints
from storage.webhooks.sending.egress import Egress
from storage.webhooks.sending.signature import new_secret
from tests.databases import Query
from tests.webhooks.endpoint_desk import (
    TOKEN,
    URL,
    alice,
    bob,
    database,
    edit,
    egress,
    keyring,
    locked_keyring,
    migrated_url,
    operator,
    query,
    row_of,
    secrets,
    user_id,
)

__all__ = [
    "alice",
    "bob",
    "database",
    "egress",
    "keyring",
    "locked_keyring",
    "migrated_url",
    "operator",
    "query",
    "user_id",
]

NO_ID = uuid.UUID(int=7)


# ---- whose it is


async def test_nobody_reaches_the_endpoint_of_another_user(
    database: Database, alice: Endpoints, bob: Endpoints
) -> None:
    added = await alice.add(URL, headers=TOKEN)
    before = await row_of(database, added.endpoint.id)
    assert await bob.list() == []
    its = added.endpoint.id
    for attempt in (
        bob.get(its),
        bob.update(its, description="mine"),
        bob.update(its, url="https://bob.example.com/"),
        bob.update(its, headers={"A": "b"}),
        bob.rotate_secret(its),
        bob.remove(its),
        bob.pause(its),
        bob.resume(its),
        bob.test(its),
    ):
        with pytest.raises(EndpointNotFound):
            await attempt
    assert await row_of(database, its) == before


async def test_a_user_does_not_reach_the_operators_endpoint(alice: Endpoints, operator: Endpoints) -> None:
    added = await operator.add(URL)
    assert added.endpoint.user_id is None
    assert await alice.list() == []
    for attempt in (alice.get(added.endpoint.id), alice.remove(added.endpoint.id), alice.pause(added.endpoint.id)):
        with pytest.raises(EndpointNotFound):
            await attempt


async def test_the_operator_reaches_everyones_and_seals_for_their_owners(
    database: Database, keyring: KeyRing, alice: Endpoints, operator: Endpoints
) -> None:
    hers, own = await alice.add(URL, headers=TOKEN), await operator.add(URL)
    listed = [found.id for found in await operator.list()]
    assert listed.index(hers.endpoint.id) < listed.index(own.endpoint.id)
    assert await operator.get(hers.endpoint.id) == hers.endpoint
    new = await operator.rotate_secret(hers.endpoint.id, keep_previous=timedelta(0))
    await operator.update(hers.endpoint.id, url=f"{URL}/below", headers={"A": "b"})
    found = await secrets(database, keyring, hers.endpoint.id)
    assert (found.secrets, found.headers) == ((new.get_secret_value(),), {"A": "b"})
    assert (await alice.get(hers.endpoint.id)).user_id == hers.endpoint.user_id
    await operator.remove(hers.endpoint.id)
    assert await alice.list() == []


async def test_the_operators_endpoint_is_sealed_under_everyones_key(
    database: Database, keyring: KeyRing, operator: Endpoints, query: Query
) -> None:
    added = await operator.add(URL, headers=TOKEN)
    assert [row["user_id"] for row in await query("SELECT user_id FROM data_key WHERE user_id = ''")] == [""]
    found = await secrets(database, keyring, added.endpoint.id)
    assert added.secret is not None
    assert (found.secrets, found.headers) == ((added.secret.get_secret_value(),), TOKEN)
    assert "letmein" not in repr(found)


async def test_what_does_not_exist_is_not_found(operator: Endpoints) -> None:
    for verb in ("get", "remove", "pause", "resume", "update", "rotate_secret", "test"):
        with pytest.raises(EndpointNotFound, match=str(NO_ID)):
            await getattr(operator, verb)(NO_ID)
        with pytest.raises(InvalidInput, match=r"uuid\.UUID"):
            await getattr(operator, verb)(str(NO_ID))


# ---- secrets


async def test_a_rotation_signs_with_both_for_a_while(database: Database, keyring: KeyRing, alice: Endpoints) -> None:
    added = await alice.add(URL)
    its = added.endpoint.id
    assert added.secret is not None
    old = added.secret.get_secret_value()
    new = (await alice.rotate_secret(its, keep_previous=timedelta(hours=1))).get_secret_value()
    assert old != new
    assert (await secrets(database, keyring, its)).secrets == (new, old)
    await alice.update(its, url="https://other.example.com/")
    row = await row_of(database, its)
    keys = await keyring.keys_for(database, row["user_id"])
    assert secrets_of(keys, row, at=now() + timedelta(minutes=59)).secrets == (new, old)
    assert secrets_of(keys, row, at=now() + timedelta(minutes=61)).secrets == (new,)
    given = new_secret()
    assert (await alice.rotate_secret(its, secret=given)).get_secret_value() == given
    assert (await secrets(database, keyring, its)).secrets == (given, new)
    last = (await alice.rotate_secret(its, keep_previous=timedelta(0))).get_secret_value()
    row = await row_of(database, its)
    assert (row["previous_secret"], row["previous_secret_until"]) == (None, None)
    assert (await secrets(database, keyring, its)).secrets == (last,)


async def test_a_rotation_gives_a_secret_to_an_endpoint_without_one(
    database: Database, keyring: KeyRing, alice: Endpoints
) -> None:
    added = await alice.add(URL, format="openhands", signed=False)
    new = await alice.rotate_secret(added.endpoint.id)
    assert (await secrets(database, keyring, added.endpoint.id)).secrets == (new.get_secret_value(),)
    assert (await alice.get(added.endpoint.id)).is_signed


async def test_a_rotation_that_makes_no_sense_is_refused(alice: Endpoints) -> None:
    added = await alice.add(URL)
    for keep in (timedelta(seconds=-1), timedelta(days=91)):
        with pytest.raises(InvalidInput, match="keep_previous"):
            await alice.rotate_secret(added.endpoint.id, keep_previous=keep)
    with pytest.raises(InvalidInput):
        await alice.rotate_secret(added.endpoint.id, secret="letmein")


SEALED = ("secret", "previous_secret", "headers")


async def test_what_was_moved_from_another_endpoint_does_not_open(
    database: Database, keyring: KeyRing, alice: Endpoints, bob: Endpoints
) -> None:
    rows = []
    for owner in (alice, alice, bob):
        added = await owner.add(URL, headers=TOKEN)
        await owner.rotate_secret(added.endpoint.id)
        rows.append(await row_of(database, added.endpoint.id))
    own, *others = rows
    for column in SEALED:
        for other in others:
            await edit(database, own["id"], **{column: other[column]})
            with pytest.raises(EncryptionError):
                raise AssertionError(await secrets(database, keyring, own["id"]))
        await edit(database, own["id"], **{column: own[column]})
        assert len((await secrets(database, keyring, own["id"])).secrets) == 2


async def test_what_was_moved_from_another_column_does_not_open(
    database: Database, keyring: KeyRing, alice: Endpoints
) -> None:
    added = await alice.add(URL, headers=TOKEN)
    its = added.endpoint.id
    await alice.rotate_secret(its)
    row = await row_of(database, its)
    for column, other in itertools.permutations(SEALED, 2):
        await edit(database, its, **{column: row[other]})
        with pytest.raises(Tampered):
            raise AssertionError(await secrets(database, keyring, its))
        await edit(database, its, **{column: row[column]})
    assert len((await secrets(database, keyring, its)).secrets) == 2


async def test_a_row_that_somebody_points_elsewhere_opens_no_longer_and_can_be_mended(
    database: Database, keyring: KeyRing, alice: Endpoints
) -> None:
    added = await alice.add(URL, headers=TOKEN)
    its = added.endpoint.id
    await edit(database, its, url="https://thief.example.com/")
    with pytest.raises(Tampered):
        await secrets(database, keyring, its)
    with pytest.raises(Tampered):
        await alice.update(its, url="https://thief.example.com/below")
    with pytest.raises(Tampered):
        await alice.rotate_secret(its)
    assert [found.url for found in await alice.list()] == ["https://thief.example.com/"]
    new = await alice.rotate_secret(its, keep_previous=timedelta(0))
    await alice.update(its, url=URL, headers=TOKEN)
    opened = await secrets(database, keyring, its)
    assert (opened.secrets, opened.headers) == ((new.get_secret_value(),), TOKEN)


@pytest.fixture
def locked(database: Database, locked_keyring: KeyRing, egress: Egress, user_id: str) -> Endpoints:
    """Alice's endpoints, for a process that has another master key."""
    return Endpoints(database, locked_keyring, egress, user_id)


async def test_without_the_key_everything_works_that_seals_nothing(
    database: Database, keyring: KeyRing, alice: Endpoints, locked: Endpoints
) -> None:
    added = await alice.add(URL, headers=TOKEN)
    its = added.endpoint.id
    [found] = await locked.list()
    assert (found.is_signed, found.has_headers) == (True, True)
    before = await row_of(database, its)
    for attempt in (
        locked.add(URL),
        locked.add(URL, format="openhands", signed=False, headers=TOKEN),
        locked.update(its, url=f"{URL}/2"),
        locked.update(its, headers=TOKEN),
        locked.rotate_secret(its),
        locked.rotate_secret(its, keep_previous=timedelta(0)),
        locked.test(its),
    ):
        with pytest.raises(KeyMismatch):
            await attempt
    assert await row_of(database, its) == before
    assert len(await locked.list()) == 1
    await locked.update(its, description="while locked", event_types=["file.*"])
    await locked.pause(its)
    await locked.resume(its)
    plain = await locked.add(URL, format="openhands", signed=False)
    await locked.update(plain.endpoint.id, url="https://other.example.com/")
    await locked.remove(plain.endpoint.id)
    assert (await secrets(database, keyring, its)).headers == TOKEN
    await locked.update(its, headers={})
    assert (await secrets(database, keyring, its)).headers == {}


async def test_a_listing_opens_nothing(alice: Endpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    added = await alice.add(URL, headers=TOKEN)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(alice, "_keyring", never)
    assert await alice.list() == [added.endpoint]
    assert await alice.get(added.endpoint.id) == added.endpoint


async def test_what_holds_a_secret_is_neither_shown_nor_pickled(alice: Endpoints) -> None:
    added = await alice.add(URL, headers={"Authorization": "canary-of-a-header"})
    assert added.secret is not None
    secrets = SendingSecrets((added.secret.get_secret_value(),), {"Authorization": "canary-of-a-header"})
    for holder in (added, secrets):
        assert "whsec_" not in repr(holder)
        assert "canary" not in repr(holder)
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(holder)
