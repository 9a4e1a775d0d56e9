"""`storage report serve` serves until it is stopped, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import httpx2
import pytest

from tests.cli.conftest import EXAMPLE, REPOSITORY, Shell

if TYPE_CHECKING:
    from pathlib import Path

ENDS_SECONDS = 60


@pytest.fixture
def filled(shell: Shell) -> Shell:
    shell("import", "openhands", EXAMPLE, "--json")
    return shell


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_stopped_and_leaves_nothing_behind(
    filled: Shell, tmp_path: Path, number: signal.Signals
) -> None:
    pytest.importorskip("datasette")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    variables = {**os.environ, **filled.environment, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(temporary)}
    command = [sys.executable, "-m", "storage", "report", "serve", "--port", "0"]
    with (
        subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child,
        ExitStack() as failed,
    ):
        failed.callback(child.kill)
        assert child.stdout is not None
        address = child.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{32}", address)
        with httpx2.Client(follow_redirects=True) as browser:
            assert "Storage report" in browser.get(address).text
            base = address.partition("?")[0]
            rows = browser.get(f"{base}report/report_user.json?_shape=objects").json()["rows"]
            assert {row["user_id"] for row in rows} == {"alice", "bob", "local"}
        [folder] = temporary.iterdir()
        assert folder.stat().st_mode & 0o077 == 0
        child.send_signal(number)
        _, said = child.communicate(timeout=ENDS_SECONDS)
        failed.pop_all()
    assert child.returncode == 0
    assert said == "Ctrl-C ends it\n"
    assert list(temporary.iterdir()) == []


def test_a_port_that_is_taken_is_named(filled: Shell) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = filled.badly("report", "serve", "--port", str(port))
    assert said.startswith(f"cannot listen on port {port}: Address already in use; choose another with --port")
    assert "there is no such port" in filled.badly("report", "serve", "--port", "70000")


def test_a_negative_age_is_refused(filled: Shell) -> None:
    assert "--refresh must not be negative" in filled.badly("report", "serve", "--refresh", "-1")


def test_without_datasette_it_is_said_what_to_install(filled: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasette", None)
    said = filled.badly("report", "serve", "--port", "0")
    assert said.endswith("install agent-storage[reporting]")
