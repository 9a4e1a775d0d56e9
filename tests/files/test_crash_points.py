"""kill -9 at every moment of a write and of a user's deletion: rows and blobs agree, the collector finds the rest."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeAlias

import pytest

from storage.clock import now
from storage.database.database import Database
from storage.files.backends.local import LocalFileStore
from storage.files.blobs import ContentRules
from storage.files.catalog import FileCatalog
from storage.files.maintenance import collector
from storage.files.maintenance.collector import Collected, collect
from tests.databases import Query

ROOT = Path(__file__).resolve().parents[2]
OLD, NEW = b"the old content", b"the new content"

Kill: TypeAlias = Callable[..., None]


@pytest.fixture(scope="module")
def writer() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.files.killed_writer"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    yield process
    process.communicate()
    assert process.returncode == 0


@dataclass
class Scene:
    """A user's files, and someone who is killed while changing them."""

    database: Database
    blobs: LocalFileStore
    user_id: str
    query: Query
    kill: Kill
    """Have another process do something as the user, and die by kill -9 at that moment."""

    def files(self, user_id: str | None = None, small_bytes: int = 0) -> FileCatalog:
        return FileCatalog(self.database, self.blobs, user_id or self.user_id, rules=ContentRules(small_bytes))

    async def stored(self) -> set[str]:
        return {file.path async for file in self.blobs.walk("blobs")}

    async def named(self, user_id: str | None = None) -> set[str]:
        return await self.keys("file", user_id)

    async def keys(self, table: str, user_id: str | None = None) -> set[str]:
        rows = await self.query(f"SELECT blob_key FROM {table} WHERE user_id = :owner", owner=user_id or self.user_id)
        return {row["blob_key"] for row in rows}

    async def events(self) -> int:
        statement = "SELECT seq FROM event WHERE user_id = :owner AND type = 'file.written'"
        return len(await self.query(statement, owner=self.user_id))

    async def collect(self) -> Collected:
        return await collect(self.database, self.blobs)

    async def collect_later(self) -> Collected:
        """In two days."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(collector, "now", lambda: now() + timedelta(days=2))
            return await self.collect()


@pytest.fixture
async def scene(
    request: pytest.FixtureRequest, tmp_path: Path, database: Database, user_id: str, query: Query
) -> AsyncIterator[Scene]:
    folder = tmp_path / "files"
    url: str = request.getfixturevalue("migrated_url")
    writer: subprocess.Popen[str] = request.getfixturevalue("writer")

    def kill(action: str, moment: str, small_bytes: int = 0) -> None:
        words = {
            "url": url,
            "folder": str(folder),
            "user_id": user_id,
            "action": action,
            "moment": moment,
            "path": "notes/a.txt",
            "content": NEW.decode(),
            "small_bytes": small_bytes,
        }
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdin.write(json.dumps(words) + "\n")
        writer.stdin.flush()
        assert int(writer.stdout.readline()) == -signal.SIGKILL, "it was killed, and neither ended nor failed before"

    async with LocalFileStore(folder) as blobs:
        found = Scene(database, blobs, user_id, query, kill)
        await found.collect_later()  # what other tests have left in the database
        yield found


@pytest.mark.parametrize(
    ("action", "moment", "committed", "orphans"),
    [
        ("write", "before the blob", False, 0),
        ("write", "in the middle of the blob", False, 0),
        ("write", "after the blob", False, 1),
        ("write", "after the commit", True, 0),
        ("write in a transaction", "after the blob", False, 1),
        ("write in a transaction", "before the commit", False, 1),
        ("write in a transaction", "after the commit", True, 0),
        ("write many", "after the commit", True, 0),
    ],
)
async def test_a_killed_write_leaves_the_old_or_the_new_content_and_the_collector_finds_what_is_over(
    scene: Scene, action: str, moment: str, committed: bool, orphans: int
) -> None:
    files = scene.files()
    await files.write("notes/a.txt", OLD)
    await files.write("notes/other.txt", b"another file")
    scene.kill(action, moment)

    expected = {"notes/a.txt": NEW if committed else OLD, "notes/other.txt": b"another file"}
    if action == "write many":
        expected |= {"notes/a.txt.2": NEW + b"2", "notes/a.txt.3": NEW + b"3"}
    assert await files.read_many([file.path async for file in files.walk()]) == expected
    assert await scene.events() == len(expected) + committed, "a row and its event, or neither"
    over = await scene.stored() - await scene.named()
    assert len(over) == orphans + committed, "a new blob without a row, or the old one whose row is the new one's"

    young = await scene.collect()
    assert (young.blobs, young.kept_young) == (0, len(over))
    assert (await scene.collect_later()).blobs == len(over)
    assert await scene.stored() == await scene.named()
    assert await files.read_many(list(expected)) == expected


async def test_a_batch_that_is_killed_before_its_commit_leaves_nothing_but_blobs_for_the_collector(
    scene: Scene,
) -> None:
    files = scene.files()
    await files.write("notes/a.txt", OLD)
    scene.kill("write many", "after the blob")
    assert [file.path async for file in files.walk()] == ["notes/a.txt"]
    assert await files.read("notes/a.txt") == OLD
    over = await scene.stored() - await scene.named()
    assert 1 <= len(over) <= 3
    assert (await scene.collect_later()).blobs == len(over)
    assert await scene.stored() == await scene.named()


@pytest.mark.parametrize(("moment", "committed"), [("before the commit", False), ("after the commit", True)])
async def test_a_small_content_is_in_the_database_with_its_row_or_not_at_all(
    scene: Scene, moment: str, committed: bool
) -> None:
    files = scene.files(small_bytes=100)
    await files.write("notes/a.txt", OLD)
    scene.kill("write in a transaction", moment, small_bytes=100)
    assert await files.read("notes/a.txt") == (NEW if committed else OLD)
    assert len(await scene.keys("file_content") - await scene.named()) == committed
    collected = await scene.collect_later()
    assert (collected.rows, collected.blobs) == (committed, 0)
    assert await scene.keys("file_content") == await scene.named()
    assert await files.read("notes/a.txt") == (NEW if committed else OLD)


@pytest.mark.parametrize(("moment", "removed"), [("before the first removal", 0), ("after the first removal", 1)])
async def test_a_users_deletion_that_is_killed_behind_its_commit_leaves_blobs_that_the_collector_finds(
    scene: Scene, moment: str, removed: int
) -> None:
    other = f"{scene.user_id}-2"
    await scene.files(other).write("theirs.txt", b"of somebody else")
    files = scene.files()
    for number in range(4):
        await files.write(f"{number}.txt", b"%d" % number)
    scene.kill("delete the user", moment)
    assert await scene.named() == set(), "the rows are gone"
    gone = 5 - len(await scene.stored())
    assert removed <= gone <= 4 * removed
    assert await scene.files(other).read("theirs.txt") == b"of somebody else"

    await scene.collect_later()
    assert await scene.stored() == await scene.named(other)
    assert await scene.files(other).read("theirs.txt") == b"of somebody else"
