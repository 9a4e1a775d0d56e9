"""`storage settings` and `storage secrets` show what is set, and what it is only where `--reveal` asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import EXAMPLE, WRONG_KEY, Shell
from tests.cli.standard_input import CANARY, Piped, revealed
from tests.cli.terminal import typed

if TYPE_CHECKING:
    from pathlib import Path

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


LISTED = ["kind", "name", "description", "state", "host", "provider_user_id", "created_at", "updated_at"]


@pytest.fixture
def piped(tmp_path: Path, database_url: str) -> Piped:
    shell = Piped(tmp_path, database_url)
    shell.into(b"").well("init")
    return shell


def test_a_secret_is_set_from_the_standard_input_and_shown_only_when_asked_to(piped: Piped) -> None:
    outcome = piped.into(f"{CANARY}\n".encode()).well("secrets", "set", "API_KEY", "--description", "for tests")
    assert outcome.output == "custom secret API_KEY of local: stored\n"
    shown = piped.well("secrets", "show", "API_KEY", "--json")
    assert list(shown.json) == LISTED
    assert (shown.json["state"], shown.json["description"]) == ("set", "for tests")
    assert CANARY not in outcome.output + shown.output + piped.well("secrets", "show", "API_KEY").output
    assert revealed(piped, "API_KEY") == f"{CANARY}\n".encode()
    assert list(piped.well("secrets", "show", "API_KEY", "--json", "--reveal").json) == [*LISTED, "value"]


def test_a_value_is_no_argument(shell: Shell) -> None:
    shell.well("init")
    assert shell("secrets", "set", "A", CANARY).code == 2
    assert shell("secrets", "set", "A", "--value", CANARY).code == 2
    assert shell.well("secrets", "list", "--json").json == []


def test_a_token_is_set_for_its_host_and_kept_for_it(piped: Piped) -> None:
    piped.into(CANARY.encode())
    piped.well("secrets", "set", "gitlab", "--provider", "--host", "git.example.com")
    assert piped.well("secrets", "list", "--json").json[0]["host"] == "git.example.com"
    assert revealed(piped, "gitlab", "--provider") == f"{CANARY}\n".encode()
    piped.into(b"another").well("secrets", "set", "gitlab", "--provider")
    shown = piped.well("secrets", "show", "gitlab", "--provider", "--json", "--reveal").json
    assert (shown["host"], shown["value"]) == ("git.example.com", "another")
    assert "--provider" in piped.badly("secrets", "set", "A", "--host", "git.example.com")
    assert "--description" in piped.badly("secrets", "set", "gitlab", "--provider", "--description", "x")


def test_setting_a_secret_again_replaces_its_value_and_keeps_the_rest(piped: Piped) -> None:
    piped.into(b"one").well("secrets", "set", "A", "--description", "first")
    assert piped.into(b"two").well("secrets", "set", "A").output == "custom secret A of local: replaced\n"
    shown = piped.well("secrets", "show", "A", "--json", "--reveal").json
    assert (shown["description"], shown["value"]) == ("first", "two")
    assert list(piped.into(b"two").well("secrets", "set", "A", "--description", "", "--json").json) == LISTED
    assert piped.well("secrets", "show", "A", "--json").json["description"] == ""


def test_without_the_right_key_nothing_is_set_or_revealed_and_deleting_works(piped: Piped) -> None:
    piped.into(CANARY.encode()).well("secrets", "set", "A")
    locked = {"STORAGE_MASTER_KEY": WRONG_KEY}
    assert piped.well("secrets", "show", "A", "--json", **locked).json["state"] == "unreadable"
    for words in (("set", "A"), ("show", "A", "--reveal")):
        outcome = piped("secrets", *words, **locked)
        assert (outcome.code, outcome.output) == (1, "")
        assert "not the one that this database's secrets" in outcome.errors.splitlines()[-1]
    assert revealed(piped, "A") == f"{CANARY}\n".encode()
    assert piped.well("secrets", "delete", "A", **locked).output == "custom secret A: deleted\n"
    assert piped.well("secrets", "list", "--json").json == []


def test_the_policy_can_forbid_to_reveal(piped: Piped) -> None:
    piped.into(CANARY.encode()).well("secrets", "set", "A")
    for form in ((), ("--json",)):
        told = piped.badly("secrets", "show", "A", "--reveal", *form, STORAGE_ALLOW_REVEAL="false")
        assert "allow_reveal" in told
        assert CANARY not in told
    assert piped.well("secrets", "show", "A", STORAGE_ALLOW_REVEAL="false").output


def test_a_secret_that_is_not_there_is_not_found(piped: Piped) -> None:
    piped.into(b"x").well("secrets", "set", "github")
    for words in (("show", "B"), ("show", "B", "--reveal"), ("show", "github", "--provider"), ("delete", "B")):
        assert "is stored" in piped.badly("secrets", *words)
    assert "'B'" in piped.badly("secrets", "show", "B", "--user", "alice")


def test_deleting_a_secret_leaves_the_others(example: Shell, shell: Shell) -> None:
    shell("import", "openhands", EXAMPLE)
    deleted = shell.well("secrets", "delete", "github", "--provider", "--json").json
    assert deleted == {"kind": "provider_token", "name": "github", "deleted": True}
    names = [info["name"] for info in shell.well("secrets", "list", "--json").json]
    assert names == ["DATABASE_URL", "SENTRY_DSN", "gitlab"]


@pytest.mark.parametrize(
    "words", [("set", ""), ("set", "a\nb"), ("set", "A", "--user", ""), ("delete", "A", "--user", "")]
)
def test_names_and_users_that_none_can_have_are_refused(piped: Piped, words: tuple[str, ...]) -> None:
    piped.into(CANARY.encode())
    told = piped.badly("secrets", *words)
    assert "must be" in told or "unprintable" in told
    assert CANARY not in told


def test_a_value_cannot_steer_the_terminal_and_reaches_a_pipe_as_it_is(shell: Shell, tmp_path: Path) -> None:
    piped = Piped(tmp_path).into(b"a\x1b[2Jb\nc\td")
    piped.well("init")
    piped.well("secrets", "set", "A")
    assert revealed(piped, "A") == b"a\x1b[2Jb\nc\td\n"
    assert typed(shell, "secrets", "show", "A", "--reveal", answers=[]).output.splitlines()[0] == "a\\x1b[2Jb"


def test_one_secret_setting_is_set_and_unset_and_the_others_stay(piped: Piped) -> None:
    piped("import", "openhands", EXAMPLE)
    before = piped.well("settings", "show", "--json").json
    outcome = piped.into(f"{CANARY}\n".encode()).well("settings", "set-secret", "search_api_key")
    assert outcome.output == "search_api_key: set\n"
    after = piped.well("settings", "show", "--json").json
    assert after["secrets"] == {**before["secrets"], "search_api_key": "set"}
    assert after["settings"] == before["settings"]
    locked = {"STORAGE_MASTER_KEY": WRONG_KEY}
    unset = piped.well("settings", "unset-secret", "search_api_key", "--json", **locked).json
    assert unset == {"name": "search_api_key", "state": "unset"}
    assert piped.well("settings", "show", "--json").json == before


def test_a_secret_setting_that_is_no_text_is_json(piped: Piped) -> None:
    content = f'{{"shttp_servers": [{{"url": "https://mcp.example.com", "api_key": "{CANARY}"}}]}}'.encode()
    assert piped.into(content).well("settings", "set-secret", "mcp_config", "--json").json == {
        "name": "mcp_config",
        "state": "set",
    }
    assert CANARY not in piped.well("settings", "show", "--json").output
    told = piped.into(content[:-1]).badly("settings", "set-secret", "mcp_config")
    assert "is no JSON" in told
    assert CANARY not in told


def test_a_setting_that_is_not_secret_is_not_set_as_one(piped: Piped) -> None:
    told = piped.into(CANARY.encode()).badly("settings", "set-secret", "llm_model")
    assert "llm_api_key" in told
    assert CANARY not in told
    assert "llm_api_key" in piped.badly("settings", "unset-secret", "nothing")
