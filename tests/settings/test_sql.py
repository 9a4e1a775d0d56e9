"""Settings in SQL: what is sealed for what, when a ciphertext stays, and what works while the key is away."""

from __future__ import annotations

import json
import logging
import pickle
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from pydantic import Field, Secret, SecretStr

from storage.database.change import Change
from storage.database.database import Database
from storage.encryption.keyring import KeyRing
from storage.errors import ConfigurationError, EncryptionError, InvalidInput, KeyMismatch, KeyMissing, Tampered
from storage.settings.model import Settings
from storage.settings.sql import SQLSettingsStore
from storage.settings.store import SettingsStore
from storage.settings.table import SEALED
from storage.testing.settings import EVERY_FIELD, SECRETS
from tests.databases import Query

MARKER = "MARKER-91ab"


class MoreSettings(Settings):
    token: SecretStr | None = None
    pins: dict[str, SecretStr] = Field(default_factory=dict)
    note: str = "n"


class OpenSettings(Settings):
    mcp_config: dict[str, Any] | None = None  # type: ignore[assignment]


@dataclass
class Account:
    name: str
    key: SecretStr


class AccountSettings(Settings):
    account: Account | None = None
    anything: Any = None


class NarrowSettings(Settings):
    language: Literal["en", "de"] = "en"
    email: SecretStr | None = None  # type: ignore[assignment]
    enable_sound_notifications: bool | None = None  # type: ignore[assignment]


@pytest.fixture
def store(store_for: Callable[..., SettingsStore], user_id: str) -> SettingsStore:
    return store_for(user_id)


async def sealed_columns(query: Query, user_id: str) -> dict[str, bytes | None]:
    (row,) = await query(f"SELECT {', '.join(SEALED)} FROM settings WHERE user_id = :user_id", user_id=user_id)
    return row


async def overwrite(query: Query, user_id: str, column: str, value: bytes | str) -> None:
    await query(f"UPDATE settings SET {column} = :value WHERE user_id = :user_id", value=value, user_id=user_id)


# ---- sealing


async def test_every_secret_is_sealed_and_no_other_column_holds_it(
    store_for: Callable[..., SettingsStore], user_id: str, query: Query
) -> None:
    secrets = {name: MARKER for name in SECRETS if name != "mcp_config"}
    settings = MoreSettings(**secrets, mcp_config={"env": {"A": MARKER}}, token=MARKER, pins={"a": MARKER}, note="n2")
    await store_for(user_id, model=MoreSettings).store(settings)
    (values,) = await query("SELECT * FROM settings WHERE user_id = :user_id", user_id=user_id)
    sealed = {name: values.pop(name) for name in SEALED}
    assert all(value.startswith(b"\xe1\x01") and MARKER.encode() not in value for value in sealed.values())
    assert MARKER not in repr(values)
    extra = values["extra"]
    assert (json.loads(extra) if isinstance(extra, str) else extra) == {"note": "n2"}


async def test_what_has_not_changed_keeps_its_ciphertext(store: SettingsStore, user_id: str, query: Query) -> None:
    await store.store(Settings(**EVERY_FIELD))
    before = await sealed_columns(query, user_id)
    await store.store(Settings(**EVERY_FIELD))
    await store.store(Settings(**{**EVERY_FIELD, "language": "de"}))
    await store.update(agent="other", llm_api_key=EVERY_FIELD["llm_api_key"])
    assert await sealed_columns(query, user_id) == before
    await store.update(search_api_key="tvly-2")
    after = await sealed_columns(query, user_id)
    assert {name for name in before if before[name] != after[name]} == {"search_api_key"}


