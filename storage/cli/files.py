"""`storage files`: a user's files, as a shell knows them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from storage.cli.connection import DEFAULT, AsJSON, Connection, User, flag, opened
from storage.cli.output import Column, count, line, moment, plain, show_json, size, table

if TYPE_CHECKING:
    from storage.files.store import FileStat, FileStore

app = App(name="files", help="Look into a user's files.")


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

    JSON: a list of `{path, kind: "file", size, sha256, media_type, version, created_at, updated_at}` and
    `{path, kind: "folder"}`.
    """
    from storage.errors import FileNotFound
    from storage.files.paths import folder_path

    async with opened(connection) as storage:
        store: FileStore = storage.user(user).files
        entries = await _entries(store, path, recursive=recursive, stats=long or json)
    if not entries and folder_path(path):
        raise FileNotFound(f"there is no file and no folder at {path!r}")
    if json:
        show_json([_as_dict(name, stat) for name, stat in entries])
    elif long:
        columns = [Column("Size", number=True), Column("Updated (UTC)"), Column("SHA-256"), Column("Path", wrap=True)]
        table(columns, [_long(name, stat) for name, stat in entries])
        stats = [stat for _, stat in entries if stat is not None]
        line()
        line(f"{count(len(stats), 'file')}, {size(sum(stat.size for stat in stats))}")
    else:
        for name, _ in entries:
            line(plain(name))


@app.command
async def cat(
    path: Annotated[str, Parameter(help="The file's path, as `storage files ls` shows it.")],
    /,
    *,
    user: User = None,
    connection: Connection = DEFAULT,
) -> None:
    """Write a file's bytes to the standard output, as they are.

    The bytes are compared with the recorded SHA-256 on the way; if they differ, it fails after the last one.
    """
    async with opened(connection) as storage:
        store: FileStore = storage.user(user).files
        async for chunk in store.stream(path):
            sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


async def _entries(store: FileStore, path: str, *, recursive: bool, stats: bool) -> list[tuple[str, FileStat | None]]:
    from storage.files.paths import file_path, folder_path

    entries: list[tuple[str, FileStat | None]] = []
    if folder_path(path) and not path.endswith("/") and await store.exists(path):
        entries.append((file_path(path), await store.stat(path)))
    if recursive:
        entries.extend([(stat.path, stat) async for stat in store.walk(path)])
        return entries
    names = await store.list(path)
    return entries + [(name, await store.stat(name) if stats and name[-1] != "/" else None) for name in names]


def _as_dict(name: str, stat: FileStat | None) -> dict[str, Any]:
    if stat is None:
        return {"path": name, "kind": "folder"}
    return {
        "path": stat.path,
        "kind": "file",
        "size": stat.size,
        "sha256": stat.sha256,
        "media_type": stat.media_type,
        "version": stat.version,
        "created_at": stat.created_at,
        "updated_at": stat.updated_at,
    }


def _long(name: str, stat: FileStat | None) -> tuple[object, ...]:
    if stat is None:
        return ("", "", "", name)
    return (f"{stat.size:,}", moment(stat.updated_at), (stat.sha256 or "")[:12], name)
