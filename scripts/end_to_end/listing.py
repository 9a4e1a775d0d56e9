"""GET /api/conversations with many conversations: the server's own file store, then this storage on the same home."""

from __future__ import annotations

import json
import statistics
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

from scripts.end_to_end.report import Report
from scripts.end_to_end.server import OpenHands

ROUNDS = 7
"""Requests timed for each; the median counts."""

DROP_IN = {
    "OPENHANDS_CONFIG_CLS": "storage.openhands.SQLServerConfig",
    "OPENHANDS_CONVERSATION_VALIDATOR_CLS": "storage.openhands.SQLConversationValidator",
}


def storage_environment(folder: Path, database_url: str | None) -> dict[str, str]:
    """Variables that start the server on this storage, with everything of it below `folder`."""
    environment = {
        **DROP_IN,
        "STORAGE_DATA_DIR": str(folder / "data"),
        "STORAGE_MASTER_KEY_FILE": str(folder / "keys" / "master.key"),
    }
    return environment if database_url is None else {**environment, "STORAGE_DATABASE_URL": database_url}


def compare_listing(report: Report, folder: Path, number: int, database_url: str | None) -> None:
    """Time the first page and all pages; the same list must come from both."""
    kind = "SQLite" if database_url is None else "PostgreSQL"
    report.section(f"{number:,} conversations listed: the server's files against {kind}")
    state = folder / "state"
    _make_home(state, number)
    found: dict[str, list[str]] = {}
    medians: dict[str, float] = {}
    for name, environment in (("files", {}), (kind, storage_environment(folder, database_url))):
        with OpenHands(folder / name, state, environment) as server:
            report.figure(f"start with {number:,} conversations, {name}", f"{server.started_in:.1f} s")
            medians[name] = _first_page(server)
            report.figure(f"GET /api/conversations, first 20 of {number:,}, {name}", f"{medians[name] * 1000:.1f} ms")
            started = time.monotonic()
            # The server's own store reads every conversation again for each page.
            limit = number if name == "files" else 100
            found[name] = [each["conversation_id"] for each in server.conversations(limit)]
            report.figure(f"all {number:,} in pages of {limit:,}, {name}", f"{time.monotonic() - started:.1f} s")
    report.figure(f"files / {kind}", f"{medians['files'] / medians[kind]:.0f} times as fast")
    with report.check(f"the same {number:,} conversations come in the same order"):
        assert len(found[kind]) == number
        assert found["files"] == found[kind]


def _first_page(server: OpenHands) -> float:
    server.get("/conversations?limit=20")
    seconds = []
    for _ in range(ROUNDS):
        time.sleep(1.0)
        started = time.perf_counter()
        server.call("GET", "/conversations?limit=20", pause=0)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _make_home(state: Path, number: int) -> None:
    """Conversations as release 1.6.0 writes them; one millisecond between each two, so that their order is known."""
    newest = datetime.now(UTC)
    for index in range(number):
        conversation_id = uuid.uuid4().hex
        created = (newest - timedelta(milliseconds=index)).isoformat()
        folder = state / "sessions" / conversation_id
        folder.mkdir(parents=True)
        metadata = {
            "conversation_id": conversation_id,
            "selected_repository": f"team/project-{index % 40}",
            "title": f"Conversation number {index}",
            "created_at": created,
            "last_updated_at": created,
            "trigger": "gui",
            "llm_model": "openai/gpt-4o",
            "accumulated_cost": index / 1000,
        }
        (folder / "metadata.json").write_text(json.dumps(metadata))
