"""Write, read and list files: each backend against its physical limit and its peers, the catalogue against S3.

Contenders take turns in every round, so that what else the machine does hits them alike; quote the ratios. A figure
is microseconds per file, of a round in which so many tasks (threads, for peers that block) share the work.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Final

import boto3
import fsspec
import s3fs
from botocore.config import Config
from rich.console import Console
from rich.table import Table

from storage import Storage, StorageConfig
from storage.clock import now
from storage.database.unit import Unit, execute_many
from storage.files import sql
from storage.files.backends.local import LocalFileStore
from storage.files.backends.s3 import S3FileStore
from storage.files.catalog import FileCatalog
from storage.files.concurrency import each
from storage.files.store import FileStore
from tests.servers.seaweedfs import ACCESS_KEY, REGION, SECRET_KEY, SeaweedServer

BUCKET: Final = "benchmark"
SIZES: Final = {"1 KiB": 1024, "1 MiB": 1024 * 1024}
EVENTS: Final = 1000
"""Of a conversation, 1 KiB each."""
FOLDERS: Final = 200

Call = Callable[[str], Awaitable[Any]]
"""Does something with one file."""


@dataclass(frozen=True)
class Contender:
    """One way to keep files. `listing` gives the names directly in the folder."""

    name: str
    write: Callable[[bytes], Call]
    read: Call
    listing: Call


def store(name: str, files: FileStore) -> Contender:
    """One of this library's stores."""
    return Contender(name, lambda content: lambda path: files.write(path, content), files.read, files.list)


class Threads:
    """Blocking calls in as many threads as there are tasks."""

    def __init__(self, tasks: int) -> None:
        self._pool = ThreadPoolExecutor(tasks)

    def __call__(self, work: Callable[..., Any], *arguments: Any) -> Awaitable[Any]:
        return asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)


def limit(root: Path, tasks: int) -> Contender:
    """What a durable write costs whoever does it: write, fsync, rename, fsync of the folder, in plain threads."""
    threads = Threads(tasks)

    def write(path: str, content: bytes) -> None:
        target = root / path
        temporary = target.with_name(f".{target.name}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.rename(target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    return Contender(
        "plain calls, fsync",
        lambda content: lambda path: threads(write, path, content),
        lambda path: threads((root / path).read_bytes),
        lambda path: threads(os.listdir, root / path),
    )


def local_fsspec(root: Path, tasks: int) -> Contender:
    """The local file system of fsspec; it never flushes, so that a power cut may lose what it has written."""
    threads, files = Threads(tasks), fsspec.filesystem("file")
    return Contender(
        "fsspec, no fsync",
        lambda content: lambda path: threads(files.pipe_file, str(root / path), content),
        lambda path: threads(files.cat_file, str(root / path)),
        lambda path: threads(lambda: files.ls(str(root / path), detail=False)),
    )


def boto(url: str, tasks: int) -> Contender:
    """boto3, one client for all threads, as its documentation has it."""
    threads = Threads(tasks)
    config = Config(max_pool_connections=tasks)
    client = boto3.client("s3", endpoint_url=url, config=config)

    def read(path: str) -> bytes:
        content: bytes = client.get_object(Bucket=BUCKET, Key=path)["Body"].read()
        return content

    def keys(path: str) -> list[str]:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{path}/", Delimiter="/")
        return [found["Key"] for page in pages for found in page.get("Contents", [])]

    return Contender(
        "boto3 in threads",
        lambda content: lambda path: threads(lambda: client.put_object(Bucket=BUCKET, Key=path, Body=content)),
        lambda path: threads(read, path),
        lambda path: threads(keys, path),
    )


async def s3_fsspec(url: str) -> Any:
    """s3fs as an asynchronous program uses it, without its cache of listings."""
    files = s3fs.S3FileSystem(
        asynchronous=True, endpoint_url=url, key=ACCESS_KEY, secret=SECRET_KEY, use_listings_cache=False
    )
    session = await files.set_session()

    def write(content: bytes) -> Call:
        return lambda path: files._pipe_file(f"{BUCKET}/{path}", content)  # noqa: SLF001 - its asynchronous face

    return session, Contender(
        "s3fs",
        write,
        lambda path: files._cat_file(f"{BUCKET}/{path}"),  # noqa: SLF001
        lambda path: files._ls(f"{BUCKET}/{path}", detail=False),  # noqa: SLF001
    )


Work = tuple[Call, Sequence[str]]
"""What one contender does in one round, and with which files."""