@pytest.mark.parametrize("verb", ["store", "update"])
async def test_another_base_url_seals_the_key_anew_and_only_that(
    store: SettingsStore, user_id: str, query: Query, verb: str
) -> None:
    await store.store(Settings(**EVERY_FIELD))
    before = await sealed_columns(query, user_id)
    if verb == "store":
        await store.store(Settings(**{**EVERY_FIELD, "llm_base_url": "https://other.example.com"}))
    else:
        await store.update(llm_base_url="https://other.example.com")
    after = await sealed_columns(query, user_id)
    assert {name for name in before if before[name] != after[name]} == {"llm_api_key"}
    loaded = await store.load()
    assert loaded is not None
    assert loaded.llm_api_key == SecretStr(EVERY_FIELD["llm_api_key"])


async def test_a_key_does_not_open_with_a_base_url_that_someone_else_wrote(
    store: SettingsStore, user_id: str, query: Query
) -> None:
    await store.store(Settings(**EVERY_FIELD))
    await overwrite(query, user_id, "llm_base_url", "https://thief.example.com")
    with pytest.raises(Tampered, match="llm_api_key"):
        await store.load()


async def test_a_ciphertext_that_was_moved_does_not_open(
    store_for: Callable[..., SettingsStore], user_id: str, query: Query
) -> None:
    store, other = store_for(user_id), store_for(f"{user_id}-2")
    await store.store(Settings(search_api_key="a", sandbox_api_key="b"))
    await other.store(Settings(search_api_key="c"))
    mine = await sealed_columns(query, user_id)
    assert mine["search_api_key"] is not None
    await overwrite(query, user_id, "sandbox_api_key", mine["search_api_key"])
    with pytest.raises(Tampered, match="sandbox_api_key"):
        await store.load()
    await overwrite(query, f"{user_id}-2", "search_api_key", mine["search_api_key"])
    with pytest.raises(EncryptionError, match="search_api_key"):
        await other.load()


async def test_one_bad_value_hinders_neither_the_rest_nor_its_replacement(
    store: SettingsStore, user_id: str, query: Query
) -> None:
    await store.store(Settings(**EVERY_FIELD))
    sealed = await sealed_columns(query, user_id)
    assert sealed["search_api_key"] is not None
    bad = sealed["search_api_key"][:-1] + bytes([sealed["search_api_key"][-1] ^ 1])
    await overwrite(query, user_id, "search_api_key", bad)
    updated = await store.update(language="de", sandbox_api_key="sandbox-2")
    assert not updated.is_complete
    assert updated.sandbox_api_key == SecretStr("sandbox-2")
    assert (await sealed_columns(query, user_id))["search_api_key"] == bad
    with pytest.raises(InvalidInput, match="without their secrets"):
        await store.store(updated)
    repaired = await store.update(search_api_key="tvly-2")
    assert repaired.is_complete
    assert await store.load() == repaired


async def test_a_short_value_is_listed_as_unreadable(store: SettingsStore, user_id: str, query: Query) -> None:
    await store.store(Settings(llm_api_key="a", search_api_key="b"))
    await overwrite(query, user_id, "llm_api_key", b"\xe1\x01 cut off")
    states = await store.secret_states()
    assert (states["llm_api_key"], states["search_api_key"], states["mcp_config"]) == ("unreadable", "set", "unset")


# ---- without the key


async def test_without_the_key_what_is_not_secret_works_and_nothing_secret_changes(
    store: SettingsStore, user_id: str, database: Database, query: Query, locked_keyring: KeyRing
) -> None:
    await store.store(Settings(**EVERY_FIELD))
    before = await sealed_columns(query, user_id)
    locked = SQLSettingsStore(database, user_id, locked_keyring)
    with pytest.raises(KeyMismatch):
        await locked.load()
    public = await locked.load_without_secrets()
    assert public is not None
    assert public.llm_model == EVERY_FIELD["llm_model"]
    updated = await locked.update(language="de", max_iterations=5)
    assert (updated.language, updated.llm_api_key, updated.is_complete) == ("de", None, False)
    assert set((await locked.secret_states()).values()) == {"unreadable"}
    refused: list[dict[str, Any]] = [{"llm_api_key": "new"}, {"mcp_config": {}}, {"llm_base_url": "https://x.example"}]
    for changes in refused:
        with pytest.raises(KeyMismatch):
            await locked.update(**changes)
    for settings in (Settings(), Settings(language="fr"), Settings(**EVERY_FIELD)):
        with pytest.raises(KeyMismatch):
            await locked.store(settings)
    assert await sealed_columns(query, user_id) == before
    expected = Settings(**{**EVERY_FIELD, "language": "de", "max_iterations": 5})
    assert await store.load() == expected


