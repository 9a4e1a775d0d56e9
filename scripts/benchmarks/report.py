"""How long `storage report html` takes, and how large the page is, for a database of many conversations."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

from sqlalchemy import insert

from storage.database import parse_url
from storage.database.database import Database
from storage.database.migrate import ensure
from storage.reporting.figures import read_figures
from storage.reporting.page.document import render
from storage.tables import ConversationTable, FileTable
from tests.servers.postgres import PostgresServer

MODELS = (
    ("anthropic/claude-sonnet-4-20250514", 3.0, 15.0, 44),
    ("anthropic/claude-opus-4-20250514", 15.0, 75.0, 9),
    ("openai/gpt-5", 1.25, 10.0, 22),
    ("openai/gpt-5-mini", 0.25, 2.0, 12),
    ("gemini/gemini-2.5-pro", 1.25, 10.0, 7),
    ("mistral/devstral-medium", 0.4, 2.0, 4),
    ("deepseek/deepseek-chat", 0.27, 1.1, 2),
)
"""Name, US dollars for a million prompt and completion tokens, and how often it is used."""

TRIGGERS = (("gui", 55), ("resolver", 20), ("slack", 12), ("openhands_api", 8), ("microagent_management", 5))
BATCH = 2_000


@dataclass(frozen=True)
class Fill:
    """How much there is to be in a database."""

    conversations: int
    users: int = 40
    repositories: int = 60
    days: int = 330
    last: datetime = datetime(2025, 11, 14, 16, 30, tzinfo=UTC)


def rows(fill: Fill) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Conversations and their files: growing use, quiet weekends; the same ones each time."""
    choice = random.Random(7)  # noqa: S311 - repeatable is what is wanted
    models = choice.choices(MODELS, [model[3] for model in MODELS], k=fill.conversations)
    triggers = choice.choices([name for name, _ in TRIGGERS], [weight for _, weight in TRIGGERS], k=fill.conversations)
    conversations, files = [], []
    for number, ((model, prompt_price, completion_price, _), trigger) in enumerate(zip(models, triggers, strict=True)):
        began = fill.last - timedelta(days=fill.days * (1 - choice.random() ** 0.55), hours=choice.random() * 9)
        if began.weekday() > 4 and choice.random() < 0.8:  # noqa: PLR2004 - Saturday and Sunday
            began -= timedelta(days=2)
        prompt = int(choice.lognormvariate(11.5, 1.1))
        completion = int(prompt * choice.uniform(0.01, 0.05))
        cached = int(prompt * choice.uniform(0.3, 0.9))
        user = f"user-{int(fill.users * choice.random() ** 2):02d}"
        conversation = f"{number:032x}"
        conversations.append(
            {
                "user_id": user,
                "conversation_id": conversation,
                "title": f"Change {number}: {choice.choice(('fix', 'add', 'review', 'document'))} the build",
                "selected_repository": f"acme/service-{int(fill.repositories * choice.random() ** 2):02d}",
                "git_provider": "github",
                "trigger": trigger,
                "llm_model": model,
                "accumulated_cost": ((prompt - cached * 0.9) * prompt_price + completion * completion_price) / 1e6,
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
                "cache_read_tokens": cached,
                "cache_write_tokens": 0,
                "reasoning_tokens": 0,
                "context_window": 200_000,
                "per_turn_token": 0,
                "pr_number": [],
                "tags": [],
                "extra": {},
                "created_at": began,
                "last_updated_at": began + timedelta(hours=1),
                "version": 1,
            }
        )
        files.append(
            {
                "user_id": user,
                "path": f"sessions/{conversation}/events/0.json",
                "conversation_id": conversation,
                "blob_key": conversation,
                "size": int(choice.lognormvariate(9, 1.5)),
                "sha256": bytes(32),
                "version": 1,
                "created_at": began,
                "updated_at": began,
            }
        )
    return conversations, files


async def fill_database(database: Database, fill: Fill) -> None:
    """Write the rows past the stores, and let the planner see them."""
    conversations, files = rows(fill)
    async with database.session() as session:
        connection = await session.connection()
        for table, all_ in ((ConversationTable, conversations), (FileTable, files)):
            for start in range(0, len(all_), BATCH):
                await connection.execute(insert(table), all_[start : start + BATCH])
        await session.commit()


async def measure(url: str, fill: Fill, rounds: int, out: Path) -> dict[str, float]:
    """Seconds to read the figures and to render them, the best of some rounds, and the page's bytes."""
    place = parse_url(url)
    database = Database(place)
    try:
        await ensure(database, place)
        await fill_database(database, fill)
        taken: list[tuple[float, float]] = []
        page = ""
        for _ in range(rounds):
            started = perf_counter()
            figures = await read_figures(database)
            read = perf_counter()
            page = render(figures)
            taken.append((read - started, perf_counter() - read))
    finally:
        await database.close()
    out.write_text(page, encoding="utf-8")  # noqa: ASYNC240 - nothing else runs
    return {
        "read_seconds": round(min(read for read, _ in taken), 3),
        "render_seconds": round(min(render_ for _, render_ in taken), 3),
        "page_bytes": len(page.encode()),
    }


def main() -> None:
    """Measure SQLite, then PostgreSQL; JSON on standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sqlite-only", action="store_true")
    parser.add_argument("--keep", type=Path, help="a folder for the SQLite database and the pages")
    options = parser.parse_args()
    fill = Fill(options.rows)
    found = {}
    with ExitStack() as opened:
        folder = options.keep or Path(opened.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "benchmark.db"
        found["sqlite"] = asyncio.run(measure(f"sqlite:///{path}", fill, options.rounds, folder / "sqlite.html"))
        if not options.sqlite_only:
            url = opened.enter_context(PostgresServer()).create_database()
            found["postgresql"] = asyncio.run(measure(url, fill, options.rounds, folder / "postgresql.html"))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
