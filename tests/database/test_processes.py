"""Several processes on one SQLite file, and one that is killed in the middle: nothing acknowledged is lost."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from storage.database import parse_url

# Everything is imported before the first line comes, so that two of these meet at the file and not while importing.
OPEN_AND_WRITE = """
import asyncio, sys
import alembic.command, cryptography.hazmat.primitives.ciphers.aead
import storage.database.migrate, storage.storage, storage.conversations.sql, storage.secrets.sql
from storage import ConversationMetadata, Storage

async def main(url, key_file, name):
    async with Storage.open(url, file_store="memory", master_key_file=key_file) as storage:
        await storage.user(name).conversations.save_metadata(ConversationMetadata(conversation_id=name))
        await storage.user(name).secrets.set_custom_secret("TOKEN", name)
        secrets = await storage.user(name).secrets.load()
        assert secrets.custom_secrets["TOKEN"].secret.get_secret_value() == name

print("ready", flush=True)
for line in sys.stdin:
    asyncio.run(main(*line.rstrip("\\n").split("\\t")))
    print("done", flush=True)
"""

SAVE_AND_TELL = """
import asyncio, sys
from storage import ConversationMetadata, Storage

async def main(url):
    async with Storage.open(url, file_store="memory") as storage:
        conversations = storage.user("ada").conversations
        async def save(first):
            for number in range(first, 1000, 8):
                await conversations.save_metadata(ConversationMetadata(conversation_id=f"c{number}"))
                print(f"c{number}", flush=True)
        await asyncio.gather(*[save(first) for first in range(8)])

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.slow
def test_two_processes_open_one_fresh_file_at_once_twenty_times_over(tmp_path: Path) -> None:
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-c", OPEN_AND_WRITE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in ("ada", "bob")
    }

    def answers() -> list[str]:
        lines = [process.stdout.readline() for process in processes.values() if process.stdout]
        assert len(set(lines)) == 1, [*lines, *(process.communicate()[0] for process in processes.values())]
        return lines

    assert answers() == ["ready\n", "ready\n"]
    for attempt in range(20):
        folder = tmp_path / str(attempt)
        for name, process in processes.items():
            assert process.stdin
            process.stdin.write(f"sqlite:///{folder / 'storage.db'}\t{folder / 'config' / 'master.key'}\t{name}\n")
            process.stdin.flush()
        assert answers() == ["done\n", "done\n"]
        connection = sqlite3.connect(folder / "storage.db")
        assert connection.execute("SELECT user_id FROM conversation ORDER BY 1").fetchall() == [("ada",), ("bob",)]
        assert connection.execute("SELECT count(*) FROM key_encryption_key").fetchone() == (1,)
        connection.close()
    assert [process.communicate()[0] for process in processes.values()] == ["", ""]
    assert [process.returncode for process in processes.values()] == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("acknowledged", [1, 137, 600])
def test_everything_acknowledged_before_a_kill_is_there_afterwards(sqlite_url: str, acknowledged: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SAVE_AND_TELL, sqlite_url], stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout is not None
    told = {process.stdout.readline().strip() for _ in range(acknowledged)}
    os.kill(process.pid, signal.SIGKILL)
    told |= {line.strip() for line in process.stdout if line.endswith("\n")}
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    assert acknowledged <= len(told) < 1000, "it was killed in the middle"
    connection = sqlite3.connect(parse_url(sqlite_url).location)
    stored = {row[0] for row in connection.execute("SELECT conversation_id FROM conversation")}
    events = {row[0] for row in connection.execute("SELECT key FROM event")}
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()
    assert told <= stored
    assert stored == events, "a row without its event, or an event without its row"