async def test_without_the_key_settings_without_secrets_can_begin(
    database: Database, user_id: str, locked_keyring: KeyRing
) -> None:
    locked = SQLSettingsStore(database, user_id, locked_keyring)
    updated = await locked.update(language="de", llm_base_url="https://x.example")
    assert updated.is_complete
    assert await locked.load() == updated
    assert await locked.store(Settings(language="fr")) == 2
    with pytest.raises(KeyMismatch):
        await locked.store(Settings(llm_api_key="k"))


async def test_without_the_key_a_named_secret_can_still_be_removed(
    store: SettingsStore, user_id: str, database: Database, locked_keyring: KeyRing
) -> None:
    await store.store(Settings(**EVERY_FIELD))
    await SQLSettingsStore(database, user_id, locked_keyring).update(search_api_key=None)
    assert await store.load() == Settings(**{**EVERY_FIELD, "search_api_key": None})


async def test_a_lost_data_key_is_told_by_name(store: SettingsStore, user_id: str, query: Query) -> None:
    await store.store(Settings(search_api_key="a"))
    sealed = await sealed_columns(query, user_id)
    assert sealed["search_api_key"] is not None
    unknown = sealed["search_api_key"][:2] + bytes(16) + sealed["search_api_key"][18:]
    await overwrite(query, user_id, "search_api_key", unknown)
    with pytest.raises(KeyMissing, match="search_api_key"):
        await store.load()
    assert (await store.secret_states())["search_api_key"] == "unreadable"
    assert (await store.update(search_api_key="b")).search_api_key == SecretStr("b")


async def test_storing_never_replaces_a_secret_whose_data_key_is_lost(
    store: SettingsStore, user_id: str, query: Query
) -> None:
    await store.store(Settings(search_api_key="a", undeclared_token="b"))
    before = await sealed_columns(query, user_id)
    await query("UPDATE data_key SET user_id = :other WHERE user_id = :user_id", user_id=user_id, other=f"{user_id}-2")
    store._keyring.forget()  # type: ignore[attr-defined]
    for settings in (Settings(), Settings(search_api_key="c")):
        with pytest.raises(KeyMissing, match="cannot be read"):
            await store.store(settings)
    assert await sealed_columns(query, user_id) == before


# ---- what is stored can be loaded


@pytest.mark.parametrize("verb", ["copy", "construct", "in place"])
async def test_what_could_not_be_loaded_again_is_not_stored(store: SettingsStore, verb: str) -> None:
    wrong = Settings(disabled_skills=["a"])
    if verb == "copy":
        wrong = wrong.model_copy(update={"max_iterations": -5})
    elif verb == "construct":
        wrong = Settings.model_construct(condenser_max_size=1)
    else:
        assert wrong.disabled_skills is not None
        wrong.disabled_skills.append(5)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"max_iterations|condenser_max_size|disabled_skills"):
        await store.store(wrong)
    assert await store.load() is None


async def test_a_secret_that_came_in_past_the_validation_is_sealed(
    store: SettingsStore, user_id: str, query: Query
) -> None:
    settings = Settings.model_construct(search_api_key=MARKER)  # type: ignore[arg-type]
    assert settings.model_extra is not None
    settings.model_extra["my_token"] = MARKER
    await store.store(settings)
    assert MARKER not in str(await query("SELECT * FROM settings WHERE user_id = :user_id", user_id=user_id))
    loaded = await store.load()
    assert loaded is not None
    assert loaded.search_api_key == SecretStr(MARKER)
    assert loaded.model_extra == {"my_token": Secret(MARKER)}


