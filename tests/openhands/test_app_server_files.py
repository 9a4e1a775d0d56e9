"""The app server's configuration and its own stores, as they are, with this file store. Needs openhands-ai >= 1.7."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from storage.errors import ConfigurationError
from storage.openhands.process_storage import ProcessStorage, close_process_storage, process_storage
from tests.openhands.conftest import storage_config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_REASON = "openhands-ai 1.7 or later is not installed in this environment (it needs Python 3.12 or 3.13, and 1.6 GB)"
stock: Any = pytest.importorskip("openhands.app_server.file_store.files", reason=_REASON)
local: Any = pytest.importorskip("openhands.app_server.file_store.local", reason=_REASON)
ours: Any = pytest.importorskip("storage.openhands.app_server_files", reason=_REASON)

_DOTTED_PATH = "storage.openhands.app_server_files.SQLFileStore"

# Loading the app server, it and what it builds on warn of their own affairs.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def place(database_url: str, tmp_path: Path) -> Iterator[ProcessStorage]:
    yield process_storage(storage_config(database_url, tmp_path))
    close_process_storage()


def test_it_is_one_of_the_app_servers_file_stores(place: ProcessStorage) -> None:
    store = stock.FileStore.model_validate({"kind": "SQLFileStore", "user": "alice"})
    assert isinstance(store, ours.SQLFileStore)
    assert store.model_dump() == {"kind": "SQLFileStore", "user": "alice"}
    assert stock.FileStore.model_validate_json(store.model_dump_json()) == store


def test_it_is_made_without_opening_anything() -> None:
    ours.SQLFileStore()


def test_it_does_what_the_app_servers_own_store_does(place: ProcessStorage, tmp_path: Path) -> None:
    """Every answer of its store on a folder, for the same calls; only the order of a listing is its own."""
    own = local.LocalFileStore(root=str(tmp_path / "own"))
    (tmp_path / "source").write_bytes(b"from a file")

    def told(files: Any) -> list[Any]:
        answers: list[Any] = []
        for ask in (files.list, files.read):
            for path in ("a/", "a", "/a", "a/b.json", "a/deep", "none", "users/alice/conversations/c/events/"):
                try:
                    answer = ask(path)
                except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError):
                    answer = "refused"
                answers.append(sorted(answer) if isinstance(answer, list) else answer)
        return answers

    mine = ours.SQLFileStore()
    for files in (mine, own):
        files.write("a/b.json", "Größe")
        files.write("/a/deep/c", b"bytes")
        files.write("users/alice/conversations/c/events/0.json", "{}")
        if hasattr(stock.FileStore, "write_from_path"):
            files.write_from_path("a/d", str(tmp_path / "source"))
    assert told(mine) == told(own)
    for files in (mine, own):
        files.delete("a/deep/c")
        files.delete("a/deep/c")
        files.write("a/e", "1")
        files.delete("a/deep")
        files.delete("users/alice/conversations/c/")
    for path in ("a", "users/alice/conversations/c/"):
        assert _listed(mine, path) == _listed(own, path)


def _listed(files: Any, path: str) -> Any:
    try:
        return sorted(files.list(path))
    except FileNotFoundError:
        return None


def test_the_environment_chooses_it_by_its_dotted_path(place: ProcessStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    config: Any = pytest.importorskip("openhands.app_server.config")
    if "file_store" not in config.AppServerConfig.model_fields:
        pytest.skip("this release's configuration names no file store; 1.8 and later have it")
    monkeypatch.setenv("OH_FILE_STORE_KIND", _DOTTED_PATH)
    chosen = config.config_from_env().file_store
    assert isinstance(chosen, ours.SQLFileStore)
    chosen.write("sessions/c1/x", "1")
    assert place.portal.call(place.storage.user().files.read, "sessions/c1/x") == b"1"


async def test_keys_do_not_get_into_files_through_the_app_servers_own_stores(place: ProcessStorage) -> None:
    settings: Any = pytest.importorskip("openhands.app_server.settings.file_settings_store")
    secrets: Any = pytest.importorskip("openhands.app_server.secrets.file_secrets_store")
    for store in (settings.FileSettingsStore(ours.SQLFileStore()), secrets.FileSecretsStore(ours.SQLFileStore())):
        with pytest.raises(ConfigurationError, match="in clear"):
            await store.load()
    for path in ("settings.json", "/secrets.json"):
        with pytest.raises(ConfigurationError, match="in clear"):
            ours.SQLFileStore().write(path, "{}")
