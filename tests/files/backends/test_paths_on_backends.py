"""The same answer on every backend: for paths that nobody thought of, and for whole sequences of changes.

Hypothesis makes both. The paths go to all backends side by side; the changes also to a dict, which is the model.
"""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.errors import Conflict, FileExists, FileNotFound, PathRejected
from storage.files.backends.google_cloud import GoogleCloudFileStore
from storage.files.backends.local import LocalFileStore
from storage.files.backends.memory import MemoryFileStore
from storage.files.backends.s3 import S3FileStore
from storage.files.store import FileStore
from storage.testing.file_paths import ACCEPTED_PATHS, REJECTED_PATHS
from tests.files.backends.s3_buckets import empty_bucket
from tests.servers.fake_gcs import FakeGcsServer
from tests.servers.moto import MotoServer
from tests.servers.seaweedfs import SeaweedServer

# One store of each kind serves all examples of a test; every example leaves it empty.
shared_stores = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=40
)

AWKWARD = st.text(
    st.sampled_from("ab. ~%+&=?#*:;'\"<>|$@!,()[]{}^`-_éÅ\u0301\u1100\u1161\uff46\ufb01\U0001f600\u200d\u2028"),
    max_size=9,
)
ANY_TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
ANY_PATH = st.one_of(
    st.lists(st.one_of(AWKWARD, ANY_TEXT), min_size=1, max_size=3).map("/".join),
    st.sampled_from([*ACCEPTED_PATHS, *REJECTED_PATHS]),
    st.builds("{}{}".format, st.sampled_from(["/", "./", "//", "../"]), AWKWARD),
)


