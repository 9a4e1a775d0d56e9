"""`storage files` lists as a shell does and writes bytes as they are."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from tests.cli.conftest import EXAMPLE

if TYPE_CHECKING:
    from tests.cli.conftest import Shell

FOLDER = "sessions/1b7e90d3c5f24a68b0917d5e2c84aa02"
EVENT = f"{FOLDER}/events/0.json"
PICKLE = f"{FOLDER}/agent_state.pkl"


def test_ls_lists_one_level_and_marks_folders(example: Shell) -> None:
    assert example.well("files", "ls").lines == ["sessions/"]
    assert f"{FOLDER}/" in example.well("files", "ls", "sessions").lines
    assert {f"{FOLDER}/events/", PICKLE} <= set(example.well("files", "ls", FOLDER).lines)


def test_ls_recursive_lists_every_file_below(example: Shell) -> None:
    lines = example.well("files", "ls", "-r", FOLDER).lines
    assert lines == sorted(lines)
    assert EVENT in lines
    assert not any(line.endswith("/") for line in lines)


def test_ls_of_a_file_is_the_file(example: Shell) -> None:
    assert example.well("files", "ls", EVENT).lines == [EVENT]


def test_json_tells_size_and_hash_of_files_and_kind_of_folders(example: Shell) -> None:
    content = (EXAMPLE / EVENT).read_bytes()
    (entry,) = example.well("files", "ls", EVENT, "--json").json
    assert entry["kind"] == "file"
    assert entry["size"] == len(content)
    assert entry["sha256"] == sha256(content).hexdigest()
    assert entry["media_type"] == "application/json"
    assert entry["updated_at"].endswith("Z")
    assert example.well("files", "ls", "--json").json == [{"path": "sessions/", "kind": "folder"}]


def test_long_adds_up_the_sizes(example: Shell) -> None:
    lines = example.well("files", "ls", "--long", f"{FOLDER}/events").lines
    assert lines[0].split() == ["Size", "Updated", "(UTC)", "SHA-256", "Path"]
    assert lines[-1].startswith("9 files, ")


def test_cat_writes_the_very_bytes(example: Shell) -> None:
    for path in (EVENT, PICKLE):
        assert example.well("files", "cat", path).content == (EXAMPLE / path).read_bytes()


def test_a_file_or_folder_that_is_not_there_is_not_found(example: Shell) -> None:
    assert "sessions/nope" in example.badly("files", "cat", "sessions/nope")
    assert "sessions/nope" in example.badly("files", "ls", "sessions/nope")
    assert example.badly("files", "cat", EVENT, "--user", "alice")


def test_a_path_that_leads_outside_is_refused(example: Shell) -> None:
    assert ".." in example.badly("files", "cat", "../../etc/passwd")
    assert ".." in example.badly("files", "ls", "../..")


def test_an_empty_storage_lists_nothing(shell: Shell) -> None:
    shell.well("init")
    assert shell.well("files", "ls").output == ""
    assert shell.well("files", "ls", "--json").json == []


def test_an_altered_file_fails_and_says_so(shell: Shell) -> None:
    shell("import", "openhands", EXAMPLE)
    for blob in (shell.folder / "storage/files").rglob("*"):
        if blob.is_file():
            blob.write_bytes(b"?" * blob.stat().st_size)
    outcome = shell("files", "cat", EVENT)
    assert outcome.code == 1
    assert "error: " in outcome.errors
