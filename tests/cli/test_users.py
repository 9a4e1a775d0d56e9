"""`storage users` shows who has something stored, and deletes a user whole, once that is confirmed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import EXAMPLE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Shell


def test_everyone_who_has_something_is_listed(example: Shell) -> None:
    listed = example.well("users", "list", "--json").json
    assert [user["user_id"] for user in listed] == ["alice", "bob", "local"]
    local = listed[-1]["rows"]
    assert (local["provider_token"], local["custom_secret"], local["settings"], local["data_key"]) == (2, 2, 1, 1)
    assert sum(user["rows"]["conversation"] for user in listed) == 12
    rows = [line.split() for line in example.well("users", "list").lines]
    assert rows[0] == ["User", "Conversations", "Files", "Secrets", "Settings"]
    assert rows[-1] == ["local", str(local["conversation"]), str(local["file"]), "4", "stored"]


def test_a_storage_without_users_is_no_error(either_shell: Shell) -> None:
    assert either_shell.well("users", "list", "--json").json == []
    assert either_shell.well("users", "list").output == "no users\n"


def test_deleting_a_user_removes_all_that_is_theirs_and_nothing_else(either_shell: Shell) -> None:
    either_shell("import", "openhands", EXAMPLE)
    before = {user["user_id"]: user["rows"] for user in either_shell.well("users", "list", "--json").json}
    blobs = sum(path.is_file() for path in files(either_shell).rglob("*"))
    deleted = either_shell.well("users", "delete", "local", "--yes", "--json").json
    assert deleted["user_id"] == "local"
    assert deleted["rows"] == before.pop("local")
    assert deleted["blobs"] == blobs - sum(path.is_file() for path in files(either_shell).rglob("*"))
    assert deleted["blobs_left"] == []
    after = {user["user_id"]: user["rows"] for user in either_shell.well("users", "list", "--json").json}
    assert after == before
    assert either_shell.well("secrets", "list", "--json").json == []


def test_people_are_told_how_many_rows_of_each_table_went(shell: Shell) -> None:
    shell("import", "openhands", EXAMPLE)
    lines = [line.split() for line in shell.well("users", "delete", "local", "--yes").lines]
    assert lines[0] == ["deleted", "the", "user", "local"]
    assert ["custom_secret", "2"] in lines
    assert lines[-1][1:] == ["blobs", "of", "files", "removed"]


def test_without_a_terminal_it_has_to_be_confirmed_by_an_option(shell: Shell) -> None:
    shell("import", "openhands", EXAMPLE)
    assert "--yes" in shell.badly("users", "delete", "local")
    assert "local" in shell.well("users", "list").output


@pytest.mark.parametrize("words", [("nobody",), ("nobody", "--yes")])
def test_a_user_who_has_nothing_is_not_found(shell: Shell, words: tuple[str, ...]) -> None:
    shell.well("init")
    assert "'nobody'" in shell.badly("users", "delete", *words)


@pytest.mark.parametrize("user_id", ["", "a\nb", "a" * 256])
def test_an_id_that_none_can_have_is_refused(shell: Shell, user_id: str) -> None:
    shell.well("init")
    assert "user_id" in shell.badly("users", "delete", "--yes", "--", user_id)


def files(shell: Shell) -> Path:
    return shell.folder / "storage" / "files"
