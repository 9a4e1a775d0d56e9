"""The way back: import, export and import again give the same rows and the same bytes, and nothing half-written."""

from __future__ import annotations

import json
import string
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from storage.config import StorageConfig
from storage.conversations.model import ConversationMetadata
from storage.errors import Conflict, InvalidInput, KeyMissing
from storage.openhands.exporter import export_home
from storage.openhands.importer import import_home
from storage.storage import Storage
from tests.openhands.conftest import UNHURRIED, StateDirectory, event

EXAMPLE = Path(__file__).parents[2] / "examples" / "openhands-home"
SAMPLE = Path(__file__).parents[3] / "shared" / "samples" / "openhands-home.tar.xz"


def config(folder: Path, url: str | None = None) -> StorageConfig:
    return StorageConfig(
        data_dir=folder / "data", database_url=url, master_key_file=folder / "master.key", webhook_delivery=False
    )


async def everything(storage: Storage) -> dict[str, Any]:
    """All rows and files of all users, as plain values."""
    clear: dict[str, Any] = {"context": {"expose_secrets": True}, "mode": "json"}
    found: dict[str, Any] = {}
    for info in await storage.list_users():
        stores = storage.user(info.user_id)
        stored, secrets = await stores.settings.load(), await stores.secrets.load()
        paths = [file.path async for file in stores.files.walk()]
        found[info.user_id] = {
            "conversations": {
                row.conversation_id: row.model_dump(**clear) async for row in stores.conversations.iterate()
            },
            "settings": stored and {**stored.model_dump(**clear), "extra": str(stored.model_extra)},
            "secrets": secrets and secrets.model_dump(**clear),
            "files": {path: await stores.files.read(path) for path in paths},
        }
    return found


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def assert_identity(source: Path, folder: Path, url: str | None = None) -> dict[str, bytes]:
    """Import, export, import, export; the second pair equals the first. Returns what was exported."""
    async with Storage.open(config(folder / "one", url)) as one:
        await import_home(one, source)
        first = await everything(one)
        report = await export_home(one, folder / "exported")
    assert not report.skipped
    async with Storage.open(config(folder / "two")) as two:
        await import_home(two, folder / "exported")
        assert await everything(two) == first
        await export_home(two, folder / "again")
    exported = tree(folder / "exported")
    assert tree(folder / "again") == exported
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    return exported


async def test_the_example_goes_out_as_it_came_in(empty_database_url: str, tmp_path: Path) -> None:
    exported = await assert_identity(EXAMPLE, tmp_path, empty_database_url)
    original = tree(EXAMPLE)
    events = {path for path in original if "/events/" in path and path.startswith("sessions/")}
    assert events
    assert {path: exported[path] for path in events} == {path: original[path] for path in events}


@pytest.mark.skipif(not SAMPLE.exists(), reason="the sample home is not beside this checkout")
async def test_the_sample_goes_out_as_it_came_in(tmp_path: Path) -> None:
    await assert_identity(SAMPLE, tmp_path)


NAMES = st.text(string.ascii_lowercase + string.digits + "-_", min_size=1, max_size=12)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20)
FIELDS = st.fixed_dictionaries(
    {"title": TEXTS, "selected_repository": st.none() | TEXTS, "accumulated_cost": st.floats(0, 1e6)},
    optional={
        "trigger": st.sampled_from(["gui", "slack", "by pigeon"]),
        "pr_number": st.lists(st.integers(0, 10**6), max_size=3),
        "tags": st.lists(TEXTS, max_size=3),
        "a_new_field": st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | TEXTS, st.lists, max_leaves=4),
        "last_updated_at": st.sampled_from(["2025-09-02T10:00:00Z", "2025-09-02T10:00:00.123456+02:00"]),
    },
)
CONVERSATIONS = st.dictionaries(NAMES, FIELDS, max_size=3)


