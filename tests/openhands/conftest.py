"""State directories made to order, with one flaw at a time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from storage.config import StorageConfig
from storage.openhands.reader import ConversationRecord, Home, open_home
from storage.storage import Storage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from storage.openhands.flaws import Flaw

# How long an example takes says something about the machine, not about the code.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


class StateDirectory:
    """A state directory under construction."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def write(self, path: str, content: bytes | str | dict[str, Any] | list[Any]) -> Path:
        """Write one file; dicts and lists as JSON."""
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict | list):
            content = json.dumps(content)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
        return place

    def conversation(self, conversation_id: str = "c1", user: str | None = None, **fields: Any) -> None:
        """Write a conversation without flaws, but for what `fields` change."""
        folder = f"users/{user}/conversations" if user else "sessions"
        metadata = {
            "conversation_id": conversation_id,
            "selected_repository": None,
            "title": "a title",
            "created_at": "2025-09-01T10:00:00+00:00",
            **fields,
        }
        self.write(f"{folder}/{conversation_id}/metadata.json", metadata)
        self.write(f"{folder}/{conversation_id}/events/0.json", event(0, "hello"))


def event(number: int, text: str, source: str | None = "user", **fields: Any) -> dict[str, Any]:
    """A message, as an event of OpenHands'."""
    told = {} if source is None else {"source": source}
    return {"id": number, **told, "action": "message", "args": {"content": text}, **fields}


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    """An empty state directory."""
    return StateDirectory(tmp_path / "home")


class Reading:
    """All that a home gives, read at once."""

    def __init__(self, home: Home) -> None:
        self.conversations: list[ConversationRecord] = list(home.conversations())
        self.accounts = list(home.accounts())
        self.loose_files = list(home.loose_files())
        self.content = {
            file.path: file.read() for record in self.conversations for file in record.files if file.size < 10**7
        }
        self.flaws: list[Flaw] = [
            *home.flaws,
            *(flaw for record in self.conversations for flaw in record.flaws),
            *(flaw for account in self.accounts for flaw in account.flaws),
        ]

    @property
    def codes(self) -> list[str]:
        """The codes of all flaws, sorted."""
        return sorted(flaw.code for flaw in self.flaws)

    @property
    def only(self) -> ConversationRecord:
        """The one conversation that there is."""
        (record,) = self.conversations
        return record


def read(path: Path) -> Reading:
    """Open a source, read it all, close it."""
    with open_home(path) as home:
        return Reading(home)


@pytest.fixture
def reading(state: StateDirectory) -> Callable[[], Reading]:
    """Reads the state directory as it is by then."""
    return lambda: read(state.root)


@pytest.fixture
async def storage(database_url: str, tmp_path: Path) -> AsyncIterator[Storage]:
    """An empty storage, once per dialect."""
    async with Storage.open(storage_config(database_url, tmp_path)) as opened:
        yield opened


def storage_config(database_url: str, folder: Path) -> StorageConfig:
    """A configuration that keeps everything in the folder, whatever the environment says."""
    return StorageConfig(
        database_url=database_url,
        data_dir=folder / "data",
        file_store="local",
        file_store_path=str(folder / "blobs"),
        master_key_file=folder / "keys" / "master.key",
    )
