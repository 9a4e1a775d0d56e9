"""Opening a database as it is, and changing it past the stores, for tests of migrations."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from sqlalchemy import text

from storage.database import Database, Statement, execute, parse_url
from storage.database.migrate import VERSION_TABLE

REPOSITORY = Path(__file__).parents[2]


async def opened(url: str) -> Database:
    return Database(parse_url(url))


async def alembic(url: str, *arguments: str) -> str:
    """What a developer's `alembic …` prints."""
    command = [sys.executable, "-m", "alembic", "-x", f"url={url}", *arguments]
    ran = await asyncio.to_thread(
        subprocess.run, command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True
    )
    return ran.stdout


async def run_sql(database: Database, statement: str) -> None:
    await database.run(lambda: execute(Statement("test.sql", text(statement), register=False)))


async def set_revision(database: Database, revision: str) -> None:
    await run_sql(database, f"UPDATE {VERSION_TABLE} SET version_num = '{revision}'")