async def test_undeclared_fields_may_be_named_like_columns_and_methods(store: SettingsStore) -> None:
    settings = Settings(sealed_extra="a", extra={"a": 1}, version=7, user_id="u", copy=SecretStr("b"))
    await store.store(settings)
    assert await store.load() == settings
    changed = settings.model_copy(update={"sealed_extra": "c"})
    assert await store.store(changed) == 2
    assert await store.load() == changed
    assert changed.model_dump(context={"expose_secrets": True})["copy"] == "b"


# ---- subclasses


async def test_secrets_of_a_subclass_are_neither_lost_nor_shown_by_the_base_class(
    store_for: Callable[..., SettingsStore], user_id: str
) -> None:
    settings = MoreSettings(language="de", token=MARKER, pins={"a": MARKER}, note="n2")
    more, base = store_for(user_id, model=MoreSettings), store_for(user_id)
    await more.store(settings)
    seen = await base.load()
    assert seen is not None
    assert MARKER not in repr(seen) + repr(seen.model_dump()) + seen.model_dump_json()
    assert seen.note == "n2"  # type: ignore[attr-defined]
    await base.update(language="fr")
    await base.store(await base.load() or Settings())
    loaded = await more.load()
    assert loaded == settings.model_copy(update={"language": "fr"})


async def test_states_of_the_secrets_that_a_subclass_declares(
    store_for: Callable[..., SettingsStore], user_id: str
) -> None:
    store = store_for(user_id, model=MoreSettings)
    await store.store(MoreSettings(pins={"a": "1"}))
    states = await store.secret_states()
    assert (states["pins"], states["token"]) == ("set", "unset")


async def test_a_subclass_may_declare_a_column_more_narrowly_more_widely_or_secret(
    store_for: Callable[..., SettingsStore], user_id: str, query: Query
) -> None:
    store = store_for(user_id, model=NarrowSettings)
    settings = NarrowSettings(language="de", email="ada@example.com", enable_sound_notifications=None)
    await store.store(settings)
    assert await store.load() == settings
    (row,) = await query("SELECT * FROM settings WHERE user_id = :user_id", user_id=user_id)
    assert (row["language"], row["email"], bool(row["enable_sound_notifications"])) == ("de", None, False)
    await store_for(f"{user_id}-2").store(Settings())
    seen = await store_for(f"{user_id}-2", model=NarrowSettings).load()
    assert seen is not None
    assert seen.language == "en"


async def test_what_a_subclass_no_longer_calls_secret_is_sealed_all_the_same(
    store_for: Callable[..., SettingsStore], user_id: str, query: Query
) -> None:
    store = store_for(user_id, model=OpenSettings)
    await store.store(OpenSettings(mcp_config={"key": MARKER}))
    assert (await store.update(language="de")).mcp_config == {"key": MARKER}
    assert (await store.update(mcp_config={"other": MARKER})).mcp_config == {"other": MARKER}
    assert MARKER not in str(await query("SELECT * FROM settings WHERE user_id = :user_id", user_id=user_id))


@pytest.mark.parametrize("field", ["account", "anything"])
async def test_a_secret_in_a_field_that_is_not_declared_secret_is_refused_and_not_stored_as_its_mask(
    store_for: Callable[..., SettingsStore], user_id: str, field: str
) -> None:
    store = store_for(user_id, model=AccountSettings)
    with pytest.raises(InvalidInput, match=f"{field}.*declare it SecretStr"):
        await store.store(AccountSettings(**{field: Account("ada", SecretStr(MARKER))}))
    assert await store.load() is None


async def test_stored_settings_that_do_not_fit_a_subclass_are_told_by_field(
    store_for: Callable[..., SettingsStore], user_id: str
) -> None:
    await store_for(user_id).store(Settings(language="fr"))
    with pytest.raises(InvalidInput, match="language"):
        await store_for(user_id, model=NarrowSettings).load()


# ---- transactions and events


