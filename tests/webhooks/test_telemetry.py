"""What OpenTelemetry hears of web hooks: totals, from a real SDK; and nothing of what they carry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from tests.servers import receiver as behaviours
from tests.servers.receiver import ReceiverProcess
from tests.webhooks.office import Office, office, settled, until
from tests.webhooks.queue_place import own_url, place

__all__ = ["office", "own_url", "place"]


@pytest.fixture(scope="module")
def reader() -> Iterator[InMemoryMetricReader]:
    """Of the one provider that a process may set."""
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    metrics.set_meter_provider(provider)
    yield reader
    provider.shutdown()


def points(reader: InMemoryMetricReader) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                found.setdefault(metric.name, []).extend(metric.data.data_points)
    return found


async def test_attempts_are_counted_and_the_queue_is_measured_when_somebody_asks(
    office: Office, receiver: ReceiverProcess, reader: InMemoryMetricReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.webhooks.delivery.telemetry.Telemetry.__init__.__defaults__", (0.01,))
    before = {point.attributes["outcome"]: point.value for point in points(reader).get("storage.webhooks.attempts", [])}
    receiver.behave("", behaviours.BAD_REQUEST, times=1)
    async with office.open() as storage:
        await storage.user("alice").webhooks.add(f"{receiver.url}/canary-url")
        for key in ("canary-a", "canary-b", "canary-c"):
            await storage.user("alice").files.write(key, b"x")
        await settled(storage)
        await until(lambda: [point.value for point in points(reader).get("storage.webhooks.dead", [])][-1:] == [1])
        found = points(reader)
    counted = {
        point.attributes["outcome"]: point.value - before.get(point.attributes["outcome"], 0)
        for point in found["storage.webhooks.attempts"]
    }
    assert counted == {"2xx": 2, "4xx": 1}
    assert [point.value for point in found["storage.webhooks.pending"]][-1] == 0
    assert found["storage.webhooks.endpoints"][-1].attributes == {"breaker": "closed", "state": "active"}
    assert "canary" not in str(found)
    assert "alice" not in str(found)
