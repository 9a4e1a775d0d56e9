"""Without the right master key everything works but secrets, nothing is lost or replaced, and the key alone mends it.

The key is missing, wrong, or where it is kept cannot be reached; each has its own error.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from storage import Settings, Storage, StorageConfig, errors
from storage.encryption.providers.key_file import KeyFile
from storage.encryption.providers.provider import ProviderHealth
from storage.encryption.registry import sealed_columns
from storage.errors import EncryptionError, KeyMismatch, KeyMissing, KeyUnavailable
from storage.tables import metadata
from tests.databases import MASTER_KEY, OTHER_KEY
from tests.security.conftest import configured
from tests.security.places import NAMES, PLACES, MoreConversation, MoreSecrets, fill
from tests.servers.postgres import PostgresServer, database_name

ONE, TWO = NAMES
REASONS: dict[str, type[EncryptionError]] = {
    "missing": KeyMissing,
    "wrong": KeyMismatch,
    "unreachable": KeyUnavailable,
}


class DistantKeys(KeyFile):
    """A key file on a machine that can be down, as a key service can: its network fails, as the network does."""

    async def health(self) -> ProviderHealth:
        if down(self.path).exists():
            raise ConnectionRefusedError("connection refused")
        return await super().health()


def down(path: Path) -> Path:
    """The file whose presence means that the machine with the key file `path` is down."""
    return path.parent.with_suffix(".down")


@dataclass
class KeyOnDisk:
    """The master key's file, to be taken away and put back."""

    path: Path

    def restore(self) -> None:
        down(self.path).unlink(missing_ok=True)
        self.path.parent.mkdir(mode=0o700, exist_ok=True)
        self.path.unlink(missing_ok=True)
        self.path.touch(0o600)
        self.path.write_text(MASTER_KEY.get_secret_value())

    def spoil(self, reason: str) -> None:
        if reason == "missing":
            self.path.unlink()
        elif reason == "wrong":
            self.path.write_text(OTHER_KEY.get_secret_value())
        else:
            down(self.path).touch()


@dataclass
class Locked:
    """A storage that was opened without its key.

    Attributes:
        storage: as opened.
        key: what is missing.
        error: what everything that needs the key raises.
        values: alice's secrets, by place, user and name.
        rows: alice's rows, of all tables, as they were before.
    """

    storage: Storage
    key: KeyOnDisk
    error: type[EncryptionError]
    values: dict[tuple[str, str, str], str]
    rows: dict[str, list[dict[str, Any]]]


@dataclass
class Filled:
    """A database with alice's secrets, to be copied for each test."""

    url: str
    values: dict[tuple[str, str, str], str]
    rows: dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    folder = tmp_path_factory.mktemp("filled")
    key = KeyOnDisk(folder / "master.key")
    key.restore()
    server: PostgresServer | None = None
    if request.param == "sqlite":
        url = f"sqlite:///{shutil.copy(request.getfixturevalue('sqlite_template'), folder / 'storage.db')}"
    else:
        server = request.getfixturevalue("postgres_server")
        url = server.create_database(template=request.getfixturevalue("postgres_template"))
    yield asyncio.run(_fill(configured(url, folder, **distant(key.path))))
    if server is not None:
        server.drop_database(url)


def distant(path: Path) -> dict[str, Any]:
    """The configuration of where the key is."""
    return {"master_key": None, "master_key_file": path, "key_provider": f"{__name__}.DistantKeys"}


async def _fill(config: StorageConfig) -> Filled:
    async with Storage.open(config) as storage:
        values = await fill(storage, "alice")
        await storage.user("alice").settings.update(language="en")
        return Filled(str(config.database_url), values, await rows_of(storage, "alice"))


@pytest.fixture
def key(tmp_path: Path) -> KeyOnDisk:
    made = KeyOnDisk(tmp_path / "keys" / "master.key")
    made.restore()
    return made


@pytest.fixture
def config(request: pytest.FixtureRequest, filled: Filled, tmp_path: Path, key: KeyOnDisk) -> Iterator[StorageConfig]:
    server: PostgresServer | None = None
    if filled.url.startswith("sqlite"):
        source = filled.url.removeprefix("sqlite:///")
        url = f"sqlite:///{shutil.copy(source, tmp_path / 'storage.db')}"
    else:
        server = request.getfixturevalue("postgres_server")
        url = server.create_database(template=database_name(filled.url))
    yield configured(url, tmp_path, **distant(key.path))
    if server is not None:
        server.drop_database(url)


@pytest.fixture(params=REASONS)
async def locked(
    request: pytest.FixtureRequest, config: StorageConfig, key: KeyOnDisk, filled: Filled
) -> AsyncIterator[Locked]:
    key.spoil(request.param)
    async with Storage.open(config) as storage:
        # Else a restored key would be noticed within seconds, which a test does not wait for.
        storage.keyring.master_keys._retry_seconds = 0.0
        yield Locked(storage, key, REASONS[request.param], filled.values, filled.rows)


