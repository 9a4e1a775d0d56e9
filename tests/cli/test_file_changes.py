"""`storage files rm`, `cp` and `mv` do what a shell's do, and ask before a folder goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.terminal import typed

if TYPE_CHECKING:
    from tests.cli.conftest import Shell

FILES = ["a", "f/1", "f/2", "f/g/3", "fg"]


@pytest.fixture
def desk(shell: Shell) -> Shell:
    shell.well("init")
    for path in FILES:
        file = shell.folder / "home" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path)
    shell.well("files", "put", "-r", shell.folder / "home", ".", "--json")
    return shell


def listed(shell: Shell) -> list[str]:
    return shell.well("files", "ls", "-r").lines


def contents(shell: Shell, *paths: str) -> list[str]:
    return [shell.well("files", "cat", path).output for path in paths]


def test_rm_deletes_one_file(desk: Shell) -> None:
    assert desk.well("files", "rm", "f/1").lines == ["f/1: 1 file deleted"]
    assert desk.well("files", "rm", "/a", "--json").json == {"path": "a", "deleted": 1}
    assert listed(desk) == ["f/2", "f/g/3", "fg"]


def test_rm_deletes_a_folder_only_if_told_twice(desk: Shell) -> None:
    assert "--recursive" in desk.badly("files", "rm", "f", "--yes")
    assert "--yes" in desk.badly("files", "rm", "-r", "f")
    assert listed(desk) == FILES
    assert desk.well("files", "rm", "-r", "f", "--yes").lines == ["f: 3 files deleted"]
    assert listed(desk) == ["a", "fg"]


def test_rm_asks_on_a_terminal_for_the_folder(desk: Shell) -> None:
    asked = typed(desk, "files", "rm", "-r", "f/", answers=["f\n"], after=b"to do it: ")
    assert (asked.code, b"3 files, 11 B" in asked.content) == (0, True)
    assert listed(desk) == ["a", "fg"]


def test_rm_of_what_is_not_there_fails(desk: Shell) -> None:
    assert "no file" in desk.badly("files", "rm", "b")
    assert "no file" in desk.badly("files", "rm", "-r", "b", "--yes")
    assert "no file" in desk.badly("files", "rm", "a/")
    assert "whole store" in desk.badly("files", "rm", "-r", "/", "--yes")
    assert "no file" in desk.badly("files", "rm", "a", "--user", "alice")


def test_a_file_beside_a_folder_of_its_name_is_not_taken_for_it(desk: Shell) -> None:
    desk.well("files", "cp", "a", "f")
    assert "--recursive" in desk.badly("files", "rm", "f")
    assert desk.well("files", "rm", "-r", "f", "--yes").lines == ["f: 4 files deleted"]


def test_cp_and_mv_give_a_file_another_path(desk: Shell) -> None:
    assert desk.well("files", "cp", "a", "b").lines == ["a: 1 file copied to b, 1 B"]
    desk.well("files", "cp", "a", "f/")
    assert desk.well("files", "mv", "f/1", "fg", "--json").json == {
        "source": "f/1",
        "target": "fg",
        "files": 1,
        "bytes": 3,
    }
    assert listed(desk) == ["a", "b", "f/2", "f/a", "f/g/3", "fg"]
    assert contents(desk, "a", "b", "f/a", "fg") == ["a", "a", "a", "f/1"]


def test_cp_and_mv_of_a_folder_need_recursive(desk: Shell) -> None:
    for verb in ("cp", "mv"):
        assert "--recursive" in desk.badly("files", verb, "f", "h")
    assert desk("files", "cp", "-r", "f", "h").lines == ["f: 3 files copied to h, 11 B"]
    assert desk("files", "mv", "-r", "f", "h/").lines == ["f: 3 files moved to h/f, 11 B"]
    assert listed(desk) == ["a", "fg", "h/1", "h/2", "h/f/1", "h/f/2", "h/f/g/3", "h/g/3"]
    assert contents(desk, "h/g/3", "h/f/1") == ["f/g/3", "f/1"]


@pytest.mark.parametrize("verb", ["cp", "mv"])
def test_a_folder_does_not_go_into_itself(desk: Shell, verb: str) -> None:
    for target in ("f", "f/", "f/x", "f/x/"):
        assert "beside it" in desk.badly("files", verb, "-r", "f", target)
    assert "beside it" in desk.badly("files", verb, "-r", "f/g", "f")
    assert listed(desk) == FILES


@pytest.mark.parametrize("verb", ["cp", "mv"])
def test_a_source_that_is_not_there_fails(desk: Shell, verb: str) -> None:
    assert "no file" in desk.badly("files", verb, "x", "y")
    assert "no folder" in desk.badly("files", verb, "-r", "x", "y")
    assert "no folder" in desk.badly("files", verb, "-r", "a", "y")
    assert "'..'" in desk.badly("files", verb, "a", "../y")
    assert listed(desk) == FILES
