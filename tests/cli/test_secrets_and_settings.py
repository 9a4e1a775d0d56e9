"""`storage settings` and `storage secrets` show what is set and never what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.cli.conftest import WRONG_KEY

if TYPE_CHECKING:
    from tests.cli.conftest import Shell

CLEAR = ("not-real", "example-key", "example-github-token", "example-mcp-key", "db.example.com")


def test_settings_show_says_of_each_secret_whether_it_is_set(example: Shell) -> None:
    shown = example.well("settings", "show", "--json").json
    assert shown["settings"]["llm_model"] == "anthropic/claude-sonnet-4-20250514"
    assert shown["settings"]["condenser_max_size"] == 120
    assert shown["secrets"]["llm_api_key"] == "set"
    assert shown["secrets"]["search_api_key"] == "unset"
    assert "llm_api_key" not in shown["settings"]
    lines = example.well("settings", "show").lines
    assert ["llm_api_key", "set"] in [line.split() for line in lines]


def test_secrets_list_names_every_secret(example: Shell) -> None:
    listed = example.well("secrets", "list", "--json").json
    assert {(info["kind"], info["name"], info["state"]) for info in listed} == {
        ("provider_token", "github", "set"),
        ("provider_token", "gitlab", "set"),
        ("custom_secret", "DATABASE_URL", "set"),
        ("custom_secret", "SENTRY_DSN", "set"),
    }
    lines = example.well("secrets", "list").lines
    assert any("DATABASE_URL" in line and "the staging database" in line for line in lines)


def test_no_command_shows_a_secret(example: Shell) -> None:
    for words in (
        ("settings", "show"),
        ("secrets", "list"),
        ("status",),
        ("report",),
        ("files", "ls", "-r"),
    ):
        for form in ((), ("--json",)):
            output = example.well(*words, *form).output
            assert not any(secret in output for secret in CLEAR)


def test_without_the_key_secrets_are_unreadable_and_the_rest_is_shown(example: Shell) -> None:
    outcome = example.well("settings", "show", "--json", STORAGE_MASTER_KEY=WRONG_KEY)
    assert outcome.errors.startswith("warning: secrets are locked")
    shown = outcome.json
    assert shown["settings"]["language"] == "en"
    assert shown["secrets"]["llm_api_key"] == "unreadable"
    listed = example.well("secrets", "list", "--json", STORAGE_MASTER_KEY=WRONG_KEY).json
    assert {info["state"] for info in listed} == {"unreadable"}
    assert len(listed) == 4


def test_a_user_who_stored_nothing_is_no_error(example: Shell) -> None:
    assert example.well("settings", "show", "--user", "bob", "--json").json["settings"] is None
    assert "no settings" in example.well("settings", "show", "--user", "bob").output
    assert example.well("secrets", "list", "--user", "bob", "--json").json == []
    assert "no secrets" in example.well("secrets", "list", "--user", "bob").output
