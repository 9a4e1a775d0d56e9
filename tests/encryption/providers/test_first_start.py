"""The first start of an installation, by many processes at once: one master key, and nobody with a wrong one."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storage.encryption.providers.local_keys import parse_master_keys
from tests.servers.postgres import PostgresServer

PROCESSES = 8
SQLITE_ROUNDS = 11
POSTGRES_ROUNDS = 3

# One process of the pool. Every line that it reads is a step; every line that it writes is what came of it.
MEMBER = """
import asyncio, json, sys
from storage import Storage

name = sys.argv[1]

async def steps():
    print("ready", flush=True)
    storage = None
    for line in sys.stdin:
        step, *arguments = json.loads(line)
        outcome = None
        try:
            if step == "open":
                storage = await Storage.open(**arguments[0])
            elif step == "set":
                await storage.user(name).secrets.set_custom_secret("TOKEN", f"of {name}")
            elif step == "read":
                outcome = {}
                for user_id in arguments[0]:
                    stored = await storage.user(user_id).secrets.get_custom_secret("TOKEN")
                    outcome[user_id] = stored.secret.get_secret_value()
            elif step == "close":
                await storage.close()
        except Exception as error:
            outcome = f"{step}: {type(error).__name__}: {error}"
        print(json.dumps(outcome), flush=True)

asyncio.run(steps())
"""


class Pool:
    """Processes that take the same steps at the same time. Started once: 8 interpreters take seconds."""

    def __init__(self) -> None:
        self.names = [f"user-{number}" for number in range(PROCESSES)]
        self._members = [
            subprocess.Popen(
                [sys.executable, "-c", MEMBER, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for name in self.names
        ]
        assert {self._line(member) for member in self._members} == {"ready"}

    def together(self, *steps: list[Any]) -> list[Any]:
        """Each process takes these steps, without waiting for others in between; what each said of the last."""
        lines = "".join(f"{json.dumps(step)}\n" for step in steps)
        for member in self._members:
            assert member.stdin is not None
            member.stdin.write(lines)
            member.stdin.flush()
        answers = []
        for member in self._members:
            outcomes = [json.loads(self._line(member)) for _ in steps]
            assert not any(isinstance(outcome, str) for outcome in outcomes), outcomes
            answers.append(outcomes[-1])
        return answers

    def close(self) -> None:
        for member in self._members:
            member.kill()
            member.communicate()

    @staticmethod
    def _line(member: subprocess.Popen[str]) -> str:
        assert member.stdout is not None
        return member.stdout.readline().strip()


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    started = Pool()
    yield started
    started.close()


def race(pool: Pool, url: str, folder: Path, *, opened_before: bool) -> None:
    """One first start: all set their first secret, then all read everybody's, then a later start reads them too."""
    key_file = folder / "config" / "master.key"
    opening = ["open", {"database_url": url, "data_dir": str(folder), "master_key_file": str(key_file)}]
    if opened_before:
        pool.together(opening)
        pool.together(["set"])
    else:
        pool.together(opening, ["set"])
    everybodys = {name: f"of {name}" for name in pool.names}
    assert pool.together(["read", pool.names]) == [everybodys] * PROCESSES
    assert [entry.name for entry in key_file.parent.iterdir()] == ["master.key"]
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(key_file.parent.stat().st_mode) == 0o700
    assert len(parse_master_keys(key_file.read_text(), "the file")) == 1
    pool.together(["close"])
    assert pool.together(opening, ["read", pool.names]) == [everybodys] * PROCESSES
    pool.together(["close"])


@pytest.mark.slow
def test_a_first_start_on_sqlite_ends_with_one_key_for_all(pool: Pool, tmp_path: Path, sqlite_template: Path) -> None:
    for number in range(SQLITE_ROUNDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        if number % 10:  # every tenth round also has to make the tables
            shutil.copy(sqlite_template, folder / "storage.db")
        race(pool, f"sqlite:///{folder / 'storage.db'}", folder, opened_before=number % 2 == 0)


@pytest.mark.slow
def test_a_first_start_on_postgresql_ends_with_one_key_for_all(
    pool: Pool, tmp_path: Path, postgres_server: PostgresServer, postgres_template: str
) -> None:

    for number in range(POSTGRES_ROUNDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        url = postgres_server.create_database(template=postgres_template)
        race(pool, url, folder, opened_before=number % 2 == 0)
        postgres_server.drop_database(url)
