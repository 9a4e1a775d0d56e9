"""Metrics of web hooks for OpenTelemetry, where the extra `otel` is installed; what an application exports, it decides.

Totals only: an endpoint or a user as an attribute would make a time series for each of them. No URL, no key, no text.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, TypeAlias

from storage.clock import now
from storage.errors import StorageError

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Observation

    from storage.webhooks.endpoints.model import Endpoint
    from storage.webhooks.message import Answer
    from storage.webhooks.queue.status import EndpointStatus, WebhookStatus

log = logging.getLogger(__name__)

METER: Final = "agent-storage"

REFRESH_SECONDS: Final = 10.0
"""How often the queue is counted, and only if somebody has asked since: counting reads all that waits."""


class Telemetry:
    """What one open storage tells of its web hooks.

    Args:
        read: counts what waits; see storage.webhooks.queue.status.
        place: which database; two storages on one count the same events.
        refresh_seconds: see REFRESH_SECONDS.
    """

    def __init__(
        self, read: Callable[[], Awaitable[WebhookStatus]], place: str, refresh_seconds: float = REFRESH_SECONDS
    ) -> None:
        self.place = place
        self.status: WebhookStatus | None = None
        self.is_asked = False
        self._read = read
        self._refresh_seconds = refresh_seconds
        self._instruments: _Instruments | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, if OpenTelemetry is installed."""
        if self._task is not None or find_spec("opentelemetry") is None:
            return
        self._instruments = _instruments()
        self._instruments.open.append(self)
        self._task = asyncio.create_task(self._refresh(), name="storage-webhooks-telemetry")

    def observe(self, endpoint: Endpoint, answer: Answer, seconds: float) -> None:
        """One attempt; an observer of attempts."""
        if self._instruments is not None:
            outcome = {"outcome": "none" if answer.status is None else f"{answer.status // 100}xx"}
            self._instruments.attempts.add(1, outcome)
            self._instruments.durations.record(seconds, outcome)

    async def close(self) -> None:
        """Tell no more."""
        if self._task is not None and self._instruments is not None:
            self._instruments.open.remove(self)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _refresh(self) -> None:
        while True:
            if self.is_asked:
                self.is_asked = False
                try:
                    self.status = await self._read()
                except StorageError as error:
                    log.debug("web hooks were not counted: %s", error)
            await asyncio.sleep(self._refresh_seconds)


class _Instruments:
    """The instruments of the process. Made once: of a second one of the same name the SDK drops the callbacks."""

    def __init__(self) -> None:
        from opentelemetry.metrics import get_meter

        meter = get_meter(METER)
        self.open: list[Telemetry] = []
        self.attempts = meter.create_counter(
            "storage.webhooks.attempts", "{attempt}", "Attempts by what came back: 2xx to 5xx, or none"
        )
        self.durations = meter.create_histogram(
            "storage.webhooks.attempt.duration", "s", "From the look-up of the name to the end of the answer"
        )
        for name, unit, description, values in (
            ("pending", "{event}", "Events that wait for an endpoint", _pending),
            ("dead", "{event}", "Events that were given up", _dead),
            ("oldest_pending.age", "s", "Age of the oldest event that waits", _oldest_age),
            ("endpoints", "{endpoint}", "Endpoints by breaker and state", _breakers),
        ):
            meter.create_observable_gauge(f"storage.webhooks.{name}", [self._observer(values)], unit, description)

    def _observer(
        self, values: Callable[[list[EndpointStatus]], _Values]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        from opentelemetry.metrics import Observation

        def observe(_: CallbackOptions) -> Iterable[Observation]:
            # Called on the exporter's thread, which cannot wait for a database: it gets what was counted last.
            statuses: dict[str, WebhookStatus] = {}
            for telemetry in tuple(self.open):
                telemetry.is_asked = True
                if telemetry.status is not None:
                    statuses[telemetry.place] = telemetry.status
            endpoints = [endpoint for status in statuses.values() for endpoint in status.endpoints]
            return [Observation(value, labels) for value, labels in values(endpoints)] if statuses else []

        return observe


@cache
def _instruments() -> _Instruments:
    return _Instruments()


_Values: TypeAlias = list[tuple[float, dict[str, str]]]


def _pending(endpoints: list[EndpointStatus]) -> _Values:
    return [(sum(endpoint.pending for endpoint in endpoints), {})]


def _dead(endpoints: list[EndpointStatus]) -> _Values:
    return [(sum(endpoint.dead for endpoint in endpoints), {})]


def _oldest_age(endpoints: list[EndpointStatus]) -> _Values:
    since = [endpoint.oldest_pending_at for endpoint in endpoints if endpoint.oldest_pending_at is not None]
    return [((now() - min(since)).total_seconds() if since else 0.0, {})]


def _breakers(endpoints: list[EndpointStatus]) -> _Values:
    numbers = Counter((endpoint.breaker, endpoint.state) for endpoint in endpoints)
    return [(number, {"breaker": breaker, "state": state}) for (breaker, state), number in numbers.items()]
