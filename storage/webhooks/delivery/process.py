"""What a process runs to deliver web hooks: a dispatcher, what wakes it, and the removal of old events."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from math import isfinite
from typing import TYPE_CHECKING, Final

from storage.clock import now
from storage.errors import DatabaseError
from storage.webhooks.delivery.attempts import Attempts
from storage.webhooks.delivery.dispatcher import Dispatcher
from storage.webhooks.delivery.telemetry import Telemetry
from storage.webhooks.delivery.wakeup import Announcer, Listener
from storage.webhooks.queue.retention import MOST_DAYS, prune

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from storage.config import StorageConfig
    from storage.database.database import Database
    from storage.encryption.keyring import KeyRing
    from storage.files.blobs import Contents
    from storage.webhooks.queue.status import WebhookStatus
    from storage.webhooks.sending.egress import Egress

log = logging.getLogger(__name__)

PRUNE_SECONDS: Final = 3600.0
"""How often old events are looked for. The first time is after as long: what runs shortly removes nothing."""


class Delivery:
    """The delivery of one process; `start` it on the event loop that uses the storage.

    Attributes:
        attempts: makes and counts attempts.
        dispatcher: drives them.
    """

    def __init__(
        self,
        config: StorageConfig,
        database: Database,
        keyring: KeyRing,
        contents: Contents,
        egress: Egress,
        *,
        read_status: Callable[[], Awaitable[WebhookStatus]],
    ) -> None:
        from storage.webhooks.sending.sender import Sender

        self._database = database
        self._retention = config.event_retention_days
        self.attempts = Attempts(
            database,
            keyring,
            contents,
            Sender(egress, timeout=config.webhook_timeout),
            max_attempts=config.webhook_max_attempts,
        )
        self.dispatcher = Dispatcher(
            database,
            self.attempts.make,
            attempt_seconds=config.webhook_timeout,
            poll_seconds=config.webhook_poll_seconds,
            close_seconds=config.webhook_close_seconds,
        )
        self._listener: Listener | None = None
        # A pooler hands out another server connection for each transaction, so nothing can be listened to through it.
        if database.dialect == "postgresql" and config.postgres_prepared_statements:
            self._listener = Listener(database.url.location, self.dispatcher.wake)
            self.dispatcher.on_endpoints.append(self._listener.start)
        self._telemetry = Telemetry(read_status, database.url.display)
        self.dispatcher.on_endpoints.append(self._telemetry.start)
        self.attempts.observers.append(self._telemetry.observe)
        self._pruning: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin, on the running event loop, whose it is from then on."""
        self._loop = asyncio.get_running_loop()
        self.dispatcher.start()
        if isfinite(self._retention):
            age = timedelta(days=min(self._retention, MOST_DAYS))
            self._pruning = asyncio.create_task(self._prune(age), name="storage-prune")

    async def close(self) -> None:
        """See Dispatcher.close. A second call waits for the first; if the caller is cancelled, it goes on without it.

        From another event loop than the one that it began on there is nothing to wait for: its tasks ended with that.
        """
        if self._loop is not asyncio.get_running_loop():
            self.dispatcher.forget()
            return
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="storage-webhooks-close")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._pruning is not None:
            self._pruning.cancel()
            await asyncio.gather(self._pruning, return_exceptions=True)
        await self.dispatcher.close()
        await self._telemetry.close()
        if self._listener is not None:
            await self._listener.close()
        await self.attempts.close()

    async def _prune(self, age: timedelta) -> None:
        while True:
            await asyncio.sleep(PRUNE_SECONDS)
            try:
                removed = await prune(self._database, now() - age)
            except DatabaseError as error:
                log.warning("old events stay for now: %s", error)
            else:
                log.info("%d events older than %s were removed", removed, age)


def announce(database: Database) -> None:
    """For a process that does not deliver: tell those that do of its commits, where the database can."""
    if database.dialect == "postgresql":
        Announcer(database)
