"""A user's masker: it knows all that is sealed for the user, and every change of it, wherever it was made."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import SecretStr

from storage.conversations.model import ConversationMetadata
from storage.encryption.registry import sealed_columns
from storage.encryption.sealed_rows import sealed_values
from storage.errors import KeyMismatch, Tampered
from storage.masking import masker as masker_module
from storage.masking import maskers as maskers_module
from storage.masking.masker import REPLACEMENT, Masker, Skipped
from storage.masking.maskers import Maskers
from storage.secrets.model import UserSecrets
from storage.secrets.store import SecretsStore
from storage.settings.model import Settings
from storage.storage import Storage, UserStorage
from storage.webhooks.endpoints.store import Endpoints
from storage.webhooks.sending.egress import Egress
from tests.databases import OTHER_KEY, Query
from tests.masking.conftest import Opener

CUSTOM = "custom-secret-value-1"


class Conversation(ConversationMetadata):
    """A conversation with a secret field of an application's."""

    callback_key: SecretStr | None = None


class MoreSettings(Settings):
    """Settings with a secret field of an application's."""

    webhook_pin: SecretStr | None = None


class SecretsElsewhere(SecretsStore):
    """A store that replaces ours."""

    kept: UserSecrets | None = None
    loads = 0

    @classmethod
    async def get_instance(cls, config: Any, user_id: str | None = None) -> SecretsElsewhere:  # noqa: ARG003
        return cls()

    async def load(self) -> UserSecrets | None:
        type(self).loads += 1
        return type(self).kept

    async def store(self, secrets: UserSecrets, expected_version: int | None = None) -> int:
        type(self).kept = secrets
        return 1


def hides(masker: Masker, *texts: str) -> bool:
    return all(masker.mask(text) == REPLACEMENT for text in texts)


@pytest.fixture
def alice(storage: Storage, user_id: str) -> UserStorage:
    return storage.user(user_id)


async def add_endpoint(storage: Storage, user_id: str, headers: dict[str, str]) -> tuple[str, str]:
    """An endpoint with something in each sealed column; its secrets, the present one and the one before."""
    endpoints = Endpoints(storage.database, storage.keyring, Egress(()), user_id)
    added = await endpoints.add("https://receiver.example.com/", headers=headers)
    assert added.secret is not None
    present = await endpoints.rotate_secret(added.endpoint.id)
    return present.get_secret_value(), added.secret.get_secret_value()


async def test_everything_that_is_sealed_for_a_user_is_masked(opened: Opener, user_id: str) -> None:
    storage = await opened(conversation_model=f"{__name__}.Conversation", settings_model=f"{__name__}.MoreSettings")
    alice = storage.user(user_id)
    await alice.secrets.store(
        UserSecrets(
            provider_tokens={"github": {"token": "provider-token-1", "host": "github.example.com"}},
            custom_secrets={"A": {"secret": CUSTOM, "description": "a description of it"}},
            of_an_application={"any": ["set-extra-value-1"]},
        )
    )
    await alice.settings.update(
        language="a-language-code",
        llm_api_key="llm-api-key-1",
        llm_base_url="https://llm.example.com",
        search_api_key="search-api-key-1",
        sandbox_api_key="sandbox-api-key-1",
        mcp_config={"stdio_servers": [{"command": "npx-command", "env": {"API_KEY": "mcp-api-key-1"}}]},
        webhook_pin="settings-extra-1",
    )
    await alice.conversations.save_metadata(Conversation(conversation_id=user_id, callback_key="conversation-extra-1"))
    signing = await add_endpoint(storage, user_id, {"Authorization": "Bearer webhook-header-1"})
    filled = [column for column in sealed_columns() if await sealed_values(storage.database, column, [user_id])]
    assert filled == [column for column in sealed_columns() if column.masked]
    masker = await alice.secrets.masker()
    assert masker.skipped == ()
    assert hides(
        masker,
        "provider-token-1",
        CUSTOM,
        "set-extra-value-1",
        "llm-api-key-1",
        "search-api-key-1",
        "sandbox-api-key-1",
        "mcp-api-key-1",
        "settings-extra-1",
        "conversation-extra-1",
        *signing,
        "webhook-header-1",
    )
    plain = "github.example.com a description of it a-language-code https://llm.example.com npx-command Authorization"
    assert masker.mask(plain) == plain