@pytest.fixture
async def stores(
    tmp_path: Path,
    seaweed: SeaweedServer,
    moto: MotoServer,
    fake_gcs: FakeGcsServer,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[dict[str, FileStore]]:
    """One empty store on each backend."""
    bucket = fake_gcs.create_bucket(f"paths-{uuid4().hex}")
    async with AsyncExitStack() as open_stores:
        seaweed_bucket = open_stores.enter_context(empty_bucket(seaweed.url, monkeypatch))
        moto_bucket = open_stores.enter_context(empty_bucket(moto.url, monkeypatch))
        stores: dict[str, FileStore] = {
            "memory": MemoryFileStore(),
            "local": LocalFileStore(tmp_path / "files"),
            "SeaweedFS": S3FileStore(seaweed_bucket, endpoint_url=seaweed.url),
            "moto": S3FileStore(moto_bucket, endpoint_url=moto.url, ordered_listing=True),
            "fake-gcs": GoogleCloudFileStore(bucket, endpoint_url=fake_gcs.url),
        }
        for store in stores.values():
            await open_stores.enter_async_context(store)
        yield stores


async def clear(store: FileStore) -> None:
    for entry in await store.list():
        await store.delete(entry)


# ---- paths


async def answer(store: FileStore, path: str) -> str:
    """What a store makes of a path: the normal form, proved by reading it back in every way, or a rejection."""
    content = path.encode(errors="replace")
    try:
        normal = (await store.write(path, content)).path
    except PathRejected:
        for asking in (store.read, store.exists, store.stat):
            with pytest.raises(PathRejected):
                await asking(path)
        return "rejected"
    assert await store.read(unicodedata.normalize("NFD", path)) == content
    assert (await store.stat(normal)).size == len(content)
    folder, slash, _ = normal.rpartition("/")
    assert await store.list(folder + slash) == [normal]
    assert [file.path async for file in store.walk()] == [normal]
    await store.copy(normal, "the copy")
    assert await store.read("the copy") == content
    assert await store.delete(path) == 1
    assert await store.list() == ["the copy"]
    return normal


@shared_stores
@given(path=ANY_PATH)
async def test_a_path_means_the_same_on_every_backend(stores: Mapping[str, FileStore], path: str) -> None:
    try:
        answers = await asyncio.gather(*(answer(store, path) for store in stores.values()))
    finally:
        await asyncio.gather(*map(clear, stores.values()))
    assert len(set(answers)) == 1, dict(zip(stores, answers, strict=True))


# ---- changes


@dataclass
class Model:
    """What a store holds, as a dict.

    Attributes:
        file_beside_folder: see FileStoreContract.
        files: contents by path.
    """

    file_beside_folder: bool = True
    files: dict[str, bytes] = field(default_factory=dict)

    def write(self, path: str, content: bytes, *, if_absent: bool = False) -> None:
        self.check_place(path)
        if if_absent and path in self.files:
            raise FileExists(path)
        self.files[path] = content

    def copy(self, source: str, target: str) -> None:
        self.write(target, self.read(source))

    def move(self, source: str, target: str) -> None:
        self.copy(source, target)
        if source != target:
            del self.files[source]

    def delete(self, path: str) -> int:
        gone = [each for each in self.files if each == path or each.startswith(f"{path}/")]
        for each in gone:
            del self.files[each]
        return len(gone)

    def read(self, path: str) -> bytes:
        if path not in self.files:
            raise FileNotFound(path)
        return self.files[path]

    def list(self, folder: str) -> list[str]:
        prefix = f"{folder}/" if folder else ""
        names = (path.removeprefix(prefix).partition("/") for path in self.files if path.startswith(prefix))
        return sorted({prefix + name + slash for name, slash, _ in names})

    def check_place(self, path: str) -> None:
        if self.file_beside_folder:
            return
        parents = {path[:end] for end, character in enumerate(path) if character == "/"}
        if parents & self.files.keys() or self.has_folder(path):
            raise Conflict(path)

    def has_folder(self, path: str) -> bool:
        return any(each.startswith(f"{path}/") for each in self.files)


PATHS = ("a", "a/b", "a/b/c", "a-", "a.json", "ab", "a/é", "z/y/x")
NEVER_FOLDERS = ("a/b/c", "a-", "a.json", "ab", "a/é", "z/y/x")


def some_changes(created: Sequence[str]) -> st.SearchStrategy[list[tuple[str, ...]]]:
    """Changes in a row; files are created on condition at paths among `created`."""
    path, content = st.sampled_from(PATHS), st.binary(max_size=20)
    one: st.SearchStrategy[Any] = st.one_of(
        st.tuples(st.just("write"), path, content),
        st.tuples(st.just("create"), st.sampled_from(created), content),
        st.tuples(st.just("copy"), path, path),
        st.tuples(st.just("move"), path, path),
        st.tuples(st.just("delete"), st.sampled_from((*PATHS, "z", "z/y"))),
    )
    return st.lists(one, min_size=1, max_size=12)


def on_the_model(model: Model, change: tuple[str, ...]) -> object:
    match change:
        case "create", path, content:
            model.write(path, content, if_absent=True)  # type: ignore[arg-type]
            return None
        case name, *arguments:
            return getattr(model, name)(*arguments)
    raise AssertionError(change)


async def on_the_store(store: FileStore, change: tuple[str, ...]) -> object:
    match change:
        case "create", path, content:
            return await store.write(path, content, if_absent=True)
        case name, *arguments:
            return await getattr(store, name)(*arguments)
    raise AssertionError(change)


async def follow(store: FileStore, model: Model, changes: list[tuple[str, ...]]) -> None:
    """Make the changes on both; the errors have to be the same, and in the end the files."""
    for change in changes:
        try:
            expected = on_the_model(model, change)
        except (Conflict, FileNotFound) as error:
            with pytest.raises(type(error)):
                await on_the_store(store, change)
        else:
            result = await on_the_store(store, change)
            assert expected is None or result == expected, change
    walked = [file async for file in store.walk()]
    assert [file.path for file in walked] == sorted(model.files)
    assert [file.size for file in walked] == [len(model.files[file.path]) for file in walked]
    for folder in ("", "a", "a/b", "z", "z/y"):
        assert await store.list(folder) == model.list(folder), folder
    for path in PATHS:
        assert await store.exists(path) == (path in model.files)
    for path, content in model.files.items():
        assert await store.read(path) == content


@pytest.mark.parametrize(
    ("kind", "examples"), [("memory", 200), ("local", 20), ("SeaweedFS", 12), ("moto", 12), ("fake-gcs", 12)]
)
async def test_any_changes_leave_what_a_dict_would_hold(
    stores: Mapping[str, FileStore], kind: str, examples: int
) -> None:
    store = stores[kind]
    loop = asyncio.get_running_loop()

    async def example(changes: list[tuple[str, ...]]) -> None:
        try:
            await follow(store, Model(file_beside_folder=kind != "local"), changes)
        finally:
            await clear(store)

    @settings(shared_stores, max_examples=examples)
    # For SeaweedFS a folder, also one that was just emptied, is in the way of a file that is to be created.
    @given(changes=some_changes(NEVER_FOLDERS if kind == "SeaweedFS" else PATHS))
    def every(changes: list[tuple[str, ...]]) -> None:
        # Hypothesis runs in a thread of its own: this test's loop is the one that the store's connections belong to.
        asyncio.run_coroutine_threadsafe(example(changes), loop).result()

    await asyncio.to_thread(every)
