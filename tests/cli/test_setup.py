"""`storage init` and `storage migrate` make a storage, say where it is, and do nothing twice."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from storage.database.migrate import HEAD

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Shell


def test_init_says_where_database_files_and_key_are(shell: Shell) -> None:
    output = shell.well("init").output
    for place in ("storage/storage.db", "storage/files", "config/master.key"):
        assert str(shell.folder / place) in output
    assert (shell.folder / "storage/storage.db").is_file()


def test_init_makes_no_key_before_there_is_a_secret(shell: Shell) -> None:
    shell.well("init")
    assert not (shell.folder / "config/master.key").exists()


def test_init_twice_is_no_error_and_says_the_same(fresh_shell: Shell) -> None:
    first = fresh_shell.well("init", "--json").json
    assert fresh_shell.well("init", "--json").json == first
    assert first["schema"] == HEAD
    assert first["file_store"] == {"kind": "local", "place": str(fresh_shell.folder / "storage/files")}


def test_an_option_wins_over_the_environment_and_it_over_the_file(shell: Shell) -> None:
    config = shell.folder / "storage.toml"
    config.write_text('[storage]\ndatabase_url = "sqlite:///from-file.db"\n')
    with_file = {**shell.environment, "STORAGE_CONFIG": str(config)}

    def database(*words: str, **environment: str) -> str:
        found: str = shell.well("init", "--json", *words, **environment).json["database"]
        return found.rpartition("/")[2]

    in_folder = f"sqlite:///{shell.folder}"
    config.write_text(f'[storage]\ndatabase_url = "{in_folder}/file.db"\n')
    assert database(**with_file) == "file.db"
    assert database("--config", str(config)) == "file.db"
    assert database(**with_file, STORAGE_DATABASE_URL=f"{in_folder}/environment.db") == "environment.db"
    assert (
        database(
            "--database",
            f"{in_folder}/option.db",
            **with_file,
            STORAGE_DATABASE_URL=f"{in_folder}/environment.db",
        )
        == "option.db"
    )
    assert database("--data-dir", str(shell.folder / "other")) == "storage.db"
    assert (shell.folder / "other/storage.db").exists()


def test_migrate_brings_an_empty_database_up_to_date_once(fresh_shell: Shell) -> None:
    assert f"from revision none to {HEAD}" in fresh_shell.well("migrate").output
    assert f"at revision {HEAD} already" in fresh_shell.well("migrate").output


def test_check_ends_with_1_until_the_schema_is_current(fresh_shell: Shell) -> None:
    assert fresh_shell("migrate", "--check").code == 1
    fresh_shell.well("init")
    assert "current" in fresh_shell.well("migrate", "--check").output


def test_check_makes_no_file(shell: Shell) -> None:
    outcome = shell("migrate", "--check")
    assert (outcome.code, "storage init" in outcome.output) == (1, True)
    assert not (shell.folder / "storage").exists()


@pytest.mark.parametrize(("dialect", "word"), [("sqlite", "BIGINT"), ("postgresql", "JSONB")])
def test_sql_prints_a_schema_for_the_dialect_and_touches_nothing(shell: Shell, dialect: str, word: str) -> None:
    output = shell.well("migrate", "--sql", "--dialect", dialect).output
    assert "CREATE TABLE conversation " in output
    assert word in output
    assert not (shell.folder / "storage").exists()


def test_the_printed_sql_makes_a_schema_that_is_current(shell: Shell, tmp_path: Path) -> None:
    script = shell.well("migrate", "--sql").output
    connection = sqlite3.connect(tmp_path / "by-hand.db")
    connection.executescript(script)
    connection.close()
    shell.well("migrate", "--check", "--database", f"sqlite:///{tmp_path / 'by-hand.db'}")


def test_questions_that_exclude_each_other_are_refused(shell: Shell) -> None:
    assert "give one of them" in shell.badly("migrate", "--check", "--sql")
    assert "--dialect" in shell.badly("migrate", "--dialect", "sqlite")


def test_a_newer_schema_is_refused_by_every_command(shell: Shell) -> None:
    shell.well("init")
    connection = sqlite3.connect(shell.folder / "storage/storage.db")
    connection.execute("UPDATE storage_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    for words in (("init",), ("status",), ("migrate",), ("conversations", "list")):
        assert "newer release" in shell.badly(*words)
    assert shell("migrate", "--check").code == 1