async def rows_of(storage: Storage, user: str) -> dict[str, list[dict[str, Any]]]:
    """All rows of a user, of every table that has owners."""
    found = {}
    async with storage.session() as session:
        connection = await session.connection()
        for name, table in metadata.tables.items():
            if "user_id" in table.c:
                statement = select(table).where(table.c.user_id == user).order_by(*table.primary_key)
                found[name] = [dict(row) for row in (await connection.execute(statement)).mappings()]
    return found


def sealed_in(rows: dict[str, list[dict[str, Any]]]) -> list[tuple[str, str, bytes | None]]:
    """Every sealed column's bytes, and the wrapped data keys, in the order of the rows."""
    columns = [(column.table, column.column) for column in sealed_columns()] + [("data_key", "wrapped")]
    return [(table, column, row[column]) for table, column in columns for row in rows[table] if row[column]]


async def test_what_is_not_secret_is_read_and_written_as_ever(locked: Locked) -> None:
    storage = locked.storage
    alice, bob = storage.user("alice"), storage.user("bob")
    for user in (alice, bob):
        await user.conversations.save_metadata(MoreConversation(conversation_id=f"{user.user_id} new", title="t"))
        await user.conversations.update_metadata(f"{user.user_id} new", title="Fix the build")
        await user.conversations.add_usage(f"{user.user_id} new", cost=1.5)
        assert (await user.conversations.get_metadata(f"{user.user_id} new")).accumulated_cost == 1.5
        await user.files.write("notes/a.txt", "a")
        assert await user.files.read("notes/a.txt") == b"a"
        assert [entry.path async for entry in user.files.walk("notes")] == ["notes/a.txt"]
        await user.files.move("notes/a.txt", "b.txt")
        assert await user.files.delete("b.txt")
        await user.files.write("sessions/c1/events/0.json", b'{"id": 0}')  # masked by policy, with what can be opened
        updated = await user.settings.update(language="de", llm_model="m")
        assert (updated.language, updated.llm_api_key) == ("de", None)
        public = await user.settings.load_without_secrets()
        assert public is not None
        assert (public.language, public.llm_model) == ("de", "m")
        async with user.transaction() as transaction:
            await transaction.settings.update(agent="a")
            assert await transaction.conversations.exists(f"{user.user_id} new")
        assert await user.conversations.delete_metadata(f"{user.user_id} new")
    assert (await bob.settings.load()) == await bob.settings.load_without_secrets()
    assert await bob.secrets.load() is None
    assert await bob.secrets.list() == []


async def test_conversations_with_secrets_are_found_and_say_why_those_are_not_there(locked: Locked) -> None:
    page = await locked.storage.user("alice").conversations.search()
    assert {found.conversation_id for found in page.results} == {"alice ONE", "alice TWO"}
    for found in page.results:
        assert isinstance(found, MoreConversation)
        assert found.invite is None
        assert (found.unreadable_secrets or "").startswith(locked.error.__name__)


async def test_listings_show_every_secret_as_unreadable(locked: Locked) -> None:
    alice = locked.storage.user("alice")
    infos = await alice.secrets.list()
    assert [(info.kind, info.name) for info in infos] == [
        (kind, name) for kind in ("custom_secret", "provider_token") for name in NAMES
    ]
    assert {info.state for info in infos} == {"unreadable"}
    assert {info.host for info in infos} == {None, "git.example.com"}
    assert set((await alice.settings.secret_states()).values()) == {"unreadable"}


async def test_reading_a_secret_raises_the_reasons_error(locked: Locked) -> None:
    alice = locked.storage.user("alice")
    for place in PLACES:
        for name in NAMES if place.has_names else (ONE,):
            with pytest.raises(locked.error) as caught:
                await place.read(locked.storage, "alice", name)
            assert type(caught.value) is locked.error
    for load in (alice.settings.load, alice.secrets.load, alice.secrets.masker):
        with pytest.raises(locked.error, match=r"master\.key"):
            await load()
    with pytest.raises(locked.error):
        await alice.files.write("notes.txt", "text", mask_secrets=True)
    assert not await alice.files.exists("notes.txt")


async def test_writing_a_secret_is_refused_and_changes_nothing(locked: Locked) -> None:
    storage = locked.storage
    for user in ("alice", "bob"):
        for place in PLACES:
            with pytest.raises(locked.error):
                await place.write(storage, user, ONE, "overwritten")
        stores = storage.user(user)
        with pytest.raises(locked.error):
            await stores.settings.store(Settings(llm_api_key=SecretStr("overwritten")))
        with pytest.raises(locked.error):
            await stores.secrets.store(MoreSecrets(custom_secrets={ONE: {"secret": "overwritten"}}))
    for verb in (
        storage.user("alice").settings.store(Settings(language="de")),
        storage.user("alice").settings.update(llm_base_url="https://thief.example.com"),
        storage.user("alice").secrets.store(MoreSecrets()),
        storage.user("alice").secrets.set_provider_token(ONE, None, host="thief.example.com"),
    ):
        with pytest.raises(locked.error):
            await verb
    assert await rows_of(storage, "alice") == locked.rows
    assert not any((await rows_of(storage, "bob")).values())


