"""What OpenTelemetry hears of statements, from a real SDK: names and durations, and nothing of what they carry."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from storage import ConversationMetadata, Storage
from storage.database.telemetry import DatabaseTelemetry
from storage.errors import ConversationNotFound, QueryInvalid, VersionConflict
from tests.databases import MASTER_KEY

CANARY = "canary-in-telemetry"


class Heard:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider(metric_readers=[self.reader])

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.spans]


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
async def storage(database_url: str, tmp_path: Path, heard: Heard) -> AsyncIterator[Storage]:
    options = {"data_dir": tmp_path, "master_key": MASTER_KEY, "webhook_delivery": False}
    async with Storage.open(database_url, **options) as opened:
        opened.database.telemetry = DatabaseTelemetry(opened.database.dialect, heard.tracers, heard.meters)
        yield opened


def conversation(name: str) -> ConversationMetadata:
    return ConversationMetadata(conversation_id=name, title=CANARY)


async def test_reads_and_units_are_spans_by_the_names_of_their_statements(storage: Storage, heard: Heard) -> None:
    ada = storage.user("ada")
    await ada.conversations.save_metadata(conversation("c1"))
    await ada.conversations.get_metadata("c1")
    assert "conversation.get" in heard.names
    for span in heard.spans:
        attributes = dict(span.attributes or {})
        assert attributes["db.system.name"] == storage.database.dialect
        assert attributes["db.query.summary"] == span.name
        assert span.name in tuple(attributes["storage.statements"])  # type: ignore[arg-type]


async def test_in_a_transaction_each_is_told_of(storage: Storage, heard: Heard) -> None:
    ada = storage.user("ada")
    async with ada.transaction() as tx:
        await tx.conversations.save_metadata(conversation("c1"))
        assert (await tx.conversations.get_metadata("c1")).title == CANARY
    assert heard.names.count("conversation.get") == 1
    assert (await ada.conversations.get_metadata("c1")).title == CANARY


async def test_a_failure_is_marked_by_its_kind_without_its_message(storage: Storage, heard: Heard) -> None:
    ada = storage.user("ada")
    await ada.settings.update(language="fr")
    row = await ada.settings.load()
    assert row is not None
    with pytest.raises(VersionConflict):
        await ada.settings.store(row, expected_version=99)
    failed = [span for span in heard.spans if not span.status.is_ok and span.status.status_code.name == "ERROR"]
    assert [dict(span.attributes or {})["error.type"] for span in failed] == ["VersionConflict"]
    assert failed[0].status.description is None
    assert failed[0].events == ()
    with pytest.raises(ConversationNotFound):
        await ada.conversations.get_metadata("nothing")


async def test_durations_are_a_histogram(storage: Storage, heard: Heard) -> None:
    await storage.user("ada").settings.load()
    data = heard.reader.get_metrics_data()
    assert data is not None
    [metric] = [metric for each in data.resource_metrics for scope in each.scope_metrics for metric in scope.metrics]
    assert (metric.name, metric.unit) == ("db.client.operation.duration", "s")


async def test_nothing_of_what_is_stored_is_told(storage: Storage, heard: Heard) -> None:
    ada = storage.user(f"user-{CANARY}")
    await ada.conversations.save_metadata(conversation(f"id-{CANARY}"))
    await ada.secrets.set_custom_secret(f"name-{CANARY}", CANARY)
    await ada.files.write(f"{CANARY}.txt", CANARY)
    with pytest.raises(QueryInvalid):
        await storage.query(f"SELECT {CANARY.replace('-', '_')} FROM report_user")
    told = "".join(span.to_json() for span in heard.spans)
    data = heard.reader.get_metrics_data()
    assert data is not None
    assert "canary" not in told + data.to_json()


CHECK = """
import asyncio, json, sys
from storage import Storage
if sys.argv[2] == "with": import opentelemetry.sdk.trace
async def main():
    async with Storage.open(sys.argv[1], webhook_delivery=False) as storage:
        await storage.user().settings.load()
        print(json.dumps([storage.database.telemetry is not None, "opentelemetry" in sys.modules]))
asyncio.run(main())
"""


@pytest.mark.parametrize(("used", "expected"), [("with", [True, True]), ("without", [False, False])])
def test_it_is_on_where_the_application_uses_the_sdk_and_costs_nothing_elsewhere(
    sqlite_url: str, used: str, expected: list[bool]
) -> None:
    done = subprocess.run([sys.executable, "-c", CHECK, sqlite_url, used], check=True, capture_output=True)
    assert json.loads(done.stdout) == expected