async def take_turns(rounds: int, tasks: int, files: int, contenders: Sequence[Work]) -> list[float]:
    """The median microseconds per file of each contender; the first round warms up."""
    taken: list[list[float]] = [[] for _ in contenders]
    for number in range(rounds + 1):
        for index, (call, paths) in enumerate(contenders):
            started = perf_counter()
            await each(call, paths, tasks)
            if number:
                taken[index].append((perf_counter() - started) / files * 1e6)
    return [median(times) for times in taken]


async def compare(title: str, contenders: dict[int, list[Contender]], rounds: int) -> None:
    """Write new files, read them, list their folder: every contender, size and number of tasks."""
    names = [contender.name for contender in next(iter(contenders.values()))]
    table = Table(title=f"{title}: µs per file")
    for heading in ("operation", "tasks", *names, *[f"{name} / ours" for name in names[1:]]):
        table.add_column(heading, justify="left" if heading == "operation" else "right")

    def add(operation: str, tasks: int, figures: list[float]) -> None:
        ratios = [f"{other / figures[0]:.2f}" for other in figures[1:]]
        table.add_row(operation, str(tasks), *[f"{figure:,.0f}" for figure in figures], *ratios)

    for size_name, size in SIZES.items():
        content = os.urandom(size)
        for tasks, several in contenders.items():
            files = max(tasks, 32 if size > SIZES["1 KiB"] else 128)

            # Each round overwrites the same files: what an application does, and the disk stays small.
            folders = [f"{size}-{tasks}-{index}" for index in range(len(several))]
            paths = [[f"{folder}/{number}" for number in range(files)] for folder in folders]
            writing = [(contender.write(content), own) for contender, own in zip(several, paths, strict=True)]
            reading = [(contender.read, own) for contender, own in zip(several, paths, strict=True)]
            add(f"write {size_name}", tasks, await take_turns(rounds, tasks, files, writing))
            add(f"read {size_name}", tasks, await take_turns(rounds, tasks, files, reading))
    for tasks, several in contenders.items():
        lists = [(contender.listing, [f"1024-{tasks}-{index}"] * tasks) for index, contender in enumerate(several)]
        add("list 128 files", tasks, await take_turns(rounds, tasks, tasks * 128, lists))
    Console(width=160).print(table)


async def local(rounds: int, tasks: Sequence[int]) -> None:
    """Folders on this machine's disk."""
    with tempfile.TemporaryDirectory(dir=".") as name:
        root = Path(name)
        async with LocalFileStore(root / "ours") as ours:
            several = {
                number: [store("agent-storage", ours), limit(root / "plain", number), local_fsspec(root / "f", number)]
                for number in tasks
            }
            for size in SIZES.values():  # the peers make no folders
                for number in tasks:
                    for index, place in ((1, "plain"), (2, "f")):
                        (root / place / f"{size}-{number}-{index}").mkdir(parents=True)
            await compare("A folder", several, rounds)


async def s3(url: str, rounds: int, tasks: Sequence[int]) -> None:
    """SeaweedFS, on this machine too: it takes its share of the processors."""
    boto3.client("s3", endpoint_url=url).create_bucket(Bucket=BUCKET)
    session, peer = await s3_fsspec(url)
    try:
        async with S3FileStore(BUCKET, endpoint_url=url) as ours:
            several = {number: [store("agent-storage", ours), boto(url, number), peer] for number in tasks}
            await compare("S3 (SeaweedFS)", several, rounds)
    finally:
        await session.close()


async def listings(url: str, files: int, keys: int, rounds: int) -> None:
    """One folder with a few children and very many descendants: by SQL, and by the keys of a bucket."""
    config = StorageConfig(database_url="sqlite:///:memory:", file_store="memory")
    async with Storage.open(config) as storage:
        for start in range(0, files, 10_000):
            await storage.database.run(partial(_rows, range(start, min(start + 10_000, files))))
        catalog = storage.user("ada").files
        if len(await catalog.list("tree")) != FOLDERS:
            raise SystemExit("the catalogue does not list the folders that were made")
        client = boto3.client("s3", endpoint_url=url)
        async with S3FileStore(BUCKET, endpoint_url=url) as bucket:
            await each(lambda number: bucket.write(f"{_path(number)}", b""), range(keys), 32)

            async def every(_: str) -> int:
                """As the seed system lists: all keys below the folder, of which it makes the children."""
                pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="tree/")
                return await asyncio.to_thread(lambda: sum(page["KeyCount"] for page in pages))

            contenders: list[Call] = [catalog.list, bucket.list, every]
            figures = await take_turns(rounds, 1, 1, [(call, ["tree"]) for call in contenders])
    table = Table(title=f"One folder of {FOLDERS} folders: ms per listing")
    for heading in ("who", "files below", "ms", "/ catalogue"):
        table.add_column(heading, justify="left" if heading == "who" else "right")
    who = (("catalogue, SQLite", files), ("S3, one level", keys), ("S3, all keys below", keys))
    for (name, below), figure in zip(who, figures, strict=True):
        table.add_row(name, f"{below:,}", f"{figure / 1000:,.1f}", f"{figure / figures[0]:,.1f}")
    Console(width=120).print(table)


