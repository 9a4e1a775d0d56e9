from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from storage.conversations.model import ConversationMetadata
from storage.errors import FileNotFound, InvalidInput, PathRejected
from storage.openhands.portal import PortalBlocked
from storage.openhands.process_storage import ProcessStorage, open_on_portal
from storage.openhands.sync_files import SyncFileStore
from tests.openhands.conftest import storage_config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def place(database_url: str, tmp_path: Path) -> Iterator[ProcessStorage]:
    opened = open_on_portal(storage_config(database_url, tmp_path))
    yield opened
    opened.close()


@pytest.fixture
def files(place: ProcessStorage) -> SyncFileStore:
    return SyncFileStore(place)


def test_text_comes_back_as_it_was_written(files: SyncFileStore) -> None:
    for contents in ("", "plain", "Größe 語 🙂", "a\r\nb\rc\n"):
        files.write("sessions/c1/agent_state.pkl", contents)
        assert files.read("sessions/c1/agent_state.pkl") == contents


def test_bytes_are_read_as_utf_8(files: SyncFileStore) -> None:
    files.write("a", "Größe".encode())
    assert files.read("a") == "Größe"


def test_a_local_file_is_stored_as_it_is(place: ProcessStorage, files: SyncFileStore, tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(bytes(range(256)) * 10_000)
    files.write_from_path("users/alice/archive", str(tmp_path / "archive"))
    stored = place.portal.call(place.storage.user("alice").files.read, "users/alice/archive")
    assert stored == (tmp_path / "archive").read_bytes()


def test_bytes_that_are_no_text_are_a_value_error(files: SyncFileStore) -> None:
    files.write("a", b"\xff\xfe")
    with pytest.raises(InvalidInput, match="not UTF-8"):
        files.read("a")


@pytest.mark.parametrize("path", ["a", "sessions/c1/events/0.json", "users/alice/conversations/c1/agent_state.pkl"])
def test_reading_what_is_not_there_is_a_file_not_found_error(files: SyncFileStore, path: str) -> None:
    with pytest.raises(FileNotFoundError):
        files.read(path)


def test_a_listing_gives_paths_that_can_be_read_with_folders_marked(files: SyncFileStore) -> None:
    for path in ("sessions/c1/events/0.json", "sessions/c1/events/10.json", "sessions/c1/state.pkl"):
        files.write(path, path)
    assert files.list("sessions/c1/") == ["sessions/c1/events/", "sessions/c1/state.pkl"]
    assert files.list("sessions/c1") == ["sessions/c1/events/", "sessions/c1/state.pkl"]
    assert files.list("/sessions/c1/events/") == ["/sessions/c1/events/0.json", "/sessions/c1/events/10.json"]
    for path in files.list("/sessions/c1/events"):
        assert files.read(path) == path.removeprefix("/")
    assert files.list("") == ["sessions/"]
    assert files.list("/") == ["/sessions/"]


def test_listing_a_missing_folder_is_a_file_not_found_error(files: SyncFileStore) -> None:
    assert files.list("") == []  # the root is always there
    for path in ("sessions/", "sessions/c1/events/", "users/", "users/alice/conversations/c1/"):
        with pytest.raises(FileNotFoundError):
            files.list(path)


def test_a_conversation_without_files_is_an_empty_folder(place: ProcessStorage, files: SyncFileStore) -> None:
    for user, folder in ((None, "sessions/c1"), ("alice", "users/alice/conversations/c2")):
        with pytest.raises(FileNotFoundError):
            files.list(folder)
        metadata = ConversationMetadata(conversation_id=folder[-2:], title="nothing said yet")
        place.portal.call(place.storage.user(user).conversations.save_metadata, metadata)
        assert files.list(folder) == files.list(f"{folder}/") == []
        assert files.exists(folder)


def test_a_users_conversations_are_kept_in_that_users_catalogue(place: ProcessStorage, files: SyncFileStore) -> None:
    path = "users/alice/conversations/c1/events/0.json"
    files.write(path, "{}")
    assert files.read(path) == "{}"
    alice = place.storage.user("alice").files
    assert place.portal.call(alice.read, "sessions/c1/events/0.json") == b"{}"
    with pytest.raises(FileNotFound):
        files.read("sessions/c1/events/0.json")
    assert files.list("users/alice/conversations/c1/events/") == [path]
    files.write("users/alice/conversations/beside.txt", "x")
    files.write("users/alice/own.txt", "x")
    assert files.list("users/alice") == ["users/alice/conversations/", "users/alice/own.txt"]
    assert files.list("users/alice/conversations") == [
        "users/alice/conversations/beside.txt",
        "users/alice/conversations/c1/",
    ]


def test_an_owner_takes_what_the_paths_give_to_nobody(place: ProcessStorage) -> None:
    bobs = SyncFileStore(place, "bob")
    bobs.write("sessions/c1/x", "1")
    assert place.portal.call(place.storage.user("bob").files.read, "sessions/c1/x") == b"1"
    assert bobs.list("sessions") == ["sessions/c1/"]


@pytest.mark.parametrize("folder", ["sessions/c1", "users/alice/conversations/c1"])
def test_deleting_a_folder_takes_what_is_in_it_and_nothing_beside(files: SyncFileStore, folder: str) -> None:
    kept = [f"{folder}2/x", "users/bob/conversations/c1/x", "other"]
    for path in (f"{folder}/events/0.json", f"{folder}/state.pkl", *kept):
        files.write(path, path)
    files.delete(folder)
    files.delete(f"{folder}/")  # what is not there is no error
    assert not files.exists(folder)
    assert [files.read(path) for path in kept] == kept
    files.delete(f"{folder}2/x")
    assert not files.exists(f"{folder}2/x")


def test_deleting_a_users_folder_takes_that_users_files(files: SyncFileStore) -> None:
    for path in ("users/alice/conversations/c1/x", "users/alice/own.txt", "users/bob/conversations/c1/x"):
        files.write(path, "1")
    files.delete("users/alice/")
    assert not files.exists("users/alice")
    assert files.read("users/bob/conversations/c1/x") == "1"


def test_nothing_outside_and_never_everything(files: SyncFileStore) -> None:
    files.write("a", "1")
    for path in ("", "/", "."):
        with pytest.raises(PathRejected):
            files.delete(path)
    for path in ("../a", "users/alice/conversations/../../bob/x", "sessions/c1//x"):
        with pytest.raises(ValueError, match="path"):
            files.write(path, "x")
    assert files.read("a") == "1"


def test_files_and_folders_exist(files: SyncFileStore) -> None:
    files.write("users/alice/conversations/c1/events/0.json", "{}")
    for path in ("", "users/alice", "users/alice/conversations/", "users/alice/conversations/c1/events"):
        assert files.exists(path)
    assert files.exists("users/alice/conversations/c1/events/0.json")
    for path in ("users/alice/conversations/c1/events/0.json/", "users/alice/conversations/c", "sessions/c1", "x"):
        assert not files.exists(path)


def test_a_users_secrets_are_masked_in_an_event_stream(place: ProcessStorage, files: SyncFileStore) -> None:
    alice = place.storage.user("alice")
    place.portal.call(alice.secrets.set_custom_secret, "PASSWORD", "correct-horse-battery")
    files.write("users/alice/conversations/c1/events/0.json", '{"content": "it is correct-horse-battery"}')
    files.write("users/alice/conversations/c1/notes.txt", "it is correct-horse-battery")
    assert files.read("users/alice/conversations/c1/events/0.json") == '{"content": "it is <secret_hidden>"}'
    assert files.read("users/alice/conversations/c1/notes.txt") == "it is correct-horse-battery"


def test_many_threads_write_and_read_at_once_with_and_without_a_loop_of_their_own(files: SyncFileStore) -> None:
    def write(number: int) -> None:
        path = f"users/u{number % 3}/conversations/c/events/{number}.json"
        files.write(path, str(number))
        assert files.read(path) == str(number)

    async def write_inside_a_loop(number: int) -> None:
        write(number)  # blocks its own loop, as the peer's store does
        await asyncio.to_thread(write, number + 1000)

    with ThreadPoolExecutor(8) as threads:
        jobs = [threads.submit(write, number) for number in range(60)]
        jobs += [threads.submit(asyncio.run, write_inside_a_loop(number)) for number in range(60, 80)]
        for job in jobs:
            job.result(timeout=60)
    assert sum(len(files.list(f"users/u{number}/conversations/c/events/")) for number in range(3)) == 100


def test_on_the_portals_own_thread_it_raises_instead_of_waiting_for_itself(
    place: ProcessStorage, files: SyncFileStore
) -> None:
    async def hook() -> str:
        return files.read("a")

    with pytest.raises(PortalBlocked):
        place.portal.call(hook)
