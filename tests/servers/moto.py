"""A real HTTP server that speaks AWS KMS, in a process of its own: moto, on a free port of 127.0.0.1.

The process lives exactly as long as the tests do: it ends with its standard input, which comes when the tests close
it, exit, or are killed. In front of moto sits a gate that a test can use to slow calls down, to have some refused with
an error of AWS's that moto does not know, and to learn how many were under way at once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Self

HOST = "127.0.0.1"
REGION = "eu-central-1"
CONTROL = "/storage-tests"
"""The path by which tests speak to the gate; everything else is AWS's."""

STOP_LIMIT_S = 10.0


class ServerFailed(Exception):
    """The server did not start; carries what it said."""


class MotoServer:
    """A running server. Use it as a context manager, or call `start` and `stop`.

    Attributes:
        url: the endpoint, for `aws_kms_endpoint_url`.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def start(self) -> Self:
        """Serve; returns when connections are accepted.

        Raises:
            ServerFailed: with what the process said.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-I", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "MOTO_IAM_LOAD_MANAGED_POLICIES": "false"},
            # Ctrl-C in a terminal reaches the tests only; the server then sees its input end.
            start_new_session=True,
        )
        assert self._process.stdout is not None
        answer = self._process.stdout.readline().strip()
        if not answer.startswith("ready "):
            rest = self._process.stdout.read()
            self.stop()
            raise ServerFailed(f"moto did not start: {answer}\n{rest}")
        self.url = f"http://{HOST}:{answer.removeprefix('ready ')}"
        return self

    def stop(self) -> None:
        """End the server. A second call does nothing."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(timeout=STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def gate(
        self, *, delay_s: float = 0.0, error: str | None = None, action: str = "", times: int = 1_000_000
    ) -> dict[str, Any]:
        """Set the gate, and count from zero.

        Args:
            delay_s: how long each call is held up.
            error: the name of the error (`ThrottlingException`) that calls get; none if None.
            action: only calls of this action (`Encrypt`) are refused; all if empty.
            times: how many calls are refused; the later ones pass.

        Returns:
            what was counted until now: `calls`, `refused`, and `most_at_once`.
        """
        order = {"delay_s": delay_s, "error": error, "action": action, "times": times}
        request = urllib.request.Request(self.url + CONTROL, json.dumps(order).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=STOP_LIMIT_S) as response:
            counted: dict[str, Any] = json.load(response)
        return counted


# --- below: the process of the server --------------------------------------------------------------------


class Gate:
    """WSGI middleware: holds up, refuses, counts."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._guard = threading.Lock()
        self._order: dict[str, Any] = {"delay_s": 0.0, "error": None, "action": "", "times": 0}
        self._counted = {"calls": 0, "refused": 0, "most_at_once": 0}
        self._under_way = 0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == CONTROL:
            return self._control(environ, start_response)
        with self._guard:
            self._counted["calls"] += 1
            self._under_way += 1
            self._counted["most_at_once"] = max(self._under_way, self._counted["most_at_once"])
            refusal = self._refusal(environ)
            delay_s = self._order["delay_s"]
        try:
            time.sleep(delay_s)
            if refusal is not None:
                body = json.dumps({"__type": refusal, "message": "refused by the test"}).encode()
                start_response("400 Bad Request", [("Content-Type", "application/x-amz-json-1.1")])
                return [body]
            answer: Iterable[bytes] = self._application(environ, start_response)
            return answer
        finally:
            with self._guard:
                self._under_way -= 1

    def _refusal(self, environ: dict[str, Any]) -> str | None:
        action = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
        if self._order["error"] is None or not self._order["times"] or self._order["action"] not in ("", action):
            return None
        self._order["times"] -= 1
        self._counted["refused"] += 1
        refusal: str = self._order["error"]
        return refusal

    def _control(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        order = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        with self._guard:
            counted, self._order = self._counted, order
            self._counted = {"calls": 0, "refused": 0, "most_at_once": 0}
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(counted).encode()]


def serve() -> None:
    """Serve until standard input ends. Says `ready <port>` on standard output when connections are accepted."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    gate = Gate(DomainDispatcherApplication(create_backend_app))
    server = make_server(HOST, 0, gate, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"ready {server.server_port}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    serve()
