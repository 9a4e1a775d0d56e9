"""The parts put together: one storage, several users, transactions over all stores, third-party stores and models."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from storage import (
    Change,
    ConversationMetadata,
    ConversationStore,
    Settings,
    Storage,
    StorageConfig,
    UserSecrets,
)
from storage.encryption.providers.key_file import KeyFile
from storage.errors import (
    ConfigurationError,
    ConversationNotFound,
    FileNotFound,
    InvalidInput,
    KeyMismatch,
    KeyMissing,
    NestedTransaction,
    StorageClosed,
)
from storage.testing.conversations import ConversationStoreContract
from tests.conversations.test_third_party_store import DictConversationStore


def configured(url: str, folder: Path, **options: Any) -> StorageConfig:
    return StorageConfig.load(
        **{
            "database_url": url,
            "data_dir": folder / "data",
            "master_key_file": folder / "keys" / "master.key",
            **options,
        }
    )


@pytest.fixture
async def storage(database_url: str, tmp_path: Path) -> AsyncIterator[Storage]:
    async with Storage.open(configured(database_url, tmp_path)) as opened:
        yield opened


async def test_everything_of_a_user_is_there_when_opened_again(database_url: str, tmp_path: Path) -> None:
    config = configured(database_url, tmp_path)
    async with Storage.open(config) as storage:
        ada = storage.user("ada")
        await ada.conversations.save_metadata(ConversationMetadata(conversation_id="c1", title="Fix the build"))
        await ada.settings.store(Settings(llm_model="m", llm_api_key=SecretStr("key")))
        await ada.secrets.set_custom_secret("TOKEN", "value", description="d")
        await ada.files.write("sessions/c1/events/0.json", b"{}")
    async with Storage.open(config) as storage:
        ada = storage.user("ada")
        assert (await ada.conversations.get_metadata("c1")).title == "Fix the build"
        settings = await ada.settings.load()
        assert settings is not None
        assert settings.llm_api_key is not None
        assert settings.llm_api_key.get_secret_value() == "key"
        secrets = await ada.secrets.load()
        assert secrets is not None
        assert secrets.custom_secrets["TOKEN"].secret.get_secret_value() == "value"
        assert await ada.files.read("sessions/c1/events/0.json") == b"{}"


async def test_users_see_nothing_of_each_other(storage: Storage) -> None:
    ada, bob = storage.user("ada"), storage.user("bob")
    await ada.conversations.save_metadata(ConversationMetadata(conversation_id="c1"))
    await ada.settings.update(language="de")
    await ada.secrets.set_custom_secret("TOKEN", "value")
    await ada.files.write("a.txt", "a")
    with pytest.raises(ConversationNotFound):
        await bob.conversations.get_metadata("c1")
    assert await bob.settings.load() is None
    assert await bob.secrets.list() == []
    with pytest.raises(FileNotFound):
        await bob.files.read("a.txt")
    assert not await bob.conversations.delete_metadata("c1")
    assert await ada.conversations.exists("c1")


async def test_no_user_is_the_local_user(storage: Storage) -> None:
    await storage.user(None).settings.update(language="de")
    found = await storage.user("local").settings.load()
    assert found is not None
    assert found.language == "de"


@pytest.mark.parametrize("user_id", ["", "x" * 256, "new\nline", "nul\0", "lone \ud800"])
async def test_a_user_id_that_cannot_be_stored_is_refused(storage: Storage, user_id: str) -> None:
    with pytest.raises(InvalidInput, match="user_id"):
        storage.user(user_id)


# ---- transactions


async def test_a_transaction_over_all_stores_happens_whole_or_not_at_all(storage: Storage) -> None:
    ada = storage.user("ada")
    await ada.conversations.save_metadata(ConversationMetadata(conversation_id="c1"))
    await ada.files.write("sessions/c1/events/0.json", b"{}")
    seen: list[Change] = []
    storage.on_commit(seen.extend)

    async def change_everything(*, fail: bool) -> None:
        async with ada.transaction() as tx:
            await tx.conversations.delete_metadata("c1")
            await tx.settings.update(llm_model="m", llm_api_key=SecretStr("key"))
            await tx.secrets.set_custom_secret("TOKEN", "value")
            await tx.files.write("b.txt", "b")
            assert not await tx.conversations.exists("c1")
            assert (await tx.files.read_text("b.txt")) == "b"
            if fail:
                raise LookupError

    with pytest.raises(LookupError):
        await change_everything(fail=True)
    assert seen == []
    assert await ada.conversations.exists("c1")
    assert await ada.files.read("sessions/c1/events/0.json") == b"{}"
    assert await ada.settings.load() is None
    assert await ada.secrets.list() == []
    assert not await ada.files.exists("b.txt")

    await change_everything(fail=False)
    assert {(item.type, item.key) for item in seen} >= {
        ("conversation.deleted", "c1"),
        ("file.deleted", "sessions/c1/events/0.json"),
        ("file.written", "b.txt"),
    }
    assert not await ada.conversations.exists("c1")
    assert not await ada.files.exists("sessions/c1/events/0.json")
    settings = await ada.settings.load()
    assert settings is not None
    assert settings.llm_model == "m"


async def test_a_data_key_made_in_a_transaction_that_is_rolled_back_is_not_used_afterwards(storage: Storage) -> None:
    ada = storage.user("ada")
    with pytest.raises(LookupError):
        async with ada.transaction() as tx:
            await tx.secrets.set_custom_secret("TOKEN", "lost")
            raise LookupError
    await ada.secrets.set_custom_secret("TOKEN", "kept")
    storage.keyring.forget()
    secrets = await ada.secrets.load()
    assert secrets is not None
    assert secrets.custom_secrets["TOKEN"].secret.get_secret_value() == "kept"


async def test_a_caught_error_inside_a_transaction_leaves_it_usable(storage: Storage) -> None:
    ada = storage.user("ada")
    async with ada.transaction() as tx:
        with pytest.raises(ConversationNotFound):
            await tx.conversations.update_metadata("missing", title="x")
        await tx.conversations.save_metadata(ConversationMetadata(conversation_id="c1"))
    assert await ada.conversations.exists("c1")


async def test_a_store_used_past_the_open_transaction_is_refused(storage: Storage) -> None:
    ada = storage.user("ada")
    async with ada.transaction():
        with pytest.raises(NestedTransaction, match=r"tx\.conversations"):
            await ada.conversations.save_metadata(ConversationMetadata(conversation_id="c1"))


async def test_one_transaction_may_concern_two_users(storage: Storage) -> None:
    async with storage.user("ada").transaction() as tx:
        await tx.settings.update(language="de")
        await tx.user("bob").settings.update(language="fr")
    settings = await storage.user("bob").settings.load()
    assert settings is not None
    assert settings.language == "fr"


async def test_every_change_writes_its_event_in_the_same_transaction(storage: Storage) -> None:
    from sqlmodel import select

    from storage.tables import EventTable

    seen: list[Change] = []
    storage.on_commit(seen.extend)
    ada = storage.user("ada")
    await ada.conversations.save_metadata(ConversationMetadata(conversation_id="c1"))
    await ada.conversations.update_metadata("c1", title="t")
    await ada.conversations.add_usage("c1", cost=1.0)
    await ada.settings.update(language="de")
    await ada.secrets.set_custom_secret("TOKEN", "marker-value")
    await ada.secrets.set_provider_token("github", "marker-value", host="github.com")
    await ada.secrets.delete_custom_secret("TOKEN")
    await ada.files.write("a.txt", "marker-value")
    await ada.files.delete("a.txt")
    await ada.conversations.delete_metadata("c1")
    async with storage.session(read_only=True) as session:
        events = (await session.exec(select(EventTable).order_by(EventTable.seq))).all()  # type: ignore[arg-type]
    assert [event.id for event in events] == [item.id for item in seen]
    assert len(events) == 10
    assert {event.user_id for event in events} == {"ada"}
    assert not any("marker-value" in str(event.payload) + event.key for event in events)


async def test_deleting_a_conversation_that_has_only_files_deletes_them(storage: Storage) -> None:
    ada, bob = storage.user("ada"), storage.user("bob")
    await ada.files.write("sessions/c1/events/0.json", b"{}")
    await bob.files.write("sessions/c1/events/0.json", b"{}")
    assert not await ada.conversations.delete_metadata("c1")
    assert await ada.files.list() == []
    assert await bob.files.exists("sessions/c1/events/0.json")


# ---- opening and closing


async def test_a_storage_may_be_awaited_or_entered(sqlite_url: str, tmp_path: Path) -> None:
    storage = await Storage.open(configured(sqlite_url, tmp_path))
    await storage.user("ada").settings.update(language="de")
    await storage.close()
    await storage.close()
    with pytest.raises(StorageClosed):
        await storage.user("ada").settings.load()


async def test_opening_with_a_url_and_single_settings(sqlite_url: str, tmp_path: Path) -> None:
    async with Storage.open(sqlite_url, file_store="memory", master_key_file=tmp_path / "k") as storage:
        assert storage.config.file_store == "memory"
        assert str(storage) == f"<Storage {sqlite_url}>"


async def test_the_default_is_a_sqlite_file_and_local_files_in_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("STORAGE_MASTER_KEY_FILE", str(tmp_path / "keys" / "master.key"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    async with Storage.open() as storage:
        await storage.user().files.write("a.txt", "a")
        await storage.user().secrets.set_custom_secret("TOKEN", "value")
    assert (tmp_path / "data" / "storage.db").is_file()
    assert (tmp_path / "data" / "files").is_dir()
    assert (tmp_path / "keys" / "master.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"file_store": "lcoal"}, "'lcoal' is not a file store"),
        ({"file_store": "s3", "file_store_path": ""}, "no bucket is named"),
        ({"database_url": "mysql://x/y"}, "'mysql' are not supported"),
        ({"database_url": "nonsense"}, "cannot be read"),
        ({"master_key": "c2hvcnQ="}, "32"),
        ({"settings_model": "no.such.module.Settings"}, r"settings_model: cannot import 'no\.such\.module'"),
        ({"settings_model": "storage.settings.model.Nothing"}, "has no class 'Nothing'"),
        ({"settings_model": "storage.config.StorageConfig"}, "must be a subclass of storage.settings.model.Settings"),
        ({"conversation_store_class": f"{__name__}.HalfAStore"}, "does not implement"),
        ({"conversation_store_class": "Store"}, "not a dotted path"),
    ],
)
async def test_a_setting_that_cannot_work_is_refused_at_open_and_named(
    sqlite_url: str, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        await Storage.open(configured(sqlite_url, tmp_path, **options))


async def test_a_storage_config_and_single_settings_are_not_mixed(sqlite_url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not both"):
        Storage.open(configured(sqlite_url, tmp_path), file_store="memory")


# ---- extension points


class TeamConversation(ConversationMetadata):
    """More fields, one of them secret."""

    team: str = "none"
    priority: int = 0
    invite_code: SecretStr | None = None


class TeamSettings(Settings):
    """A field more, and a secret one."""

    theme: str | None = None
    proxy_password: SecretStr | None = None


class TeamSecrets(UserSecrets):
    """A field more, and a secret one."""

    rotation_days: int = 90
    recovery_phrase: SecretStr | None = None


async def test_subclasses_of_the_models_round_trip_typed_and_their_secrets_sealed(
    database_url: str, tmp_path: Path
) -> None:
    config = configured(
        database_url,
        tmp_path,
        conversation_model=f"{__name__}.TeamConversation",
        settings_model=f"{__name__}.TeamSettings",
        secrets_model=f"{__name__}.TeamSecrets",
    )
    async with Storage.open(config) as storage:
        ada = storage.user("ada")
        await ada.conversations.save_metadata(
            TeamConversation(conversation_id="c1", team="core", priority=3, invite_code=SecretStr("marker-1"))
        )
        await ada.settings.store(TeamSettings(theme="dark", proxy_password=SecretStr("marker-2")))
        await ada.secrets.store(TeamSecrets(rotation_days=30, recovery_phrase=SecretStr("marker-3")))
        conversation: Any = await ada.conversations.get_metadata("c1")
        settings: Any = await ada.settings.load()
        secrets: Any = await ada.secrets.load()
        assert (type(conversation), type(settings), type(secrets)) == (TeamConversation, TeamSettings, TeamSecrets)
        assert (conversation.team, conversation.priority) == ("core", 3)
        assert conversation.invite_code.get_secret_value() == "marker-1"
        assert (settings.theme, settings.proxy_password.get_secret_value()) == ("dark", "marker-2")
        assert (secrets.rotation_days, secrets.recovery_phrase.get_secret_value()) == (30, "marker-3")
        async with storage.session(read_only=True) as session:
            from sqlmodel import select

            from storage.tables import ConversationTable, SettingsTable, UserSecretsTable

            for table in (ConversationTable, SettingsTable, UserSecretsTable):
                row = (await session.exec(select(table))).one()
                assert "marker" not in str(row.extra)  # type: ignore[attr-defined]
                assert row.sealed_extra.startswith(b"\xe1\x01")  # type: ignore[attr-defined]
                assert b"marker" not in row.sealed_extra  # type: ignore[attr-defined]


class HalfAStore(DictConversationStore):
    """Leaves the interface open at one place."""


HalfAStore.__abstractmethods__ = frozenset({"search"})


class TestAThirdPartyStoreNamedInTheConfiguration(ConversationStoreContract):
    @pytest.fixture
    async def opened(self, sqlite_url: str, tmp_path: Path) -> AsyncIterator[Storage]:
        DictConversationStore.everything.clear()
        path = f"{DictConversationStore.__module__}.DictConversationStore"
        async with Storage.open(configured(sqlite_url, tmp_path, conversation_store_class=path)) as storage:
            yield storage
        DictConversationStore.everything.clear()

    @pytest.fixture
    async def store(self, opened: Storage) -> ConversationStore:
        return opened.user().conversations

    @pytest.fixture
    async def other_store(self, opened: Storage) -> ConversationStore:
        return opened.user("bob").conversations


async def test_a_replaced_store_has_no_part_in_transactions_and_says_so(sqlite_url: str, tmp_path: Path) -> None:
    path = f"{DictConversationStore.__module__}.DictConversationStore"
    config = configured(sqlite_url, tmp_path, conversation_store_class=path)
    async with Storage.open(config) as storage, storage.user("ada").transaction() as tx:
        await tx.settings.update(language="de")
        with pytest.raises(ConfigurationError, match="no part in transactions"):
            _ = tx.conversations


# ---- locked


async def test_with_a_wrong_key_everything_that_is_not_secret_works(database_url: str, tmp_path: Path) -> None:
    right = configured(database_url, tmp_path)
    async with Storage.open(right) as storage:
        ada = storage.user("ada")
        await ada.settings.store(Settings(language="en", llm_api_key=SecretStr("key")))
        await ada.secrets.set_custom_secret("TOKEN", "value")
    other = tmp_path / "other" / "master.key"
    async with Storage.open(f"sqlite:///{tmp_path / 'unrelated.db'}", file_store="memory", master_key_file=other) as o:
        await o.user("x").secrets.set_custom_secret("A", "b")  # makes another key file
    async with Storage.open(configured(database_url, tmp_path, master_key_file=other)) as storage:
        ada = storage.user("ada")
        status = await storage.status()
        assert [problem.code for problem in status.problems] == ["keys"]
        await ada.conversations.save_metadata(ConversationMetadata(conversation_id="c1"))
        await ada.files.write("a.txt", "a")
        await ada.settings.update(language="de")
        assert [item.state for item in await ada.secrets.list()] == ["unreadable"]
        from storage.errors import KeyMismatch

        with pytest.raises(KeyMismatch):
            await ada.secrets.load()
        with pytest.raises(KeyMismatch):
            await ada.secrets.set_custom_secret("TOKEN", "overwritten")
    async with Storage.open(right) as storage:
        ada = storage.user("ada")
        settings = await ada.settings.load()
        assert settings is not None
        assert settings.language == "de"
        assert settings.llm_api_key is not None
        assert settings.llm_api_key.get_secret_value() == "key"
        secrets = await ada.secrets.load()
        assert secrets is not None
        assert secrets.custom_secrets["TOKEN"].secret.get_secret_value() == "value"
        assert (await storage.status()).problems == []


def master_key(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


async def test_a_policy_refuses_to_open_without_a_master_key_and_makes_none(database_url: str, tmp_path: Path) -> None:
    config = configured(database_url, tmp_path, require_master_key=True)
    with pytest.raises(KeyMissing, match="policy require_master_key"):
        await Storage.open(config)
    assert not config.master_key_file.exists()


async def test_the_policy_opens_with_a_key_and_from_then_on_with_that_one_only(
    database_url: str, tmp_path: Path
) -> None:
    def policy(text: str) -> StorageConfig:
        return configured(database_url, tmp_path, require_master_key=True, master_key=master_key(text))

    async with Storage.open(policy("right")) as storage:
        await storage.user("ada").secrets.set_custom_secret("TOKEN", "value")
    with pytest.raises(KeyMismatch):
        await Storage.open(policy("wrong"))
    async with Storage.open(policy("right")) as storage:
        assert (await storage.user("ada").secrets.get_custom_secret("TOKEN")).secret.get_secret_value() == "value"


async def test_without_the_policy_a_wrong_key_opens_everything_but_the_secrets(
    database_url: str, tmp_path: Path
) -> None:
    async with Storage.open(configured(database_url, tmp_path, master_key=master_key("right"))) as storage:
        await storage.user("ada").secrets.set_custom_secret("TOKEN", "value")
    async with Storage.open(configured(database_url, tmp_path, master_key=master_key("wrong"))) as storage:
        with pytest.raises(KeyMismatch):
            await storage.user("ada").secrets.get_custom_secret("TOKEN")
        await storage.user("ada").settings.update(language="de")


async def test_closing_closes_the_key_provider_too(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []

    async def close(provider: KeyFile) -> None:
        closed.append(provider)

    monkeypatch.setattr(KeyFile, "close", close)
    async with Storage.open(configured(sqlite_url, tmp_path)) as storage:
        assert closed == []
    assert closed == [storage.keyring.master_keys.provider]
    with pytest.raises(ConfigurationError):
        await Storage.open(configured(sqlite_url, tmp_path, file_store="s3"))
    assert len(closed) == 2
