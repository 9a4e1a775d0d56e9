"""What every SettingsStore promises, as tests that any implementation can run against itself.

A test module subclasses the suite and gives it a way to make stores:

    class TestMySettingsStore(SettingsStoreContract):
        @pytest.fixture
        def store_for(self):
            return lambda user_id, model=Settings: MySettingsStore(user_id, model)

The users that the suite names must have no settings when a test starts. Needs pytest, and pytest-asyncio with
`asyncio_mode = auto`.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from datetime import date
from typing import Any, TypeAlias

import pytest
from pydantic import Field, SecretStr

from storage.errors import InvalidInput, VersionConflict
from storage.secret_models import MASK
from storage.settings.model import SandboxGroupingStrategy, Settings
from storage.settings.store import SettingsStore

StoreFor: TypeAlias = Callable[..., SettingsStore]
"""Called with a user's id and, for a subclass of Settings, `model`."""

EVERY_FIELD: dict[str, Any] = {
    "language": "日本語",
    "agent": "CodeActAgent",
    "max_iterations": 120,
    "security_analyzer": "invariant",
    "confirmation_mode": True,
    "llm_model": "anthropic/claude-sonnet-4",
    "llm_api_key": "sk-contract-1",
    "llm_base_url": "https://llm.example.com/v1",
    "user_version": 4,
    "remote_runtime_resource_factor": 8,
    "enable_default_condenser": False,
    "enable_sound_notifications": True,
    "enable_proactive_conversation_starters": False,
    "enable_solvability_analysis": False,
    "user_consents_to_analytics": False,
    "sandbox_base_container_image": "python:3.12",
    "sandbox_runtime_container_image": "runtime:1",
    "mcp_config": {"shttp_servers": [{"url": "https://mcp.example.com", "api_key": "mcp-contract-1", "timeout": 60}]},
    "disabled_skills": ["browsing", ""],
    "search_api_key": "tvly-contract-1",
    "sandbox_api_key": "sandbox-contract-1\nsecond line \U0001f511",
    "max_budget_per_task": 0.1,
    "condenser_max_size": 20,
    "email": "ada@example.com",
    "email_verified": False,
    "git_user_name": "Ada Ĺovelace",
    "git_user_email": "ada@example.com",
    "v1_enabled": False,
    "sandbox_grouping_strategy": "ADD_TO_ANY",
}
"""A value other than the default for every field of Settings."""

SECRETS = ("llm_api_key", "search_api_key", "sandbox_api_key", "mcp_config")


class MoreSettings(Settings):
    """Settings as an application extends them."""

    favourite_day: date | None = None
    webhook_key: SecretStr | None = None
    webhook_keys: dict[str, SecretStr] = Field(default_factory=dict)


