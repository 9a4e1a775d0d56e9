"""open_backend: every name that a configuration may give leads to that store, and no other name to any."""

from __future__ import annotations

import importlib
import logging
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import storage.files
from storage.config import StorageConfig
from storage.errors import ConfigurationError
from storage.files.backends.cached import CachedFileStore
from storage.files.backends.configured import open_backend
from storage.files.backends.local import LocalFileStore
from storage.files.backends.memory import MemoryFileStore
from storage.storage import Storage

HEAVY = ("obstore", "google.cloud.storage", "botocore", "boto3", "sqlalchemy", "pydantic", "httpx2", "aiohttp")


def configured(folder: Path, **options: Any) -> StorageConfig:
    return StorageConfig.load(
        **{
            "database_url": "sqlite:///:memory:",
            "data_dir": folder / "data",
            "master_key_file": folder / "keys" / "master.key",
            **options,
        }
    )


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages: a distribution whose entry points name file stores."""
    site = tmp_path / "site-packages"
    metadata = site / "shelf_storage-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: shelf-storage\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        textwrap.dedent("""
            [storage.file_stores]
            shelf = shelf_storage:ShelfFileStore
            local = shelf_storage:ShelfFileStore
            torn = shelf_storage:NotThere
            adrift = no_such_package:Store
            number = shelf_storage:NUMBER
            alien = shelf_storage:Alien
            unfinished = shelf_storage:Unfinished
            odd = shelf_storage:Odd
            twice = shelf_storage:ShelfFileStore

            [somebody.elses]
            other = shelf_storage:ShelfFileStore
        """)
    )
    second = site / "second_shelf-1.0.dist-info"
    second.mkdir()
    (second / "METADATA").write_text("Metadata-Version: 2.1\nName: second-shelf\nVersion: 1.0\n")
    (second / "entry_points.txt").write_text("[storage.file_stores]\ntwice = shelf_storage:Another\n")
    (site / "shelf_storage.py").write_text(
        textwrap.dedent("""
            from storage.files import FileStore, MemoryFileStore

            NUMBER = 1

            class ShelfFileStore(MemoryFileStore):
                @classmethod
                async def get_instance(cls, config, user_id=None):
                    made = cls()
                    made.given = (config.file_store_path, user_id)
                    return made

            class Another(ShelfFileStore):
                pass

            class Alien:
                pass

            class Unfinished(FileStore):
                pass

            class Odd(ShelfFileStore):
                @classmethod
                async def get_instance(cls, config, user_id=None):
                    return object()
        """)
    )
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    yield site
    sys.modules.pop("shelf_storage", None)


async def test_the_names_of_ours_lead_to_ours(tmp_path: Path) -> None:
    async with await open_backend(configured(tmp_path)) as store:
        assert isinstance(store, LocalFileStore)
        assert store.root == tmp_path / "data" / "files"
    async with await open_backend(configured(tmp_path, file_store_path=tmp_path / "elsewhere")) as store:
        assert store.location == str(tmp_path / "elsewhere")
    async with await open_backend(configured(tmp_path, file_store="memory")) as store:
        assert type(store) is MemoryFileStore
    for name, message in (("s3", "no bucket is named"), ("google_cloud", "bucket")):
        with pytest.raises(ConfigurationError, match=message):
            await open_backend(configured(tmp_path, file_store=name, file_store_path=""))


async def test_a_dotted_path_leads_to_its_class(tmp_path: Path) -> None:
    path = f"{MemoryFileStore.__module__}.MemoryFileStore"
    assert type(await open_backend(configured(tmp_path, file_store=path))) is MemoryFileStore
    for path, message in (
        ("no.such.Store", "file_store: cannot import 'no.such'"),
        ("storage.config.StorageConfig", "must be a subclass of storage.files.store.FileStore"),
        ("storage.files.store.FileStore", "does not implement"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            await open_backend(configured(tmp_path, file_store=path))


@pytest.mark.usefixtures("installed")
async def test_the_entry_point_of_an_installed_package_is_a_name(tmp_path: Path) -> None:
    store: Any = await open_backend(configured(tmp_path, file_store="shelf", file_store_path="bottom"))
    assert type(store).__name__ == "ShelfFileStore"
    assert store.given == ("bottom", None)
    async with Storage.open(configured(tmp_path, file_store="shelf")) as storage:
        await storage.user("ada").files.write("a", b"content")
        assert await storage.user("ada").files.read("a") == b"content"
        assert len(await storage.blobs.list("blobs")) == 1


@pytest.mark.usefixtures("installed")
async def test_an_entry_point_cannot_take_the_place_of_ours(tmp_path: Path) -> None:
    async with await open_backend(configured(tmp_path, file_store="local")) as store:
        assert isinstance(store, LocalFileStore)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torn", r"'torn' \(shelf_storage:NotThere\) cannot be loaded"),
        ("adrift", r"cannot be loaded: No module named 'no_such_package'"),
        ("number", "is not a class"),
        ("alien", "must be a subclass of storage.files.store.FileStore"),
        ("unfinished", "does not implement _read, _remove"),
        ("odd", "gave object, not a FileStore"),
        ("twice", "more than once: shelf_storage:Another, shelf_storage:ShelfFileStore"),
    ],
)
async def test_an_entry_point_that_cannot_work_is_refused_and_named(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        await open_backend(configured(tmp_path, file_store=name))


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "hint"), [("memroy", "'memory'"), ("shelff", "'shelf'"), ("gogle_cloud", "'google_cloud'")]
)
def test_a_misspelt_name_is_refused_with_what_there_is_and_what_was_meant(tmp_path: Path, name: str, hint: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        configured(tmp_path, file_store=name)
    message = str(refusal.value)
    assert f"{name!r} is not a file store; did you mean {hint}?" in message
    assert "local, memory, s3, google_cloud, adrift" in message
    assert "shelf" in message


def test_a_name_that_resembles_none_is_refused_as_well(tmp_path: Path) -> None:
    for name in ("", "x", "LOCAL", " local", "other"):
        with pytest.raises(ConfigurationError, match="is not a file store"):
            configured(tmp_path, file_store=name)


async def test_a_name_that_the_configuration_never_saw_is_not_taken_for_memory(tmp_path: Path) -> None:
    config = configured(tmp_path).model_copy(update={"file_store": "memroy"})
    with pytest.raises(ConfigurationError, match="no installed package has an entry point 'memroy'"):
        await open_backend(config)


# ---- the cache


async def test_without_a_cache_size_there_is_no_cache(tmp_path: Path) -> None:
    async with await open_backend(configured(tmp_path, file_cache_path=tmp_path / "cache")) as store:
        assert not isinstance(store, CachedFileStore)


@pytest.mark.parametrize("in_folder", [False, True])
async def test_with_a_cache_size_blobs_are_kept_at_hand(tmp_path: Path, in_folder: bool) -> None:
    options: dict[str, Any] = {"file_cache_path": tmp_path / "cache"} if in_folder else {}
    config = configured(tmp_path, file_cache_bytes=1_000_000, seal_files=True, **options)
    async with Storage.open(config) as storage:
        files = storage.user("ada").files
        assert isinstance(storage.blobs, CachedFileStore)
        assert storage.blobs.location == str(tmp_path / "data" / "files")
        await files.write("a", b"plain to see")
        for _ in range(3):
            assert await files.read("a") == b"plain to see"
        assert b"".join([piece async for piece in files.stream("a", 6, 8)]) == b"to"
        statistics = storage.blobs.statistics
        assert (statistics.hits, statistics.misses) == (3, 1)
        await files.write("a", b"changed")
        assert await files.read("a") == b"changed"
        status = await storage.status()
        assert status.file_cache == storage.blobs.statistics
        assert status.file_cache.held_files == 2
        assert status.file_cache.folder == (str(tmp_path / "cache") if in_folder else None)
    kept = [path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(kept) == (2 if in_folder else 0)
    assert not any(b"plain" in content for content in kept)  # what is sealed in the store is sealed here


# ---- memory


async def test_memory_is_opened_in_silence_and_the_status_says_what_it_means(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Storage.open(configured(tmp_path, file_store="memory")) as storage:
        status = await storage.status()
    assert status.file_store == "memory: this process, gone when it ends"
    assert status.file_cache is None
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


# ---- the package


def test_the_package_names_its_stores_and_loads_none_before_it_is_used() -> None:
    program = f"""
        import sys
        import storage.files
        assert set(storage.files.__all__) <= set(dir(storage.files))
        loaded = set({HEAVY!r}) & set(sys.modules)
        assert not loaded, loaded
        assert not any(name.startswith("storage.files.") for name in sys.modules)
        from storage.files import CachedFileStore, FileStat, FileStore, LocalFileStore, MemoryFileStore
        assert not set({HEAVY!r}) & set(sys.modules), sys.modules.keys()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_name_of_the_package_is_there_and_another_is_not() -> None:
    for name in storage.files.__all__:
        assert getattr(storage.files, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'FtpFileStore'"):
        _ = storage.files.FtpFileStore
