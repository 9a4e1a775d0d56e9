"""kill -9 at random moments of a rotation: every secret opens after each, and the next run finishes the job."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from storage.database import Database, parse_url
from storage.encryption.keyring import EVERYONE
from storage.encryption.providers.local_keys import MasterKey
from tests.encryption.everything_sealed import (
    USERS,
    as_text,
    data_keys,
    environment,
    everything_else,
    fill,
    fill_many,
    opened,
    rotation,
    started,
)

KILLS = 20
SECRETS = 3
MANY = [f"user-{number:03}" for number in range(300)]
EVERYBODY = [*USERS, *MANY, EVERYONE]

# Forks a process for each run once everything is imported: what is killed is the rotation and not its imports.
RUNS = """
import asyncio, os, sys
import cryptography.hazmat.primitives.ciphers.aead
import storage.tables
from pydantic import SecretStr
from storage.database import Database, parse_url
from storage.database import postgresql_drive, postgresql_lane, sqlite_drive, sqlite_lane
from storage.encryption.rotation import rewrap
from storage.encryption.providers.environment import EnvironmentKeys
from storage.encryption.keyring import KeyRing
from storage.encryption.registry import sealed_columns
from storage.encryption.rotation.verbs import KeyRotation

rewrap.BATCH = 20

def told(perform):
    def telling(*arguments):
        os.write(1, b".")  # before each statement of each transaction
        return perform(*arguments)
    return telling

for module in (sqlite_drive, postgresql_drive):
    module.perform = told(module.perform)

async def main(url, verb, keys):
    database = Database(parse_url(url))
    ring = KeyRing(database, EnvironmentKeys(SecretStr(keys)))
    await getattr(KeyRotation(database, ring, sealed_columns()), verb)()
    await database.close()

for line in sys.stdin:
    child = os.fork()
    if not child:
        os.write(1, b"%d\\n" % os.getpid())
        asyncio.run(main(*line.split()))
        os.write(1, b"!")
        os._exit(0)
    os.waitpid(child, 0)
    os.write(1, b"over\\n")
"""


class Runs:
    """Rotations in processes of their own, killed after so many statements."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._process = subprocess.Popen([sys.executable, "-c", RUNS], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout.fileno()

    def run(self, verb: str, keys: str, kill_after: int | None = None) -> tuple[int, bool]:
        """How many statements were begun, and whether the rotation came to its end."""
        self._in.write(f"{self._url} {verb} {keys}\n".encode())
        self._in.flush()
        output = b""
        killed = False
        while not output.endswith(b"over\n"):
            output += os.read(self._out, 65536)
            pid, _, statements = output.partition(b"\n")
            if kill_after is not None and not killed and statements.count(b".") >= kill_after:
                killed = True
                os.kill(int(pid), signal.SIGKILL)
        return output.count(b"."), b"!" in output

    def close(self) -> None:
        self._in.close()
        assert self._process.stdout is not None
        self._process.stdout.close()
        assert self._process.wait() == 0


@pytest.fixture
def runs(database_url: str) -> Iterator[Runs]:
    made = Runs(database_url)
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["rewrap", "reencrypt"])
async def test_every_secret_opens_after_each_of_twenty_kills_and_the_last_run_finishes_the_job(
    database_url: str, runs: Runs, verb: str
) -> None:
    # A rotation of its own for each dialect and verb, and the same one each time that this is run.
    dice = random.Random(f"{verb} {parse_url(database_url).dialect}")
    first, second = MasterKey.generate(), MasterKey.generate()
    orders = [as_text(second, first).get_secret_value(), as_text(first, second).get_secret_value()]
    database = Database(parse_url(database_url))
    try:
        ring = await started(database, first)
        await fill(database, ring)
        await fill_many(database, ring, MANY, SECRETS)
        expected, rest = await opened(database, ring, EVERYBODY), await everything_else(database)
        statements, whole = runs.run(verb, orders[0])
        assert whole
        assert statements > KILLS
        kills = attempts = 0
        middles = 0
        turn = 1
        while kills < KILLS:
            attempts += 1
            assert attempts < 5 * KILLS, "it ends before it can be killed"
            _, finished = runs.run(verb, orders[turn % 2], kill_after=dice.randint(1, statements))
            if finished:
                turn += 1  # nothing is left to do in this direction
                continue
            kills += 1
            keys = await data_keys(database)
            middles += len({(kek, state) for _, _, kek, state in keys}) > 1
            assert await opened(database, await started(database, first, second), EVERYBODY) == expected
        assert middles >= KILLS // 4, "some were killed in the middle"
        last = await started(database, provider=environment(*((first, second) if turn % 2 else (second, first))))
        keys_of_all = rotation(database, last)
        await getattr(keys_of_all, verb)()
        assert {state for _, _, _, state in await data_keys(database)} == {"active"}
        if verb == "rewrap":
            assert len({kek for _, _, kek, _ in await data_keys(database)}) == 1
        found = await keys_of_all.doctor()
        assert (found.unreadable, found.problems) == ((), ())
        assert sum(found.sealed.values()) == len(expected)
        assert await opened(database, last, EVERYBODY) == expected
        assert await everything_else(database) == rest
    finally:
        await database.close()
