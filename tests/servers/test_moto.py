from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers.moto import MotoServer, ServerFailed

pytest.importorskip("moto")

REPOSITORY = Path(__file__).parents[2]
GONE_LIMIT_S = 20.0

# Starts a server, says where, and waits to be ended.
OWNER_OF_A_SERVER = """
import sys
from tests.servers.moto import MotoServer
with MotoServer() as server:
    print(server._process.pid, server.url, flush=True)
    sys.stdin.read()
"""


def _eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + GONE_LIMIT_S
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # Without an init that collects orphans, as in a container, an ended process stays as a zombie.
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def test_a_server_ends_with_the_test_that_fails() -> None:
    server = MotoServer()
    with pytest.raises(ZeroDivisionError), server:
        assert server._process is not None
        pid, url = server._process.pid, server.url
        assert url.startswith("http://127.0.0.1:")
        assert _answers(url)
        raise ZeroDivisionError
    assert not _runs(pid)
    assert not _answers(url)
    server.stop()


def test_a_server_ends_with_a_process_that_is_killed() -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER_OF_A_SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert owner.stdout is not None
    pid, url = owner.stdout.readline().split()
    assert _answers(url)
    owner.kill()
    owner.communicate()
    assert _eventually(lambda: not _runs(int(pid)))


def test_a_server_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/echo")
    with pytest.raises(ServerFailed, match="moto did not start"):
        MotoServer().start()
