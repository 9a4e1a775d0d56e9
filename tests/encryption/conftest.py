"""A migrated database of each kind, and key rings on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage.database import Database, migrate, parse_url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    url = parse_url(database_url)
    opened = Database(url)
    try:
        await migrate.ensure(opened, url)
        yield opened
    finally:
        await opened.close()


@pytest.fixture
def key_path(tmp_path: Path) -> Path:
    return tmp_path / "config" / "master.key"
