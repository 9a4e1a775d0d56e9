"""What every SecretsStore promises, as tests that any implementation can run against itself.

A test module subclasses the suite and gives it a way to make stores:

    class TestMySecretsStore(SecretsStoreContract):
        @pytest.fixture
        def store_for(self):
            return lambda user_id, model=UserSecrets: MySecretsStore(user_id, model)

The users that the suite names must have no secrets when a test starts. Needs pytest, and pytest-asyncio with
`asyncio_mode = auto`.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from datetime import date
from typing import Any, TypeAlias

import pytest
from pydantic import SecretStr

from storage.errors import InvalidInput, SecretNotFound, VersionConflict
from storage.masking.masker import REPLACEMENT
from storage.providers import ProviderType
from storage.secret_models import MASK, MAX_SECRET_BYTES
from storage.secrets.model import CustomSecret, ProviderToken, UserSecrets
from storage.secrets.store import SecretsStore

StoreFor: TypeAlias = Callable[..., SecretsStore]
"""Called with a user's id and, for a subclass of UserSecrets, `model`."""

SEVERAL: dict[str, Any] = {
    "provider_tokens": {
        "github": {"token": "ghp-contract-1", "host": "github.example.com", "user_id": "42"},
        "gitlab": {"token": "glpat-contract-1", "host": None, "user_id": None},
        "forge of our own": {"token": "own-contract-1", "host": None, "user_id": "\u00e9"},
    },
    "custom_secrets": {
        "DATABASE_URL": {"secret": "postgres://contract-1@db/prod", "description": "the production database"},
        "EMPTY": {"secret": "", "description": ""},
        "github": {"secret": "named as a provider", "description": "\u79d8\u5bc6"},
        "UNICODE_\u79d8\u5bc6": {
            "secret": "p\u00e4ssw\u00f6rd \U0001f511\r\nsecond line\0after NUL",
            "description": "l1\nl2",
        },
    },
}
"""Tokens and custom secrets of every shape, as a dump in clear gives them."""


class MoreSecrets(UserSecrets):
    """Secrets as an application extends them."""

    rotated_on: date | None = None
    recovery_codes: tuple[SecretStr, ...] = ()
    pin: SecretStr | None = None


