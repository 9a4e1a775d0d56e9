"""A storage with secrets in every sealed column, on a shared database of each kind; each test has users of its own."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from storage import Storage, StorageConfig
from tests.databases import MASTER_KEY, shared_database
from tests.security.places import MODELS

migrated_url = shared_database("sqlite", "postgresql")


def configured(url: str, folder: Path, **options: Any) -> StorageConfig:
    """The configuration of these tests: models with secret fields, and the key of `tests.databases`."""
    return StorageConfig.load(
        **{
            "database_url": url,
            "data_dir": folder / "data",
            "file_store": "memory",
            "master_key": MASTER_KEY,
            **MODELS,
            **options,
        }
    )


@pytest.fixture
async def storage(migrated_url: str, tmp_path: Path) -> AsyncIterator[Storage]:
    async with Storage.open(configured(migrated_url, tmp_path)) as opened:
        yield opened


@pytest.fixture
def alice() -> str:
    return f"alice-{uuid.uuid4().hex}"


@pytest.fixture
def bob() -> str:
    return f"bob-{uuid.uuid4().hex}"
