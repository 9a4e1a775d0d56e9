"""The agent SDK, as it is, on this storage. Needs openhands-sdk, which is too large to be installed for every run."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from storage.openhands.process_storage import ProcessStorage, open_on_portal
from tests.openhands.conftest import storage_config
from tests.openhands.other_processes import other_process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from storage.config import StorageConfig

_REASON = "openhands-sdk is not installed in this environment (it needs Python 3.12 or later)"
sdk: Any = pytest.importorskip("openhands.sdk", reason=_REASON)
event_store: Any = pytest.importorskip("openhands.sdk.conversation.event_store", reason=_REASON)
state: Any = pytest.importorskip("openhands.sdk.conversation.state", reason=_REASON)
events: Any = pytest.importorskip("openhands.sdk.event", reason=_REASON)
testing: Any = pytest.importorskip("openhands.sdk.testing", reason=_REASON)
local_store: Any = pytest.importorskip("openhands.sdk.io.local", reason=_REASON)
SDKFileStore: Any = pytest.importorskip("storage.openhands.sdk", reason=_REASON).SDKFileStore

_WRITER = """
import sys
from tests.openhands.test_sdk_files import append_many, SDKFileStore
store = SDKFileStore("c1", "alice")
print("ready", flush=True)
sys.stdin.readline()
append_many(store, sys.argv[1], int(sys.argv[2]))
"""

_HOLDER = """
import sys
from storage.openhands.sdk import SDKFileStore
with SDKFileStore("c1", "alice").lock("events/.eventlog.lock"):
    print("held", flush=True)
    sys.stdin.readline()
"""

_THREADS = 4


@pytest.fixture
def config(database_url: str, tmp_path: Path) -> StorageConfig:
    return storage_config(database_url, tmp_path)


@pytest.fixture
def place(config: StorageConfig) -> Iterator[ProcessStorage]:
    opened = open_on_portal(config)
    yield opened
    opened.close()


@pytest.fixture
def store(place: ProcessStorage) -> Any:
    return SDKFileStore("c1", "alice", place=place)


def message(text: str) -> Any:
    return events.MessageEvent(
        source="user", llm_message=sdk.Message(role="user", content=[sdk.TextContent(text=text)])
    )


def text_of(event: Any) -> str:
    text: str = event.llm_message.content[0].text
    return text


def append_many(store: Any, who: str, times: int) -> None:
    """Append to one conversation's log by several threads, each with a log object of its own."""

    def append(thread: int) -> None:
        log = event_store.EventLog(store)
        for number in range(times):
            log.append(message(f"{who} {thread} {number}"))

    with ThreadPoolExecutor(_THREADS) as threads:
        list(threads.map(append, range(_THREADS)))


# ---- the file store


def test_it_does_what_the_sdks_own_store_does(store: Any, tmp_path: Path) -> None:
    """Every answer of the SDK's store on a folder, for the same calls; only the order of a listing is its own."""
    own = local_store.LocalFileStore(str(tmp_path / "own"))

    def told(files: Any) -> list[Any]:
        answers: list[Any] = []
        for path in ("events", "base_state.json", "", "/events"):
            answers += [sorted(files.list(path)), files.exists(path)]
        for path in ("base_state.json", "/base_state.json", "events/a.json"):
            try:
                answers.append(files.read(path))
            except FileNotFoundError:
                answers.append("FileNotFoundError")
        return answers

    own.write("x", "the root of the SDK's own store is there before anything is written")
    store.write("x", "the root of the SDK's own store is there before anything is written")
    assert told(store) == told(own)
    for files in (store, own):
        files.write("base_state.json", "{}")
        files.write("events/a.json", "Größe")
        files.write("events/deep/b.json", b"bytes")
    assert told(store) == told(own)
    for files in (store, own):
        files.delete("events/deep")
        files.delete("events/a.json")
        files.delete("events/a.json")
        files.delete("base_state.json")
        files.delete("events")
    assert told(store) == told(own)


def test_two_conversations_and_two_users_do_not_see_each_other(place: ProcessStorage, store: Any) -> None:
    store.write("x", "alice's c1")
    for other in (("c2", "alice"), ("c1", "bob"), ("c1", None)):
        files = SDKFileStore(*other, place=place)
        assert not files.exists("x")
        assert files.list("") == []
    with pytest.raises(ValueError, match="path"):
        store.read("../c2/x")


def test_a_conversations_files_are_among_its_users(place: ProcessStorage) -> None:
    number = uuid.uuid4()
    SDKFileStore(number, place=place).write("base_state.json", "{}")
    assert place.portal.call(place.storage.user().files.read, f"sessions/{number.hex}/base_state.json") == b"{}"


def test_every_path_has_an_absolute_one_of_its_own(place: ProcessStorage, store: Any) -> None:
    others = [SDKFileStore("c1", place=place), SDKFileStore("c2", "alice", place=place)]
    paths = {files.get_absolute_path(name) for files in (store, *others) for name in ("a", "b/c")}
    assert len(paths) == 6
    assert all(path.startswith(str(place.storage.config.data_dir)) for path in paths)


