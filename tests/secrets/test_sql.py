"""Secrets in SQL: what is sealed for what, when a ciphertext stays, and what works while the key is away."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from storage.database.change import Change
from storage.database.database import Database
from storage.encryption.keyring import KeyRing
from storage.errors import ConfigurationError, EncryptionError, InvalidInput, KeyMismatch, KeyMissing, Tampered
from storage.secrets.model import UserSecrets
from storage.secrets.sql import SQLSecretsStore
from storage.secrets.store import SecretsStore
from storage.testing.secrets import SEVERAL
from tests.databases import Query

MARKER = "MARKER-3c1d"


class MoreSecrets(UserSecrets):
    pin: SecretStr | None = None
    note: str = "n"


@pytest.fixture
def store(store_for: Callable[..., SecretsStore], user_id: str) -> SecretsStore:
    return store_for(user_id)


async def rows(query: Query, user_id: str) -> dict[str, dict[str, Any]]:
    """All rows of tokens and custom secrets of a user, by `table.name`."""
    tokens = await query("SELECT * FROM provider_token WHERE user_id = :user_id", user_id=user_id)
    customs = await query("SELECT * FROM custom_secret WHERE user_id = :user_id", user_id=user_id)
    return {
        **{f"provider_token.{row['provider']}": row for row in tokens},
        **{f"custom_secret.{row['name']}": row for row in customs},
    }


async def overwrite(query: Query, user_id: str, name: str, value: bytes) -> None:
    statement = "UPDATE custom_secret SET value = :value WHERE user_id = :user_id AND name = :name"
    await query(statement, value=value, user_id=user_id, name=name)


# ---- sealing


async def test_every_secret_is_sealed_and_no_other_column_holds_it(
    store_for: Callable[..., SecretsStore], user_id: str, query: Query
) -> None:
    secrets = MoreSecrets(
        provider_tokens={"github": {"token": MARKER}},
        custom_secrets={"A": {"secret": MARKER}, "EMPTY": {"secret": ""}},
        pin=MARKER,
        undeclared=[MARKER],
    )
    await store_for(user_id, model=MoreSecrets).store(secrets)
    stored = await rows(query, user_id)
    (head,) = await query("SELECT * FROM user_secrets WHERE user_id = :user_id", user_id=user_id)
    values = [row.pop("token", None) or row.pop("value") for row in stored.values()] + [head.pop("sealed_extra")]
    assert all(value.startswith(b"\xe1\x01") and MARKER.encode() not in value for value in values)
    assert MARKER not in repr(stored) + repr(head)


async def test_storing_the_set_again_leaves_every_unchanged_row_as_it_is(
    store: SecretsStore, user_id: str, query: Query
) -> None:
    await store.store(UserSecrets(**SEVERAL))
    before = await rows(query, user_id)
    changed = {
        "provider_tokens": SEVERAL["provider_tokens"],
        "custom_secrets": {**SEVERAL["custom_secrets"], "EMPTY": {"secret": "full"}, "NEW": {"secret": "n"}},
    }
    await store.store(UserSecrets(**changed))
    after = await rows(query, user_id)
    assert {name for name in after if after[name] != before.get(name)} == {"custom_secret.EMPTY", "custom_secret.NEW"}
    assert after["custom_secret.EMPTY"]["id"] == before["custom_secret.EMPTY"]["id"]
    assert after["custom_secret.EMPTY"]["created_at"] == before["custom_secret.EMPTY"]["created_at"]


async def test_another_description_or_account_leaves_the_ciphertext(
    store: SecretsStore, user_id: str, query: Query
) -> None:
    await store.store(UserSecrets(**SEVERAL))
    before = await rows(query, user_id)
    await store.set_custom_secret("DATABASE_URL", SEVERAL["custom_secrets"]["DATABASE_URL"]["secret"], "other")
    await store.set_provider_token("github", "ghp-contract-1", host="github.example.com", user_id="43")
    after = await rows(query, user_id)
    assert after["custom_secret.DATABASE_URL"]["value"] == before["custom_secret.DATABASE_URL"]["value"]
    assert after["custom_secret.DATABASE_URL"]["description"] == "other"
    assert after["provider_token.github"]["token"] == before["provider_token.github"]["token"]
    assert after["provider_token.github"]["provider_user_id"] == "43"


@pytest.mark.parametrize("verb", ["store", "set"])
async def test_another_host_seals_the_token_anew(store: SecretsStore, user_id: str, query: Query, verb: str) -> None:
    await store.store(UserSecrets(**SEVERAL))
    before = await rows(query, user_id)
    if verb == "set":
        await store.set_provider_token("github", "ghp-contract-1", host="other.example.com", user_id="42")
    else:
        token = {**SEVERAL["provider_tokens"]["github"], "host": "other.example.com"}
        tokens = {**SEVERAL["provider_tokens"], "github": token}
        await store.store(UserSecrets(provider_tokens=tokens, custom_secrets=SEVERAL["custom_secrets"]))
    after = await rows(query, user_id)
    assert {name for name in after if after[name] != before[name]} == {"provider_token.github"}
    assert after["provider_token.github"]["token"] != before["provider_token.github"]["token"]
    token_after = (await store.get_provider_token("github")).token
    assert token_after == SecretStr("ghp-contract-1")


async def test_a_token_does_not_open_for_a_host_that_someone_else_wrote(
    store: SecretsStore, user_id: str, query: Query
) -> None:
    await store.store(UserSecrets(**SEVERAL))
    statement = "UPDATE provider_token SET host = 'thief.example.com' WHERE user_id = :user_id AND provider = 'github'"
    await query(statement, user_id=user_id)
    with pytest.raises(Tampered):
        await store.get_provider_token("github")
    with pytest.raises(Tampered, match="provider token 'github'"):
        await store.load()


async def test_a_ciphertext_that_was_moved_does_not_open(
    store_for: Callable[..., SecretsStore], user_id: str, query: Query
) -> None:
    store, other = store_for(user_id), store_for(f"{user_id}-2")
    await store.store(UserSecrets(**SEVERAL))
    await other.set_custom_secret("DATABASE_URL", "theirs")
    mine = (await rows(query, user_id))["custom_secret.DATABASE_URL"]
    await overwrite(query, user_id, "EMPTY", mine["value"])
    await overwrite(query, f"{user_id}-2", "DATABASE_URL", mine["value"])
    with pytest.raises(Tampered):
        await store.get_custom_secret("EMPTY")
    with pytest.raises(EncryptionError):
        await other.get_custom_secret("DATABASE_URL")
    await query("DELETE FROM custom_secret WHERE user_id = :user_id AND name = 'EMPTY'", user_id=user_id)
    statement = "UPDATE custom_secret SET name = 'EMPTY' WHERE user_id = :user_id AND name = 'DATABASE_URL'"
    await query(statement, user_id=user_id)
    with pytest.raises(Tampered):
        await store.get_custom_secret("EMPTY")


async def test_one_bad_row_breaks_no_list_and_is_named_by_load(store: SecretsStore, user_id: str, query: Query) -> None:
    await store.store(UserSecrets(**SEVERAL))
    good = (await rows(query, user_id))["custom_secret.DATABASE_URL"]["value"]
    await overwrite(query, user_id, "DATABASE_URL", good[:2] + bytes(16) + good[18:])
    await overwrite(query, user_id, "EMPTY", b"\xe1\x01 cut off")
    states = {info.name: info.state for info in await store.list() if info.kind == "custom_secret"}
    unreadable = {"DATABASE_URL": "unreadable", "EMPTY": "unreadable"}
    assert states == {**dict.fromkeys(SEVERAL["custom_secrets"], "set"), **unreadable}
    with pytest.raises(EncryptionError, match=r"2 of the secrets.*DATABASE_URL.*EMPTY"):
        await store.load()
    with pytest.raises(KeyMissing):
        await store.get_custom_secret("DATABASE_URL")
    assert (await store.get_custom_secret("github")).secret.get_secret_value() == "named as a provider"
    await store.set_custom_secret("DATABASE_URL", "entered again")
    assert await store.delete_custom_secret("EMPTY")
    loaded = await store.load()
    assert loaded is not None
    assert loaded.get_env_vars()["DATABASE_URL"] == "entered again"


# ---- without the key


async def test_without_the_key_secrets_are_listed_and_deleted_and_nothing_else_changes(
    store: SecretsStore, user_id: str, database: Database, query: Query, locked_keyring: KeyRing
) -> None:
    await store.store(UserSecrets(**SEVERAL))
    before = await rows(query, user_id)
    locked = SQLSecretsStore(database, user_id, locked_keyring)
    infos = await locked.list()
    assert {info.state for info in infos} == {"unreadable"}
    assert len(infos) == len(before)
    refused: list[Callable[[], Awaitable[Any]]] = [
        locked.load,
        lambda: locked.get_custom_secret("EMPTY"),
        lambda: locked.get_provider_token("github"),
        lambda: locked.set_custom_secret("NEW", "n"),
        lambda: locked.set_custom_secret("EMPTY", ""),
        lambda: locked.set_provider_token("github", "t"),
        lambda: locked.set_provider_token("github", None),
        lambda: locked.store(UserSecrets()),
        lambda: locked.store(UserSecrets(**SEVERAL)),
    ]
    for call in refused:
        with pytest.raises(KeyMismatch):
            await call()
    assert await rows(query, user_id) == before
    assert await locked.delete_custom_secret("EMPTY")
    loaded = await store.load()
    assert loaded is not None
    assert set(loaded.custom_secrets) == set(SEVERAL["custom_secrets"]) - {"EMPTY"}


async def test_without_the_key_an_empty_set_and_hosts_can_be_stored(
    database: Database, user_id: str, locked_keyring: KeyRing
) -> None:
    locked = SQLSecretsStore(database, user_id, locked_keyring)
    assert await locked.store(UserSecrets()) == 1
    await locked.set_provider_token("github", None, host="github.example.com")
    loaded = await locked.load()
    assert loaded is not None
    assert loaded.provider_tokens["github"].host == "github.example.com"
    assert [info.state for info in await locked.list()] == ["unset"]


async def test_storing_never_replaces_a_secret_whose_data_key_is_lost(
    store: SecretsStore, user_id: str, query: Query
) -> None:
    await store.store(UserSecrets(**SEVERAL, undeclared="b"))
    before = await rows(query, user_id)
    await query("UPDATE data_key SET user_id = :other WHERE user_id = :user_id", user_id=user_id, other=f"{user_id}-2")
    store._keyring.forget()  # type: ignore[attr-defined]
    for secrets in (UserSecrets(), UserSecrets(custom_secrets={"EMPTY": {"secret": "new"}})):
        with pytest.raises(KeyMissing):
            await store.store(secrets)
    assert await rows(query, user_id) == before
    await store.set_custom_secret("EMPTY", "entered again")
    assert (await store.get_custom_secret("EMPTY")).secret.get_secret_value() == "entered again"


# ---- what is stored can be loaded


async def test_undeclared_fields_may_be_named_like_properties_and_methods(store: SecretsStore) -> None:
    secrets = UserSecrets(version=3, copy={"a": [MARKER]})
    await store.store(secrets)
    assert await store.load() == secrets
    assert secrets.model_dump(context={"expose_secrets": True})["version"] == 3


async def test_a_set_that_could_not_be_loaded_again_is_not_stored(store: SecretsStore) -> None:
    wrong = UserSecrets.model_construct(custom_secrets={"a\nb": {"secret": MARKER}})  # type: ignore[dict-item]
    with pytest.raises(InvalidInput, match="unprintable") as caught:
        await store.store(wrong)
    assert MARKER not in "".join(traceback.format_exception(caught.value))
    assert await store.load() is None


def test_a_copy_of_a_set_with_secrets_in_plain_text_hides_them() -> None:
    copied = UserSecrets().model_copy(update={"custom_secrets": {"A": {"secret": MARKER}}, "more": MARKER})
    assert MARKER not in f"{copied!r} {copied.model_dump()} {copied.model_dump_json()}"
    assert copied.get_env_vars() == {"A": MARKER}


# ---- subclasses


async def test_secrets_of_a_subclass_are_neither_lost_nor_shown_by_the_base_class(
    store_for: Callable[..., SecretsStore], user_id: str
) -> None:
    more, base = store_for(user_id, model=MoreSecrets), store_for(user_id)
    secrets = MoreSecrets(**SEVERAL, pin=MARKER, note="n2")
    await more.store(secrets)
    seen = await base.load()
    assert seen is not None
    assert MARKER not in repr(seen) + repr(seen.model_dump())
    await base.set_custom_secret("EMPTY", "")
    await base.store(seen)
    assert await more.load() == secrets


# ---- transactions and events


async def test_events_carry_names_and_kinds_and_no_value(
    store: SecretsStore, user_id: str, database: Database, query: Query
) -> None:
    seen: list[Change] = []

    def collect(changes: Sequence[Change]) -> None:
        seen.extend(change for change in changes if change.user_id == user_id)

    database.on_commit(collect)
    tokens = {"github": {"token": MARKER}}
    await store.store(UserSecrets(provider_tokens=tokens, custom_secrets={"A": {"secret": MARKER}}))
    await store.store(UserSecrets(custom_secrets={"A": {"secret": MARKER}, "B": {"secret": MARKER}}))
    await store.set_custom_secret("A", MARKER)
    await store.set_custom_secret("A", MARKER, "described")
    await store.set_custom_secret("A", f"{MARKER} again", "described")
    await store.store(UserSecrets(custom_secrets={"A": {"secret": f"{MARKER} once more"}, "B": {"secret": MARKER}}))
    await store.delete_custom_secret("A")
    assert [(change.type, change.key, change.payload["kind"]) for change in seen] == [
        ("secret.updated", "github", "provider_token"),
        ("secret.updated", "A", "custom_secret"),
        ("secret.deleted", "github", "provider_token"),
        ("secret.updated", "B", "custom_secret"),
        ("secret.updated", "A", "custom_secret"),
        ("secret.rotated", "A", "custom_secret"),
        ("secret.rotated", "A", "custom_secret"),
        ("secret.deleted", "A", "custom_secret"),
    ]
    events = await query("SELECT * FROM event WHERE user_id = :user_id ORDER BY seq", user_id=user_id)
    assert [event["key"] for event in events] == [change.key for change in seen]
    assert MARKER not in repr(events)


async def test_a_transaction_that_fails_takes_the_secrets_back(
    store: SecretsStore, user_id: str, database: Database, keyring: KeyRing
) -> None:
    with pytest.raises(RuntimeError):
        async with database.transaction() as transaction:
            inside = SQLSecretsStore(transaction, user_id, keyring)
            await inside.set_custom_secret("A", "a")
            await inside.store(UserSecrets(**SEVERAL), expected_version=1)
            assert await inside.load() == UserSecrets(**SEVERAL)
            raise RuntimeError
    assert await store.load() is None
    await store.set_custom_secret("A", "a")
    assert (await store.get_custom_secret("A")).secret.get_secret_value() == "a"


async def test_a_store_that_is_refused_leaves_everything(store: SecretsStore, user_id: str, query: Query) -> None:
    await store.store(UserSecrets(**SEVERAL))
    before = await rows(query, user_id)
    too_long = UserSecrets(custom_secrets={"A": {"secret": "a"}, "B": {"secret": "b" * (1024 * 1024 + 1)}})
    with pytest.raises(InvalidInput, match="'B'"):
        await store.store(too_long)
    assert await rows(query, user_id) == before


async def test_whole_sets_stored_at_once_never_mix(store_for: Callable[..., SecretsStore], user_id: str) -> None:
    store = store_for(user_id)
    sets = [UserSecrets(custom_secrets={f"S{n}": {"secret": str(s)} for n in range(3)}) for s in range(6)]
    await asyncio.gather(*(store.store(one) for one in sets))
    assert await store.load() in sets


async def test_get_instance_takes_an_open_storage_and_nothing_else(
    database: Database, keyring: KeyRing, user_id: str
) -> None:
    made = await SQLSecretsStore.get_instance(SimpleNamespace(database=database, keyring=keyring), user_id)
    await made.set_custom_secret("A", "a")
    assert [info.name for info in await made.list()] == ["A"]
    with pytest.raises(ConfigurationError, match="open Storage"):
        await SQLSecretsStore.get_instance(object(), user_id)


# ---- any text


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.text(min_size=1, max_size=60).filter(lambda text: text.isprintable()),
    value=st.text(max_size=400),
    description=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
)
async def test_any_text_comes_back(store: SecretsStore, name: str, value: str, description: str) -> None:
    if value == "**********":
        return
    await store.set_custom_secret(name, value, description)
    read = await store.get_custom_secret(name)
    assert (read.secret.get_secret_value(), read.description) == (value, description)


# ---- out of sight


async def test_a_secret_appears_in_no_log_or_error(
    store: SecretsStore, user_id: str, database: Database, locked_keyring: KeyRing, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    locked = SQLSecretsStore(database, user_id, locked_keyring)
    tokens = {"github": {"token": MARKER}}
    await store.store(UserSecrets(provider_tokens=tokens, custom_secrets={"A": {"secret": MARKER}}))
    failing: list[Callable[[], Awaitable[Any]]] = [
        lambda: locked.set_custom_secret("B", MARKER),
        lambda: locked.store(UserSecrets(custom_secrets={"A": {"secret": MARKER}})),
        lambda: store.set_custom_secret("B", MARKER + "\ud800"),
        lambda: store.set_custom_secret("B", SecretStr(MARKER + "\ud800")),
        lambda: store.set_custom_secret("B", [MARKER]),  # type: ignore[arg-type]
        lambda: store.set_custom_secret("B\n", MARKER),
        lambda: store.set_custom_secret("B", MARKER, "a\0b"),
        lambda: store.set_provider_token("github", MARKER, host="a\0b"),
        lambda: store.set_custom_secret("B", MARKER * 100_000),
        lambda: store.store(UserSecrets(custom_secrets={"A": {"secret": MARKER}}), expected_version=9),
        lambda: store.store({"custom_secrets": {"A": {"secret": MARKER}}}),  # type: ignore[arg-type]
    ]
    texts: list[str] = []
    for call in failing:
        with pytest.raises((EncryptionError, ValueError, Exception)) as caught:
            await call()
        error: BaseException | None = caught.value
        texts.append("".join(traceback.format_exception(error)))
        while error is not None:
            texts.append(f"{error} {error.args!r} {vars(error)!r}")
            error = error.__cause__ or error.__context__
    texts += [repr(store), repr(vars(store)), repr(await store.load()), repr(await store.list()), caplog.text]
    assert [shown for shown in texts if MARKER in shown] == []
