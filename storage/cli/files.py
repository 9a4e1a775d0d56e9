"""`storage files`: a user's files, as a shell knows them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import App, Parameter

from storage.cli import file_changes, file_put, file_search, file_upkeep
from storage.cli.connection import DEFAULT, AsJSON, Connection, User, flag, opened
from storage.cli.file_rows import as_dict, show_sum, show_table
from storage.cli.output import count, line, pairs, plain, show_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from storage.files.catalog import FileCatalog
    from storage.files.store import FileStat, FileStore

app = App(name="files", help="Look into a user's files, change them, and look after where they are kept.")

_BRANCHES: Final = ("├── ", "└── ", "│   ", "    ")
_PLAIN_BRANCHES: Final = ("|-- ", "`-- ", "|   ", "    ")
"""For a terminal or a pipe whose encoding has no lines to draw."""


@app.command(name="ls")
async def list_(
    path: Annotated[str, Parameter(show_default=False, help="A folder or a file; everything if not given.")] = "",
    /,
    *,
    recursive: Annotated[bool, flag("Also what is in folders, at any depth.", name=["--recursive", "-r"])] = False,
    long: Annotated[bool, flag("With sizes, times and hashes.", name=["--long", "-l"])] = False,
    user: User = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> None:
    """List the files and folders at a path, in byte order; folders end in `/`.

    JSON: a list of `{path, kind: "file", size, sha256, media_type, version, created_at, updated_at, etag}` and
    `{path, kind: "folder"}`.
    """
    async with opened(connection) as storage:
        store: FileCatalog = storage.user(user).files
        entries = await _entries(store, path, recursive=recursive, stats=long or json)
    if not entries:
        _require(path)
    if json:
        show_json([as_dict(name, stat) for name, stat in entries])
    elif long:
        show_table(entries)
        line()
        show_sum([stat.size for _, stat in entries if stat is not None])
    else:
        for name, _ in entries:
            line(plain(name))


@app.command
async def tree(
    path: Annotated[str, Parameter(show_default=False, help="A folder; everything if not given.")] = "",
    /,
    *,
    depth: Annotated[
        int | None, Parameter(name=["--depth", "-L"], help="Levels to show; all if not given. Folders below stay shut.")
    ] = None,
    user: User = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> None:
    """Draw the folders and files below a path. Each folder costs one look-up, however much is below it.

    JSON: a list of `{path, kind: "file"}` and `{path, kind: "folder", entries: [the same]}`; the folders at the last
    level that is shown have no `entries`.
    """
    from storage.errors import InvalidInput

    if depth is not None and depth < 1:
        raise InvalidInput(f"--depth must be 1 or more, not {depth}")
    async with opened(connection) as storage:
        store: FileStore = storage.user(user).files
        if json:
            entries = await _nested(store, path, depth)
            if not entries:
                _require(path)
            show_json(entries)
            return
        folders = files = 0
        async for drawn, name in _drawn(store, path, depth, ""):
            if not folders + files:
                line(plain(path or "/"))
            folders, files = (folders + 1, files) if name.endswith("/") else (folders, files + 1)
            line(drawn + plain(name))
    if not folders + files:
        _require(path)
    line()
    line(f"{count(folders, 'folder')}, {count(files, 'file')}")


@app.command
async def cat(
    path: Annotated[str, Parameter(help="The file's path, as `storage files ls` shows it.")],
    /,
    *,
    start: Annotated[int, Parameter(show_default=False, help="From this byte on, counted from 0.")] = 0,
    end: Annotated[int | None, Parameter(help="Up to and without this byte.")] = None,
    user: User = None,
    connection: Connection = DEFAULT,
) -> None:
    """Write a file's bytes to the standard output, as they are.

    The bytes are compared with the recorded SHA-256 on the way; if they differ, it fails after the last one. A part,
    asked for by --start or --end, is not compared.
    """
    async with opened(connection) as storage:
        store: FileStore = storage.user(user).files
        async for chunk in store.stream(path, start, end):
            sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


@app.command(name="stat")
async def stat_(
    path: Annotated[str, Parameter(help="The file's path, as `storage files ls` shows it.")],
    /,
    *,
    user: User = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> None:
    """Show what is known of a file without reading it.

    JSON: `{path, kind: "file", size, sha256, media_type, version, created_at, updated_at, etag}`.
    """
    async with opened(connection) as storage:
        store: FileStore = storage.user(user).files
        found = await store.stat(path)
    fields = as_dict(path, found)
    if json:
        show_json(fields)
        return
    pairs((name.replace("_", " "), _shown(value)) for name, value in fields.items() if name != "kind")


app.command(file_search.search)
app.command(file_put.put)
app.command(file_changes.rm)
app.command(file_changes.cp)
app.command(file_changes.mv)
app.command(file_upkeep.usage)
app.command(file_upkeep.verify)
app.command(file_upkeep.collect)
app.command(file_upkeep.repack)
app.command(file_upkeep.export)
app.command(file_upkeep.migrate_backend)


async def _entries(store: FileCatalog, path: str, *, recursive: bool, stats: bool) -> list[tuple[str, FileStat | None]]:
    from storage.files.paths import file_path, folder_path

    entries: list[tuple[str, FileStat | None]] = []
    if folder_path(path) and not path.endswith("/") and await store.exists(path):
        entries.append((file_path(path), await store.stat(path)))
    if recursive:
        entries.extend([(stat.path, stat) async for stat in store.walk(path)])
        return entries
    names = await store.list(path)
    found = await store.stat_many(name for name in names if name[-1] != "/") if stats else {}
    return entries + [(name, found.get(name)) for name in names if not stats or name in found or name[-1] == "/"]


def _require(path: str) -> None:
    """Raises FileNotFound, unless the path is the root: that is always there."""
    from storage.errors import FileNotFound
    from storage.files.paths import folder_path

    if folder_path(path):
        raise FileNotFound(f"there is no file and no folder at {path!r}")


async def _drawn(store: FileStore, folder: str, depth: int | None, before: str) -> AsyncIterator[tuple[str, str]]:
    """What stands before each name below a folder, and the name."""
    fork, corner, through, empty = _branches()
    names = await store.list(folder)
    for number, name in enumerate(names, start=1):
        last = number == len(names)
        yield before + (corner if last else fork), _own_name(name)
        if name.endswith("/") and (depth is None or depth > 1):
            deeper = None if depth is None else depth - 1
            async for below in _drawn(store, name, deeper, before + (empty if last else through)):
                yield below


async def _nested(store: FileStore, folder: str, depth: int | None) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for name in await store.list(folder):
        if not name.endswith("/"):
            entries.append({"path": name, "kind": "file"})
        elif depth == 1:
            entries.append({"path": name, "kind": "folder"})
        else:
            below = await _nested(store, name, None if depth is None else depth - 1)
            entries.append({"path": name, "kind": "folder", "entries": below})
    return entries


def _own_name(path: str) -> str:
    """The last segment; a folder's with its `/`."""
    return path[path.rstrip("/").rfind("/") + 1 :]


def _branches() -> tuple[str, str, str, str]:
    try:
        "".join(_BRANCHES).encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return _PLAIN_BRANCHES
    return _BRANCHES


def _shown(value: object) -> object:
    from datetime import datetime

    from storage.cli.output import iso

    if isinstance(value, datetime):
        return iso(value)
    return f"{value:,}" if isinstance(value, int) else value
