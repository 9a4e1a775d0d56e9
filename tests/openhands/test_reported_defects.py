"""What users of OpenHands have reported about its storage, and how it goes here.

Each test is named after the behaviour that was missed. The numbers are those of public reports on GitHub, of the
repository OpenHands/OpenHands (formerly All-Hands-AI/OpenHands) unless another one is named.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from storage.clock import now
from storage.config import StorageConfig
from storage.conversations.model import ConversationMetadata
from storage.errors import ConversationNotFound
from storage.files.maintenance import collector
from storage.openhands.importer import import_home
from storage.storage import Storage
from tests.files.backends.s3_buckets import BUCKET, client, empty_bucket
from tests.openhands.conftest import StateDirectory, storage_config
from tests.servers.moto import MotoServer

ROOT = Path(__file__).resolve().parents[2]

BEYOND_ONE_ANSWER = 1_005
"""More keys than S3 lists in one answer, which are 1,000."""


class LaterConversation(ConversationMetadata):
    """The model of a release that has one field more."""

    mood: str = "unknown"


async def listed(storage: Storage, user_id: str | None = None) -> list[str]:
    """The ids that a client meets who pages through the list as OpenHands' does, 20 at a time."""
    found, page_id = [], None
    while True:
        page = await storage.user(user_id).conversations.search(page_id, limit=20)
        found += [metadata.conversation_id for metadata in page.results]
        page_id = page.next_page_id
        if page_id is None:
            return found


# ---- the list of conversations


async def test_a_new_metadata_field_hides_no_conversation(database_url: str, tmp_path: Path) -> None:
    """#7297: with a field that old metadata lacked, not one conversation was found any more (mended by #7309)."""
    config = storage_config(database_url, tmp_path)
    async with Storage.open(config) as storage:
        await storage.user().conversations.save_metadata(ConversationMetadata(conversation_id="before"))
    later = config.model_copy(update={"conversation_model": f"{__name__}.LaterConversation"})
    async with Storage.open(later) as storage:
        made = LaterConversation(conversation_id="after", mood="good")
        await storage.user().conversations.save_metadata(made)
        assert sorted(await listed(storage)) == ["after", "before"]
        old = await storage.user().conversations.get_metadata("before")
        assert isinstance(old, LaterConversation)
        assert old.mood == "unknown"
    async with Storage.open(config) as storage:  # and back to the release before
        assert sorted(await listed(storage)) == ["after", "before"]
        new = await storage.user().conversations.get_metadata("after")
        assert new.model_extra == {"mood": "good"}
        await storage.user().conversations.update_metadata("after", title="renamed")
    async with Storage.open(later) as storage:
        kept = await storage.user().conversations.get_metadata("after")
        assert isinstance(kept, LaterConversation)
        assert (kept.mood, kept.title) == ("good", "renamed")


async def test_metadata_of_any_release_is_imported_and_listed(storage: Storage, state: StateDirectory) -> None:
    """#7297: metadata without the field that came later, and here also with one that is still to come."""
    state.write("sessions/old/metadata.json", {"conversation_id": "old", "selected_repository": None})
    state.conversation("new", field_of_tomorrow={"a": 1}, trigger="telepathy")
    await import_home(storage, state.root)
    assert sorted(await listed(storage)) == ["new", "old"]


async def test_a_missing_metadata_json_breaks_no_list(storage: Storage, state: StateDirectory) -> None:
    """#6804: each folder without a metadata.json was an error whenever the list was opened."""
    state.conversation("whole")
    state.write("sessions/bare/events/0.json", {"id": 0, "source": "user", "action": "message", "args": {}})
    state.write("sessions/empty/metadata.json", "")
    state.write("sessions/cut/metadata.json", '{"conversation_id": "cut", "tit')
    await import_home(storage, state.root)
    assert "whole" in await listed(storage)
    local = storage.user()
    before = await listed(storage)
    await local.files.write("sessions/late/events/0.json", b"{}")
    assert await listed(storage) == before
    with pytest.raises(ConversationNotFound):
        await local.conversations.get_metadata("late")


async def test_metadata_with_characters_behind_its_end_is_read(storage: Storage, state: StateDirectory) -> None:
    """#13541: metadata.json ended in a piece of its own end, after a longer one had been overwritten."""
    whole = json.dumps({"conversation_id": "c1", "title": "kept", "selected_repository": None, "public": None})
    state.write("sessions/c1/metadata.json", whole + 'public":null}')
    state.write("sessions/c1/events/0.json", {"id": 0, "source": "user", "action": "message", "args": {}})
    await import_home(storage, state.root)
    assert await listed(storage) == ["c1"]


async def test_every_conversation_is_listed(storage: Storage) -> None:
    """#7928: the list ended after 9, later 20 conversations; OpenHands-Cloud #141: after 50, and there it ended."""
    ids = [f"c{number:03}" for number in range(113)]
    await storage.user().conversations.save_many([ConversationMetadata(conversation_id=name) for name in ids])
    found = await listed(storage)
    assert sorted(found) == ids
    assert await storage.user().conversations.count() == len(ids)


# ---- settings