def test_the_lock_is_exclusive_between_threads_and_let_go_after_use(store: Any) -> None:
    with ThreadPoolExecutor(1) as threads, store.lock("events/.eventlog.lock"):
        waiting = threads.submit(store.lock("events/.eventlog.lock", timeout=0.05).__enter__)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=30)
    with store.lock("events/.eventlog.lock", timeout=0):
        pass
    assert store.list("") == []  # a lock is no file


@pytest.mark.slow
def test_the_lock_is_exclusive_between_processes_and_ends_with_them(store: Any, config: StorageConfig) -> None:
    with other_process(_HOLDER, config) as holder:
        assert holder.hear() == "held"
        with pytest.raises(TimeoutError), store.lock("events/.eventlog.lock", timeout=0.2):
            pass
        holder.kill()
        with store.lock("events/.eventlog.lock", timeout=30):
            pass


# ---- the event log


def test_an_event_log_written_by_threads_is_whole_when_it_is_opened_again(store: Any) -> None:
    append_many(store, "here", 10)
    log = event_store.EventLog(store)
    wanted = {f"here {thread} {number}" for thread in range(_THREADS) for number in range(10)}
    assert len(log) == len(wanted)
    assert {text_of(event) for event in log} == wanted
    for thread in range(_THREADS):
        texts = [text_of(event) for event in log if text_of(event).startswith(f"here {thread} ")]
        assert texts == [f"here {thread} {number}" for number in range(10)]


def test_one_log_object_shared_by_threads_keeps_every_event(store: Any) -> None:
    log = event_store.EventLog(store)
    with ThreadPoolExecutor(_THREADS) as threads:
        list(threads.map(lambda number: log.append(message(str(number))), range(40)))
    again = event_store.EventLog(store)
    assert {text_of(event) for event in again} == {str(number) for number in range(40)}
    assert [event.id for event in again] == [log.get_id(index) for index in range(40)]


@pytest.mark.slow
def test_an_event_log_written_by_processes_is_whole(store: Any, config: StorageConfig) -> None:
    with other_process(_WRITER, config, "one", "8") as one, other_process(_WRITER, config, "two", "8") as two:
        assert one.hear() == two.hear() == "ready"
        one.say("go")
        two.say("go")
        append_many(store, "here", 8)
        one.end()
        two.end()
    log = event_store.EventLog(store)
    assert len(log) == 3 * _THREADS * 8
    assert len({text_of(event) for event in log}) == len(log)


def test_an_event_of_a_users_secret_is_stored_masked_and_can_still_be_read(place: ProcessStorage, store: Any) -> None:
    alice = place.storage.user("alice")
    place.portal.call(alice.secrets.set_custom_secret, "PASSWORD", "correct-horse-battery")
    event_store.EventLog(store).append(message("it is correct-horse-battery"))
    [event] = event_store.EventLog(store)
    assert text_of(event) == "it is <secret_hidden>"


# ---- a conversation


def agent(*answers: str) -> Any:
    replies = [sdk.Message(role="assistant", content=[sdk.TextContent(text=answer)]) for answer in answers]
    return sdk.Agent(llm=testing.TestLLM.from_messages(replies), tools=[])


@pytest.mark.filterwarnings("default")  # running an agent, the SDK and what it builds on warn of their own affairs
def test_a_conversation_runs_on_it_and_goes_on_after_a_restart(place: ProcessStorage, tmp_path: Path) -> None:
    number = uuid.uuid4()

    def opened(*answers: str) -> Any:
        return sdk.LocalConversation(
            agent=agent(*answers),
            workspace=str(tmp_path / "workspace"),
            conversation_id=number,
            file_store=SDKFileStore(number, "alice", place=place),
            visualizer=None,
        )

    first = opened("first answer")
    first.send_message("first question")
    first.run()
    before = [event.id for event in first.state.events]
    first.close()

    second = opened("second answer")
    assert [event.id for event in second.state.events] == before
    second.send_message("second question")
    second.run()
    told = [text_of(event) for event in second.state.events if isinstance(event, events.MessageEvent)]
    second.close()
    assert told == ["first question", "first answer", "second question", "second answer"]

    files = place.storage.user("alice").files
    stored = place.portal.call(files.read_text, f"sessions/{number.hex}/base_state.json")
    assert json.loads(stored)["id"] == str(number)


def test_a_state_that_is_changed_is_saved_at_once(place: ProcessStorage, tmp_path: Path) -> None:
    number = uuid.uuid4()

    def created() -> Any:
        return state.ConversationState.create(
            id=number,
            agent=agent(),
            workspace=sdk.LocalWorkspace(working_dir=str(tmp_path)),
            file_store=SDKFileStore(number, "alice", place=place),
        )

    changed = created()
    changed.max_iterations = 7
    changed.tags = {"topic": "storage"}
    stored = json.loads(SDKFileStore(number, "alice", place=place).read("base_state.json"))
    assert stored["max_iterations"] == 7
    assert created().tags == {"topic": "storage"}
