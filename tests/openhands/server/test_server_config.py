"""SQLServerConfig, the validator, the file store's hook, and the first start on a directory with something in it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from storage.errors import ConfigurationError
from storage.openhands import process_storage as process
from storage.openhands.containers import refuse_what_a_container_loses
from storage.openhands.process_storage import ProcessStorage
from tests.openhands.conftest import StateDirectory

EXAMPLE = Path(__file__).parents[3] / "examples" / "openhands-home"


@pytest.fixture
def own_file_store() -> Iterator[None]:
    """Puts back what the hook replaces."""
    modules = [module for name, module in sys.modules.items() if name.startswith("openhands.")]
    before = [(module, vars(module)["get_file_store"]) for module in modules if "get_file_store" in vars(module)]
    yield
    for module, original in before:
        module.get_file_store = original  # type: ignore[attr-defined]


def test_the_names_that_the_environment_gives_lead_to_the_classes(openhands: Any) -> None:
    import storage.openhands

    assert storage.openhands.SQLServerConfig is openhands.SQLServerConfig
    assert storage.openhands.SQLConversationValidator is openhands.SQLConversationValidator
    assert "saas" not in " ".join(vars(openhands.SQLServerConfig).values().__repr__()).lower()
    for name in ("conversation_store_class", "settings_store_class", "secret_store_class"):
        module, _, last = getattr(openhands.SQLServerConfig, name).rpartition(".")
        assert getattr(__import__(module, fromlist=[last]), last).__name__ == last


def test_verifying_opens_the_storage_and_puts_the_file_store_in_its_place(
    outside: Any, openhands: Any, place: ProcessStorage, own_file_store: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = outside
    monkeypatch.setattr(module, "load_openhands_config", lambda: SimpleNamespace(file_store="memory"))
    monkeypatch.setattr(module, "process_storage", lambda _: place)
    monkeypatch.delenv("OPENHANDS_CONVERSATION_VALIDATOR_CLS", raising=False)
    openhands.SQLServerConfig().verify_config()
    validator = openhands.SQLConversationValidator
    assert os.environ["OPENHANDS_CONVERSATION_VALIDATOR_CLS"] == f"{validator.__module__}.{validator.__name__}"
    stock = sys.modules["openhands.storage"]
    files = stock.get_file_store("local", "/somewhere")
    files.write("sessions/c1/agent_state.pkl", "state")
    assert files.read("sessions/c1/agent_state.pkl") == "state"
    assert isinstance(files, sys.modules["openhands.storage.files"].FileStore)
    if "openhands.server.shared" in sys.modules:
        assert sys.modules["openhands.server.shared"].get_file_store is stock.get_file_store
    assert sys.modules["openhands.core.config.utils"].get_file_store is not stock.get_file_store


async def test_the_validator_lets_nobody_into_what_is_not_there_and_makes_nothing(
    openhands: Any, place: ProcessStorage
) -> None:
    validator = openhands.SQLConversationValidator()
    store = await openhands.SQLConversationStore.get_instance(None, None)
    with pytest.raises(openhands.ConnectionRefusedError):
        await validator.validate("unknown", "")
    assert not await store.exists("unknown")
    await store.save_metadata(openhands.ConversationMetadata(conversation_id="c1", selected_repository=None))
    assert await validator.validate("c1", "") is None


@pytest.mark.parametrize("conversation_id", ["", "\0", "../c1", "c1/", "\ud800", "x" * 5000])
async def test_the_validator_refuses_what_cannot_be_an_id(
    openhands: Any, place: ProcessStorage, conversation_id: str
) -> None:
    with pytest.raises(openhands.ConnectionRefusedError):
        await openhands.SQLConversationValidator().validate(conversation_id, "")


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch, openhands: Any, tmp_path: Path) -> Any:
    """The module of the configuration, with no variable of ours set and outside of any container."""
    for name in ("STORAGE_DATA_DIR", "STORAGE_DATABASE_URL", "STORAGE_MASTER_KEY", "STORAGE_MASTER_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    module = sys.modules[openhands.SQLServerConfig.__module__]
    marks = (tmp_path / "container",)
    monkeypatch.setattr(module, "refuse_what_a_container_loses", partial(refuse_what_a_container_loses, marks=marks))
    return module


def test_in_a_container_nothing_is_stored_where_it_would_be_lost(
    outside: Any, openhands: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = SimpleNamespace(file_store="local", file_store_path=str(tmp_path))
    assert openhands.storage_config(said)
    (tmp_path / "container").touch()
    with pytest.raises(ConfigurationError, match=r"STORAGE_DATA_DIR.*STORAGE_MASTER_KEY"):
        openhands.storage_config(said)
    monkeypatch.setenv("STORAGE_DATA_DIR", str(tmp_path / "data"))
    with pytest.raises(ConfigurationError, match="set STORAGE_MASTER_KEY or"):
        openhands.storage_config(said)
    monkeypatch.setenv("STORAGE_MASTER_KEY_FILE", str(tmp_path / "key"))
    assert openhands.storage_config(said).data_dir == tmp_path / "data"


def test_web_hooks_and_buckets_of_the_server_s_configuration_are_taken_over(outside: Any, openhands: Any) -> None:
    said = SimpleNamespace(
        file_store="s3",
        file_store_path="bucket",
        file_store_web_hook_url="https://hooks.example.com/",
        file_store_web_hook_headers={"X-Key": "1"},
        file_store_web_hook_batch=True,
    )
    config = openhands.storage_config(said)
    assert (config.file_store, config.file_store_path) == ("s3", "bucket")
    assert config.file_store_web_hook_url == "https://hooks.example.com/"
    assert (config.file_store_web_hook_headers, config.file_store_web_hook_batch) == ({"X-Key": "1"}, True)


def test_what_this_library_was_told_wins(outside: Any, openhands: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_FILE_STORE", "local")
    said = SimpleNamespace(file_store="s3", file_store_path="bucket", file_store_web_hook_url=None)
    assert openhands.storage_config(said).file_store == "local"


# ---- the first start


def conversations(place: ProcessStorage) -> set[str]:
    async def found() -> set[str]:
        return {each.conversation_id async for each in place.storage.user(None).conversations.iterate()}

    return place.portal.call(found)


def test_the_first_start_moves_everything_in_and_the_second_nothing(
    openhands: Any, place: ProcessStorage, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    shutil.copytree(EXAMPLE, state)
    before = {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}
    report = openhands.switch_over(place, state)
    assert report is not None
    assert conversations(place)
    marker = state / openhands.MARKER
    assert json.loads(marker.read_text())["database"] == place.storage.database.url.display
    assert marker.stat().st_mode & 0o777 == 0o600
    assert {path: path.read_bytes() for path in state.rglob("*") if path.is_file() and path != marker} == before
    gone = min(conversations(place))
    place.portal.call(place.storage.user(None).conversations.delete_metadata, gone)
    assert openhands.switch_over(place, state) is None
    assert gone not in conversations(place), "what was deleted came back"


def test_a_directory_that_went_to_another_database_is_left_alone_and_the_log_says_what_to_run(
    openhands: Any, place: ProcessStorage, state: StateDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    state.conversation()
    state.write(openhands.MARKER, {"database": "sqlite:////elsewhere.db", "finished_at": "2026-01-01T00:00:00+00:00"})
    assert openhands.switch_over(place, state.root) is None
    assert conversations(place) == set()
    assert "storage import openhands" in caplog.text


def test_an_import_that_was_cut_off_goes_on_at_the_next_start(
    openhands: Any, place: ProcessStorage, state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        state.conversation(f"c{number}")
    module = sys.modules[openhands.switch_over.__module__]

    def cut_off(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "_write", cut_off)
        with pytest.raises(KeyboardInterrupt):
            openhands.switch_over(place, state.root)
    assert not (state.root / openhands.MARKER).exists()
    assert openhands.switch_over(place, state.root) is not None
    assert conversations(place) == {"c0", "c1", "c2"}


def test_what_the_server_s_other_half_goes_on_using_stays_where_it_is(
    openhands: Any, place: ProcessStorage, state: StateDirectory
) -> None:
    state.conversation()
    state.write("openhands.db", b"SQLite format 3\0")
    state.write("v1_conversations/0123/event.json", b"{}")
    state.write("notes/kept.txt", b"kept")
    openhands.switch_over(place, state.root)

    async def paths() -> list[str]:
        return [file.path async for file in place.storage.user(None).files.walk()]

    found = place.portal.call(paths)
    assert "notes/kept.txt" in found
    assert not [path for path in found if "openhands.db" in path or "v1_conversations" in path]


def test_an_empty_directory_is_not_marked(openhands: Any, place: ProcessStorage, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    assert openhands.switch_over(place, state) is None
    assert not list(state.iterdir())


def test_the_storage_s_own_folder_in_the_state_directory_is_not_imported_into_itself(
    openhands: Any, config: Any, state: StateDirectory
) -> None:
    state.conversation()
    state.write("data/storage.db", b"a database")
    state.write("other/file.txt", b"something else")
    process.close_process_storage()
    place = process.process_storage(config.model_copy(update={"data_dir": state.root / "data"}))
    try:
        openhands.switch_over(place, state.root)

        async def paths() -> list[str]:
            return [file.path async for file in place.storage.user(None).files.walk()]

        found = place.portal.call(paths)
    finally:
        process.close_process_storage()
    assert "other/file.txt" in found
    assert not [path for path in found if path.startswith("data/")]


async def test_from_the_storage_s_own_thread_a_blocking_call_is_refused(place: ProcessStorage, openhands: Any) -> None:
    from storage.openhands.portal import PortalBlocked
    from storage.openhands.sync_files import SyncFileStore

    async def blocking() -> None:
        SyncFileStore(place).read("x")

    with pytest.raises(PortalBlocked):
        await place.portal.await_(blocking)
    await asyncio.sleep(0)
