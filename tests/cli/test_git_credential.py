"""`storage git-credential` as git runs it: what it prints, how it ends, and that asking changes nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.cli.conftest import WRONG_KEY, Outcome
from tests.cli.standard_input import CANARY, Piped

ANSWER = f"username=x-access-token\npassword={CANARY}\n"


@pytest.fixture
def piped(tmp_path: Path, database_url: str) -> Piped:
    """A storage in which alice has a token for GitHub and one for a host of her own."""
    shell = Piped(tmp_path, database_url)
    shell.into(b"").well("init")
    shell.into(CANARY.encode()).well("secrets", "set", "github", "--provider", "--user", "alice")
    shell.into(CANARY.encode())
    shell.well("secrets", "set", "gitlab", "--provider", "--user", "alice", "--host", "git.example.com:8443")
    return shell


def ask(piped: Piped, operation: str, *lines: str, user: str | None = "alice", **environment: str) -> Outcome:
    """What git does: it writes lines, an empty one, and reads."""
    words = [] if user is None else ["--user", user]
    piped.into("".join(f"{line}\n" for line in (*lines, "")).encode())
    return piped("git-credential", *words, operation, **environment)


def listed(piped: Piped) -> dict[str, str]:
    found = piped.well("secrets", "list", "--user", "alice", "--json").json
    return {info["name"]: info["state"] for info in found}


def ended_well(outcome: Outcome, output: str = "") -> bool:
    return (outcome.code, outcome.output, outcome.errors) == (0, output, "")


def test_the_token_of_the_host_is_printed(piped: Piped) -> None:
    assert ended_well(ask(piped, "get", "protocol=https", "host=github.com"), ANSWER)
    lines = ("capability[]=authtype", "protocol=https", "host=git.example.com:8443", 'wwwauth[]=Basic realm="x"')
    assert ended_well(ask(piped, "get", *lines), f"username=oauth2\npassword={CANARY}\n")


def test_where_there_is_nothing_to_say_nothing_is_said(piped: Piped) -> None:
    for lines in (
        ("protocol=https", "host=evil.example"),
        ("protocol=https", "host=github.com."),
        ("protocol=https", "host=github.com:8443"),
        ("protocol=https", "host=git.example.com"),
        ("protocol=https", "host=git.example.com:8443@evil.example"),
        ("protocol=http", "host=evil.example"),
        ("protocol=ssh", "host=github.com"),
        ("protocol=cert", "path=/home/alice/client.pem"),
    ):
        for operation in ("get", "store", "erase"):
            assert ended_well(ask(piped, operation, *lines, "username=alice", f"password={CANARY}"))
    assert listed(piped) == {"github": "set", "gitlab": "set"}


@pytest.mark.parametrize("user", ["bob", None])
def test_another_user_has_no_such_token(piped: Piped, user: str | None) -> None:
    assert ended_well(ask(piped, "get", "protocol=https", "host=github.com", user=user))


def test_what_git_would_not_have_sent_is_refused_in_one_line(tmp_path: Path) -> None:
    piped = Piped(tmp_path)
    for content in (
        b"protocol=https\nhost=evil.example\nhost=github.com\n\n",
        b"protocol=https\nhost=github.com\r\n\n",
        b"protocol=https\nhost=github.com\0\n\n",
        b"protocol=https\n\n",
        b"host=github.com\n\n",
        b"url=https://github.com\n\n",
        b"github.com\n",
        b"",
    ):
        for operation in ("get", "store", "erase"):
            told = piped.into(content).badly("git-credential", "--user", "alice", operation)
            assert "request" in told or "url" in told
            assert "github" not in told


def test_an_operation_of_a_later_git_is_passed_over(tmp_path: Path) -> None:
    for operation in ("capability", "list", "GET", ""):
        assert ended_well(ask(Piped(tmp_path), operation, "protocol=https", "host=github.com"))


def test_http_is_refused_unless_somebody_says_so(piped: Piped) -> None:
    lines = b"protocol=http\nhost=github.com\n\n"
    told = piped.into(lines).badly("git-credential", "--user", "alice", "get")
    assert "https://" in told
    assert CANARY not in told
    assert ended_well(piped.into(lines)("git-credential", "--user", "alice", "--allow-http", "get"), ANSWER)


def test_without_the_key_a_host_of_ours_gets_one_line_and_another_none(piped: Piped) -> None:
    locked = {"STORAGE_MASTER_KEY": WRONG_KEY}
    for operation in ("get", "erase"):
        outcome = ask(piped, operation, "protocol=https", "host=github.com", f"password={CANARY}", **locked)
        assert (outcome.code, outcome.output) == (1, "")
        assert outcome.errors.startswith("error: the master key")
        assert outcome.errors.count("\n") == 1
    assert ended_well(ask(piped, "get", "protocol=https", "host=evil.example", **locked))
    assert listed(piped) == {"github": "set", "gitlab": "set"}


def test_a_policy_that_wants_the_key_is_an_error_in_one_line(piped: Piped) -> None:
    policy = {"STORAGE_MASTER_KEY": WRONG_KEY, "STORAGE_REQUIRE_MASTER_KEY": "true"}
    outcome = ask(piped, "get", "protocol=https", "host=evil.example", **policy)
    assert (outcome.code, outcome.output, outcome.errors.count("\n")) == (1, "", 1)


def test_what_got_in_is_kept_and_what_was_refused_is_forgotten(piped: Piped) -> None:
    lines = ("protocol=https", "host=github.com", "username=x-access-token")
    assert ended_well(ask(piped, "erase", *lines, "password=another"))
    assert listed(piped)["github"] == "set"
    assert ended_well(ask(piped, "erase", *lines, f"password={CANARY}"))
    assert "github" not in listed(piped)
    assert ended_well(ask(piped, "store", *lines, f"password={CANARY}"))
    assert ended_well(ask(piped, "get", *lines[:2]), ANSWER)


def test_a_token_that_cannot_be_sent_in_a_line_is_not_sent(piped: Piped) -> None:
    piped.into(f"{CANARY}\nhost=evil.example".encode())
    piped.well("secrets", "set", "github", "--provider", "--user", "alice")
    outcome = ask(piped, "get", "protocol=https", "host=github.com")
    assert (outcome.code, outcome.output, outcome.errors.count("\n")) == (1, "", 1)
    assert CANARY not in outcome.errors


def test_asking_changes_nothing(tmp_path: Path, sqlite_url: str) -> None:
    piped = Piped(tmp_path, sqlite_url)
    piped.into(CANARY.encode()).well("secrets", "set", "github", "--provider", "--user", "alice")

    def content() -> dict[str, str]:
        found = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix not in {".db-wal", ".db-shm"}]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}

    before = content()
    lines = ("protocol=https", "host=github.com", "username=x-access-token", f"password={CANARY}")
    assert ended_well(ask(piped, "get", *lines[:2]), ANSWER)
    assert ended_well(ask(piped, "get", "protocol=https", "host=evil.example"))
    assert ended_well(ask(piped, "store", *lines))  # git says so after each success
    assert content() == before


@pytest.mark.parametrize("operation", ["get", "store", "erase"])
def test_a_misspelt_path_leaves_no_database_behind(tmp_path: Path, operation: str) -> None:
    piped = Piped(tmp_path)
    outcome = ask(piped, operation, "protocol=https", "host=github.com", "username=a", f"password={CANARY}")
    assert (outcome.code, outcome.output) == (1, "")
    assert outcome.errors.startswith("error: there is no database")
    assert list(tmp_path.iterdir()) == []