async def test_another_users_secrets_are_not_masked(storage: Storage, alice: UserStorage) -> None:
    await alice.secrets.set_custom_secret("A", CUSTOM)
    other = await storage.user(f"other-{alice.user_id}").secrets.masker()
    assert other.mask(CUSTOM) == CUSTOM


async def test_a_user_without_secrets_has_nothing_to_mask(alice: UserStorage) -> None:
    masker = await alice.secrets.masker()
    assert masker.mask({"a": CUSTOM}) == {"a": CUSTOM}


async def test_short_secrets_are_named_and_the_length_is_configured(opened: Opener, user_id: str) -> None:
    alice = (await opened()).user(user_id)
    await alice.secrets.set_custom_secret("PIN", "12345")
    await alice.settings.update(llm_api_key="abc")
    masker = await alice.secrets.masker()
    assert masker.mask("12345 abc") == "12345 abc"
    assert masker.skipped == (
        Skipped("custom_secret.value 'PIN'", "short"),
        Skipped("settings.llm_api_key", "short"),
    )
    shorter = await (await opened(shortest_masked_secret=5)).user(user_id).secrets.masker()
    assert shorter.mask("12345 abc") == f"{REPLACEMENT} abc"


# ---- freshness


async def soon(masker: Masker, text: str, masked: str) -> bool:
    for _ in range(200):
        if masker.mask(text) == masked:
            return True
        await asyncio.sleep(0.01)
    return False


async def test_a_masker_is_renewed_when_a_secret_or_setting_changes(alice: UserStorage) -> None:
    masker = await alice.secrets.masker()
    await alice.secrets.set_custom_secret("A", CUSTOM)
    assert await soon(masker, CUSTOM, REPLACEMENT)
    await alice.settings.update(llm_api_key="llm-api-key-1")
    assert await soon(masker, "llm-api-key-1", REPLACEMENT)
    async with alice.transaction() as transaction:
        await transaction.secrets.set_custom_secret("A", "another-value-of-it")
    assert await soon(masker, "another-value-of-it", REPLACEMENT)
    await alice.secrets.delete_custom_secret("A")
    assert await soon(masker, "another-value-of-it", "another-value-of-it")


async def test_a_refresh_knows_what_another_process_has_changed(opened: Opener, user_id: str) -> None:
    here, there = (await opened()).user(user_id), (await opened()).user(user_id)
    masker = await here.secrets.masker()
    await there.secrets.set_custom_secret("A", CUSTOM)
    await masker.refresh()
    assert hides(masker, CUSTOM)
    await there.secrets.set_custom_secret("A", "another-value-of-it")
    await masker.refresh()
    assert hides(masker, "another-value-of-it")
    assert masker.mask(CUSTOM) == CUSTOM


