"""Delivers what the outbox holds: fans events out, and keeps a worker for each endpoint that has something to send.

Endpoints have nothing in common but this loop, so one that is dead or slow delays no other. Any number of dispatchers
may run, in one process or in many; what one of them held when it died is another's once the lease has ended.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from random import random
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from storage.clock import now
from storage.errors import DatabaseError, StorageClosed
from storage.webhooks.delivery.attempts import Make
from storage.webhooks.queue import statements as sql
from storage.webhooks.queue.exchange import Claim, Exchanged, Settled, exchange, renew
from storage.webhooks.queue.fan_out import fan_out

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from storage.database.change import Change
    from storage.database.database import Database

log = logging.getLogger(__name__)

CONCURRENCY: Final = 8
"""Requests to one endpoint under way at once: hides its latency, and spares a small receiver."""

REQUESTS: Final = 256
"""Requests under way at once, shared by the endpoints that have any; each has one at least. Sockets are files, and a
process has 1,024 of those by default, which the application needs as well."""

LEASE_MARGIN: Final = 30.0
"""Seconds that a lease outlasts an attempt's own deadline: within them it has to begin, so none outlives its lease."""

GATHER_SECONDS: Final = 0.02
"""From one look to the next at least: under steady writes one fan-out and one claim serve several of them, instead of
each write having the database flushed three times more. The first write after a while waits for nothing."""

SETTLE_SECONDS: Final = 0.005
"""How long what has arrived waits for what arrives with it, so that both are settled by one transaction."""

ERROR_SECONDS: Final = 1.0
"""How long to wait after the database has failed."""


