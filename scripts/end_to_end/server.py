"""A running OpenHands server, as its users start it, on a free port of 127.0.0.1."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.servers.supervised import HOST, free_ports

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

APPLICATION = "openhands.server.listen:app"

START_S = 180.0
"""The server imports half of PyPI: 30 s on two idle cores."""

STOP_S = 30.0

PAUSE_S = 0.11
"""Between two requests: the server makes whoever sends more than ten a second wait for one."""

SERVER = {
    # Runs commands in this machine's shell; `local` starts Jupyter and a browser for each conversation.
    "RUNTIME": "cli",
    # Given `cli`, the server's newer half would look for Docker each time that conversations are listed.
    "OH_SANDBOX_KIND": "ProcessSandboxServiceInjector",
    "OH_SANDBOX_SPEC_KIND": "ProcessSandboxSpecServiceInjector",
    "SKIP_DEPENDENCY_CHECK": "1",
    "SERVE_FRONTEND": "false",
    "RUN_AS_OPENHANDS": "false",  # otherwise it adds a user to the machine
    "ENABLE_BROWSER": "false",
    "FILE_STORE": "local",
    "MAX_CONCURRENT_CONVERSATIONS": "100",  # beyond three it would stop the oldest agent
    # Otherwise conversations of the sample would be too old to be listed.
    "CONVERSATION_MAX_AGE_SECONDS": str(100 * 365 * 24 * 3600),
}


class ServerFailed(Exception):
    """The server did not start; with the end of its log."""


class OpenHands:
    """A server. Use it as a context manager.

    Args:
        folder: its home folder and its log.
        state: the state directory, `~/.openhands` of the server.
        environment: further variables, such as OPENHANDS_CONFIG_CLS.
    """

    def __init__(self, folder: Path, state: Path, environment: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "work").mkdir(exist_ok=True)
        self.log = folder / "server.log"
        self.port = free_ports(1)[0]
        self._environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.environ["PYTHONPATH"],  # this checkout, whatever is installed
            "HOME": str(folder),
            "FILE_STORE_PATH": str(state),
            "WORKSPACE_BASE": str(folder / "work"),
            **SERVER,
            **environment,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.started_in = 0.0

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def __enter__(self) -> Self:
        started = time.monotonic()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "uvicorn",
                    APPLICATION,
                    "--host",
                    HOST,
                    "--port",
                    str(self.port),
                ],
                env=self._environment,
                cwd=self.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/alive", timeout=5).close()
            except OSError:
                ended = self._process.poll() is not None
                if ended or time.monotonic() - started > START_S:
                    self.__exit__()
                    tail = self.log.read_text(errors="replace").splitlines()[-40:]
                    raise ServerFailed("\n".join(tail)) from None
                time.sleep(0.2)
            else:
                self.started_in = time.monotonic() - started
                return self

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def call(self, method: str, path: str, body: Any = None, *, pause: float = PAUSE_S) -> tuple[int, Any]:
        """One request below /api; the status, and the JSON that came."""
        time.sleep(pause)
        request = urllib.request.Request(
            f"{self.url}/api{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or b"null")

    def get(self, path: str) -> Any:
        """What a GET answers; anything but 200 is a failure."""
        status, body = self.call("GET", path)
        if status != 200:
            raise AssertionError(f"GET {path}: {status} {body}")
        return body

    def post(self, path: str, body: Any) -> Any:
        """What a POST answers; anything but 200 or 201 is a failure."""
        status, answer = self.call("POST", path, body)
        if status not in (200, 201):
            raise AssertionError(f"POST {path}: {status} {answer}")
        return answer

    def conversations(self, limit: int = 20) -> list[dict[str, Any]]:
        """All conversations, page by page."""
        found: list[dict[str, Any]] = []
        page = ""
        while True:
            answer = self.get(f"/conversations?limit={limit}{page}")
            found += answer["results"]
            if not answer["next_page_id"]:
                return found
            page = f"&page_id={urllib.parse.quote(answer['next_page_id'], safe='')}"

    def finished(self, conversation_id: str, within: float = 90.0) -> list[dict[str, Any]]:
        """The events of a conversation, once its agent has finished."""
        deadline = time.monotonic() + within
        while True:
            events: list[dict[str, Any]] = self.get(f"/conversations/{conversation_id}/events?limit=100")["events"]
            states = [event.get("extras", {}).get("agent_state") for event in events]
            if "finished" in states:
                return events
            if time.monotonic() > deadline:
                raise AssertionError(f"the agent of {conversation_id} did not finish: {states}")
            time.sleep(0.5)
