"""An open storage with something of everything in it, on a database of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from sqlalchemy import text

from storage import ConversationMetadata, Storage, StorageConfig

Execute: TypeAlias = Callable[..., Awaitable[None]]


@pytest.fixture
def config(database_url: str, tmp_path: Path) -> StorageConfig:
    return StorageConfig.load(
        database_url=database_url,
        data_dir=tmp_path / "data",
        master_key_file=tmp_path / "keys" / "master.key",
        small_files_in_database=5,
        webhook_delivery=False,
        disk_warn_bytes=0,
        disk_refuse_bytes=0,
    )


async def fill(storage: Storage) -> None:
    ada = storage.user("ada")
    await ada.conversations.save_metadata(ConversationMetadata(conversation_id="c1"))
    await ada.secrets.set_custom_secret("TOKEN", "canary-value")
    await ada.files.write("long.txt", "longer than five bytes")
    await ada.files.write("small.txt", "small")


@pytest.fixture
async def storage(config: StorageConfig) -> AsyncIterator[Storage]:
    async with Storage.open(config) as opened:
        await fill(opened)
        yield opened


@pytest.fixture
def execute(storage: Storage) -> Execute:
    """Run SQL of the test's own past the stores."""

    async def run(statement: str, **parameters: Any) -> None:
        async with storage.session() as session:
            await (await session.connection()).execute(text(statement), parameters)
            await session.commit()

    return run