class Dispatcher:
    """One dispatcher, on one event loop.

    Args:
        database: where the queue is.
        make: makes an attempt; see Attempts.make. It takes no longer than `attempt_seconds`.
        attempt_seconds: the deadline of an attempt.
        poll_seconds: how often to look for what nothing wakes it for.
        close_seconds: how long close() waits for attempts that are under way.
        concurrency: requests to one endpoint at once.
        lease_margin: see LEASE_MARGIN.
    """

    def __init__(
        self,
        database: Database,
        make: Make,
        *,
        attempt_seconds: float,
        poll_seconds: float = 1.0,
        close_seconds: float = 5.0,
        concurrency: int = CONCURRENCY,
        lease_margin: float = LEASE_MARGIN,
    ) -> None:
        self._database = database
        self._make = make
        self._poll_seconds = poll_seconds
        self._close_seconds = close_seconds
        self._concurrency = concurrency
        self._lease_margin = lease_margin
        self._lease = timedelta(seconds=attempt_seconds + lease_margin)
        self._awake = asyncio.Event()
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._workers: dict[uuid.UUID, _Worker] = {}
        self._due: dict[uuid.UUID, datetime] = {}
        self._knows_endpoints = True
        self._forget_hook: Callable[[], None] | None = None
        self.on_endpoints: list[Callable[[], None]] = []
        """Called once it has seen that there are endpoints."""

    def start(self) -> None:
        """Begin, on the running event loop, whose it is from then on."""
        self._loop = asyncio.get_running_loop()
        self._forget_hook = self._database.on_commit(self._on_commit)
        self._task = asyncio.create_task(self._run(), name="storage-webhooks")

    def wake(self) -> None:
        """Look now: something was committed by another process, or an endpoint was added or resumed."""
        self._knows_endpoints = True
        self._look()

    def _on_commit(self, changes: Sequence[Change]) -> None:
        # Without any endpoint there is nothing to look for, and commits are many.
        if self._knows_endpoints:
            self._look()

    def _look(self) -> None:
        if self._loop is asyncio.get_running_loop():
            self._awake.set()
        elif self._loop is not None and self._loop.is_running():
            self._loop.call_soon_threadsafe(self._awake.set)

    async def close(self) -> None:
        """Claim nothing more, wait a while for what is under way, and leave the rest leased."""
        if self._task is None:
            return
        self.forget()
        self._awake.set()
        await self._task
        workers = [worker.task for worker in self._workers.values()]
        for worker in self._workers.values():
            worker.poke.set()
        if workers:
            await asyncio.wait(workers, timeout=self._close_seconds)
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

    def forget(self) -> None:
        """Hear of commits no more; all that is left to do where the event loop has ended, and its tasks with it."""
        self._stopping = True
        if self._forget_hook is not None:
            self._forget_hook()

    async def _run(self) -> None:
        while not self._stopping:
            self._awake.clear()
            wait = self._poll_seconds
            looked = monotonic()
            try:
                await self._step()
            except StorageClosed:
                return
            except DatabaseError as error:
                log.warning("web hooks wait for the database: %s", error)
                wait = ERROR_SECONDS
            except Exception:
                log.exception("the dispatcher of web hooks failed; it goes on in %g s", ERROR_SECONDS)
                wait = ERROR_SECONDS
            await self._sleep(wait)
            early = looked + GATHER_SECONDS - monotonic()
            if early > 0 and not self._stopping:
                await asyncio.sleep(early)

    async def _sleep(self, seconds: float) -> None:
        if self._due:
            seconds = min(seconds, max(0.0, (min(self._due.values()) - now()).total_seconds()))
        try:
            async with asyncio.timeout(seconds):
                await self._awake.wait()
        except TimeoutError:
            return

    async def _step(self) -> None:
        # This look is the one that they asked for.
        moment = now()
        self._due = {endpoint_id: due for endpoint_id, due in self._due.items() if due > moment}
        if not await self._has_endpoints():
            return
        while not self._stopping and await self._waits():
            if not (await self._database.run(fan_out)).more:
                break
        if self._stopping:
            return
        ready = await self._database.read(sql.READY, {"now": now()}, scan=True)
        for (endpoint_id,) in ready:
            worker = self._workers.get(endpoint_id)
            if worker is None:
                self._workers[endpoint_id] = _Worker(self, endpoint_id)
            else:
                worker.poke.set()

    async def _has_endpoints(self) -> bool:
        ((oldest,),) = await self._database.read(sql.OLDEST_ENDPOINT, {}, scan=True)
        self._knows_endpoints = oldest is not None
        if self._knows_endpoints and not self._stopping:
            for callback in self.on_endpoints:
                callback()
            self.on_endpoints.clear()
        return self._knows_endpoints

    async def _waits(self) -> bool:
        """Whether an event is to be fanned out; a read, so that looking in vain takes no lock from a writer."""
        return bool(await self._database.read(sql.WAITING, {"limit": 1}))

    # ---- for workers

    async def exchange(self, endpoint_id: uuid.UUID, settled: list[Settled], under_way: int) -> tuple[Exchanged, float]:
        """See storage.webhooks.queue.exchange; and by when (monotonic) what was claimed has to be on its way."""
        send_before = monotonic() + self._lease_margin
        share = min(self._concurrency, max(1, REQUESTS // max(1, len(self._workers))))
        slots = 0 if self._stopping else max(0, share - under_way)
        exchanged = await self._database.run(
            lambda: exchange(endpoint_id, settled, slots=slots, lease=self._lease, random=random)
        )
        if exchanged.due is None:
            self._due.pop(endpoint_id, None)
        elif self._due.get(endpoint_id) != exchanged.due:
            self._due[endpoint_id] = exchanged.due
            self._awake.set()  # it may be asleep for longer than that
        return exchanged, send_before

    async def make(self, row: Mapping[str, Any], claim: Claim, send_before: float) -> list[Settled]:
        """See Attempts.make."""

        async def may_send(part: Claim) -> bool:
            if monotonic() < send_before:
                return True
            # It took long to get ready: the lease has to last for the attempt as well.
            return await self._database.run(lambda: renew(row["id"], part, self._lease))

        return await self._make(row, claim, may_send)

    def ended(self, endpoint_id: uuid.UUID, *, look_again: bool) -> None:
        """A worker has nothing more to do; `look_again` if it was told of something that it has not looked at."""
        self._workers.pop(endpoint_id, None)
        if look_again:
            self._awake.set()


class _Worker:
    """Sends what waits for one endpoint, until nothing is left to claim and everything is settled."""

    def __init__(self, dispatcher: Dispatcher, endpoint_id: uuid.UUID) -> None:
        self._dispatcher = dispatcher
        self._endpoint_id = endpoint_id
        self.poke = asyncio.Event()
        self.task = asyncio.create_task(self._run(), name=f"storage-webhooks-{endpoint_id}")

    async def _run(self) -> None:
        attempts: set[asyncio.Task[list[Settled]]] = set()
        try:
            await self._serve(attempts)
        except Exception:
            log.exception("the queue of endpoint %s failed; it goes on in %g s", self._endpoint_id, ERROR_SECONDS)
            await asyncio.sleep(ERROR_SECONDS)
        finally:
            for attempt in attempts:
                attempt.cancel()
            await asyncio.gather(*attempts, return_exceptions=True)
            self._dispatcher.ended(self._endpoint_id, look_again=self.poke.is_set())

    async def _serve(self, attempts: set[asyncio.Task[list[Settled]]]) -> None:
        settled: list[Settled] = []
        while True:
            self.poke.clear()
            try:
                exchanged, send_before = await self._dispatcher.exchange(self._endpoint_id, settled, len(attempts))
            except DatabaseError as error:
                # What has arrived is settled as soon as the database is back; until then its lease keeps it.
                log.warning("what web hooks have delivered waits for the database: %s", error)
                if isinstance(error, StorageClosed) or not (settled or attempts):
                    return
                await asyncio.sleep(ERROR_SECONDS)
                continue
            settled = []
            if exchanged.endpoint is not None:
                attempts |= {
                    asyncio.create_task(self._dispatcher.make(exchanged.endpoint, claim, send_before))
                    for claim in exchanged.claims
                }
            if not attempts:
                return
            settled = await self._next(attempts)

    async def _next(self, attempts: set[asyncio.Task[list[Settled]]]) -> list[Settled]:
        """What has come back, as soon as something has; nothing if it was woken to claim more."""
        poked = asyncio.create_task(self.poke.wait())
        try:
            done, _ = await asyncio.wait({*attempts, poked}, return_when=asyncio.FIRST_COMPLETED)
            if attempts - done:
                done, _ = await asyncio.wait(attempts, timeout=SETTLE_SECONDS)
        finally:
            poked.cancel()
        settled: list[Settled] = []
        for attempt in attempts & done:
            attempts.discard(attempt)
            error = attempt.exception()
            if error is None:
                settled += attempt.result()
            else:
                log.error("an attempt failed by itself; its lease will end", exc_info=error)
        return settled
