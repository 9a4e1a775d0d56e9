"""The servers of the file stores' tests: they serve, and they go with whoever started them."""

from __future__ import annotations

import http.client
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.servers.fake_gcs import FakeGcsServer
from tests.servers.faults import Fault, FaultProxy
from tests.servers.supervised import ServerFailed, SupervisedServer

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = Path(__file__).parents[2]

OWNER_OF_A_SERVER = """
import sys
from tests.servers.fake_gcs import FakeGcsServer
server = FakeGcsServer().start()
print(server.supervisor_pid, server.folder, server.url, flush=True)
sys.stdin.read()
"""


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/storage/v1/b", timeout=5).close()
    except OSError:
        return False
    return True


def _eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.05)
    return False


class Broken(SupervisedServer):
    def command(self) -> list[str]:
        return [sys.executable, "-c", "raise SystemExit('out of order')"]


def test_stopping_ends_the_server_and_removes_its_folder() -> None:
    server = FakeGcsServer().start()
    assert _answers(server.url)
    server.stop()
    assert not _answers(server.url)
    assert not server.folder.exists()
    server.stop()


def test_a_server_that_cannot_start_says_why_and_leaves_nothing() -> None:
    server = Broken()
    with pytest.raises(ServerFailed, match=r"Broken did not start.*out of order"):
        server.start()
    assert not server.folder.exists()


class ShortLived(FakeGcsServer):
    def command(self) -> list[str]:
        words = " ".join(shlex.quote(word) for word in super().command())
        return ["/bin/sh", "-c", f"{words} & sleep 3; kill $!; echo 'worn out'; exit 7"]


def _is_checked_to_have_ended(server: SupervisedServer) -> bool:
    server.check()
    return False


def test_a_server_that_ends_by_itself_says_so() -> None:
    with ShortLived() as server:
        server.check()
        assert _eventually(lambda: not _answers(server.url))
        with pytest.raises(ServerFailed, match=r"(?s)exit code 7.*worn out"):
            _eventually(lambda: _is_checked_to_have_ended(server))
    assert not server.folder.exists()


def test_the_server_goes_when_its_owner_is_killed() -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER_OF_A_SERVER],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        assert owner.stdout is not None
        _, folder, url = owner.stdout.readline().split()
        assert _answers(url)
        owner.send_signal(signal.SIGKILL)
    assert _eventually(lambda: not _answers(url) and not Path(folder).exists())


def test_the_proxy_passes_on_and_fails_on_order() -> None:
    with FakeGcsServer() as server, FaultProxy(server.url) as proxy:
        assert _answers(proxy.url)
        proxy.inject(Fault("status", status=503, method="GET"))
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"{proxy.url}/storage/v1/b", timeout=5)
        assert _answers(proxy.url)
        assert (proxy.requests, proxy.hits) == (2, 1)
        for kind in ("lost", "cut answer", "cut request"):
            proxy.inject(Fault(kind))
            with pytest.raises((OSError, http.client.HTTPException)):
                urllib.request.urlopen(f"{proxy.url}/storage/v1/b", timeout=5).read()
            assert proxy.hits == 1
