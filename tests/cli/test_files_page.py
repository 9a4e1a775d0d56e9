"""The runbooks of docs/files.md, run as they stand on a storage with files of two users, each overwritten once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Shell
from tests.cli.runbooks import Runbooks

RUNBOOKS = Runbooks("files.md")
CONTENTS = {"notes.txt": b"first\n", "sessions/c1/events/0.json": b'{"id": 0}', "large": bytes(range(256)) * 300}


@pytest.fixture
def desk(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.chdir(shell.folder)
    assert shell("init").code == 0
    for content in (b"overwritten", None):
        for path, last in CONTENTS.items():
            Path("content").write_bytes(last if content is None else content)
            for user in ("local", "alice"):
                put = shell("files", "put", "content", path, "--user", user)
                assert put.code == 0, put.errors
    return shell


def follow(desk: Shell, title: str, **environment: str) -> list[str]:
    """Run a runbook; returns what each command printed."""
    printed = []
    for words in RUNBOOKS.commands(title):
        outcome = desk(*words, **environment)
        assert outcome.code == 0, (words, outcome.output, outcome.errors)
        printed.append(outcome.output)
    return printed


def blobs(folder: Path) -> list[Path]:
    return [path for path in (folder / "blobs").rglob("*") if path.is_file()]


def has_everything(desk: Shell, **environment: str) -> bool:
    return all(
        desk("files", "cat", path, "--user", user, **environment).content == content
        for path, content in CONTENTS.items()
        for user in ("local", "alice")
    )


def test_every_runbook_is_tested() -> None:
    assert RUNBOOKS.untested(__file__) == []


def test_a_damaged_and_a_missing_content_are_named(desk: Shell) -> None:
    usage, verification = follow(desk, "Look whether all is well")
    assert "alice" in usage
    assert "6 files" in verification
    assert desk("files", "put", "content", "to-be-lost").code == 0
    newest, other = sorted(blobs(desk.folder / "storage" / "files"), key=lambda path: path.name)[:-3:-1]
    newest.unlink()
    other.chmod(0o600)
    other.write_bytes(b"altered")
    outcome = desk(*RUNBOOKS.commands("Look whether all is well")[-1])
    assert outcome.code == 1
    assert "to-be-lost" in outcome.output + outcome.errors


def test_what_was_overwritten_is_kept_for_a_day(desk: Shell) -> None:
    before = blobs(desk.folder / "storage" / "files")
    assert len(before) == 12
    follow(desk, "Give back unused space")
    assert blobs(desk.folder / "storage" / "files") == before
    assert has_everything(desk)


def test_small_contents_move_into_the_database(desk: Shell) -> None:
    follow(desk, "Keep small files in the database")
    usage = desk("files", "usage", "--all", "--json").json
    assert {user["user_id"]: user["bytes_in_database"] for user in usage} == {"alice": 15, "local": 15}
    assert has_everything(desk)


def test_everything_moves_to_another_place(desk: Shell) -> None:
    follow(desk, "Move to another file store")
    (desk.folder / "storage" / "files").rename(desk.folder / "not-needed-any-more")
    new = {"STORAGE_FILE_STORE_PATH": str(desk.folder / "files-on-the-new-disk")}
    assert has_everything(desk, **new)
    assert desk("files", "verify", **new).code == 0


def test_a_users_files_come_out_as_a_tree(desk: Shell) -> None:
    follow(desk, "Take everything out")
    follow(desk, "Take everything out")
    folder = desk.folder / "files-of-alice"
    assert {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    } == CONTENTS
