from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from storage import Storage
from storage.errors import InvalidInput
from storage.files.backends.cached import CachedFileStore
from storage.files.backends.memory import MemoryFileStore
from storage.files.maintenance import collector, verbs
from storage.files.maintenance.backend_copy import Copied
from storage.files.maintenance.tree_export import Exported
from storage.files.maintenance.user_usage import UserUsage
from storage.files.maintenance.verbs import EVERYONE
from storage.files.maintenance.verification import Verification
from tests.databases import MASTER_KEY


@pytest.fixture
async def storage(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Storage]:
    async with Storage.open(
        database_url=sqlite_url,
        data_dir=tmp_path,
        file_store="memory",
        master_key=SecretStr(MASTER_KEY.get_secret_value()),
        small_files_in_database=3,
        seal_files=True,
    ) as storage:
        yield storage


async def test_the_verbs_are_of_the_storage_that_was_opened(storage: Storage, tmp_path: Path) -> None:
    assert storage.files is storage.files
    await storage.user().files.write("a", b"12345")
    await storage.user("bob").files.write("b", b"1")
    assert await storage.files.verify() == Verification(2, 6, 0, ())
    assert [(usage.user_id, usage.files, usage.bytes) for usage in await storage.files.usage()] == [
        ("bob", 1, 1),
        ("local", 1, 5),
    ]
    assert all(isinstance(usage, UserUsage) for usage in await storage.files.usage())
    assert await storage.files.export(tmp_path / "exported", user_id="bob") == Exported(1, 1, 0, ())
    assert (tmp_path / "exported/b").read_bytes() == b"1"
    target = MemoryFileStore()
    copied = await storage.files.copy_to(target)
    assert (copied.copied, copied.flaws) == (1, ())
    assert isinstance(copied, Copied)
    collected = await storage.files.collect()
    assert (collected.blobs, collected.rows) == (0, 0)


async def test_nobody_is_the_local_user_and_everyone_is_everybody(storage: Storage, tmp_path: Path) -> None:
    await storage.user().files.write("a", b"12345")
    await storage.user("bob").files.write("b", b"1")
    assert (await storage.files.verify(user_id=None)).bytes == 5
    assert (await storage.files.verify(user_id="bob")).bytes == 1
    assert (await storage.files.verify(user_id=EVERYONE)).bytes == 6
    assert (await storage.files.verify(sample=1, seed=1)).checked == 1
    assert (await storage.files.export(tmp_path / "exported", user_id=None)).bytes == 5
    with pytest.raises(InvalidInput, match="user_id"):
        await storage.files.export(tmp_path / "exported", user_id="")
    with pytest.raises(InvalidInput, match="user_id"):
        await storage.files.verify(user_id="\n")


async def test_repacking_makes_what_is_stored_fit_the_configuration(
    storage: Storage, sqlite_url: str, tmp_path: Path
) -> None:
    await storage.user().files.write("small", b"1")
    await storage.user().files.write("large", b"12345")
    assert (await storage.files.repack()).to_rows == 0
    larger = verbs.FileMaintenance(storage.database, storage.blobs, storage.keyring, 10)
    assert (await larger.repack()).to_rows == 1
    assert (await storage.files.verify()).flaws == ()
    none = verbs.FileMaintenance(storage.database, storage.blobs, storage.keyring)
    assert (await none.repack()).to_blobs == 2
    assert await storage.files.verify() == Verification(2, 6, 0, ())
    assert await storage.user().files.read("large") == b"12345"


async def test_what_a_cache_has_kept_is_not_taken_for_what_the_backend_has(sqlite_url: str, tmp_path: Path) -> None:
    async with Storage.open(
        database_url=sqlite_url, data_dir=tmp_path, file_store="memory", file_cache_bytes=1024 * 1024
    ) as storage:
        files = storage.user().files
        await files.write("a", b"12345")
        assert isinstance(storage.blobs, CachedFileStore)
        backend = storage.blobs.store
        [key] = [blob.path async for blob in backend.walk()]
        target = CachedFileStore(MemoryFileStore(), 1024 * 1024, immutable=True)
        assert (await storage.files.copy_to(target)).flaws == ()
        for cached in (storage.blobs, target):
            assert await cached.read(key) == b"12345"
        await backend.write(key, b"54321")
        await target.store.write(key, b"54321")
        assert await files.read("a") == b"12345"
        assert [flaw.reason for flaw in (await storage.files.verify()).flaws] == ["altered"]
        assert [flaw.reason for flaw in (await storage.files.copy_to(target)).flaws] == ["altered"]
        with pytest.raises(InvalidInput, match="already"):
            await storage.files.copy_to(CachedFileStore(backend, 1024))


def test_the_default_grace_is_the_collectors() -> None:
    assert verbs.GRACE == collector.DEFAULT_GRACE > timedelta(hours=1)


def test_the_facade_imports_none_of_the_verbs() -> None:
    code = (
        "import sys, storage.files.maintenance.verbs; "
        "print([name for name in sys.modules if name.startswith('storage.files.maintenance.')])"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert shown.strip() == "['storage.files.maintenance.verbs']"