async def test_an_update_tells_the_names_of_what_changed_and_no_value(
    store: SettingsStore, user_id: str, database: Database
) -> None:
    seen: list[Change] = []

    def collect(changes: Sequence[Change]) -> None:
        seen.extend(change for change in changes if change.user_id == user_id)

    database.on_commit(collect)
    await store.store(Settings(language="de", llm_api_key=MARKER, unknown="u"))
    await store.update(language="de")
    await store.update(language="fr", search_api_key=MARKER)
    await store.update(llm_base_url="https://x.example", search_api_key=None)
    assert [(change.type, change.key, change.version, change.payload) for change in seen] == [
        ("settings.updated", "settings", 1, {"changed": ["language", "llm_api_key", "unknown"]}),
        ("settings.updated", "settings", 2, {"changed": ["language", "search_api_key"]}),
        ("settings.updated", "settings", 3, {"changed": ["llm_api_key", "llm_base_url", "search_api_key"]}),
    ]
    assert MARKER not in repr(seen)


async def test_a_transaction_that_fails_takes_the_settings_back(
    store: SettingsStore, user_id: str, database: Database, keyring: KeyRing
) -> None:
    await store.store(Settings(language="en"))
    with pytest.raises(RuntimeError):
        async with database.transaction() as transaction:
            inside = SQLSettingsStore(transaction, user_id, keyring)
            await inside.update(language="de", llm_api_key="first secret of this user")
            loaded = await inside.load()
            assert loaded is not None
            assert loaded.llm_api_key == SecretStr("first secret of this user")
            raise RuntimeError
    assert await store.load() == Settings(language="en")
    await store.update(llm_api_key="k")
    assert await store.load() == Settings(language="en", llm_api_key="k")


async def test_get_instance_takes_an_open_storage_and_nothing_else(
    database: Database, keyring: KeyRing, user_id: str
) -> None:
    storage = SimpleNamespace(database=database, keyring=keyring)
    made = await SQLSettingsStore.get_instance(storage, user_id)
    await made.store(Settings(language="de"))
    assert await made.load() == Settings(language="de")
    with pytest.raises(ConfigurationError, match="open Storage"):
        await SQLSettingsStore.get_instance(object(), user_id)


# ---- out of sight


async def test_a_secret_appears_in_no_log_error_or_pickle(
    store: SettingsStore, user_id: str, database: Database, locked_keyring: KeyRing, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    texts: list[str] = []
    locked = SQLSettingsStore(database, user_id, locked_keyring)
    await store.store(Settings(llm_api_key=MARKER, mcp_config={"env": {"A": MARKER}}))
    failing: list[Callable[[], Any]] = [
        lambda: locked.update(llm_api_key=MARKER + "2"),
        lambda: locked.store(Settings(llm_api_key=MARKER)),
        lambda: store.update(llm_api_key=[MARKER]),
        lambda: store.update(mcp_config=MARKER),
        lambda: store.update(mcp_config={"a": float("nan"), "b": MARKER}),
        lambda: store.update(llm_api_key=SecretStr(MARKER + "\ud800")),
        lambda: store.update(llm_api_key=MARKER, agent="a\0b"),
        lambda: store.store(Settings(llm_api_key=MARKER, unknown=object())),
        lambda: store.store(Settings(llm_api_key=MARKER), expected_version=9),
    ]
    for call in failing:
        with pytest.raises((EncryptionError, ValueError, Exception)) as caught:
            await call()
        error: BaseException | None = caught.value
        texts.append("".join(traceback.format_exception(error)))
        while error is not None:
            texts.append(f"{error} {error.args!r} {vars(error)!r}")
            error = error.__cause__ or error.__context__
    settings = await store.load()
    assert settings is not None
    assert settings.llm_api_key == SecretStr(MARKER)
    texts += [repr(store), repr(vars(store)), repr(settings), caplog.text]
    assert [shown for shown in texts if MARKER in shown] == []
    with pytest.raises(TypeError):
        pickle.dumps(settings)