class SecretsStoreContract:
    """Subclass it, name the subclass `Test…`, and give it a `store_for` fixture."""

    @pytest.fixture
    def store_for(self) -> StoreFor:
        """How to make a store for a user."""
        raise NotImplementedError("give the suite a store_for fixture")

    @pytest.fixture
    def user_id(self) -> str:
        """A user without secrets."""
        return f"contract-{uuid.uuid4().hex}"

    @pytest.fixture
    def store(self, store_for: StoreFor, user_id: str) -> SecretsStore:
        """The secrets of that user."""
        return store_for(user_id)

    # ---- all at once

    async def test_secrets_that_were_never_stored_load_as_none(self, store: SecretsStore) -> None:
        assert await store.load() is None
        assert await store.list() == []
        assert not await store.delete_custom_secret("A")
        assert not await store.delete_provider_token("github")
        assert await store.load() is None

    async def test_all_secrets_come_back_as_they_were_stored(self, store: SecretsStore) -> None:
        secrets = UserSecrets(**SEVERAL)
        await store.store(secrets)
        loaded = await store.load()
        assert loaded == secrets
        assert loaded.model_dump(mode="json", context={"expose_secrets": True}) == SEVERAL
        assert ProviderType.GITHUB in loaded.provider_tokens

    async def test_the_custom_secrets_come_as_environment_variables_and_descriptions(self, store: SecretsStore) -> None:
        await store.store(UserSecrets(**SEVERAL))
        loaded = await store.load()
        assert loaded is not None
        customs = SEVERAL["custom_secrets"]
        assert loaded.get_env_vars() == {name: custom["secret"] for name, custom in customs.items()}
        assert loaded.get_custom_secrets_descriptions() == {
            name: custom["description"] for name, custom in customs.items()
        }

    async def test_storing_replaces_the_whole_set(self, store: SecretsStore) -> None:
        await store.store(UserSecrets(**SEVERAL))
        smaller = UserSecrets(
            provider_tokens={"gitlab": {"token": "glpat-contract-2"}},
            custom_secrets={"EMPTY": {"secret": "no longer"}, "NEW": {"secret": "n"}},
        )
        await store.store(smaller)
        assert await store.load() == smaller
        await store.store(UserSecrets())
        assert await store.load() == UserSecrets()
        assert await store.list() == []

    async def test_versions_count_changes_from_one(self, store: SecretsStore) -> None:
        assert await store.store(UserSecrets(**SEVERAL)) == 1
        assert await store.store(UserSecrets(**SEVERAL)) == 1
        await store.set_custom_secret("A", "a")
        loaded = await store.load()
        assert loaded is not None
        assert loaded.version == 2

    async def test_a_store_based_on_an_outdated_version_is_refused(self, store: SecretsStore) -> None:
        await store.store(UserSecrets(**SEVERAL), expected_version=0)
        await store.set_custom_secret("MEANWHILE", "m")
        for outdated in (0, 1, 3):
            with pytest.raises(VersionConflict):
                await store.store(UserSecrets(), expected_version=outdated)
        loaded = await store.load()
        assert loaded is not None
        assert "MEANWHILE" in loaded.custom_secrets

    async def test_of_two_writers_based_on_the_same_version_one_wins(self, store: SecretsStore) -> None:
        writes = (store.store(UserSecrets(custom_secrets={name: {"secret": "s"}}), expected_version=0) for name in "AB")
        results = await asyncio.gather(*writes, return_exceptions=True)
        assert sorted(type(result).__name__ for result in results) == ["VersionConflict", "int"]

    async def test_unknown_fields_are_kept_as_secrets(self, store: SecretsStore) -> None:
        secrets = UserSecrets(**SEVERAL, in_the_next_release={"a": ["contract-secret", 1]})
        await store.store(secrets)
        loaded = await store.load()
        assert loaded == secrets
        assert "contract-secret" not in repr(loaded)

    async def test_fields_of_a_subclass_come_back_typed(self, store_for: StoreFor, user_id: str) -> None:
        store = store_for(user_id, model=MoreSecrets)
        secrets = MoreSecrets(**SEVERAL, rotated_on=date(2026, 1, 2), recovery_codes=("1111", "2222"))
        await store.store(secrets)
        loaded = await store.load()
        assert loaded == secrets
        assert isinstance(loaded, MoreSecrets)
        await store.set_custom_secret("A", "a")
        loaded = await store.load()
        assert isinstance(loaded, MoreSecrets)
        assert loaded.recovery_codes == secrets.recovery_codes

    # ---- one by one

    async def test_setting_one_secret_leaves_the_others(self, store: SecretsStore) -> None:
        await store.store(UserSecrets(**SEVERAL))
        await store.set_custom_secret("EMPTY", SecretStr("full"), "described")
        await store.set_provider_token(ProviderType.GITHUB, "ghp-contract-2")
        expected = UserSecrets(
            provider_tokens={**SEVERAL["provider_tokens"], "github": {"token": "ghp-contract-2"}},
            custom_secrets={
                **SEVERAL["custom_secrets"],
                "EMPTY": {"secret": "full", "description": "described"},
            },
        )
        assert await store.load() == expected

    async def test_a_first_secret_makes_the_set(self, store: SecretsStore) -> None:
        await store.set_provider_token("gitlab", "glpat-contract-1", host="gitlab.example.com", user_id="7")
        token = {"token": "glpat-contract-1", "host": "gitlab.example.com", "user_id": "7"}
        assert await store.load() == UserSecrets(provider_tokens={"gitlab": token})

    async def test_concurrent_writers_of_different_secrets_all_keep_theirs(self, store: SecretsStore) -> None:
        names = [f"S{number}" for number in range(8)]
        await asyncio.gather(
            store.set_provider_token("github", "ghp-contract-1"),
            *(store.set_custom_secret(name, name.lower()) for name in names),
        )
        loaded = await store.load()
        assert loaded is not None
        assert loaded.get_env_vars() == {name: name.lower() for name in names}
        assert ProviderType.GITHUB in loaded.provider_tokens

    async def test_one_secret_can_be_read_alone(self, store: SecretsStore) -> None:
        secrets = UserSecrets(**SEVERAL)
        await store.store(secrets)
        assert await store.get_custom_secret("github") == CustomSecret(**SEVERAL["custom_secrets"]["github"])
        assert await store.get_provider_token("github") == ProviderToken(**SEVERAL["provider_tokens"]["github"])
        assert await store.get_provider_token(ProviderType.GITLAB) == secrets.provider_tokens[ProviderType.GITLAB]
        for missing in (store.get_custom_secret("NONE"), store.get_provider_token("none")):
            with pytest.raises(SecretNotFound):
                await missing

    async def test_deleting_is_told_apart_from_nothing_to_delete(self, store: SecretsStore) -> None:
        await store.store(UserSecrets(**SEVERAL))
        assert await store.delete_custom_secret("github")
        assert not await store.delete_custom_secret("github")
        assert await store.delete_provider_token(ProviderType.GITLAB)
        assert not await store.delete_provider_token("gitlab")
        loaded = await store.load()
        assert loaded is not None
        assert set(loaded.custom_secrets) == set(SEVERAL["custom_secrets"]) - {"github"}
        assert set(loaded.provider_tokens) == set(SEVERAL["provider_tokens"]) - {"gitlab"}

    # ---- listing

    async def test_the_listing_names_all_and_shows_no_value(self, store: SecretsStore) -> None:
        await store.store(UserSecrets(**SEVERAL))
        await store.set_provider_token("azure_devops", None, host="dev.example.com")
        infos = await store.list()
        assert [(info.kind, info.name, info.state) for info in infos] == [
            *(("custom_secret", name, "set") for name in sorted(SEVERAL["custom_secrets"])),
            ("provider_token", "azure_devops", "unset"),
            *(("provider_token", name, "set") for name in sorted(SEVERAL["provider_tokens"])),
        ]
        github = infos[-2]
        assert (github.host, github.provider_user_id) == ("github.example.com", "42")
        assert infos[0].description == "the production database"
        assert "contract-1" not in repr(infos)

    # ---- masking

    async def test_a_masker_replaces_every_secret_everywhere(self, store: SecretsStore) -> None:
        await store.store(UserSecrets(**SEVERAL, in_the_next_release={"a": ["contract-secret"]}))
        masker = await store.masker()
        secrets = [
            *(token["token"] for token in SEVERAL["provider_tokens"].values()),
            *(custom["secret"] for custom in SEVERAL["custom_secrets"].values() if custom["secret"]),
            "contract-secret",
        ]
        event: dict[str, Any] = {"content": [" ".join(secrets)], "nested": json.dumps({"all": secrets})}
        for masked in (masker.mask(event), json.loads(masker.mask(json.dumps(event)))):
            assert not any(secret in masked["content"][0] for secret in secrets)
            assert json.loads(masked["nested"]) == {"all": [REPLACEMENT] * len(secrets)}
        harmless = "github.example.com, the production database, DATABASE_URL"
        assert masker.mask(harmless) == harmless

    async def test_a_refreshed_masker_knows_what_the_secrets_are_now(self, store: SecretsStore) -> None:
        masker = await store.masker()
        assert masker.mask("contract-secret-1") == "contract-secret-1"
        await store.set_custom_secret("A", "contract-secret-1")
        await masker.refresh()
        assert masker.mask("contract-secret-1") == REPLACEMENT
        await store.delete_custom_secret("A")
        await masker.refresh()
        assert masker.mask("contract-secret-1") == "contract-secret-1"
        assert "contract-secret-1" not in repr(masker)

    # ---- what is refused

    @pytest.mark.parametrize("name", ["", "a\nb", "a\0b", "\x7f", "\u00e9" * 128, "\ud800"])
    async def test_a_name_has_1_to_255_printable_bytes(self, store: SecretsStore, name: str) -> None:
        with pytest.raises(InvalidInput):
            await store.set_custom_secret(name, "s")
        with pytest.raises(InvalidInput):
            await store.set_provider_token(name, "s")
        await store.set_custom_secret("\u00e9" * 127 + "n", "s")

    async def test_a_secret_has_at_most_a_mebibyte(self, store: SecretsStore) -> None:
        most = "\u00e9" * (MAX_SECRET_BYTES // 2)
        await store.set_custom_secret("LARGE", most)
        assert (await store.get_custom_secret("LARGE")).secret.get_secret_value() == most
        with pytest.raises(InvalidInput, match=str(MAX_SECRET_BYTES)):
            await store.set_custom_secret("LARGE", most + "x")
        assert (await store.get_custom_secret("LARGE")).secret.get_secret_value() == most

    async def test_a_mask_is_never_stored_in_place_of_a_secret(self, store: SecretsStore) -> None:
        await store.store(UserSecrets(**SEVERAL))
        with pytest.raises(InvalidInput):
            await store.set_custom_secret("DATABASE_URL", MASK)
        with pytest.raises(InvalidInput):
            await store.store(UserSecrets(**UserSecrets(**SEVERAL).model_dump()))
        assert await store.load() == UserSecrets(**SEVERAL)

    @pytest.mark.parametrize("token", ["", "  ", SecretStr("")])
    async def test_an_empty_token_is_refused(self, store: SecretsStore, token: str) -> None:
        with pytest.raises(InvalidInput, match="empty"):
            await store.set_provider_token("github", token)

    async def test_text_that_cannot_be_encoded_is_refused_without_showing_it(self, store: SecretsStore) -> None:
        with pytest.raises(InvalidInput) as caught:
            await store.set_custom_secret("A", SecretStr("contract-secret \ud800"))
        error: BaseException | None = caught.value
        while error is not None:
            assert "contract-secret" not in f"{error} {error.args!r}"
            error = error.__cause__ or error.__context__

    async def test_another_user_sees_nothing_of_it(self, store_for: StoreFor, store: SecretsStore) -> None:
        await store.store(UserSecrets(**SEVERAL))
        other = store_for(f"contract-{uuid.uuid4().hex}")
        assert await other.load() is None
        assert await other.list() == []
        assert not await other.delete_custom_secret("EMPTY")
        await other.store(UserSecrets())
        assert await store.load() == UserSecrets(**SEVERAL)
