"""A server program as a process of its own that lives exactly as long as the tests do, in a folder that goes with it.

The program runs below a supervisor, which waits for the end of its standard input: that comes when the tests close it,
exit, or are killed. Then it ends the program and removes the folder.
"""

from __future__ import annotations

import contextlib
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

HOST = "127.0.0.1"

START_LIMIT_S = 60.0  # the servers take 1 to 3 s on an idle laptop; a CI machine may be busy
STOP_LIMIT_S = 10.0
POLL_S = 0.05

START_ATTEMPTS = 3
"""A port that was free when it was chosen may be taken when the program binds it."""


class ServerFailed(Exception):
    """The server did not start; carries the end of what it logged."""


class SupervisedServer:
    """A running server. Use it as a context manager, or call `start` and `stop`.

    A subclass says what to run: `command` and `ready_url`.

    Attributes:
        folder: for the server's data; goes away with it.
        port: where it serves, on 127.0.0.1.
    """

    def __init__(self) -> None:
        self._supervisor: subprocess.Popen[str] | None = None
        self.folder = Path()
        self.port = 0

    def command(self) -> list[str]:
        """What to run; `port` and `folder` are chosen. May write files into the folder."""
        raise NotImplementedError

    @property
    def ready_url(self) -> str:
        """Once it answers anything below 500, the server is ready."""
        return self.url

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def supervisor_pid(self) -> int:
        if self._supervisor is None:
            raise ServerFailed("the server is not running; call start() first")
        return self._supervisor.pid

    def start(self) -> Self:
        """Serve; returns when requests are answered.

        Raises:
            ServerFailed: with the end of the server's log.
        """
        for attempt in range(1, START_ATTEMPTS + 1):
            try:
                self._start()
            except ServerFailed:
                if attempt == START_ATTEMPTS:
                    raise
            else:
                break
        return self

    def _start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="storage-server-"))
        self.port = free_ports(1)[0]
        self._supervisor = subprocess.Popen(
            [sys.executable, "-I", __file__, str(self.folder), self.ready_url, *self.command()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C in a terminal reaches the tests only; the supervisor then sees its input end.
            start_new_session=True,
        )
        assert self._supervisor.stdout is not None
        answer = self._supervisor.stdout.readline().strip()
        if answer != "ready":
            rest = self._supervisor.stdout.read()
            self.stop()
            raise ServerFailed(f"{type(self).__name__} did not start: {answer}\n{rest}")

    def check(self) -> None:
        """Do nothing if it still runs.

        Raises:
            ServerFailed: it has ended by itself; with the end of its log.
        """
        if self._supervisor is None or self._supervisor.poll() is None:
            return
        assert self._supervisor.stdout is not None
        raise ServerFailed(f"{type(self).__name__} has ended by itself:\n{self._supervisor.stdout.read()}")

    def stop(self) -> None:
        """End the server and remove its folder. A second call does nothing."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is None:
            return
        assert supervisor.stdin is not None
        assert supervisor.stdout is not None
        supervisor.stdin.close()
        supervisor.stdout.close()
        supervisor.wait(timeout=3 * STOP_LIMIT_S)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def free_ports(number: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on at this moment, all different."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) for _ in range(number)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


# --- below: the supervisor, a process of its own ---------------------------------------------------------


def supervise(folder: Path, ready_url: str, command: list[str]) -> int:
    """Run `command` until standard input ends, then remove `folder`. Says `ready`, or what went wrong."""
    # Only the end of the input ends the server: a signal to the whole group must not leave the folder behind.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        with _serving(folder, ready_url, command) as server:
            print("ready", flush=True)
            _wait_for_end_of_input(server, folder / "log")
    except (ServerFailed, OSError) as failure:
        with contextlib.suppress(BrokenPipeError):
            print(failure, flush=True)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


@contextlib.contextmanager
def _serving(folder: Path, ready_url: str, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    log = folder / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            preexec_fn=_default_signals,  # noqa: PLW1509 - this process has one thread
        )
    try:
        _wait_until_ready(server, ready_url, log)
        yield server
    finally:
        _end(server)


def _wait_for_end_of_input(server: subprocess.Popen[bytes], log: Path) -> None:
    while not select.select([sys.stdin], [], [], POLL_S * 10)[0]:
        if server.poll() is not None:
            raise ServerFailed(f"exit code {server.returncode}\n{_tail(log)}")


def _default_signals() -> None:
    """Undo in the child what `supervise` ignores: an ignored signal stays ignored across exec."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _wait_until_ready(server: subprocess.Popen[bytes], ready_url: str, log: Path) -> None:
    # No proxy of the environment stands between this machine and itself.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise ServerFailed(_tail(log))
        try:
            opener.open(ready_url, timeout=POLL_S * 20).close()
        except urllib.error.HTTPError as answer:
            answer.close()
            if answer.code < 500:
                return
        except OSError:
            pass  # not yet
        else:
            return
        time.sleep(POLL_S)
    raise ServerFailed(f"not ready after {START_LIMIT_S:.0f} s\n{_tail(log)}")


def _end(server: subprocess.Popen[bytes]) -> None:
    """End it the hard way: it keeps nothing, and a polite end takes SeaweedFS ten seconds."""
    server.kill()
    server.wait()


def _tail(log: Path, lines: int = 30) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


if __name__ == "__main__":
    raise SystemExit(supervise(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
