"""A host of git repositories on 127.0.0.1 that asks for a password: git's own http-backend behind Python's HTTP server.

It keeps what each request carried, so that a test can tell who was shown a token.
"""

from __future__ import annotations

import base64
import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final, Self

LIMIT_S: Final = 60.0
"""How long a git command may take before it is taken for stuck."""


class GitHost:
    """A host under test.

    Args:
        repositories: the folder that it serves.
        password: the one that it lets in, under any user name; None asks for none.
        redirect_to: where it sends those whom it has let in.

    Attributes:
        authority: `127.0.0.1:port`.
        shown: the user name and password that each request carried; None for a request that carried none.
    """

    def __init__(self, repositories: Path, password: str | None, redirect_to: str | None) -> None:
        self.repositories = repositories
        self.password = password
        self.redirect_to = redirect_to
        self.shown: list[tuple[str, str] | None] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.authority = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="git host", daemon=True)

    @property
    def url(self) -> str:
        return f"http://{self.authority}/project.git"

    @property
    def passwords(self) -> set[str]:
        """Every password that it was shown."""
        return {pair[1] for pair in self.shown if pair is not None}

    def start(self) -> Self:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def git(*words: str | Path, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run git as on a machine that nobody has configured, without a terminal to ask on."""
    inherited = {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
    variables = {
        **{name: value for name, value in inherited.items() if not name.startswith(("GIT_", "STORAGE_"))},
        "HOME": str(home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
        **environment,
    }
    return subprocess.run(
        ["git", *map(str, words)], env=variables, capture_output=True, text=True, check=False, timeout=LIMIT_S
    )


def _handler(host: GitHost) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(b"")

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def _answer(self, body: bytes) -> None:
            shown = _pair(self.headers.get("Authorization"))
            host.shown.append(shown)
            if host.password is not None and (shown is None or shown[1] != host.password):
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="repositories"')
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif host.redirect_to is not None:
                self.send_response(302)
                self.send_header("Location", host.redirect_to + self.path)
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self._serve(body)

        def _serve(self, body: bytes) -> None:
            path, _, query = self.path.partition("?")
            done = subprocess.run(
                ["git", "http-backend"],
                input=body,
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": str(host.repositories),
                    "GIT_CONFIG_NOSYSTEM": "1",
                    "GIT_CONFIG_GLOBAL": os.devnull,
                    "GIT_PROJECT_ROOT": str(host.repositories),
                    "GIT_HTTP_EXPORT_ALL": "1",
                    "REQUEST_METHOD": self.command,
                    "PATH_INFO": path,
                    "QUERY_STRING": query,
                    "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                    "CONTENT_LENGTH": str(len(body)),
                    "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                    "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                    "REMOTE_USER": "somebody",
                    "REMOTE_ADDR": "127.0.0.1",
                },
                capture_output=True,
                check=True,
                timeout=LIMIT_S,
            )
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            fields = [line.partition(": ") for line in head.decode().split("\r\n")]
            status = next((value for name, _, value in fields if name == "Status"), "200")
            self.send_response(int(status.split()[0]))
            for name, _, value in fields:
                if name != "Status":
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
            pass

    return Handler


def _pair(header: str | None) -> tuple[str, str] | None:
    if header is None or not header.startswith("Basic "):
        return None
    name, _, password = base64.b64decode(header.removeprefix("Basic ")).decode().partition(":")
    return name, password