async def test_saving_a_token_leaves_the_model_alone(storage: Storage) -> None:
    """#6117: a GitHub token that was saved took the model and its base URL with it."""
    local = storage.user()
    await local.settings.update(
        llm_model="anthropic/claude-sonnet-4", llm_base_url="https://llm.example.com", llm_api_key="key-not-real"
    )
    await local.secrets.set_provider_token("github", "token-not-real")
    settings = await local.settings.load()
    assert settings is not None
    assert (settings.llm_model, settings.llm_base_url) == ("anthropic/claude-sonnet-4", "https://llm.example.com")
    assert settings.llm_api_key == SecretStr("key-not-real")


async def test_saving_settings_leaves_the_tokens_alone(storage: Storage) -> None:
    """#7273 and #7559: tokens were gone after settings had been saved."""
    local = storage.user()
    await local.secrets.set_provider_token("github", "token-not-real")
    await local.settings.update(llm_model="a")
    settings = await local.settings.load()
    assert settings is not None
    await local.settings.store(settings.model_copy(update={"language": "de"}))
    assert (await local.secrets.get_provider_token("github")).token == SecretStr("token-not-real")


async def test_two_who_save_settings_at_once_keep_both_changes(storage: Storage) -> None:
    """No public report was found; it is the race behind #6117: a whole file is written back for each field."""
    local = storage.user()
    await local.settings.update(llm_model="a", language="en")
    await asyncio.gather(local.settings.update(llm_model="b"), local.settings.update(language="de"))
    settings = await local.settings.load()
    assert settings is not None
    assert (settings.llm_model, settings.language) == ("b", "de")


# ---- files


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    """S3 as moto speaks it, which lists 1,000 keys at a time, as AWS does."""
    with MotoServer() as server:
        yield server


def on_s3(config: StorageConfig, moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> StorageConfig:
    """The same storage with its files in the bucket of the tests."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto.url)
    return config.model_copy(update={"file_store": "s3", "file_store_path": BUCKET})


@pytest.fixture
async def s3_storage(
    database_url: str, tmp_path: Path, moto: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Storage]:
    """A storage whose files are in S3."""
    with empty_bucket(moto.url, monkeypatch):
        config = on_s3(storage_config(database_url, tmp_path), moto, monkeypatch)
        async with Storage.open(config) as opened:
            yield opened


async def test_a_folder_in_s3_is_listed_beyond_a_thousand_keys(s3_storage: Storage, moto: MotoServer) -> None:
    """#9565 and #15239: of a long conversation only the events in S3's first answer were listed.

    That a store lists more than one answer without the catalogue is in every store's contract.
    """
    alice = s3_storage.user("alice")
    names = [f"{number}.json" for number in range(BEYOND_ONE_ANSWER)]

    async def write(some: list[str]) -> None:
        for name in some:
            await alice.files.write(f"sessions/c1/events/{name}", name.encode())

    await asyncio.gather(*(write(names[start::16]) for start in range(16)))
    found = await alice.files.list("sessions/c1/events")
    assert sorted(entry.rsplit("/", 1)[-1] for entry in found) == sorted(names)
    assert (await s3_storage.files.verify(sample=20, seed=1)).flaws == ()
    pages = client(moto.url).get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    assert sum(page["KeyCount"] for page in pages) == BEYOND_ONE_ANSWER


@pytest.mark.parametrize("place", ["local", "s3"])
async def test_deleting_a_conversation_leaves_none_of_its_files(
    database_url: str, tmp_path: Path, moto: MotoServer, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """#6097: only metadata.json was deleted; #6231 and #6449: in S3 and Google Cloud the rest stayed for longer."""
    config = storage_config(database_url, tmp_path)
    paths = ("agent_state.pkl", "event_cache/0-25.json", "events/0.json")
    with empty_bucket(moto.url, monkeypatch):
        if place == "s3":
            config = on_s3(config, moto, monkeypatch)
        async with Storage.open(config) as storage:
            alice = storage.user("alice")
            for name in ("c1", "c10"):
                await alice.conversations.save_metadata(ConversationMetadata(conversation_id=name))
                for path in paths:
                    await alice.files.write(f"sessions/{name}/{path}", name.encode())
            assert await alice.conversations.delete_metadata("c1")
            left = [stat.path async for stat in alice.files.walk()]
            assert left == [f"sessions/c10/{path}" for path in paths]
            assert await listed(storage, "alice") == ["c10"]
            monkeypatch.setattr(collector, "now", lambda: now() + timedelta(days=2))
            await storage.files.collect()  # contents go a day later, in case that a reader is under way
            assert len([blob async for blob in storage.blobs.walk()]) == len(paths)
            assert (await storage.files.verify()).flaws == ()


async def test_what_is_written_after_a_deletion_brings_no_conversation_back(storage: Storage) -> None:
    """#11379: an event that came late made the folder again, without metadata.json, and requests failed."""
    local = storage.user()
    await local.conversations.save_metadata(ConversationMetadata(conversation_id="c1"))
    await local.conversations.delete_metadata("c1")
    await local.files.write("sessions/c1/events/7.json", b"{}")
    assert await listed(storage) == []
    assert not await local.conversations.exists("c1")


# ---- costs


async def test_saving_a_title_overwrites_no_cost(storage: Storage) -> None:
    """#13945: a save that merged an older copy of the conversation set its cost back."""
    local = storage.user().conversations
    await local.save_metadata(ConversationMetadata(conversation_id="c1", accumulated_cost=0.8))
    older = await local.get_metadata("c1")
    await local.add_usage("c1", cost=0.7, prompt_tokens=100)
    await local.update_metadata("c1", title="renamed", selected_branch=older.selected_branch)
    after = await local.get_metadata("c1")
    assert (after.title, after.prompt_tokens) == ("renamed", 100)
    assert after.accumulated_cost == pytest.approx(1.5)


async def test_costs_that_arrive_at_once_are_all_counted(storage: Storage) -> None:
    """#13945 from the other side: of two writers who each read, add and write, one was lost."""
    local = storage.user().conversations
    await local.save_metadata(ConversationMetadata(conversation_id="c1"))
    await asyncio.gather(*(local.add_usage("c1", cost=0.25, total_tokens=4) for _ in range(40)))
    after = await local.get_metadata("c1")
    assert after.accumulated_cost == pytest.approx(10.0)
    assert after.total_tokens == 160


# ---- what a crash leaves, and who may read it

WRITER = """
import asyncio, json, sys
from storage.config import StorageConfig
from storage.conversations.model import ConversationMetadata
from storage.storage import Storage

async def main():
    async with Storage.open(StorageConfig(**json.loads(sys.argv[1]))) as storage:
        local, number = storage.user(), 0
        while True:
            number += 1
            sign = bytes([number % 251])
            await local.files.write("sessions/c1/agent_state.pkl", sign * (200_000 + number * 5_000 % 99_000))
            await local.conversations.save_metadata(
                ConversationMetadata(conversation_id="c1", title=f"{number} " * 1000, llm_model=str(number))
            )
            print(number, flush=True)

asyncio.run(main())
"""


def options(config: StorageConfig) -> str:
    fields = ("database_url", "data_dir", "file_store", "file_store_path", "master_key_file")
    return json.dumps({name: str(getattr(config, name)) for name in fields})


@pytest.mark.parametrize("rounds", [1, 4, 9])
async def test_a_writer_that_is_killed_leaves_nothing_half_written(
    database_url: str, tmp_path: Path, rounds: int
) -> None:
    """A truncated agent_state.pkl or event: no public report of a crash as the cause was found.

    The nearest are #13541 (metadata.json that was no JSON any more) and #4841 (a state that could not be restored).
    """
    config = storage_config(database_url, tmp_path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STORAGE_")}
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, options(config)], stdout=subprocess.PIPE, cwd=ROOT, env=environment
    ) as writer:
        assert writer.stdout is not None
        for _ in range(rounds):
            told = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        told = max([told, *map(int, writer.stdout.read().split())])
    async with Storage.open(config) as storage:
        local = storage.user()
        state = await local.files.read("sessions/c1/agent_state.pkl")
        number = next(one for one in (told, told + 1) if state[0] == one % 251)
        assert state == bytes([number % 251]) * (200_000 + number * 5_000 % 99_000)
        metadata = await local.conversations.get_metadata("c1")
        assert metadata.llm_model in {str(told), str(told + 1)}
        assert metadata.title == f"{metadata.llm_model} " * 1000
        assert (await storage.files.verify()).flaws == ()


