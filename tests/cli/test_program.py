"""The program as a whole: help, versions, usage errors, exit codes, pipes, terminals and how lightly it starts."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from storage.cli import app
from storage.cli.output import warnings_as_lines
from tests.cli.conftest import EXAMPLE, REPOSITORY, Shell

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAVY = ("sqlalchemy", "alembic", "sqlmodel", "pydantic", "asyncpg", "aiosqlite", "cryptography", "orjson")


def commands(parent: Any = app, *words: str) -> Iterator[tuple[str, ...]]:
    for name in parent:
        if not name.startswith("-"):
            yield (*words, name)
            yield from commands(parent[name], *words, name)


@pytest.mark.parametrize("words", [(), *commands()], ids=" ".join)
def test_every_command_and_option_has_help(shell: Shell, words: tuple[str, ...]) -> None:
    output = shell.well(*words, "--help", COLUMNS="400").output
    assert output.startswith(f"Usage: storage{''.join(f' {word}' for word in words)}")
    for line in output.splitlines():
        if line.startswith("│ ") and not line.startswith("│   "):  # otherwise the rest of a long help
            assert len(line.strip("│ ").split("  ")) > 1, f"no help in: {line}"


def test_the_version_is_that_of_the_distribution(shell: Shell) -> None:
    try:
        version("agent-storage")
    except PackageNotFoundError:
        pytest.skip("run from a checkout that is not installed")
    assert shell.well("--version").output == f"storage {version('agent-storage')}\n"


@pytest.mark.parametrize(
    ("words", "suggestion"),
    [
        (("stats",), "status"),
        (("conversations", "lst"), "list"),
        (("conversations", "list", "--limt", "3"), "--limit"),
        (("conversations", "list", "--limit", "many"), "many"),
        (("conversations", "list", "--sort", "size"), "created"),
        (("conversations", "list", "--created-after", "yesterday"), "yesterday"),
        (("conversations", "show"), "CONVERSATION_ID"),
        (("status", "extra"), "extra"),
        (("migrate", "--sql", "--dialect", "oracle"), "postgresql"),
    ],
)
def test_a_wrong_command_line_ends_with_2_and_a_suggestion(
    shell: Shell, words: tuple[str, ...], suggestion: str
) -> None:
    outcome = shell(*words)
    assert (outcome.code, outcome.output) == (2, "")
    assert suggestion.lower() in outcome.errors.lower()


@pytest.mark.parametrize(
    ("words", "environment", "complaint"),
    [
        (("status", "--database", "mysql://root:hunter2@db/x"), {}, "'mysql' are not supported"),
        (("status", "--database", "not a url hunter2"), {}, "database URL cannot be read"),
        (("status", "--database", "postgresql://me:hunter2@localhost"), {}, "names no database"),
        (("status", "--database", "postgresql://me:hunter2@127.0.0.1:1/x"), {}, ""),
        (("init",), {"STORAGE_MASTER_KEY": "hunter2"}, "STORAGE_MASTER_KEY"),
        (("init",), {"STORAGE_FILE_STORE": "s4"}, "is not a file store"),
        (("init",), {"STORAGE_FILE_STORE": "s3", "AWS_S3_BUCKET": ""}, "no bucket is named"),
        (("init", "--config", "/nowhere/storage.toml"), {}, "/nowhere/storage.toml"),
        (("init", "--data-dir", "/dev/null/x"), {}, "/dev/null"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_said_in_one_line_without_secrets(
    shell: Shell, words: tuple[str, ...], environment: dict[str, str], complaint: str
) -> None:
    told = shell.badly(*words, code=1, **environment)
    assert complaint in told
    assert "hunter2" not in told


def test_a_bug_is_called_one_and_shows_its_traceback_only_with_debug(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("hunter2")

    monkeypatch.setattr("storage.config.StorageConfig.load", fail)
    told = shell.badly("status", code=70)
    assert "RuntimeError" in told
    assert "hunter2" not in told
    with pytest.raises(RuntimeError):
        shell("status", "--debug")


def test_an_interrupted_command_ends_as_shells_expect(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("storage.config.StorageConfig.load", interrupt)
    assert shell("status").code == 130


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device on this system")
def test_an_output_without_room_is_an_error(shell: Shell) -> None:
    shell.well("init")
    environment = {**os.environ, **shell.environment, "PYTHONPATH": str(REPOSITORY)}
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "storage", "status"],
            env=environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "error: No space left on device\n")


@pytest.mark.parametrize(
    ("redirection", "code", "told"),
    [
        (">&-", 1, "error: the standard output is closed; /dev/null takes what nobody wants to read\n"),
        ("2>&-", 0, ""),
        ("2>&- --data-dir /nowhere/at/all", 1, ""),
    ],
)
def test_a_stream_that_the_shell_closed_is_no_bug(shell: Shell, redirection: str, code: int, told: str) -> None:
    shell.well("init")
    environment = {**os.environ, **shell.environment, "PYTHONPATH": str(REPOSITORY)}
    words = ["sh", "-c", f'"$0" -m storage migrate --check {redirection}', sys.executable]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, told)


def test_help_starts_without_the_database_libraries() -> None:
    script = (
        "import sys\nfrom storage.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n"
        f"    print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_a_reader_that_goes_away_is_no_error(shell: Shell) -> None:
    shell("import", "openhands", EXAMPLE)
    environment = {**os.environ, **shell.environment, "PYTHONPATH": str(REPOSITORY)}
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "storage", "files", "ls", "-r"],
            env=environment,
            stdout=write,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def on_a_terminal(shell: Shell, *words: str, columns: int, **environment: str) -> str:
    """What a command prints on a terminal of that many columns."""
    main, side = pty.openpty()
    variables = {**os.environ, **shell.environment, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm-256color"}
    variables |= {"COLUMNS": str(columns), **environment}
    with subprocess.Popen([sys.executable, "-m", "storage", *words], env=variables, stdout=side, stderr=side) as child:
        os.close(side)
        parts = []
        while True:
            try:
                part = os.read(main, 65536)
            except OSError:  # how Linux reports the end of a terminal
                break
            if not part:
                break
            parts.append(part)
        os.close(main)
        assert child.wait() == 0
    return b"".join(parts).decode()


@pytest.mark.parametrize("columns", [40, 80, 160])
def test_a_table_fits_the_terminal(shell: Shell, columns: int) -> None:
    shell("import", "openhands", EXAMPLE)
    output = on_a_terminal(shell, "conversations", "list", columns=columns, NO_COLOR="1")
    lines = re.sub(r"\x1b\[[01]m", "", output).splitlines()  # bold is no colour
    assert "\x1b" not in "".join(lines)
    assert sum("1b7e90d3c5f24a68b0917d5e2c84aa02" in line for line in lines) == 1
    assert ("─" in output) == (columns > 40)
    if columns > 40:
        assert all(len(line) <= columns for line in lines)
        assert ("Repository" in output) == (columns == 160)


def test_an_import_on_a_terminal_ends_with_the_report(shell: Shell) -> None:
    output = on_a_terminal(shell, "import", "openhands", str(EXAMPLE), columns=80)
    assert "conversations: 12 found, 12 imported" in output


def test_an_output_that_cannot_show_a_character_still_gets_a_line(shell: Shell, tmp_path: Path) -> None:
    shell("import", "openhands", EXAMPLE)
    done = subprocess.run(
        [sys.executable, "-m", "storage", "conversations", "list"],
        env={**os.environ, **shell.environment, "PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "R\\xe4ume" in done.stdout


def test_warnings_are_lines_of_json_where_a_program_collects_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for format_ in ("text", "json"):
        monkeypatch.setenv("STORAGE_LOG_FORMAT", format_)
        with warnings_as_lines():
            logging.getLogger("storage.files").warning("%d bytes\nfree", 5)
    as_text, as_json = capsys.readouterr().err.splitlines()
    assert as_text == "warning: 5 bytes free"
    assert json.loads(as_json)["message"] == "5 bytes\nfree"


@pytest.mark.parametrize(
    ("words", "meant"),
    [(("stauts",), "status"), (("conversations", "lst"), "list"), (("status", "--jsn"), "--json")],
)
def test_a_slip_of_the_keyboard_is_answered_with_what_was_meant(
    shell: Shell, words: tuple[str, ...], meant: str
) -> None:
    outcome = shell(*words)
    assert outcome.code == 2
    assert f'Did you mean "{meant}"?' in outcome.errors or f"Did you mean {meant}?" in outcome.errors


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_shells_are_taught_to_complete(shell: Shell, name: str) -> None:
    target = shell.folder / f"completion.{name}"
    outcome = shell("--install-completion", "--shell", name, "--output", target)
    assert outcome.code == 0, outcome.errors
    assert "storage" in target.read_text()
    assert "conversations" in target.read_text()