def _path(number: int) -> str:
    return f"tree/{number % FOLDERS:03}/{number}"


def _rows(numbers: range) -> Unit[None]:
    """Rows of files whose contents nobody reads."""
    at = now()
    row = {"user_id": "ada", "size": 0, "sha256": bytes(32), "media_type": None, "conversation_id": None}
    key = {"content_key": None, "updated_at": at}
    yield from execute_many(
        sql.SAVE_ALL, [{**row, **key, "path": _path(number), "blob_key": f"blobs/00/{number}"} for number in numbers]
    )


async def events(url: str, rounds: int) -> None:
    """A conversation's events at once: from a bucket, from a folder, and from rows of the database."""
    with tempfile.TemporaryDirectory(dir=".") as name:
        places: dict[str, dict[str, Any]] = {
            "S3": {"file_store": "s3", "file_store_path": BUCKET},
            "S3, sealed": {"file_store": "s3", "file_store_path": BUCKET, "seal_files": True},
            "folder": {"file_store_path": f"{name}/files"},
            "rows": {"file_store": "memory", "small_files_in_database": 1024},
            "rows, sealed": {"file_store": "memory", "small_files_in_database": 1024, "seal_files": True},
        }
        os.environ["AWS_ENDPOINT_URL"] = url
        paths = [f"sessions/c/events/{number}.bin" for number in range(EVENTS)]
        content = os.urandom(1024)
        opened: list[Storage] = []
        calls: list[Work] = []
        try:
            for number, settings in enumerate(places.values()):
                config = StorageConfig(
                    data_dir=Path(name) / str(number), master_key_file=Path(name) / "master.key", **settings
                )
                opened.append(storage := await Storage.open(config))
                files = storage.user("ada").files
                await files.write_many([(path, content) for path in paths])
                calls.append((partial(_read_all, files, paths), [""]))
            figures = await take_turns(rounds, 1, 1, calls)
        finally:
            for storage in opened:
                await storage.close()
    table = Table(title=f"read_many of {EVENTS:,} files of 1 KiB")
    for heading in ("contents in", "ms", "/ rows"):
        table.add_column(heading, justify="left" if heading == "contents in" else "right")
    rows = figures[list(places).index("rows")]
    for place, figure in zip(places, figures, strict=True):
        table.add_row(place, f"{figure / 1000:,.1f}", f"{figure / rows:,.1f}")
    Console(width=120).print(table)


async def _read_all(files: FileCatalog, paths: Sequence[str], _: str) -> None:
    await files.read_many(paths)


@contextmanager
def server() -> Iterator[str]:
    """A real S3 server, and the credentials for it in the environment."""
    os.environ.update(AWS_ACCESS_KEY_ID=ACCESS_KEY, AWS_SECRET_ACCESS_KEY=SECRET_KEY, AWS_REGION=REGION)
    os.environ["AWS_DEFAULT_REGION"] = REGION
    with SeaweedServer() as running:
        yield running.url


def main() -> None:
    """Measure a folder, then S3, then listings and many small files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--files", type=int, default=200_000, help="files of the catalogue that is listed")
    parser.add_argument("--keys", type=int, default=20_000, help="keys of the bucket that is listed")
    parser.add_argument("--local-only", action="store_true", help="leave out what needs the S3 server")
    options = parser.parse_args()
    asyncio.run(local(options.rounds, options.tasks))
    if options.local_only:
        return
    with server() as url:
        asyncio.run(s3(url, options.rounds, options.tasks))
        asyncio.run(events(url, options.rounds))
        asyncio.run(listings(url, options.files, options.keys, options.rounds))


if __name__ == "__main__":
    main()