class SettingsStoreContract:
    """Subclass it, name the subclass `Test…`, and give it a `store_for` fixture."""

    @pytest.fixture
    def store_for(self) -> StoreFor:
        """How to make a store for a user."""
        raise NotImplementedError("give the suite a store_for fixture")

    @pytest.fixture
    def user_id(self) -> str:
        """A user without settings."""
        return f"contract-{uuid.uuid4().hex}"

    @pytest.fixture
    def store(self, store_for: StoreFor, user_id: str) -> SettingsStore:
        """The settings of that user."""
        return store_for(user_id)

    async def test_settings_that_were_never_stored_load_as_none(self, store: SettingsStore) -> None:
        assert await store.load() is None
        assert await store.load_without_secrets() is None
        assert set((await store.secret_states()).values()) == {"unset"}

    async def test_every_field_comes_back_as_it_was_stored(self, store: SettingsStore) -> None:
        settings = Settings(**EVERY_FIELD)
        await store.store(settings)
        loaded = await store.load()
        assert loaded == settings
        assert loaded.model_dump(mode="json", context={"expose_secrets": True}) == EVERY_FIELD
        assert loaded.sandbox_grouping_strategy is SandboxGroupingStrategy.ADD_TO_ANY

    async def test_defaults_come_back_as_defaults(self, store: SettingsStore) -> None:
        await store.store(Settings())
        assert await store.load() == Settings()

    async def test_storing_replaces_every_field(self, store: SettingsStore) -> None:
        await store.store(Settings(**EVERY_FIELD))
        await store.store(Settings(language="de"))
        assert await store.load() == Settings(language="de")

    async def test_an_empty_object_of_servers_is_not_the_same_as_none(self, store: SettingsStore) -> None:
        await store.store(Settings(mcp_config={}))
        loaded = await store.load()
        assert loaded is not None
        assert loaded.mcp_config is not None
        assert loaded.mcp_config.get_secret_value() == {}

    async def test_unknown_fields_and_values_are_kept(self, store: SettingsStore) -> None:
        settings = Settings(
            sandbox_grouping_strategy="ONE_A_DAY",
            new_in_the_next_release={"a": [1, 2.5, None, "x"]},
            other_api_key="sk-contract-2",
        )
        await store.store(settings)
        loaded = await store.load()
        assert loaded == settings
        assert loaded.model_extra is not None
        assert loaded.model_extra["other_api_key"].get_secret_value() == "sk-contract-2"
        assert "sk-contract-2" not in repr(loaded)

    async def test_versions_count_changes_from_one(self, store: SettingsStore) -> None:
        assert await store.store(Settings(language="en")) == 1
        assert await store.store(Settings(language="de")) == 2
        assert (await store.update(language="fr")).version == 3
        loaded = await store.load()
        assert loaded is not None
        assert loaded.version == 3

    async def test_a_store_based_on_an_outdated_version_is_refused(self, store: SettingsStore) -> None:
        await store.store(Settings(language="en"), expected_version=0)
        await store.store(Settings(language="de"), expected_version=1)
        for outdated in (0, 1, 3):
            with pytest.raises(VersionConflict):
                await store.store(Settings(language="fr"), expected_version=outdated)
        assert await store.load() == Settings(language="de")

    async def test_of_two_writers_based_on_the_same_version_one_wins(self, store: SettingsStore) -> None:
        await store.store(Settings(language="en"))
        writes = (store.store(Settings(language=language), expected_version=1) for language in ("de", "fr"))
        results = await asyncio.gather(*writes, return_exceptions=True)
        assert sorted(type(result).__name__ for result in results) == ["VersionConflict", "int"]

    async def test_update_changes_what_it_names_and_nothing_else(self, store: SettingsStore) -> None:
        await store.store(Settings(**EVERY_FIELD))
        updated = await store.update(language="de", search_api_key="tvly-contract-2", email=None)
        changes = {"language": "de", "search_api_key": "tvly-contract-2", "email": None}
        assert updated == Settings(**{**EVERY_FIELD, **changes})
        assert await store.load() == updated

    async def test_update_of_settings_that_were_never_stored_begins_with_the_defaults(
        self, store: SettingsStore
    ) -> None:
        assert await store.update(llm_api_key=SecretStr("sk-contract-1")) == Settings(llm_api_key="sk-contract-1")
        assert await store.load() == Settings(llm_api_key="sk-contract-1")

    async def test_concurrent_updates_of_different_fields_are_all_kept(self, store: SettingsStore) -> None:
        changes = ({"language": "de"}, {"agent": "A"}, {"llm_api_key": "sk-contract-1"}, {"max_iterations": 3})
        await asyncio.gather(*(store.update(**change) for change in changes))
        merged = {name: value for change in changes for name, value in change.items()}
        assert await store.load() == Settings(**merged)

    async def test_a_misspelt_field_is_refused_and_the_nearest_named(self, store: SettingsStore) -> None:
        with pytest.raises(InvalidInput, match=r"llm_modell.*did you mean 'llm_model'"):
            await store.update(llm_modell="x")
        assert await store.load() is None

    async def test_a_value_that_does_not_fit_is_refused_with_field_and_limit(self, store: SettingsStore) -> None:
        with pytest.raises(InvalidInput, match=r"condenser_max_size: .* 20"):
            await store.update(condenser_max_size=19)
        assert await store.load() is None

    @pytest.mark.parametrize("name", SECRETS)
    async def test_a_mask_is_never_stored_in_place_of_a_secret(self, store: SettingsStore, name: str) -> None:
        await store.store(Settings(**EVERY_FIELD))
        masked = Settings(**EVERY_FIELD).model_dump()
        with pytest.raises(InvalidInput, match=name):
            await store.update(**{name: masked[name]})
        with pytest.raises(InvalidInput):
            await store.store(Settings(**masked))
        assert MASK in str(masked[name])
        assert await store.load() == Settings(**EVERY_FIELD)

    async def test_settings_without_secrets_can_be_shown_and_not_stored(self, store: SettingsStore) -> None:
        await store.store(Settings(**EVERY_FIELD))
        public = await store.load_without_secrets()
        assert public is not None
        assert public == Settings(**{**EVERY_FIELD, **dict.fromkeys(SECRETS)})
        assert not public.is_complete
        with pytest.raises(InvalidInput, match="without their secrets"):
            await store.store(public)
        assert await store.load() == Settings(**EVERY_FIELD)

    async def test_states_tell_which_secrets_are_set(self, store: SettingsStore) -> None:
        await store.store(Settings(llm_api_key="sk-contract-1"))
        states = await store.secret_states()
        assert states == {**dict.fromkeys(SECRETS, "unset"), "llm_api_key": "set"}

    async def test_fields_of_a_subclass_come_back_typed(self, store_for: StoreFor, user_id: str) -> None:
        store = store_for(user_id, model=MoreSettings)
        settings = MoreSettings(
            language="de",
            favourite_day=date(2026, 1, 2),
            webhook_key="whsec-contract-1",
            webhook_keys={"a": "whsec-contract-2"},
        )
        await store.store(settings)
        loaded = await store.load()
        assert loaded == settings
        assert isinstance(loaded, MoreSettings)
        updated = await store.update(webhook_key=None, favourite_day=date(2026, 1, 3))
        assert updated.model_dump(context={"expose_secrets": True})["webhook_keys"] == {"a": "whsec-contract-2"}
        assert await store.load() == updated

    async def test_another_user_sees_nothing_of_it(self, store_for: StoreFor, store: SettingsStore) -> None:
        await store.store(Settings(**EVERY_FIELD))
        other = store_for(f"contract-{uuid.uuid4().hex}")
        assert await other.load() is None
        await other.store(Settings(language="fr"))
        assert await store.load() == Settings(**EVERY_FIELD)
