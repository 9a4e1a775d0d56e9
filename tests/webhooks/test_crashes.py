"""Writers and dispatchers are killed at any moment: what was committed arrives, what was not never does, in order.

One run is a writer and some dispatchers on a fresh queue, killed at random moments, and one dispatcher at the end that
is left alone. STORAGE_CRASH_RUNS says how many runs there are. Leases are as long as ever; when nobody is left who
could hold one, the test ends them, instead of making them so short that a busy machine outlives them.
"""

from __future__ import annotations

import os
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import text

from storage.webhooks.endpoints.model import Batching
from tests.servers.receiver import Behaviour, ReceiverProcess
from tests.webhooks.actors import ActorServer
from tests.webhooks.office import Office, rows, settled
from tests.webhooks.queue_place import own_url, place

__all__ = ["own_url", "place"]

RUNS: Final = int(os.environ.get("STORAGE_CRASH_RUNS", "2"))


@pytest.fixture(scope="module")
def actors() -> Iterator[ActorServer]:
    with ActorServer() as server:
        yield server


class Scene(Office):
    """An office whose processes are killed."""

    def order(self) -> dict[str, Any]:
        return {"config": self.settings() | {"data_dir": str(self.folder), "webhook_timeout": 15.0}}

    async def add_endpoint(self, url: str, **options: Any) -> None:
        async with self.open(webhook_delivery=False) as storage:
            await storage.webhooks.add(url, **options)

    async def finish(self, actors: ActorServer) -> None:
        """Deliver the rest, by a dispatcher that nobody kills, when the others are gone."""
        await self.end_leases()
        last = actors.start("deliver", **self.order())
        async with self.open(webhook_delivery=False) as storage:
            await settled(storage)
        last.kill()

    async def end_leases(self) -> None:
        """Let the time pass that leases last; nobody is left who holds one."""
        past = "0" if self.url.startswith("sqlite") else "'2000-01-01'"
        async with self.open(webhook_delivery=False) as storage, storage.session() as session:
            connection = await session.connection()
            await connection.execute(text(f"UPDATE delivery SET lease_until = {past} WHERE lease_until IS NOT NULL"))
            await connection.execute(text("UPDATE webhook_endpoint SET blocked_until = NULL"))
            await session.commit()

    async def check(self, receiver: ReceiverProcess) -> None:
        """Compare what was committed with what has arrived.

        Every committed version at least once, nothing else at all, each under its one id, and the versions of a key in
        their order: a request may come twice, but not again after one with a later version.
        """
        async with self.open(webhook_delivery=False) as storage:
            events = await rows(storage, "SELECT id, \"key\", seq FROM event WHERE type LIKE 'file.%' ORDER BY seq")
        committed = {str(id_).replace("-", ""): (key, seq) for id_, key, seq in events}
        newest: dict[str, tuple[int, str]] = defaultdict(lambda: (0, ""))
        bodies: dict[str, bytes] = {}
        arrived = set()
        for request in receiver.requests():
            is_again = request.id in bodies
            assert bodies.setdefault(request.id, request.body) == request.body, "the same bytes under the same id"
            body = request.json
            items = body["data"] if body["type"] == "batch" else [{"id": request.id, **body}]
            for item in items:
                found = item["id"].replace("-", "")
                assert found in committed, "nothing is sent that was not committed"
                key, seq = committed[found]
                assert item["data"]["path"] == key
                last, message = newest[key]
                assert message == request.id if is_again else seq > last, _told(receiver, key, committed)
                newest[key] = max(seq, last), request.id
                arrived.add(found)
        assert arrived == set(committed), "all that was committed has arrived"


def _told(receiver: ReceiverProcess, key: str, committed: dict[str, tuple[str, int]]) -> str:
    """What arrived of a key, for whoever looks for the reason."""
    lines = [f"{key} arrived out of order:"]
    for request in receiver.requests():
        body = request.json
        items = body["data"] if body["type"] == "batch" else [{"id": request.id, **body}]
        seqs = [committed[item["id"].replace("-", "")][1] for item in items if item["data"]["path"] == key]
        if seqs:
            lines.append(f"{request.at:.3f} {request.id} {seqs} connection {request.connection}: {request.behaviour}")
    return "\n".join(lines)


@pytest.fixture
def scene(own_url: str, tmp_path: Path, place: Any) -> Scene:
    return Scene(own_url, tmp_path)


BATCHED: Final = {"mode": "batched", "batching": Batching(events=5, seconds=0.05)}


@pytest.mark.parametrize("options", [{}, BATCHED], ids=["standard", "batched"])
@pytest.mark.parametrize("point", ["before-send", "after-send"])
async def test_a_dispatcher_killed_at_a_point_loses_and_reorders_nothing(
    scene: Scene, actors: ActorServer, receiver: ReceiverProcess, point: str, options: dict[str, Any]
) -> None:
    await scene.add_endpoint(receiver.url, **options)
    actors.start("write", **scene.order(), seed=1, changes=24, keys=4).wait()
    assert actors.start("deliver", **scene.order(), kill_at=point, kill_after=3).wait() == -9
    await scene.finish(actors)
    await scene.check(receiver)


@pytest.mark.parametrize("point", ["before-commit", "after-commit"])
async def test_a_writer_killed_around_its_commit_leaves_both_the_file_and_its_event_or_neither(
    scene: Scene, actors: ActorServer, receiver: ReceiverProcess, point: str
) -> None:
    await scene.add_endpoint(receiver.url)
    assert actors.start("write", **scene.order(), seed=3, changes=9, keys=2, kill_at=point).wait() == -9
    await scene.finish(actors)
    await scene.check(receiver)
    async with scene.open(webhook_delivery=False) as storage:
        files = await rows(storage, "SELECT path, version FROM file WHERE user_id = 'alice'")
    last: dict[str, Any] = {}
    for request in receiver.requests():
        last[request.json["data"]["path"]] = request.json
    written = {path: said["data"]["version"] for path, said in last.items() if said["type"] == "file.written"}
    assert dict(files) == written, "what arrived last is what is there"


@pytest.mark.slow
@pytest.mark.parametrize("dispatchers", [1, 4])
async def test_random_kills_lose_and_reorder_nothing(
    scene: Scene, actors: ActorServer, receiver: ReceiverProcess, place: Any, dispatchers: int
) -> None:
    for seed in range(RUNS):
        receiver.reset()
        chance = random.Random(seed)
        receiver.behave("", Behaviour(status=500), times=chance.randrange(3))
        await scene.add_endpoint(receiver.url, **(BATCHED if chance.random() < 0.3 else {}))
        running = [actors.start("deliver", **scene.order()) for _ in range(dispatchers)]
        writer = actors.start("write", **scene.order(), seed=seed, changes=60, keys=5)
        for _ in range(dispatchers):
            time.sleep(chance.random() * 0.08)
            victim = running.pop(chance.randrange(len(running)))
            victim.kill()
            if not running:
                await scene.end_leases()
            running.append(actors.start("deliver", **scene.order()))
        if chance.random() < 0.5:
            writer.kill()
        else:
            writer.wait()
        for one in running:
            one.kill()
        await scene.finish(actors)
        await scene.check(receiver)
        await place.empty()
