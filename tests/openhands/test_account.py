"""settings.json and secrets.json, as they are and as users have broken them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from storage.openhands.account import Account, is_masked, read_secrets, read_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.openhands.conftest import Reading, StateDirectory


def settings_of(raw: dict[str, Any]) -> Account:
    account = Account(None)
    read_settings(json.dumps(raw).encode(), "settings.json", account)
    return account


def secrets_of(raw: dict[str, Any]) -> Account:
    account = Account(None)
    read_secrets(json.dumps(raw).encode(), "secrets.json", account)
    return account


def told(account: Account) -> list[tuple[str, str]]:
    return [(flaw.code, flaw.message.split()[0]) for flaw in account.flaws]


def test_settings_are_taken_as_they_are() -> None:
    account = settings_of(
        {"language": "en", "llm_api_key": "example-key-not-real", "secrets_store": {"provider_tokens": {}}}
    )
    assert account.settings == {"language": "en", "llm_api_key": "example-key-not-real"}
    assert (account.secrets, account.flaws) == (None, [])


def test_a_masked_key_is_not_imported() -> None:
    account = settings_of({"language": "en", "sandbox_api_key": "**********"})
    assert account.settings == {"language": "en"}
    assert told(account) == [("masked-secret", "sandbox_api_key")]


def test_a_masked_key_inside_the_mcp_configuration_is_not_imported() -> None:
    account = settings_of(
        {
            "mcp_config": {
                "shttp_servers": [{"url": "https://mcp.example.com", "api_key": "**********"}],
                "stdio_servers": [{"name": "n", "args": ["a", "*****"], "env": {"TOKEN": "********", "HOME": "/"}}],
            }
        }
    )
    assert account.settings == {
        "mcp_config": {
            "shttp_servers": [{"url": "https://mcp.example.com"}],
            "stdio_servers": [{"name": "n", "args": ["a"], "env": {"HOME": "/"}}],
        }
    }
    assert told(account) == [
        ("masked-secret", "mcp_config.shttp_servers[0].api_key"),
        ("masked-secret", "mcp_config.stdio_servers[0].args[1]"),
        ("masked-secret", "mcp_config.stdio_servers[0].env.TOKEN"),
    ]


@pytest.mark.parametrize(
    ("value", "masked"), [("**********", True), (" **** ", True), ("***", False), ("a****", False), (None, False)]
)
def test_a_mask_is_nothing_but_asterisks(value: object, masked: bool) -> None:
    assert is_masked(value) is masked


def test_an_unknown_setting_is_kept_and_told() -> None:
    account = settings_of({"setting_of_tomorrow": [1]})
    assert account.settings == {"setting_of_tomorrow": [1]}
    assert told(account) == [("unknown-field", "setting_of_tomorrow")]


@pytest.mark.parametrize("name", ["secrets_store", "secret_store"])
def test_secrets_that_an_older_release_kept_in_the_settings_are_secrets(name: str) -> None:
    account = settings_of({name: {"provider_tokens": {"github": {"token": "example-not-real"}}}})
    assert account.settings == {}
    assert account.secrets is not None
    assert account.secrets.provider_tokens == {"github": {"token": "example-not-real", "host": None, "user_id": None}}
    assert told(account) == [("secrets-in-settings", name)]


def test_the_secrets_file_wins_over_secrets_in_the_settings(
    state: StateDirectory, reading: Callable[[], Reading]
) -> None:
    tokens = {"github": {"token": "old-not-real"}, "gitlab": {"token": "only-not-real"}}
    state.write("settings.json", {"secrets_store": {"provider_tokens": tokens}})
    state.write("secrets.json", {"provider_tokens": {"github": {"token": "new-not-real"}}})
    (account,) = reading().accounts
    assert account.secrets is not None
    assert {name: value["token"] for name, value in account.secrets.provider_tokens.items()} == {
        "github": "new-not-real",
        "gitlab": "only-not-real",
    }


def test_secrets_are_taken_as_they_are() -> None:
    account = secrets_of(
        {
            "provider_tokens": {"github": {"token": "t-not-real", "host": "github.example.com", "user_id": 42}},
            "custom_secrets": {"UNICODE_秘密": {"secret": "pässwörd 🔑\nsecond line", "description": "two lines"}},
        }
    )
    assert account.secrets is not None
    assert account.secrets.provider_tokens == {
        "github": {"token": "t-not-real", "host": "github.example.com", "user_id": "42"}
    }
    assert account.secrets.custom_secrets == {
        "UNICODE_秘密": {"secret": "pässwörd 🔑\nsecond line", "description": "two lines"}
    }
    assert account.flaws == []


def test_an_empty_secret_is_imported_empty_and_told() -> None:
    account = secrets_of({"custom_secrets": {"EMPTY": {"secret": "", "description": ""}}})
    assert account.secrets is not None
    assert account.secrets.custom_secrets == {"EMPTY": {"secret": "", "description": ""}}
    assert told(account) == [("empty-secret", "custom_secrets.EMPTY")]


@pytest.mark.parametrize(
    ("provider", "code"),
    [
        ({"token": ""}, "empty-token"),
        ({"token": None, "host": "h"}, "empty-token"),
        ({"token": "**********"}, "masked-secret"),
        (7, "bad-value"),
    ],
)
def test_a_provider_without_a_usable_token_is_skipped(provider: object, code: str) -> None:
    account = secrets_of({"provider_tokens": {"github": provider}})
    assert account.secrets is not None
    assert account.secrets.provider_tokens == {}
    assert told(account) == [(code, "provider_tokens.github")]


@pytest.mark.parametrize(
    ("secret", "code"),
    [({"secret": "********"}, "masked-secret"), ({"description": "d"}, "bad-value"), ([], "bad-value")],
)
def test_a_custom_secret_without_a_usable_value_is_skipped(secret: object, code: str) -> None:
    account = secrets_of({"custom_secrets": {"A": secret}})
    assert account.secrets is not None
    assert account.secrets.custom_secrets == {}
    assert told(account) == [(code, "custom_secrets.A")]


def test_secrets_given_as_bare_texts_are_taken() -> None:
    account = secrets_of({"provider_tokens": {"github": "t-not-real"}, "custom_secrets": {"A": "s-not-real"}})
    assert account.secrets is not None
    assert account.secrets.provider_tokens["github"]["token"] == "t-not-real"
    assert account.secrets.custom_secrets["A"]["secret"] == "s-not-real"


def test_an_unknown_provider_of_a_token_is_kept_and_told() -> None:
    account = secrets_of({"provider_tokens": {"sourcehut": {"token": "t-not-real"}}})
    assert account.secrets is not None
    assert "sourcehut" in account.secrets.provider_tokens
    assert told(account) == [("unknown-provider", "provider_tokens.sourcehut")]


def test_an_unknown_part_of_the_secrets_is_kept_and_told() -> None:
    account = secrets_of({"vault": {"A": "s-not-real", "B": "**********"}})
    assert account.secrets is not None
    assert account.secrets.others == {"vault": {"A": "s-not-real"}}
    assert told(account) == [("masked-secret", "vault.B"), ("unknown-field", "vault")]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b'{"llm_api_key": "visible-not-real'])
def test_a_broken_file_is_told_without_what_it_holds(
    state: StateDirectory, reading: Callable[[], Reading], data: bytes
) -> None:
    state.write("settings.json", data)
    state.write("secrets.json", data)
    found = reading()
    assert found.codes == ["secrets-broken", "settings-broken"]
    assert "not-real" not in repr(found.flaws)
    assert found.loose_files == []


def test_each_users_settings_and_secrets_are_their_own(state: StateDirectory, reading: Callable[[], Reading]) -> None:
    state.write("settings.json", {"language": "en"})
    state.write("users/alice/settings.json", {"language": "de"})
    state.write("users/bob/secrets.json", {"custom_secrets": {"A": {"secret": "x"}}})
    accounts = {account.user: account for account in reading().accounts}
    assert list(accounts) == [None, "alice", "bob"]
    assert accounts["alice"].settings == {"language": "de"}
    assert accounts["bob"].settings is None


def test_no_secret_shows_in_a_representation() -> None:
    account = settings_of(
        {"llm_api_key": "visible-1", "secrets_store": {"provider_tokens": {"github": {"token": "visible-2"}}}}
    )
    read_secrets(b'{"custom_secrets": {"A": {"secret": "visible-3"}}}', "secrets.json", account)
    assert "visible" not in repr(account)
    assert "visible" not in repr(account.secrets)