async def test_nothing_is_opened_again_while_nothing_changed(
    storage: Storage, alice: UserStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await alice.secrets.set_custom_secret("A", CUSTOM)
    await alice.secrets.masker()
    monkeypatch.setattr(maskers_module, "sealed_values", None)
    assert hides(await alice.secrets.masker(), CUSTOM)
    async with alice.transaction() as transaction:
        assert hides(await transaction.secrets.masker(), CUSTOM)


async def test_a_transaction_knows_what_it_has_written_and_nobody_else_does(alice: UserStorage) -> None:
    outside = await alice.secrets.masker()
    with pytest.raises(RuntimeError):
        async with alice.transaction() as transaction:
            await transaction.secrets.set_custom_secret("A", CUSTOM)
            assert hides(await transaction.secrets.masker(), CUSTOM)
            raise RuntimeError
    await outside.refresh()
    assert outside.mask(CUSTOM) == CUSTOM
    assert (await alice.secrets.masker()).mask(CUSTOM) == CUSTOM


async def test_many_at_once_prepare_once(alice: UserStorage, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    await alice.secrets.set_custom_secret("A", CUSTOM)
    prepared = 0

    def counting(*arguments: Any) -> Any:
        nonlocal prepared
        prepared += 1
        return masker_module.prepared(*arguments)

    monkeypatch.setattr(maskers_module, "prepared", counting)
    found = await asyncio.gather(*(alice.secrets.masker() for _ in range(20)))
    assert all(hides(masker, CUSTOM) for masker in found)
    assert prepared == 1


async def test_few_users_are_kept_ready(storage: Storage, user_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maskers_module, "CACHED_USERS", 2)
    users = [storage.user(f"{user_id}-{number}") for number in range(4)]
    for user in users:
        await user.secrets.set_custom_secret("A", f"{user.user_id}-secret")
    found = [await user.secrets.masker() for user in users]
    assert len(storage.maskers._known) == 2
    assert all(hides(masker, f"{user.user_id}-secret") for masker, user in zip(found, users, strict=True))


async def test_few_users_are_kept_ready_who_have_many_secrets(
    storage: Storage, user_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maskers_module, "CACHED_BYTES", 3000)
    users = [storage.user(f"{user_id}-{number}") for number in range(3)]
    for user in users:
        await user.secrets.set_custom_secret("A", f"{user.user_id}-secret" * 20)
        assert hides(await user.secrets.masker(), f"{user.user_id}-secret" * 20)
    assert list(storage.maskers._known) == [users[-1].user_id]


# ---- what cannot be opened


async def test_a_masker_is_refused_while_secrets_cannot_be_opened(opened: Opener, user_id: str) -> None:
    await (await opened()).user(user_id).secrets.set_custom_secret("A", CUSTOM)
    locked = await opened(master_key=OTHER_KEY.get_secret_value())
    with pytest.raises(KeyMismatch):
        await locked.user(user_id).secrets.masker()
    nobody = await locked.user(f"nobody-{user_id}").secrets.masker()
    assert nobody.mask(CUSTOM) == CUSTOM
    ready = await locked.maskers.secrets(locked.database, user_id)
    assert ready.skipped == (Skipped("custom_secret.value 'A'", "unreadable"),)
    assert isinstance(ready.failure, KeyMismatch)


async def test_one_altered_secret_refuses_the_masker_but_not_the_others(
    storage: Storage, alice: UserStorage, query: Query
) -> None:
    await alice.secrets.set_custom_secret("A", CUSTOM)
    await alice.secrets.set_custom_secret("B", "altered-secret-value")
    masker = await alice.secrets.masker()
    cut = "substr(value, 1, length(value) - 1)"
    await query(f"UPDATE custom_secret SET value = {cut} WHERE user_id = :user AND name = 'B'", user=alice.user_id)
    await query("UPDATE custom_secret SET value = value WHERE user_id = :user", user=alice.user_id)
    fresh = Maskers(storage.keyring, sealed_columns())
    with pytest.raises(Tampered):
        await fresh.masker(storage.database, alice.user_id)
    others = await fresh.secrets(storage.database, alice.user_id)
    assert others.masked(CUSTOM.encode()) == REPLACEMENT.encode()
    assert hides(masker, "altered-secret-value"), "what was known before is masked still"


async def test_a_masker_in_use_outlives_a_secret_that_cannot_be_opened(
    alice: UserStorage, query: Query, caplog: pytest.LogCaptureFixture
) -> None:
    await alice.secrets.set_custom_secret("A", CUSTOM)
    masker = await alice.secrets.masker()
    cut = "substr(value, 1, length(value) - 1)"
    await query(f"UPDATE custom_secret SET value = {cut} WHERE user_id = :user", user=alice.user_id)
    await alice.secrets.set_custom_secret("B", "another-secret-value")
    for _ in range(200):
        if "keeps to what it knows" in caplog.text:
            break
        await asyncio.sleep(0.01)
    assert "keeps to what it knows" in caplog.text
    assert hides(masker, CUSTOM)


async def test_a_key_that_is_back_is_noticed(opened: Opener, user_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = await opened()
    await storage.user(user_id).secrets.set_custom_secret("A", CUSTOM)
    locked = await opened(master_key=OTHER_KEY.get_secret_value())
    assert (await locked.maskers.secrets(locked.database, user_id)).failure is not None
    monkeypatch.setattr(locked.maskers, "_keyring", storage.keyring)
    assert (await locked.maskers.secrets(locked.database, user_id)).failure is not None, "not asked for at every write"
    assert hides(await locked.user(user_id).secrets.masker(), CUSTOM)
    monkeypatch.setattr(maskers_module, "TRUSTED_SECONDS", 0.0)
    assert (await locked.maskers.secrets(locked.database, user_id)).failure is None


async def test_what_was_known_is_masked_while_it_cannot_be_opened(
    storage: Storage, alice: UserStorage, query: Query
) -> None:
    await alice.secrets.set_custom_secret("A", CUSTOM)
    await alice.secrets.set_custom_secret("B", "another-secret-value")
    await storage.maskers.secrets(storage.database, alice.user_id)
    cut = "substr(value, 1, length(value) - 1)"
    await query(f"UPDATE custom_secret SET value = {cut} WHERE user_id = :user", user=alice.user_id)
    await alice.secrets.delete_custom_secret("B")
    await alice.settings.update(llm_api_key="llm-api-key-1")
    for executor in (storage.database, storage.database):
        ready = await storage.maskers.secrets(executor, alice.user_id)
        assert isinstance(ready.failure, Tampered)
        assert ready.masked(f"{CUSTOM} llm-api-key-1".encode()) == f"{REPLACEMENT} {REPLACEMENT}".encode()
    async with storage.database.transaction() as transaction:
        ready = await storage.maskers.secrets(transaction, alice.user_id)
        assert ready.masked(CUSTOM.encode()) == REPLACEMENT.encode()
    assert b"another-secret-value" in ready.masked(b"another-secret-value"), "it was deleted"


async def test_a_re_encryption_between_two_looks_loses_no_mask(
    opened: Opener, user_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = await opened(), await opened()
    await there.user(user_id).secrets.set_custom_secret("A", CUSTOM)
    times = 0

    async def overtaken(*arguments: Any) -> Any:
        nonlocal times
        values = await sealed_values(*arguments)
        times += 1
        if times == 1:
            await there.keys.reencrypt()
        return values

    monkeypatch.setattr(maskers_module, "sealed_values", overtaken)
    ready = await here.maskers.secrets(here.database, user_id)
    assert (ready.failure, times) == (None, 2)
    assert ready.masked(CUSTOM.encode()) == REPLACEMENT.encode()


async def test_nothing_is_kept_of_a_user_who_was_deleted(storage: Storage, alice: UserStorage) -> None:
    await alice.secrets.set_custom_secret("A", CUSTOM)
    masker = await alice.secrets.masker()
    assert alice.user_id in storage.maskers._known
    await storage.delete_user(alice.user_id)
    assert alice.user_id not in storage.maskers._known
    await masker.refresh()
    assert masker.mask(CUSTOM) == CUSTOM


async def test_maskers_that_are_gone_are_not_remembered(
    storage: Storage, user_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maskers_module, "CACHED_USERS", 4)
    for number in range(20):
        await storage.user(f"{user_id}-{number}").secrets.masker()
    assert len(storage.maskers._held) <= 4


# ---- other stores


async def test_a_store_that_replaces_ours_has_a_masker_and_its_secrets_count(
    opened: Opener, user_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SecretsElsewhere, "kept", None)
    storage = await opened(secrets_store_class=f"{__name__}.SecretsElsewhere")
    alice = storage.user(user_id)
    await alice.settings.update(llm_api_key="llm-api-key-1")
    await alice.secrets.set_custom_secret("A", CUSTOM)
    await alice.secrets.set_provider_token("github", "provider-token-1")
    masker = await alice.secrets.masker()
    assert hides(masker, CUSTOM, "provider-token-1")
    ready = await storage.maskers.secrets(storage.database, user_id)
    for text in (CUSTOM, "provider-token-1", "llm-api-key-1"):
        assert ready.masked(text.encode()) == REPLACEMENT.encode()
    loads = SecretsElsewhere.loads
    await storage.maskers.secrets(storage.database, user_id)
    assert SecretsElsewhere.loads == loads, "asked for once in a while"
    await alice.secrets.set_custom_secret("A", "another-value-of-it")
    await masker.refresh()
    assert hides(masker, "another-value-of-it")


async def test_a_closed_storage_leaves_the_masker_as_it_was(opened: Opener, user_id: str) -> None:
    storage = await opened()
    await storage.user(user_id).secrets.set_custom_secret("A", CUSTOM)
    masker = await storage.user(user_id).secrets.masker()
    await storage.close()
    assert hides(masker, CUSTOM)