async def test_writers_that_overlap_leave_one_of_their_contents(storage: Storage) -> None:
    """#13541: of two that wrote metadata.json at once, the shorter content ended in a piece of the longer one."""
    local = storage.user()
    contents = [json.dumps({"n": number, "title": "x" * (number * 997 % 5_000)}).encode() for number in range(24)]
    await asyncio.gather(*(local.files.write("sessions/c1/metadata_copy.json", content) for content in contents))
    assert await local.files.read("sessions/c1/metadata_copy.json") in contents


async def test_nobody_else_on_the_machine_can_read_the_state(database_url: str, tmp_path: Path) -> None:
    """Of files with mode 0644 no public report was found; software-agent-sdk #3989 is about secrets.json in clear."""
    before = os.umask(0o022)
    try:
        async with Storage.open(storage_config(database_url, tmp_path)) as storage:
            local = storage.user()
            await local.secrets.set_custom_secret("A", "canary-7f3a9c51e0")
            await local.settings.update(llm_api_key="canary-of-the-model")
            await local.files.write("sessions/c1/agent_state.pkl", b"state")
            made = list(tmp_path.rglob("*"))
            modes: dict[str, Any] = {str(path.relative_to(tmp_path)): oct(path.stat().st_mode & 0o077) for path in made}
            readable = {path.read_bytes() for path in made if path.is_file()}
            async with storage.session(read_only=True) as session:
                connection = await session.connection()
                rows = (await connection.execute(text("SELECT value FROM custom_secret"))).all()
    finally:
        os.umask(before)
    assert modes
    assert set(modes.values()) == {"0o0"}, modes
    stored = b"".join(readable) + b"".join(bytes(row[0]) for row in rows)
    assert b"canary" not in stored
