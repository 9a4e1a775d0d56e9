"""`storage files put` stores files, folders and what comes through a pipe, whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import REPOSITORY, Shell
from tests.cli.standard_input import Piped
from tests.cli.terminal import typed

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def desk(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A storage, in the folder of a person with some files."""
    shell.well("init")
    monkeypatch.chdir(shell.folder)
    (shell.folder / "note.txt").write_text("first")
    tree = shell.folder / "tree"
    (tree / "deep" / "er").mkdir(parents=True)
    (tree / "a.json").write_text("{}")
    (tree / "deep" / "er" / "é.png").write_bytes(b"\x89PNG")
    return shell


def listed(shell: Shell) -> list[str]:
    return shell.well("files", "ls", "-r").lines


def test_a_file_keeps_its_name_or_gets_the_path_or_goes_into_the_folder(desk: Shell) -> None:
    assert desk.well("files", "put", "note.txt").lines == ["note.txt: stored, 5 B"]
    desk.well("files", "put", "tree/../note.txt", "texts/renamed.txt")
    desk.well("files", "put", desk.folder / "note.txt", "texts/")
    assert listed(desk) == ["note.txt", "texts/note.txt", "texts/renamed.txt"]
    assert desk.well("files", "cat", "texts/note.txt").content == b"first"


def test_it_replaces_unless_it_is_only_to_create(desk: Shell) -> None:
    stored = desk.well("files", "put", "note.txt", "--json").json
    assert (stored["version"], stored["size"], stored["media_type"]) == (1, 5, "text/plain")
    (desk.folder / "note.txt").write_text("second")
    assert "already" in desk.badly("files", "put", "note.txt", "--if-absent")
    assert desk.well("files", "cat", "note.txt").content == b"first"
    assert desk.well("files", "put", "note.txt").lines == ["note.txt: stored as version 2, 6 B"]
    assert desk.well("files", "cat", "note.txt").content == b"second"


def test_the_media_type_can_be_given(desk: Shell) -> None:
    desk.well("files", "put", "note.txt", "--media-type", "text/markdown")
    assert desk.well("files", "stat", "note.txt", "--json").json["media_type"] == "text/markdown"


def test_the_standard_input_is_stored_as_it_comes(tmp_path: Path) -> None:
    piped = Piped(tmp_path)
    piped.well("init")
    content = bytes(range(256)) * 10_000
    stored = piped.into(content).well("files", "put", "-", "pipe/d.bin", "--json").json
    assert stored["sha256"] == sha256(content).hexdigest()
    assert piped.well("files", "cat", "pipe/d.bin").content == content
    assert "whole PATH" in piped.badly("files", "put", "-")
    assert "whole PATH" in piped.badly("files", "put", "-", "pipe/")
    assert "no folder" in piped.badly("files", "put", "-", "pipe", "-r")


def test_a_terminal_or_a_closed_standard_input_is_refused(desk: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    assert b"pipe the content" in typed(desk, "files", "put", "-", "x", answers=[]).content
    monkeypatch.setattr(sys, "stdin", None)
    assert "closed" in desk.badly("files", "put", "-", "x")


def test_a_folder_needs_recursive_and_goes_below_the_path(desk: Shell) -> None:
    assert "--recursive" in desk.badly("files", "put", "tree")
    assert desk.well("files", "put", "-r", "tree", "--json").json == {
        "files": 2,
        "bytes": 6,
        "kept": 0,
        "skipped": [],
    }
    desk("files", "put", "-r", "tree", "copies/")
    desk("files", "put", "-r", "tree", "renamed")
    desk("files", "put", "-r", "tree", ".")
    desk("files", "put", "-r", "tree/deep/..", "up")
    names = ["a.json", "deep/er/é.png"]
    roots = ["", "copies/tree/", "renamed/", "tree/", "up/"]
    assert listed(desk) == sorted(root + name for root in roots for name in names)


def test_a_folder_again_with_if_absent_stores_what_is_missing(desk: Shell) -> None:
    desk("files", "put", "-r", "tree")
    (desk.folder / "tree" / "a.json").write_text("[1]")
    (desk.folder / "tree" / "new").write_text("new")
    again = desk("files", "put", "-r", "tree", "--if-absent")
    assert again.lines == ["1 file, 3 B, 2 left as they were"]
    assert desk.well("files", "cat", "tree/a.json").content == b"{}"
    assert desk.well("files", "put", "-r", "tree", "--json").json["files"] == 3
    assert desk.well("files", "cat", "tree/a.json").content == b"[1]"


def test_links_and_what_is_no_file_are_left_out_and_named(desk: Shell) -> None:
    (desk.folder / "tree" / "link").symlink_to("/etc/passwd")
    os.mkfifo(desk.folder / "tree" / "pipe")
    outcome = desk("files", "put", "-r", "tree", "t")
    assert outcome.code == 0
    assert "left out: tree/link: a symbolic link" in outcome.errors
    assert "left out: tree/pipe: not a plain file" in outcome.errors
    assert listed(desk) == ["t/a.json", "t/deep/er/é.png"]
    skipped = desk.well("files", "put", "-r", "tree", "t", "--json").json["skipped"]
    assert skipped[0] == {"path": "tree/link", "reason": "a symbolic link"}


@pytest.mark.parametrize("name", ["back\\slash", "line\nbreak", "\udcff"])
def test_a_folder_with_a_name_that_cannot_be_stored_is_refused_as_a_whole(desk: Shell, name: str) -> None:
    (desk.folder / "tree" / name).write_text("")
    assert "not allowed" in desk.badly("files", "put", "-r", "tree")
    assert listed(desk) == []


def test_two_names_that_are_one_path_are_refused(desk: Shell) -> None:
    (desk.folder / "tree" / "e\u0301").write_text("")
    (desk.folder / "tree" / "é").write_text("")
    assert "rename one of them" in desk.badly("files", "put", "-r", "tree")


def test_what_is_not_there_or_not_readable_is_said_by_name(desk: Shell) -> None:
    assert "nope" in desk.badly("files", "put", "nope")
    assert "nope" in desk.badly("files", "put", "-r", "nope")
    assert "one file" in desk.badly("files", "put", "-r", "tree", "--media-type", "text/plain")
    assert listed(desk) == []


def test_progress_goes_to_stderr(desk: Shell) -> None:
    outcome = desk("files", "put", "-r", "tree")
    assert "storing: 2 of 2 files" in outcome.errors
    (desk.folder / "large").write_bytes(bytes(20_000_000))
    outcome = desk("files", "put", "large")
    assert outcome.lines == ["large: stored, 20.0 MB"]
    assert "storing: 20.0 MB of 20.0 MB" in outcome.errors
    assert desk.well("files", "put", "large", "--json").json["version"] == 2


@pytest.mark.slow
def test_a_large_pipe_does_not_fill_the_memory(desk: Shell) -> None:
    code = """
import sys
from storage.cli import main
try:
    main(["files", "put", "-", "large"])
finally:
    # Not getrusage: a process begins with the peak of the one that has started it.
    (peak,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
    print(peak, file=sys.stderr)
"""
    environment = {**os.environ, **desk.environment, "PYTHONPATH": str(REPOSITORY)}
    source = subprocess.Popen(["head", "-c", "100000000", "/dev/zero"], stdout=subprocess.PIPE)
    with source:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdin=source.stdout,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
    assert "large: stored, 100.0 MB" in done.stdout
    assert int(done.stderr.split()[-1]) < 160_000, "kibibytes, of which the interpreter and the libraries take half"
