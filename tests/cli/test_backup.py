"""`storage backup`, `restore` and `copy`, as a person runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import EXAMPLE, WRONG_KEY, Shell
from tests.servers.postgres import PostgresServer

COUNTS = "SELECT count(*) AS n, sum(cost_usd) AS usd FROM report_conversation"


@pytest.fixture
def filled(either_shell: Shell) -> Shell:
    either_shell("import", "openhands", EXAMPLE, "--json")
    return either_shell


def another(shell: Shell, tmp_path: Path, **environment: str) -> Shell:
    """A command line with the same master key and a SQLite database of its own."""
    other = Shell(tmp_path / "other")
    (tmp_path / "other").mkdir(exist_ok=True)
    other.environment["STORAGE_MASTER_KEY_FILE"] = shell.environment["STORAGE_MASTER_KEY_FILE"]
    other.environment |= environment
    return other


@pytest.mark.parametrize("name", ["backup.tar", "backup"])
def test_there_and_back(filled: Shell, tmp_path: Path, name: str) -> None:
    made = filled.well("backup", tmp_path / name, "--files", "--json").json
    assert (made["blobs"], made["missing_number"]) == (81, 0)
    checked = filled.well("restore", tmp_path / name, "--verify", "--json").json
    assert (checked["rows"], checked["blobs"]) == (made["rows"], 81)
    other = another(filled, tmp_path)
    done = other.well("restore", tmp_path / name, "--json").json
    assert (done["rows"], done["blobs"], done["keys"]) == (made["rows"], 81, "unlocked")
    assert other.well("sql", COUNTS).output == filled.well("sql", COUNTS).output
    assert other("files", "verify").code == 0
    assert "rows in conversation already" in other.badly("restore", tmp_path / name)


def test_a_person_is_told_what_is_in_it_and_what_not(filled: Shell, tmp_path: Path) -> None:
    outcome = filled("backup", tmp_path / "backup.tar")
    assert outcome.code == 0
    assert "needs master keys" in outcome.output
    assert "81 contents of the file store left out; --files adds them" in outcome.errors
    restored = another(filled, tmp_path)("restore", tmp_path / "backup.tar")
    assert "81 contents of the file store are not in the archive" in restored.errors
    assert "exists already" in filled.badly("backup", tmp_path / "backup.tar")


def test_the_wrong_key_is_told_of(filled: Shell, tmp_path: Path) -> None:
    made = filled.well("backup", tmp_path / "backup.tar", "--json").json
    other = another(filled, tmp_path, STORAGE_MASTER_KEY=WRONG_KEY)
    outcome = other("restore", tmp_path / "backup.tar")
    assert outcome.code == 0
    assert "the secrets are locked" in outcome.errors
    assert made["master_keys"][0] in outcome.errors


def test_contents_that_are_missing_exit_with_1(filled: Shell, tmp_path: Path) -> None:
    root = Path(filled.environment["STORAGE_DATA_DIR"]) / "files" / "blobs"
    next(path for path in root.rglob("*") if path.is_file()).unlink()
    outcome = filled("backup", tmp_path / "backup", "--files")
    assert outcome.code == 1
    assert "1 content missing from the file store, first blobs/" in outcome.errors


def test_what_is_no_backup_is_refused(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "letter.tar").write_bytes(b"dear all")
    assert "no backup that can be read" in shell.badly("restore", tmp_path / "letter.tar")
    assert "manifest.json is not in the archive" in shell.badly("restore", tmp_path)
    missing = shell.badly("restore", tmp_path / "missing.tar")
    assert "missing.tar cannot be read: No such file or directory; name a file or folder that a backup wrote" in missing
    assert not Path(shell.environment["STORAGE_DATA_DIR"], "storage.db").exists()


def test_a_desktops_install_moves_to_postgresql(shell: Shell, postgres_server: PostgresServer, tmp_path: Path) -> None:
    shell("import", "openhands", EXAMPLE, "--json")
    url = postgres_server.create_database()
    try:
        done = shell.well("copy", "--to", url, "--to-data-dir", tmp_path / "moved", "--json").json
        assert (done["tables"]["conversation"], done["files"]["copied"]) == (12, 81)
        moved = another(shell, tmp_path, STORAGE_DATABASE_URL=url, STORAGE_DATA_DIR=str(tmp_path / "moved"))
        assert moved.well("sql", COUNTS).output == shell.well("sql", COUNTS).output
        assert moved("files", "verify").code == 0
        assert moved.well("doctor").lines[-1] == "all is well"
        assert "rows in conversation already" in shell.badly("copy", "--to", url)
    finally:
        postgres_server.drop_database(url)