async def test_a_write_that_is_refused_takes_its_whole_transaction_back(locked: Locked) -> None:
    alice = locked.storage.user("alice")
    with pytest.raises(locked.error):
        async with alice.transaction() as transaction:
            await transaction.settings.update(language="fr")
            await transaction.secrets.set_custom_secret(ONE, "overwritten")
    assert await rows_of(locked.storage, "alice") == locked.rows


async def test_saving_what_is_not_secret_leaves_every_sealed_byte(locked: Locked) -> None:
    alice = locked.storage.user("alice")
    await alice.settings.update(language="de", max_iterations=7, email="a@example.com")
    await alice.settings.update(llm_base_url="https://llm.example.com/v1")  # as it is: nothing is sealed anew
    await alice.conversations.update_metadata("alice ONE", title="new title")
    await alice.conversations.add_usage("alice ONE", cost=1.0)
    found = await alice.conversations.get_metadata("alice TWO")
    found.title = "saved whole"
    await alice.conversations.save_metadata(found)
    async with alice.transaction() as transaction:
        await transaction.settings.update(agent="a")
    after = await rows_of(locked.storage, "alice")
    assert sealed_in(after) == sealed_in(locked.rows)
    assert after["settings"][0]["language"] == "de"
    locked.key.restore()
    for place in PLACES:
        assert await place.read(locked.storage, "alice", ONE) == locked.values[repr(place), "alice", ONE]


async def test_the_status_says_what_is_wrong_and_what_to_do(locked: Locked) -> None:
    status = await locked.storage.status()
    assert (status.keys.state, status.keys.reason, status.keys.complete) == ("locked", locked.error.__name__, False)
    (problem,) = status.problems
    assert problem.code == "keys"
    assert str(locked.key.path) in problem.message + problem.remedy
    hint = {KeyMissing: "Put it back", KeyMismatch: "Configure that key again", KeyUnavailable: "cannot be reached"}
    assert hint[locked.error] in problem.message
    assert status.counts["custom_secrets"] == 2


async def test_no_key_is_made_and_the_key_file_stays_as_it_is(locked: Locked) -> None:
    path = locked.key.path
    before = (path.read_bytes(), path.stat().st_mode) if path.exists() else None
    keys = locked.rows["data_key"]
    for place in PLACES:
        with pytest.raises(EncryptionError):
            await place.write(locked.storage, "carol", ONE, "first")
    await locked.storage.keyring.start()
    assert ((path.read_bytes(), path.stat().st_mode) if path.exists() else None) == before
    assert (await rows_of(locked.storage, "alice"))["data_key"] == keys
    assert list(path.parent.iterdir()) == ([path] if before else [])


async def test_the_key_brings_everything_back_without_a_restart(locked: Locked) -> None:
    storage = locked.storage
    with pytest.raises(locked.error):
        await storage.user("alice").secrets.load()
    locked.key.restore()
    for place in PLACES:
        for name in NAMES if place.has_names else (ONE,):
            assert await place.read(storage, "alice", name) == locked.values[repr(place), "alice", name]
            assert await place.state(storage, "alice", name) == "set"
        await place.write(storage, "alice", ONE, "new")
        assert await place.read(storage, "alice", ONE) == "new"
        await place.write(storage, "bob", ONE, "first")
    assert (await storage.status()).problems == []


@pytest.mark.parametrize("reason", REASONS)
async def test_a_key_that_goes_away_while_the_storage_is_open_comes_back_too(
    config: StorageConfig, key: KeyOnDisk, reason: str
) -> None:
    async with Storage.open(config) as storage:
        storage.keyring.master_keys._retry_seconds = 0.0
        assert await storage.user("alice").secrets.load() is not None
        key.spoil(reason)
        storage.keyring.forget()  # as after the five minutes that keys are kept
        await storage.keyring.start()
        for place in PLACES:
            with pytest.raises(REASONS[reason]):
                await place.read(storage, "alice", ONE)
            with pytest.raises(REASONS[reason]):
                await place.write(storage, "alice", ONE, "new")
        key.restore()
        for place in PLACES:
            assert await place.read(storage, "alice", ONE) == f"{place!r} of alice ONE"


async def test_every_reason_has_an_error_of_its_own_below_one_that_callers_catch() -> None:
    assert len(set(REASONS.values())) == 3
    assert all(issubclass(error, errors.EncryptionError) for error in REASONS.values())
