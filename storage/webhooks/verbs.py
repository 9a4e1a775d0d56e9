"""`storage.webhooks` and `user.webhooks`: endpoints, what could not be delivered to them, and how they are doing."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from storage.clock import now
from storage.errors import InvalidInput
from storage.webhooks.endpoints.store import Endpoints
from storage.webhooks.queue import dead_letters
from storage.webhooks.queue.dead_letters import DeadLetter
from storage.webhooks.queue.statements import HAS_DUE
from storage.webhooks.queue.status import WebhookStatus, read_answers, read_status

if TYPE_CHECKING:
    from collections.abc import Callable

_BEFORE_ALL: Final = datetime(1970, 1, 1, tzinfo=UTC)
_AFTER_ALL: Final = datetime(9999, 1, 1, tzinfo=UTC)


class Webhooks(Endpoints):
    """The web hooks of one user, or of the operator, who reaches everyone's. See Endpoints for the arguments.

    Args:
        counts: attempts that this process has made, by what came back.
    """

    def __init__(self, *arguments: Any, counts: Callable[[], dict[str, int]] = dict, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._counts = counts

    async def status(self) -> WebhookStatus:
        """What waits for each endpoint and since when, what is dead, and which breakers are open.

        Raises:
            DatabaseError: the database cannot be read.
        """
        counts = self._counts() if self._owner is None else {}
        return await read_status(self._executor, await self.list(), counts, self._owner)

    async def answers(self) -> dict[str, int]:
        """The last answers to all deliveries that are kept, by `2xx` to `5xx`, and `none` where there was no answer.

        Raises:
            DatabaseError: the database cannot be read.
        """
        return await read_answers(self._executor, self._owner)

    async def has_due(self) -> bool:
        """Whether an event can be sent now, or is being sent, to anybody. Reads all that waits.

        Raises:
            DatabaseError: the database cannot be read.
        """
        return bool(await self._executor.read(HAS_DUE, {"now": now()}, scan=True))

    async def dead_letters(self, endpoint_id: uuid.UUID, *, after: int = 0, limit: int = 100) -> Sequence[DeadLetter]:
        """Events that were given up for one endpoint, in the order in which they happened.

        Args:
            endpoint_id: which one.
            after: `seq` of the last one of the page before.
            limit: at most so many, from 1 to 1,000.

        Raises:
            EndpointNotFound: there is none with this id, or it is not within reach.
            InvalidInput: another limit.
        """
        await self.get(endpoint_id)
        return await dead_letters.page(self._executor, endpoint_id, after=after, limit=limit)

    async def replay(
        self,
        endpoint_id: uuid.UUID,
        ids: Sequence[uuid.UUID] | None = None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> int:
        """Have dead letters delivered again, each under its id of before; returns how many events that are.

        They may arrive behind younger events of the same key: a receiver goes by their `version`.

        Args:
            endpoint_id: whose dead letters.
            ids: of these events; a batch goes again as a whole. None for all, or for those of a time.
            since: of events that happened then or later; aware. Not together with `ids`.
            until: of events that happened before; likewise.

        Raises:
            EndpointNotFound: there is none with this id, or it is not within reach.
            DeliveryNotFound: one of the events is no dead letter of this endpoint; none is replayed.
            InvalidInput: ids and a time at once, or a naive time.
        """
        await self.get(endpoint_id)
        if ids is not None and (since is not None or until is not None):
            raise InvalidInput("give ids, or since and until, not both")
        for moment in (since, until):
            if moment is not None and moment.tzinfo is None:
                raise InvalidInput("since and until must be aware, for example datetime.now(UTC)")
        if ids is not None:
            number = await self._executor.run(lambda: dead_letters.replay(endpoint_id, ids))
        else:
            low, high = since or _BEFORE_ALL, until or _AFTER_ALL
            number = await self._executor.run(lambda: dead_letters.replay_range(endpoint_id, low, high))
        return self._told(number)
