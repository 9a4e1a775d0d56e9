"""`storage files` lists as a shell does and writes bytes as they are."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

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


def test_tree_draws_folders_and_files(example: Shell) -> None:
    lines = example.well("files", "tree", FOLDER).lines
    assert lines[0] == FOLDER
    assert lines[1] == "├── agent_state.pkl"
    assert lines[2] == "└── events/"
    assert lines[3] == "    ├── 0.json"
    assert lines[-3] == "    └── 8.json"
    files = len(example.well("files", "ls", "-r", FOLDER).lines)
    assert lines[-2:] == ["", f"1 folder, {files} files"]


def test_tree_goes_on_with_a_line_beside_what_is_deeper(example: Shell) -> None:
    lines = example.well("files", "tree", "sessions").lines
    assert lines[1].startswith("├── ")
    assert lines[2] == "│   ├── agent_state.pkl"


def test_tree_stops_at_a_depth(example: Shell) -> None:
    lines = example.well("files", "tree", "--depth", "1").lines
    assert lines == ["/", "└── sessions/", "", "1 folder, 0 files"]
    shown = example.well("files", "tree", FOLDER, "-L", "1", "--json").json
    assert {entry["path"]: entry["kind"] for entry in shown}[f"{FOLDER}/events/"] == "folder"
    assert all("entries" not in entry for entry in shown)
    whole = example.well("files", "tree", FOLDER, "--json").json
    (events,) = [entry["entries"] for entry in whole if entry["kind"] == "folder"]
    assert {"path": EVENT, "kind": "file"} in events


def test_tree_draws_with_plain_characters_where_there_are_no_others(
    example: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.cli.files._BRANCHES", ("\udc00",) * 4)  # what no encoding has
    assert "    `-- 8.json" in example.well("files", "tree", FOLDER).lines


def test_cat_writes_a_part(example: Shell) -> None:
    content = (EXAMPLE / EVENT).read_bytes()
    assert example.well("files", "cat", EVENT, "--start", "5", "--end", "20").content == content[5:20]
    assert example.well("files", "cat", EVENT, "--start", "5").content == content[5:]
    assert example.well("files", "cat", EVENT, "--end", "5").content == content[:5]
    assert "refused" in example.badly("files", "cat", EVENT, "--start", "5", "--end", "4")


def test_stat_shows_one_file(example: Shell) -> None:
    shown = example.well("files", "stat", EVENT, "--json").json
    (listed,) = example.well("files", "ls", EVENT, "--json").json
    assert shown == listed
    lines = dict(line.split(maxsplit=1) for line in example.well("files", "stat", EVENT).lines if "  " in line)
    assert lines["path"] == EVENT
    assert lines["sha256"] == shown["sha256"]


def test_cat_writes_the_very_bytes(example: Shell) -> None:
    for path in (EVENT, PICKLE):
        assert example.well("files", "cat", path).content == (EXAMPLE / path).read_bytes()


def test_a_file_or_folder_that_is_not_there_is_not_found(example: Shell) -> None:
    assert "sessions/nope" in example.badly("files", "cat", "sessions/nope")
    assert "sessions/nope" in example.badly("files", "ls", "sessions/nope")
    assert "sessions/nope" in example.badly("files", "tree", "sessions/nope")
    assert "sessions/nope" in example.badly("files", "stat", "sessions/nope")
    assert example.badly("files", "cat", EVENT, "--user", "alice")


def test_a_path_that_leads_outside_is_refused(example: Shell) -> None:
    assert ".." in example.badly("files", "cat", "../../etc/passwd")
    assert ".." in example.badly("files", "ls", "../..")


def test_an_empty_storage_lists_nothing(shell: Shell) -> None:
    shell.well("init")
    assert shell.well("files", "ls").output == ""
    assert shell.well("files", "ls", "--json").json == []
    assert shell.well("files", "tree").lines == ["", "0 folders, 0 files"]


def test_an_altered_file_fails_and_says_so(shell: Shell) -> None:
    shell("import", "openhands", EXAMPLE)
    for blob in (shell.folder / "storage/files").rglob("*"):
        if blob.is_file():
            blob.write_bytes(b"?" * blob.stat().st_size)
    outcome = shell("files", "cat", EVENT)
    assert outcome.code == 1
    assert "error: " in outcome.errors
