"""`storage files rm`, `cp` and `mv`: as a shell's own, for files of the catalogue."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, TypeAlias

from cyclopts import Parameter

from storage.cli.connection import DEFAULT, AsJSON, Connection, User, flag, opened
from storage.cli.output import count, line, plain, progress, show_json, size
from storage.cli.prompt import confirm

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from storage.files.store import FileStat, FileStore

Source: TypeAlias = Annotated[str, Parameter(help="The file, or with --recursive the folder.")]
Target: TypeAlias = Annotated[
    str, Parameter(help="Its path afterwards. If it ends in /, a folder that gets it by its own name.")
]
Recursive: TypeAlias = Annotated[bool, flag("SOURCE is a folder; it goes file by file.", name=["--recursive", "-r"])]


async def rm(
    path: Annotated[str, Parameter(help="The file, or with --recursive the file and the folder of this path.")],
    /,
    *,
    recursive: Annotated[bool, flag("Also everything below the path.", name=["--recursive", "-r"])] = False,
    yes: Annotated[bool, flag("Do not ask.")] = False,
    user: User = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> None:
    """Delete a file, or with --recursive a folder with all that is in it, in one transaction.

    A folder's path has to be typed once more; without a terminal it needs --yes. The bytes stay where they are until
    `storage files collect` is run.

    JSON: `{path, deleted}`, the number of files.
    """
    from storage.errors import FileNotFound, InvalidInput
    from storage.files.paths import tree_path

    normal = tree_path(path)
    async with opened(connection) as storage:
        store: FileStore = storage.user(user).files
        below = await _is_folder(store, normal)
        if below and not recursive:
            raise InvalidInput(f"{path!r} is a folder; give --recursive to delete everything in it")
        if not below and (path.endswith("/") or not await store.exists(normal)):
            raise FileNotFound(f"there is no file and no folder at {path!r}")
        if below:
            await _confirm(store, normal, yes=yes)
        deleted = await store.delete(normal)
    if json:
        show_json({"path": normal, "deleted": deleted})
    else:
        line(f"{plain(normal)}: {count(deleted, 'file')} deleted")


async def cp(
    source: Source,
    target: Target,
    /,
    *,
    recursive: Recursive = False,
    user: User = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> None:
    """Copy a file, or with --recursive what is in a folder, replacing what is there. A copy shares the bytes.

    JSON: `{source, target, files, bytes}`.
    """
    async with opened(connection) as storage:
        store: FileStore = storage.user(user).files
        await _transfer(store, store.copy, source, target, "copied", recursive=recursive, json=json)


async def mv(
    source: Source,
    target: Target,
    /,
    *,
    recursive: Recursive = False,
    user: User = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> None:
    """Give a file another path, or with --recursive all that is in a folder, replacing what is there.

    A folder is moved file by file; an interrupted run is continued by repeating it.

    JSON: `{source, target, files, bytes}`.
    """
    async with opened(connection) as storage:
        store: FileStore = storage.user(user).files
        await _transfer(store, store.move, source, target, "moved", recursive=recursive, json=json)


async def _transfer(
    store: FileStore,
    transfer: Callable[[str, str], Awaitable[FileStat]],
    source: str,
    target: str,
    done: str,
    *,
    recursive: bool,
    json: bool,
) -> None:
    from storage.files.paths import tree_path

    origin = tree_path(source)
    goal = tree_path(f"{target.rstrip('/')}/{origin.rpartition('/')[2]}" if target.endswith("/") else target)
    if recursive:
        sizes = await _transfer_folder(store, transfer, origin, goal, done, quiet=json)
    else:
        sizes = [await _transfer_file(store, transfer, source, goal)]
    if json:
        show_json({"source": origin, "target": goal, "files": len(sizes), "bytes": sum(sizes)})
    else:
        line(f"{plain(origin)}: {count(len(sizes), 'file')} {done} to {plain(goal)}, {size(sum(sizes))}")


async def _transfer_file(
    store: FileStore, transfer: Callable[[str, str], Awaitable[FileStat]], source: str, goal: str
) -> int:
    from storage.errors import FileNotFound, InvalidInput
    from storage.files.paths import tree_path

    try:
        return (await transfer(source, goal)).size
    except FileNotFound:
        if not await _is_folder(store, tree_path(source)):
            raise
    raise InvalidInput(f"{source!r} is a folder; give --recursive for all that is in it")


async def _transfer_folder(
    store: FileStore,
    transfer: Callable[[str, str], Awaitable[FileStat]],
    origin: str,
    goal: str,
    done: str,
    *,
    quiet: bool,
) -> list[int]:
    from storage.errors import FileNotFound, InvalidInput
    from storage.files.paths import file_path

    if f"{goal}/".startswith(f"{origin}/") or f"{origin}/".startswith(f"{goal}/"):
        raise InvalidInput(f"{origin!r} and {goal!r} are one folder, or one is in the other; give a path beside it")
    async with aclosing(store.walk(origin)) as files:
        paths = {stat.path: file_path(goal + stat.path.removeprefix(origin)) async for stat in files}
    if not paths:
        raise FileNotFound(f"there is no folder at {origin!r}; leave out --recursive if it is a file")
    sizes = []
    with progress("copying" if done == "copied" else "moving", "files", quiet=quiet) as move:
        for path, new in paths.items():
            sizes.append((await transfer(path, new)).size)
            if move is not None:
                move(len(sizes), len(paths))
    return sizes


async def _is_folder(store: FileStore, path: str) -> bool:
    async with aclosing(store.walk(path)) as below:
        return await anext(below, None) is not None


async def _confirm(store: FileStore, path: str, *, yes: bool) -> None:
    if yes:
        return
    async with aclosing(store.walk(path)) as files:
        sizes = [stat.size async for stat in files]
    confirm(
        path,
        f"This deletes {path!r} with everything in it: {count(len(sizes), 'file')}, {size(sum(sizes))}.",
        yes=yes,
    )
