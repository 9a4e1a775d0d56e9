"""Files without secrets: what is masked is masked before it is stored or announced, and nothing else is touched."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeAlias

import pytest

from storage.database.change import Change
from storage.errors import ConfigurationError, FileNotFound, InvalidInput, KeyMismatch
from storage.files.backends.memory import MemoryFileStore
from storage.files.catalog import FileCatalog
from storage.files.masking import FileMasking
from storage.masking.masker import REPLACEMENT, Secrets
from storage.storage import Storage, UserStorage
from storage.testing.files import pieces
from tests.databases import MASTER_KEY, OTHER_KEY

SECRET = "file-secret-value-1"
EVENT = "sessions/c1/events/7.json"
OTHER = "sessions/c1/notes.txt"

Opener: TypeAlias = Callable[..., Awaitable[Storage]]


@pytest.fixture
async def opened(migrated_url: str) -> AsyncIterator[Opener]:
    async with AsyncExitStack() as stack:

        async def open_storage(**settings: Any) -> Storage:
            values = {"master_key": MASTER_KEY.get_secret_value(), "file_store": "memory", **settings}
            return await stack.enter_async_context(Storage.open(migrated_url, **values))

        yield open_storage


@pytest.fixture
async def storage(opened: Opener) -> Storage:
    return await opened()


@pytest.fixture
async def alice(storage: Storage, user_id: str) -> UserStorage:
    alice = storage.user(user_id)
    await alice.secrets.set_custom_secret("A", SECRET)
    return alice


async def blobs(storage: Storage) -> bytes:
    return b"\n".join([await storage.blobs.read(blob.path) async for blob in storage.blobs.walk()])


async def test_an_event_is_masked_before_anything_is_stored_or_announced(storage: Storage, alice: UserStorage) -> None:
    heard: list[Change] = []
    storage.on_commit(heard.extend)
    event = {"id": 7, "content": f"the token is {SECRET}", "b64": base64.b64encode(f"u:{SECRET}".encode()).decode()}
    stat = await alice.files.write(EVENT, json.dumps(event))
    stored = await alice.files.read(EVENT)
    assert json.loads(stored)["content"] == f"the token is {REPLACEMENT}"
    assert SECRET.encode() not in await blobs(storage)
    assert (stat.size, stat.sha256) == (len(stored), hashlib.sha256(stored).hexdigest())
    (change,) = heard
    assert (change.payload["size"], change.payload["sha256"]) == (stat.size, stat.sha256)
    assert base64.b64encode(SECRET.encode())[:20] not in stored


@pytest.mark.parametrize(
    ("path", "is_masked"),
    [
        ("sessions/c1/events/7.json", True),
        ("users/u/conversations/c1/events/7.json", True),
        ("events/7.json", True),
        ("sessions/c1/event_cache/0-25.json", True),
        ("sessions/c1/events/7.txt", False),
        ("sessions/c1/events/deep/7.json", False),
        ("sessions/c1/my-events/7.json", False),
        ("events.json", False),
        (OTHER, False),
    ],
)
async def test_the_policy_goes_by_the_end_of_the_path(alice: UserStorage, path: str, is_masked: bool) -> None:
    await alice.files.write(path, SECRET)
    await alice.files.write_many([(f"many/{path}", SECRET)])
    assert await alice.files.read_text(path) == (REPLACEMENT if is_masked else SECRET)
    assert await alice.files.read_text(f"many/{path}") == (REPLACEMENT if is_masked else SECRET)


async def test_the_policy_is_configured(opened: Opener, user_id: str) -> None:
    alice = (await opened(masked_paths="*.log, traces/**/*.jsonl")).user(user_id)
    await alice.secrets.set_custom_secret("A", SECRET)
    for path, shown in {"a/b.log": REPLACEMENT, "traces/x/1.jsonl": REPLACEMENT, EVENT: SECRET}.items():
        await alice.files.write(path, SECRET)
        assert await alice.files.read_text(path) == shown
    nothing = (await opened(masked_paths="")).user(user_id)
    await nothing.files.write(EVENT, SECRET)
    assert await nothing.files.read_text(EVENT) == SECRET


async def test_a_pattern_that_begins_with_a_slash_is_the_whole_path(opened: Opener, user_id: str) -> None:
    alice = (await opened(masked_paths=["/logs/*"])).user(user_id)
    await alice.secrets.set_custom_secret("A", SECRET)
    for path, shown in {"logs/1": REPLACEMENT, "/logs/2": REPLACEMENT, "old/logs/1": SECRET}.items():
        await alice.files.write(path, SECRET)
        assert await alice.files.read_text(path) == shown


async def test_the_writer_has_the_last_word(alice: UserStorage) -> None:
    await alice.files.write(OTHER, SECRET, mask_secrets=True)
    assert await alice.files.read_text(OTHER) == REPLACEMENT
    await alice.files.write(EVENT, SECRET, mask_secrets=False)
    assert await alice.files.read_text(EVENT) == SECRET
    both = [(OTHER, f"1 {SECRET}"), (EVENT, f"2 {SECRET}")]
    await alice.files.write_many(both, mask_secrets=True)
    assert await alice.files.read_many([OTHER, EVENT]) == {
        OTHER: f"1 {REPLACEMENT}".encode(),
        EVENT: f"2 {REPLACEMENT}".encode(),
    }
    await alice.files.write_many(both, mask_secrets=False)
    assert (await alice.files.read_many([EVENT]))[EVENT] == f"2 {SECRET}".encode()
    await alice.files.write_many(both)
    assert await alice.files.read_many([OTHER, EVENT]) == {
        OTHER: f"1 {SECRET}".encode(),
        EVENT: f"2 {REPLACEMENT}".encode(),
    }


async def test_writing_many_again_finds_the_masked_bytes_unchanged(alice: UserStorage) -> None:
    items = [(EVENT, f'{{"a": "{SECRET}"}}'), (OTHER, SECRET)]
    assert [written.outcome for written in await alice.files.write_many(items)] == ["new", "new"]
    assert [written.outcome for written in await alice.files.write_many(items)] == ["unchanged", "unchanged"]


@pytest.mark.parametrize("content", [SECRET, SECRET.encode(), bytearray(SECRET.encode()), memoryview(SECRET.encode())])
async def test_content_of_any_type_is_masked(alice: UserStorage, content: Any) -> None:
    await alice.files.write(EVENT, content)
    assert await alice.files.read_text(EVENT) == REPLACEMENT


async def test_a_streamed_content_is_masked_across_its_pieces(storage: Storage, alice: UserStorage) -> None:
    text = f"start {SECRET} middle {base64.b64encode(SECRET.encode()).decode()} end".encode()
    stat = await alice.files.write(EVENT, pieces(*(text[index : index + 1] for index in range(len(text)))))
    stored = await alice.files.read(EVENT)
    assert stored == f"start {REPLACEMENT} middle {REPLACEMENT} end".encode()
    assert (stat.size, stat.sha256) == (len(stored), hashlib.sha256(stored).hexdigest())
    await alice.files.write_many([(EVENT, pieces(text[:9], text[9:]))])
    assert await alice.files.read(EVENT) == stored


async def test_a_long_stream_is_masked_across_its_pieces(alice: UserStorage) -> None:
    content = (b"x" * 70_000 + SECRET.encode()) * 9
    await alice.files.write(OTHER, pieces(*(content[start : start + 7] for start in range(0, len(content), 7))))
    assert await alice.files.read(OTHER) == content
    streamed = pieces(*(content[start : start + 7] for start in range(0, len(content), 7)))
    await alice.files.write(OTHER, streamed, mask_secrets=True)
    assert await alice.files.read(OTHER) == content.replace(SECRET.encode(), REPLACEMENT.encode())


async def test_a_streamed_event_stays_json(alice: UserStorage) -> None:
    await alice.secrets.set_custom_secret("NUMBER", "123456789")
    text = json.dumps({"n": 123456789, "t": f"line\n{SECRET}"}).encode()
    await alice.files.write(EVENT, pieces(text[:9], text[9:]))
    assert json.loads(await alice.files.read(EVENT)) == {"n": REPLACEMENT, "t": f"line\n{REPLACEMENT}"}


async def test_a_stream_of_something_else_is_refused(alice: UserStorage) -> None:
    async def texts() -> AsyncIterator[Any]:
        yield "text"

    with pytest.raises(InvalidInput, match="gave str"):
        await alice.files.write(EVENT, texts())


async def test_a_large_file_is_masked(alice: UserStorage) -> None:
    content = b"x" * 1_000_000 + SECRET.encode() + b"y" * 1_000_000
    await alice.files.write(OTHER, content, mask_secrets=True)
    assert await alice.files.read(OTHER) == content.replace(SECRET.encode(), REPLACEMENT.encode())


async def test_a_changed_secret_counts_for_the_next_write(opened: Opener, alice: UserStorage, user_id: str) -> None:
    await alice.files.write(EVENT, f"{SECRET} second-secret-value third-secret-value")
    await alice.secrets.set_custom_secret("B", "second-secret-value")
    await alice.files.write(EVENT, f"{SECRET} second-secret-value third-secret-value")
    assert await alice.files.read_text(EVENT) == f"{REPLACEMENT} {REPLACEMENT} third-secret-value"
    await (await opened()).user(user_id).settings.update(search_api_key="third-secret-value")
    await alice.files.write(EVENT, f"{SECRET} second-secret-value third-secret-value")
    assert await alice.files.read_text(EVENT) == f"{REPLACEMENT} {REPLACEMENT} {REPLACEMENT}"


async def test_a_transaction_masks_the_secret_that_it_has_just_set(alice: UserStorage) -> None:
    async with alice.transaction() as transaction:
        await transaction.secrets.set_custom_secret("B", "second-secret-value")
        await transaction.files.write(EVENT, f"{SECRET} second-secret-value")
    assert await alice.files.read_text(EVENT) == f"{REPLACEMENT} {REPLACEMENT}"


# ---- copies


@pytest.mark.parametrize("verb", ["copy", "move"])
async def test_what_comes_to_a_masked_path_is_masked(storage: Storage, alice: UserStorage, verb: str) -> None:
    await alice.files.write(OTHER, SECRET, media_type="text/x-special")
    stat = await getattr(alice.files, verb)(OTHER, EVENT)
    assert await alice.files.read_text(EVENT) == REPLACEMENT
    assert (stat.path, stat.media_type, stat.size) == (EVENT, "text/x-special", len(REPLACEMENT))
    assert await alice.files.exists(OTHER) == (verb == "copy")
    with pytest.raises(FileNotFound):
        await getattr(alice.files, verb)("nothing/here", EVENT)


async def test_a_copy_elsewhere_shares_the_blob(storage: Storage, alice: UserStorage) -> None:
    await alice.files.write(EVENT, "an event")
    await alice.files.copy(EVENT, "sessions/c2/events/7.json")
    await alice.files.copy(EVENT, OTHER)
    assert len([blob async for blob in storage.blobs.walk()]) == 1


async def test_a_file_that_changes_while_it_is_moved_is_moved_as_it_is_then(
    alice: UserStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await alice.files.write(OTHER, "before")
    real = alice.files._contents.put
    attempts = 0

    async def slow(user_id: str, path: str, *arguments: Any, **options: Any) -> Any:
        nonlocal attempts
        blob = await real(user_id, path, *arguments, **options)
        attempts += path == EVENT
        if path == EVENT and attempts == 1:
            await alice.files.write(OTHER, f"after {SECRET}")
        return blob

    monkeypatch.setattr(alice.files._contents, "put", slow)
    await alice.files.move(OTHER, EVENT)
    assert attempts == 2
    assert await alice.files.read_text(EVENT) == f"after {REPLACEMENT}"
    assert not await alice.files.exists(OTHER)


# ---- what cannot be opened, and what costs nothing


async def test_without_the_key_the_policy_goes_on_and_a_wish_is_refused(
    opened: Opener, alice: UserStorage, user_id: str
) -> None:
    locked = (await opened(master_key=OTHER_KEY.get_secret_value())).user(user_id)
    await locked.files.write(EVENT, SECRET)
    assert await locked.files.read_text(EVENT) == SECRET
    for refused in (
        lambda: locked.files.write(OTHER, SECRET, mask_secrets=True),
        lambda: locked.files.write_many([(OTHER, SECRET)], mask_secrets=True),
    ):
        with pytest.raises(KeyMismatch):
            await refused()
    assert not await locked.files.exists(OTHER)
    await locked.files.write(OTHER, SECRET)


async def test_a_path_outside_the_policy_asks_for_nothing(storage: Storage, user_id: str) -> None:
    asked = 0

    async def secrets(*, every: bool) -> Secrets:
        nonlocal asked
        asked += 1
        return await storage.maskers.secrets(storage.database, user_id, every=every)

    files = FileCatalog(storage.database, storage.blobs, user_id, FileMasking(secrets, ("events/*.json",)))
    await files.write(OTHER, "text")
    await files.write_many([(OTHER, "more"), ("a", "b")])
    await files.write(EVENT, "text", mask_secrets=False)
    await files.copy(OTHER, "b")
    await files.move("b", "c")
    assert asked == 0
    await files.write_many([(EVENT, "1"), ("sessions/c1/events/8.json", "2"), ("sessions/c1/events/9.json", "3")])
    assert asked == 1


async def test_a_catalogue_of_its_own_masks_nothing_and_says_so(storage: Storage, user_id: str) -> None:
    files = FileCatalog(storage.database, MemoryFileStore(), user_id)
    await files.write(EVENT, SECRET)
    assert await files.read_text(EVENT) == SECRET
    with pytest.raises(ConfigurationError, match="knows no secrets"):
        await files.write(EVENT, SECRET, mask_secrets=True)
