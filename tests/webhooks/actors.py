"""Processes that write and deliver until they are killed: a server that forks one for each order.

Python and the library are loaded once, so that a run of a few processes takes tenths of a second and hundreds of runs
are affordable. The server itself has one thread and no event loop, as whoever forks should.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

from storage.config import StorageConfig
from storage.storage import Storage

REPOSITORY: Final = Path(__file__).parents[2]


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def deliver(order: Mapping[str, Any]) -> None:
    """Deliver until killed, or until the point `kill_at`: `before-send`, or `after-send`, of attempt `kill_after`."""
    from storage.webhooks.queue import retry

    retry.BASE_SECONDS = retry.PAUSE_BASE_SECONDS = 0.01  # type: ignore[misc]
    async with Storage.open(StorageConfig(**order["config"])) as opened:
        delivery = opened._delivery
        assert delivery is not None
        kill_at = order.get("kill_at")
        left = order.get("kill_after", 1)
        send = delivery.attempts._sender.send

        async def sending(message: Any, headers: Any) -> Any:
            nonlocal left
            left -= 1
            if kill_at == "before-send" and left <= 0:
                kill_self()
            answer = await send(message, headers)
            if kill_at == "after-send" and left <= 0:
                kill_self()
            return answer

        delivery.attempts._sender.send = sending  # type: ignore[assignment, method-assign]
        print("ready", flush=True)
        await asyncio.Event().wait()


async def write(order: Mapping[str, Any]) -> None:
    """Write and delete files of a few paths, and roll some of it back; killed at a point of the last change or not."""
    choice = random.Random(order["seed"])
    async with Storage.open(StorageConfig(**order["config"], webhook_delivery=False)) as opened:
        alice = opened.user("alice")
        print("ready", flush=True)
        for number in range(order["changes"]):
            path = f"files/{choice.randrange(order['keys'])}.txt"
            is_last = number == order["changes"] - 1
            try:
                async with alice.transaction() as transaction:
                    if choice.random() < 0.25 and not is_last:
                        await transaction.files.delete(path)
                    else:
                        await transaction.files.write(path, f"{order['seed']} {number}")
                    if choice.random() < 0.15 and not is_last:
                        raise _ChangedMindError
                    if is_last and order.get("kill_at") == "before-commit":
                        kill_self()
            except _ChangedMindError:
                continue
            if is_last and order.get("kill_at") == "after-commit":
                kill_self()


class _ChangedMindError(Exception):
    pass


class Actor:
    """A process that was forked."""

    def __init__(self, server: ActorServer, number: int) -> None:
        self._server = server
        self.number = number

    def kill(self) -> None:
        """As `kill -9`, and wait until it is gone."""
        self._server.order({"kill": self.number})

    def wait(self) -> int:
        """Wait until it ends by itself; its exit status, negative for a signal."""
        return int(self._server.order({"wait": self.number})["status"])


class ActorServer:
    """The server of actors, as a context manager."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.webhooks.actors"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=20)
        self._process.stdout.close()

    def start(self, role: str, **order: Any) -> Actor:
        """Fork `deliver` or `write`; returns when it has opened the storage."""
        return Actor(self, self.order({"role": role, **order})["pid"])

    def order(self, order: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def serve() -> None:
    """Take orders from the standard input until it ends, then kill all that is left."""
    alive: set[int] = set()

    def ended(pid: int) -> int:
        alive.discard(pid)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    for line in sys.stdin:
        order = json.loads(line)
        if "kill" in order:
            os.kill(order["kill"], signal.SIGKILL)
            answer = {"status": ended(order["kill"])}
        elif "wait" in order:
            answer = {"status": ended(order["wait"])}
        else:
            answer = {"pid": fork(order)}
            alive.add(answer["pid"])
        print(json.dumps(answer), flush=True)
    for pid in list(alive):
        os.kill(pid, signal.SIGKILL)
        ended(pid)


def fork(order: Mapping[str, Any]) -> int:
    """Run one actor in a process of its own; returns when it says that it is ready."""
    readable, writable = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writable)
        with os.fdopen(readable) as said:
            said.readline()
        return pid
    os.close(readable)
    os.dup2(writable, 1)
    os.close(writable)
    status = 1
    try:
        asyncio.run({"deliver": deliver, "write": write}[order["role"]](order))
        status = 0
    finally:
        os._exit(status)


if __name__ == "__main__":
    serve()
