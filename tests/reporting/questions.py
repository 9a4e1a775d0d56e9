"""A storage of two users, and questions to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from storage import ConversationMetadata, Storage
from storage.reporting.query import asking
from storage.reporting.query.result import QueryResult
from tests.databases import MASTER_KEY

CANARY = "canary-of-a-secret"
TITLE = "title-of-somebody-else"


@pytest.fixture
async def storage(database_url: str, tmp_path: Path) -> AsyncIterator[Storage]:
    options = {"data_dir": tmp_path, "master_key": MASTER_KEY, "webhook_delivery": False}
    async with Storage.open(database_url, **options) as opened:
        for user, title in (("ada", "A title"), ("bob", TITLE)):
            alice = opened.user(user)
            row = ConversationMetadata(
                conversation_id=f"c-{user}", title=title, llm_model="large", accumulated_cost=1.5, tags=["a", "b"]
            )
            await alice.conversations.save_metadata(row)
            await alice.secrets.set_custom_secret("NAME", CANARY, CANARY)
            await alice.settings.update(llm_api_key=SecretStr(CANARY))
            await alice.files.write(f"{user}.txt", b"content")
        yield opened


async def ask(storage: Storage, sql: str, user: str | None = None, /, **parameters: Any) -> QueryResult:
    return await asking.ask(storage.database.url, sql, parameters, user=user)
