"""Giving up on purpose what cannot be opened any more: it alone goes, and never while a key may come back."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from storage import Storage, UserStorage
from storage.errors import EncryptionError, KeyMismatch, KeyMissing, Tampered
from storage.secrets.model import UserSecrets
from storage.settings.model import Settings
from tests.databases import OTHER_KEY
from tests.security.conftest import configured

Harm = Callable[[Storage, str], Awaitable[None]]


class MoreSettings(Settings):
    pin: SecretStr | None = None
    code: SecretStr | None = None


class MoreSecrets(UserSecrets):
    pin: SecretStr | None = None


MODELS = {
    "settings_model": f"{MoreSettings.__module__}.{MoreSettings.__name__}",
    "secrets_model": f"{MoreSecrets.__module__}.{MoreSecrets.__name__}",
}


async def change(storage: Storage, statement: str, user_id: str) -> None:
    async with storage.session() as session:
        connection = await session.connection()
        await connection.execute(text(statement), {"user_id": user_id})
        await session.commit()


async def lose_the_key(storage: Storage, user_id: str) -> None:
    """As after a restore without the table of data keys."""
    await change(storage, "DELETE FROM data_key WHERE user_id = :user_id", user_id)
    storage.keyring.forget(user_id)


async def move_values(storage: Storage, user_id: str) -> None:
    """As an intruder might: values in columns that they were not sealed for."""
    value_of_b = "(SELECT value FROM custom_secret WHERE user_id = :user_id AND name = 'B')"
    for change_made in (
        "settings SET sealed_extra = llm_api_key, mcp_config = llm_api_key WHERE user_id = :user_id",
        f"user_secrets SET sealed_extra = {value_of_b} WHERE user_id = :user_id",
        f"custom_secret SET value = {value_of_b} WHERE user_id = :user_id AND name = 'A'",
    ):
        await change(storage, f"UPDATE {change_made}", user_id)


async def fill(user: UserStorage) -> None:
    await user.settings.store(
        MoreSettings(language="de", llm_api_key=SecretStr("key"), pin=SecretStr("1111"), code=SecretStr("2222"))
    )
    secrets = MoreSecrets.model_validate(
        {
            "custom_secrets": {"A": {"secret": "value of A"}, "B": {"secret": "value of B"}},
            "provider_tokens": {"github": {"token": "ghp"}, "gitlab": {"host": "gitlab.example.com"}},
            "pin": "3333",
        }
    )
    await user.secrets.store(secrets)


@pytest.fixture
async def user(migrated_url: str, tmp_path: Path) -> UserStorage:
    storage = await Storage.open(configured(migrated_url, tmp_path, **MODELS))
    user = storage.user(f"user-{uuid.uuid4().hex}")
    await fill(user)
    return user


async def test_nothing_goes_while_everything_opens(user: UserStorage) -> None:
    before = await user.secrets.load(), await user.settings.load()
    assert await user.secrets.discard_unreadable() == ()
    assert await user.settings.discard_unreadable() == ()
    assert (await user.secrets.load(), await user.settings.load()) == before


async def test_what_was_altered_goes_and_the_rest_stays(user: UserStorage) -> None:
    await move_values(user._storage, user.user_id)
    with pytest.raises(Tampered):
        await user.secrets.load()
    gone = await user.secrets.discard_unreadable()
    assert gone == ("custom secret 'A'", "the secret fields of the set")
    secrets = await user.secrets.load()
    assert secrets is not None
    assert secrets.get_env_vars() == {"B": "value of B"}
    assert secrets.provider_tokens.keys() == {"github", "gitlab"}
    assert await user.settings.discard_unreadable() == ("mcp_config", "sealed_extra")
    settings = await user.settings.load()
    assert settings is not None
    assert settings.language == "de"
    assert settings.llm_api_key is not None


async def test_with_the_data_key_lost_all_can_be_given_up_and_stored_again(user: UserStorage) -> None:
    await lose_the_key(user._storage, user.user_id)
    for refused in (user.secrets.load(), user.settings.load(), user.secrets.store(UserSecrets())):
        with pytest.raises(KeyMissing):
            await refused
    assert len(await user.secrets.discard_unreadable()) == 4
    assert await user.settings.discard_unreadable() == ("llm_api_key", "sealed_extra")
    left = await user.secrets.load()
    assert left is not None
    assert left.provider_tokens.keys() == {"gitlab"}
    await fill(user)
    loaded = await user.secrets.load()
    assert loaded is not None
    assert loaded.get_env_vars() == {"A": "value of A", "B": "value of B"}


async def test_a_field_of_a_subclass_that_was_altered_can_be_set_again(user: UserStorage) -> None:
    await move_values(user._storage, user.user_id)
    await user.settings.update(mcp_config=None, pin=SecretStr("4444"))
    settings = await user.settings.load()
    assert isinstance(settings, MoreSettings)
    assert settings.pin is not None
    assert settings.pin.get_secret_value() == "4444"
    assert settings.code is None


async def test_nothing_is_given_up_while_locked(user: UserStorage, migrated_url: str, tmp_path: Path) -> None:
    async with Storage.open(configured(migrated_url, tmp_path, **MODELS, master_key=OTHER_KEY)) as storage:
        other = storage.user(user.user_id)
        for refused in (other.secrets.discard_unreadable(), other.settings.discard_unreadable()):
            with pytest.raises(KeyMismatch):
                await refused
    assert await user.secrets.load() is not None
    assert await user.settings.load() is not None


async def test_another_process_new_keys_are_not_taken_for_lost_ones(
    user: UserStorage, migrated_url: str, tmp_path: Path
) -> None:
    async with Storage.open(configured(migrated_url, tmp_path, **MODELS)) as storage:
        await storage.keys.reencrypt()
    assert await user.settings.discard_unreadable() == ()
    assert await user.secrets.discard_unreadable() == ()
    try:
        await user.secrets.load()
    except EncryptionError as error:
        pytest.fail(str(error))
