"""`storage files usage`, `verify`, `collect`, `repack`, `export`, `migrate-backend`: looking after what is stored."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from storage.cli.connection import DEFAULT, AsJSON, Connection, EveryUser, User, flag, opened
from storage.cli.output import Column, complain, count, line, note, plain, progress, show_json, size, table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from storage.files.maintenance.verification import Flaw
    from storage.files.store import FileStore
    from storage.storage import Storage

_GRACE: Final = timedelta(days=1)
_LONGEST_GRACE: Final = timedelta(days=36_500)
"""A hundred years: older than any content, and not before the first day of the calendar."""

_MEMORY: Final = "memory"


async def usage(
    *,
    every: Annotated[bool, flag("Every user, and how much of it is in the database.", name="--all")] = False,
    user: User = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> None:
    """Show how many files a user has, and how large they are together.

    JSON: `{user_id, files, bytes}`; with --all a list of `{user_id, files, bytes, bytes_in_database}`, where
    bytes_in_database is what small contents take that are kept in the database, as they are stored.
    """
    from storage.errors import InvalidInput

    if every and user is not None:
        raise InvalidInput("--all and --user exclude each other; give one of them")
    async with opened(connection) as storage:
        if not every:
            owner = storage.user(user)
            found = await owner.files.usage()
            if json:
                show_json({"user_id": owner.user_id, **asdict(found)})
            else:
                line(f"{plain(owner.user_id)}: {count(found.files, 'file')}, {size(found.bytes)}")
            return
        users = await storage.files.usage()
    if json:
        show_json([asdict(each) for each in users])
        return
    if users:
        table(
            [
                Column("User", wrap=True),
                Column("Files", number=True),
                Column("Size", number=True),
                Column("In the database", number=True),
            ],
            [(each.user_id, f"{each.files:,}", size(each.bytes), size(each.bytes_in_database)) for each in users],
        )
        line()
    files, stored = sum(each.files for each in users), sum(each.bytes for each in users)
    line(f"{count(files, 'file')} of {count(len(users), 'user')}, {size(stored)}")


async def verify(
    *,
    sample: Annotated[int | None, Parameter(help="Only so many files, chosen at random.")] = None,
    user: EveryUser = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> int:
    """Read every content and compare its size and SHA-256 with what was recorded at the write. Changes nothing.

    Exits with 1 if a content is missing or altered. Sealed files whose key is not at hand are counted, and say nothing.

    JSON: `{checked, bytes, skipped_locked, flaws: [{user_id, path, blob_key, reason, detail}]}`; reason is `"missing"`,
    `"altered"` or `"unreadable"`.
    """
    from storage.files.maintenance.verbs import EVERYONE

    async with opened(connection) as storage:
        with progress("verifying", "files", quiet=json) as move:
            owner = EVERYONE if user is None else user
            found = await storage.files.verify(user_id=owner, sample=sample, progress=move)
    if json:
        show_json(asdict(found))
        return 1 if found.flaws else 0
    line(f"{count(found.checked, 'file')} compared, {size(found.bytes)}; {count(len(found.flaws), 'flaw')}")
    if found.skipped_locked:
        note(f"{count(found.skipped_locked, 'sealed file')} not compared: the key is not at hand; see `storage status`")
    return _show_flaws(found.flaws)


async def collect(
    *,
    grace: Annotated[
        timedelta,
        Parameter(
            show_default=False,
            help="Keep what is younger, as 36h or 7d; longer than any upload takes, a day if not given.",
        ),
    ] = _GRACE,
    dry_run: Annotated[bool, flag("Remove nothing; count what would be.")] = False,
    empty_catalog: Annotated[
        bool,
        flag(
            "Also where the database knows of no file at all. Without it that is refused: it may be the wrong database."
        ),
    ] = False,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> None:
    """Remove contents that no file names any more and no web hook has still to send. To be run daily.

    Safe beside everything that reads and writes, and beside another run of itself.

    JSON: `{dry_run, blobs, bytes, kept_young, kept_for_web_hooks, rows, foreign}`; rows are contents in the database,
    foreign are files under blobs/ that are not this library's, and are left.
    """
    from storage.errors import InvalidInput

    if grace > _LONGEST_GRACE:
        raise InvalidInput(f"--grace is at most {_LONGEST_GRACE.days} days, not {grace.days}")
    async with opened(connection) as storage:
        with progress("looking at", "contents", quiet=json) as move:
            found = await storage.files.collect(
                grace=grace, dry_run=dry_run, empty_catalog=empty_catalog, progress=move
            )
    if json:
        show_json({"dry_run": dry_run, **asdict(found)})
        return
    line(
        f"{'would remove' if dry_run else 'removed'} {count(found.blobs, 'blob')}"
        f" and {count(found.rows, 'content')} in the database, {size(found.bytes)}"
    )
    line(f"kept {found.kept_young:,} that are too young, {found.kept_for_web_hooks:,} for web hooks")
    if found.foreign:
        line(f"left {count(found.foreign, 'file')} under blobs/ that this library has not written")


async def repack(
    *,
    small_files_in_database: Annotated[
        int | None,
        Parameter(help="Contents of at most so many bytes belong into the database; as configured if not given."),
    ] = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> int:
    """Move contents into the database or out of it, so that all are where small_files_in_database wants them.

    Everything stays readable and writable meanwhile. Where a content was before, it is left until `storage files
    collect`. Running it again continues where it was interrupted. Exits with 1 if files had to be left: damaged ones,
    or sealed ones whose key is not at hand.

    JSON: `{to_rows, to_blobs, bytes, locked, left}`: contents that went into the database and out of it, and how large
    they were; files left because they are sealed, and because they are damaged.
    """
    from storage.errors import InvalidInput
    from storage.files.maintenance.verbs import FileMaintenance

    if small_files_in_database is not None and small_files_in_database < 0:
        raise InvalidInput(f"--small-files-in-database is a number of bytes, 0 for none, not {small_files_in_database}")
    async with opened(connection) as storage:
        files = storage.files
        if small_files_in_database is not None:
            files = FileMaintenance(
                storage.database,
                storage.blobs,
                storage.keyring,
                small_files_in_database,
                seal=storage.config.seal_files,
                guard=storage.disk_guard,
            )
        with progress("repacking", "files", quiet=json) as move:
            done = await files.repack(progress=move)
    if json:
        show_json(asdict(done))
    else:
        line(f"{done.to_rows:,} moved into the database, {done.to_blobs:,} out of it, {size(done.bytes)}")
        if done.left:
            complain(f"{count(done.left, 'file')} left: damaged; `storage files verify` names them")
        if done.locked:
            complain(f"{count(done.locked, 'file')} left: sealed, and the key is not at hand; see `storage status`")
    return 1 if done.left or done.locked else 0


async def export(
    folder: Annotated[Path, Parameter(help="A folder of this machine; made if it is missing.")],
    path: Annotated[
        str, Parameter(show_default=False, help="Only this file, or the files of this folder; all if not given.")
    ] = "",
    /,
    *,
    overwrite: Annotated[bool, flag("Replace files that are there with another content.")] = False,
    user: User = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> int:
    """Write a user's files into a folder, each at its own path, compared with its SHA-256.

    Repeated, it goes on where it stopped. It refuses, before it writes anything, a folder that has other contents at
    these paths. Exits with 1 if a file was left out, for it is damaged or the file system cannot hold its name.

    JSON: `{files, bytes, already, skipped: [{path, reason}]}`; already were there with the same content.
    """
    async with opened(connection) as storage:
        with progress("exporting", "files", quiet=json) as move:
            done = await storage.files.export(folder, user_id=user, path=path, overwrite=overwrite, progress=move)
    if json:
        show_json(asdict(done))
    else:
        line(f"{count(done.files, 'file')}, {size(done.bytes)}; {done.already:,} there already")
        for left in done.skipped:
            complain(f"left out: {left.path}: {left.reason}")
    return 1 if done.skipped else 0


async def migrate_backend(
    *,
    to: Annotated[
        str,
        Parameter(help="The file store to copy to, as `file_store` names it: local, s3, google_cloud, or another one."),
    ],
    to_path: Annotated[
        str | None,
        Parameter(help="Its `file_store_path`: a folder, or a bucket with or without a prefix (bucket/prefix)."),
    ] = None,
    sizes_only: Annotated[bool, flag("Do not read back what was written; compare the sizes only.")] = False,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> int:
    """Copy the contents of all files to another file store, and check that it has all that is needed.

    The storage goes on using the present one, which is not changed. Repeated, it copies what is new. At last: stop what
    writes, run it once more, and set file_store and file_store_path to the new place. Exits with 1 if the new place
    lacks something.

    JSON: `{target, copied, already, bytes, missing, flaws: [{user_id, path, blob_key, reason, detail}]}`.
    """
    async with opened(connection) as storage, _target(storage, to, to_path) as target:
        with progress("copying", "contents", quiet=json) as move:
            done = await storage.files.copy_to(target, verify=not sizes_only, progress=move)
        place = target.location
    if json:
        show_json({"target": place, **asdict(done)})
        return 1 if done.flaws else 0
    line(
        f"{count(done.copied, 'content')} copied to {plain(place)}, {size(done.bytes)}; {done.already:,} there already"
    )
    return _show_flaws(done.flaws)


@asynccontextmanager
async def _target(storage: Storage, kind: str, path: str | None) -> AsyncIterator[FileStore]:
    """The other file store, open.

    Raises:
        ConfigurationError: there is none of this name, or it lacks a setting.
        InvalidInput: it is the present one, or nothing that lasts.
    """
    from storage.errors import InvalidInput
    from storage.files.backends.configured import open_backend

    if kind == _MEMORY:
        raise InvalidInput("what is copied to 'memory' is gone when this command ends; name a file store that lasts")
    config = storage.config.model_copy(update={"file_store": kind, "file_store_path": path, "file_cache_bytes": 0})
    async with await open_backend(config) as target:
        if target.location == storage.blobs.location and storage.config.file_store == kind:
            raise InvalidInput(
                f"the files are in {target.location} already; name another place with --to and --to-path"
            )
        _refuse_overlap(storage.blobs, target)
        yield target


def _refuse_overlap(present: FileStore, target: FileStore) -> None:
    """Raises InvalidInput for a folder that is the present one by another name, in it, or around it."""
    from storage.errors import InvalidInput
    from storage.files.backends.cached import uncached

    roots = [getattr(uncached(store), "root", None) for store in (present, target)]
    if not all(isinstance(root, Path) for root in roots):
        return
    here, there = (Path(root).resolve() for root in roots if root is not None)
    if here == there or here in there.parents or there in here.parents:
        raise InvalidInput(f"{there} and {here}, where the files are, are one folder, or one is in the other")


def _show_flaws(flaws: Sequence[Flaw]) -> int:
    """A table of what is wrong; the exit code."""
    if not flaws:
        return 0
    line()
    table(
        [Column("User", wrap=True), Column("Path", wrap=True), Column("Flaw"), Column("Content", wrap=True, wide=True)],
        [(flaw.user_id, flaw.path, flaw.reason, flaw.blob_key) for flaw in flaws],
    )
    complain(f"{count(len(flaws), 'file')} not as written, the first: {flaws[0].detail}")
    return 1
