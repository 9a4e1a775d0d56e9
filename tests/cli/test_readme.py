"""What README.md shows is what happens: its program runs, its shell prints just that, its tables name what exists."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

from storage.config import StorageConfig
from tests.cli.conftest import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.cli.conftest import Shell

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def block(language: str, start: str) -> str:
    """The block of code in that language which begins with `start`."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    (found,) = (text for its_language, text in blocks if its_language == language and text.startswith(start))
    return str(found)


def test_the_program_prints_what_is_said(shell: Shell) -> None:
    (said,) = re.findall(r"It prints `(.+?)`", README)
    done = subprocess.run(
        [sys.executable, "-c", block("python", "import asyncio")],
        cwd=shell.folder,
        env={**os.environ, **shell.environment, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", f"{said}\n")
    assert (shell.folder / "example-data/storage.db").exists()


def test_the_shell_prints_just_that(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """`…` stands for anything."""
    monkeypatch.chdir(REPOSITORY)
    tour = block("console", "$ storage import openhands examples/openhands-home\n")
    for step in re.split(r"^\$ ", tour, flags=re.MULTILINE)[1:]:
        command, _, expected = step.partition("\n")
        program, *words = shlex.split(command)
        assert program == "storage"
        outcome = shell(*words)
        assert outcome.code == 0, command
        pattern = ".*".join(re.escape(part) for part in expected.rstrip("\n").split("…"))
        assert re.fullmatch(pattern, outcome.output.rstrip("\n"), re.DOTALL), f"{command}\n{outcome.output}"


def test_the_table_of_settings_names_each_of_them_once() -> None:
    (table,) = re.findall(r"^\| setting \|.*?\n\n", README, re.MULTILINE | re.DOTALL)
    names = [name for row in table.strip().splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(names) == sorted(StorageConfig.model_fields)


def test_the_configuration_file_shown_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(block("toml", "[storage]"))
    assert StorageConfig.load(file).postgres_prepared_statements is False


def test_the_house_is_drawn_as_it_is() -> None:
    drawn = block("", "storage/\n")
    inside, _, beside = drawn.partition("migrations/")
    names = {line.split()[0] for line in inside.splitlines()[1:]}
    for name in names:
        assert (REPOSITORY / "storage" / name).exists(), name
    folders = {path.name for path in (REPOSITORY / "storage").iterdir() if (path / "__init__.py").exists()}
    assert {name.rstrip("/") for name in names if name.endswith("/")} == folders
    for line in f"migrations/{beside}".splitlines():
        assert (REPOSITORY / line.split()[0]).is_dir(), line
