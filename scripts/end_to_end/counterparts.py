"""What an OpenHands server talks to, on 127.0.0.1: a model that does as it is told, and a GitLab of one user."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Self

ANSWER_TOKENS = 10
PROMPT_TOKENS = 100


class Counterparts:
    """An OpenAI-compatible model at `model_url` and a GitLab at `gitlab_url`; one server.

    Asked with tools, the model first has `command` run and then finishes. Asked without, it thinks of a title.

    Attributes:
        command: what the model has the agent run.
        tokens: with which GitLab was asked.
    """

    def __init__(self, command: str) -> None:
        self.command = command
        self.tokens: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def gitlab_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def model_url(self) -> str:
        return f"{self.gitlab_url}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        counterparts = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Nothing: the terminal is for the checks."""

            def do_GET(self) -> None:
                counterparts.tokens.append(self.headers.get("Authorization", "").removeprefix("Bearer "))
                self._answer({"id": 7, "username": "alice", "name": "Alice", "email": "alice@example.com"})

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self._answer(counterparts._completion(asked))

            def _answer(self, body: dict[str, Any]) -> None:
                data = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        return Handler

    def _completion(self, asked: dict[str, Any]) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": "A title by the model"}
        if asked.get("tools"):
            done = asked["messages"][-1]["role"] == "tool"
            name, arguments = (
                ("finish", {"message": "done", "task_completed": "true"})
                if done
                else ("execute_bash", {"command": self.command, "security_risk": "LOW"})
            )
            call = {"name": name, "arguments": json.dumps(arguments)}
            message = {"role": "assistant", "content": None, "tool_calls": [_tool_call(call)]}
        total = PROMPT_TOKENS + ANSWER_TOKENS
        usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": ANSWER_TOKENS, "total_tokens": total}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        made = {"id": "completion", "object": "chat.completion", "created": int(time.time()), "model": asked["model"]}
        return {**made, "choices": [choice], "usage": usage}


def _tool_call(function: dict[str, str]) -> dict[str, Any]:
    return {"id": f"call-{function['name']}", "type": "function", "function": function}