@settings(UNHURRIED, max_examples=15)
@given(
    local=CONVERSATIONS,
    alices=CONVERSATIONS,
    content=st.binary(max_size=200),
    secret=st.dictionaries(NAMES, TEXTS, max_size=2),
)
async def test_homes_of_any_kind_go_out_as_they_came_in(
    local: dict[str, Any], alices: dict[str, Any], content: bytes, secret: dict[str, str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        state = StateDirectory(Path(folder) / "state")
        state.write("notes.bin", content)
        state.write(
            "settings.json", {"llm_model": "m", "llm_api_key": "sk-1", "language": "en", "unknown": [1, {"a": 2}]}
        )
        state.write("users/alice/secrets.json", {"custom_secrets": {n: {"secret": v} for n, v in secret.items()}})
        for user, conversations in ((None, local), ("alice", alices)):
            for name, fields in conversations.items():
                state.conversation(f"{user}-{name}", user, **fields)
        await assert_identity(state.root, Path(folder))


async def test_one_user_goes_out_as_a_home_of_their_own(tmp_path: Path, database_url: str) -> None:
    async with Storage.open(config(tmp_path, database_url)) as storage:
        for user in (None, "alice", "../bob"):
            stores = storage.user(user)
            await stores.conversations.save_metadata(ConversationMetadata(conversation_id=f"c-{user and user[-3:]}"))
            await stores.secrets.set_custom_secret("A", f"of {user}")
        await storage.user("alice").files.write("sessions/c-ice/events/0.json", b"{}")
        with pytest.raises(InvalidInput, match="--user"):
            await export_home(storage, tmp_path / "all")
        assert not (tmp_path / "all").exists()
        await export_home(storage, tmp_path / "alice", user="alice")
        report = await export_home(storage, tmp_path / "bob", user="../bob")
    assert sorted(tree(tmp_path / "alice")) == [
        "secrets.json",
        "sessions/c-ice/events/0.json",
        "sessions/c-ice/metadata.json",
    ]
    assert sorted(tree(tmp_path / "bob")) == ["secrets.json", "sessions/c-bob/metadata.json"]
    assert report.users == ["../bob"]
    assert not (tmp_path.parent / "bob").exists()


async def test_only_the_owner_may_read_what_was_written(tmp_path: Path) -> None:
    async with Storage.open(config(tmp_path)) as storage:
        await storage.user(None).settings.update(llm_api_key=SecretStr("sk-1"))
        await storage.user(None).files.write("sessions/c1/events/0.json", b"{}")
        await export_home(storage, tmp_path / "new" / "home")
    for path in (tmp_path / "new").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    assert json.loads((tmp_path / "new/home/settings.json").read_bytes())["llm_api_key"] == "sk-1"


async def test_what_is_there_is_never_touched(tmp_path: Path) -> None:
    async with Storage.open(config(tmp_path)) as storage:
        (tmp_path / "taken").mkdir()
        (tmp_path / "taken" / "file").write_text("mine")
        with pytest.raises(Conflict, match="not empty"):
            await export_home(storage, tmp_path / "taken")
        with pytest.raises(InvalidInput, match="is a file"):
            await export_home(storage, tmp_path / "taken" / "file")
        (tmp_path / "empty").mkdir()
        await export_home(storage, tmp_path / "empty")
    assert (tmp_path / "taken" / "file").read_text() == "mine"


async def test_without_the_key_nothing_is_written(tmp_path: Path) -> None:
    async with Storage.open(config(tmp_path)) as storage:
        await storage.user(None).secrets.set_custom_secret("A", "a value")
        await storage.user(None).files.write("file", b"content")
    (tmp_path / "master.key").unlink()
    async with Storage.open(config(tmp_path)) as storage:
        with pytest.raises(KeyMissing):
            await export_home(storage, tmp_path / "home")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


async def test_a_damaged_file_is_named_and_the_rest_is_there(tmp_path: Path) -> None:
    async with Storage.open(config(tmp_path)) as storage:
        files = storage.user(None).files
        await files.write("sessions/c1/events/0.json", b"{}")
        await files.write("sessions/c1/events/1.json", b"{}!")
        [blob] = [
            path for path in (tmp_path / "data" / "files").rglob("*") if path.is_file() and path.stat().st_size == 3
        ]
        blob.write_bytes(b"???")
        report = await export_home(storage, tmp_path / "home")
    assert [left.path for left in report.skipped] == ["sessions/c1/events/1.json"]
    assert sorted(tree(tmp_path / "home")) == ["sessions/c1/events/0.json"]


async def test_a_broken_metadata_comes_back_as_it_was_unless_it_is_to_be_repaired(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "state")
    state.conversation("c1")
    state.write("sessions/c1/metadata.json", '{"conversation_id": "c1", "tit')
    async with Storage.open(config(tmp_path)) as storage:
        await import_home(storage, state.root)
        report = await export_home(storage, tmp_path / "as it was")
        assert report.broken == ["c1"]
        await export_home(storage, tmp_path / "repaired", repair=True)
        await storage.user(None).conversations.update_metadata("c1", title="changed")
        await export_home(storage, tmp_path / "changed")
    assert (tmp_path / "as it was/sessions/c1/metadata.json").read_text() == '{"conversation_id": "c1", "tit'
    assert json.loads((tmp_path / "repaired/sessions/c1/metadata.json").read_bytes())["conversation_id"] == "c1"
    assert json.loads((tmp_path / "changed/sessions/c1/metadata.json").read_bytes())["title"] == "changed"


async def test_a_title_changed_since_the_import_wins_over_the_file_that_was_kept(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "state")
    state.conversation("c1", title="nul \0 inside")  # no database stores it, so the original is kept as a file
    state.write("sessions/c1/events/0.json", event(0, "hello"))
    async with Storage.open(config(tmp_path)) as storage:
        await import_home(storage, state.root)
        await export_home(storage, tmp_path / "unchanged")
        await storage.user(None).conversations.update_metadata("c1", title="changed")
        await export_home(storage, tmp_path / "changed")
    assert json.loads((tmp_path / "changed/sessions/c1/metadata.json").read_bytes())["title"] == "changed"
