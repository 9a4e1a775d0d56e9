"""Looking after everyone's files while everything runs: verify, collect, export, repack, count, change the backend.

Every verb can be interrupted at any moment, by kill -9 too, and run again. What they need is imported when they are
called: a program that only stores files pays for none of them.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from storage.encryption.keyring import EVERYONE
from storage.files.blobs import ContentRules, Contents
from storage.identity import user_key

if TYPE_CHECKING:
    from storage.database.database import Database
    from storage.encryption.keyring import KeyRing
    from storage.files.disk_guard import DiskGuard
    from storage.files.maintenance.backend_copy import Copied
    from storage.files.maintenance.collector import Collected
    from storage.files.maintenance.repack import Repacked
    from storage.files.maintenance.tree_export import Exported
    from storage.files.maintenance.user_usage import UserUsage
    from storage.files.maintenance.verification import Progress, Verification
    from storage.files.store import FileStore

__all__ = ["EVERYONE", "FileMaintenance"]

GRACE: Final = timedelta(days=1)
"""collector.DEFAULT_GRACE; here too, so that it can be a default without importing the collector."""


class FileMaintenance:
    """The operator's verbs of `storage files`, for all users at once. Made by `Storage.files`.

    `progress` is called with what is done and of how much, None while that is not known; from the event loop's own
    thread, so it must not wait.

    Args:
        database: the catalogue.
        blobs: where contents are that are not in the database; not closed by this object. All but `collect` pass by
            its cache, if it has one.
        keyring: the users' keys, to open what is sealed.
        small_files_limit: contents of at most so many bytes are to be in the database; 0 is none.
        seal: whether contents that are moved are to be sealed, if they are not.
        guard: refuses what there is too little room for.
    """

    def __init__(
        self,
        database: Database,
        blobs: FileStore,
        keyring: KeyRing,
        small_files_limit: int = 0,
        *,
        seal: bool = False,
        guard: DiskGuard | None = None,
    ) -> None:
        self._database = database
        self._blobs = blobs
        # What a cache has kept says nothing about what the backend has.
        rules = ContentRules(small_bytes=small_files_limit, seal=seal)
        self._contents = Contents(_behind_cache(blobs), keyring, rules, guard)

    async def verify(
        self,
        *,
        user_id: str | None = EVERYONE,
        sample: int | None = None,
        seed: int | None = None,
        progress: Progress | None = None,
    ) -> Verification:
        """Read contents and compare their sizes and sha256 with the catalogue. See verification.verify.

        Args:
            user_id: whose files; None is the local user, and EVERYONE everybody.
            sample: only so many files, chosen at random; all if None.
            seed: of the choice, to repeat it.
            progress: told files, and how many there are.

        Raises:
            InvalidInput: no acceptable user id or sample.
            FileStoreUnavailable, BucketNotFound: the backend failed; flaws of single files are reported instead.
            DatabaseError: the database cannot be read.
        """
        from storage.files.maintenance.verification import verify

        return await verify(
            self._database, self._contents, user_id=_owner(user_id), sample=sample, seed=seed, progress=progress
        )

    async def collect(
        self,
        *,
        grace: timedelta = GRACE,
        dry_run: bool = False,
        empty_catalog: bool = False,
        progress: Progress | None = None,
    ) -> Collected:
        """Remove contents that nothing needs any more. See collector.collect.

        Args:
            grace: what is younger is kept.
            dry_run: only count.
            empty_catalog: also where the database knows of no file at all.
            progress: told contents that were looked at.

        Raises:
            InvalidInput: the grace is too short for the transactions that may be open.
            FileStoreUnavailable, FileAccessDenied, BucketNotFound: of the backend; nothing that was needed is gone.
            DatabaseError: the database cannot be read or written.
        """
        from storage.files.maintenance.collector import collect

        return await collect(
            self._database, self._blobs, grace=grace, dry_run=dry_run, empty_catalog=empty_catalog, progress=progress
        )

    async def export(
        self,
        folder: Path,
        *,
        user_id: str | None,
        path: str = "",
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> Exported:
        """Write a user's files into a folder of this machine, each at its own path. See tree_export.export.

        Args:
            folder: made if it is missing.
            user_id: whose; None is the local user.
            path: only this file, or the files of this folder.
            overwrite: replace files that are there with another content.
            progress: told files, and how many there are.

        Raises:
            FileNotFound: nothing is at `path`.
            Conflict: something else is in the folder at some of the paths; nothing was written.
            InvalidInput: no acceptable user id or path, or `folder` is a file.
            KeyMissing, KeyMismatch, KeyUnavailable: a file is sealed, and its key is not at hand.
            FileStoreUnavailable, FileAccessDenied, FileStoreFull: of the backend, or of the folder's file system.
        """
        from storage.files.maintenance.tree_export import export

        return await export(
            self._database,
            self._contents,
            folder,
            user_id=user_key(user_id),
            path=path,
            overwrite=overwrite,
            progress=progress,
        )

    async def repack(self, *, user_id: str | None = EVERYONE, progress: Progress | None = None) -> Repacked:
        """Move contents into the database or out of it, as `small_files_in_database` is now. See repack.repack.

        Args:
            user_id: whose files; None is the local user, and EVERYONE everybody.
            progress: told files that were looked at, and how many there are.

        Raises:
            InvalidInput: no acceptable user id.
            FileStoreUnavailable, FileAccessDenied, FileStoreFull: of the backend; what was moved stays moved.
            DatabaseError: the database cannot be read or written.
        """
        from storage.files.maintenance.repack import repack

        return await repack(self._database, self._contents, user_id=_owner(user_id), progress=progress)

    async def copy_to(self, target: FileStore, *, verify: bool = True, progress: Progress | None = None) -> Copied:
        """Copy all blobs to another backend, and check that it has all that is needed. See backend_copy.copy_blobs.

        Args:
            target: where to; not closed.
            verify: read back what was written and compare sha256; the sizes only if False.
            progress: told blobs that were looked at.

        Raises:
            InvalidInput: the target is the present backend.
            FileStoreUnavailable, FileAccessDenied, FileStoreFull: of either backend; what was copied is left.
            DatabaseError: the database cannot be read.
        """
        from storage.files.maintenance.backend_copy import copy_blobs

        return await copy_blobs(
            self._database, self._contents.backend, _behind_cache(target), verify=verify, progress=progress
        )

    async def usage(self) -> list[UserUsage]:
        """What each user stores, by user id. Reads whole tables."""
        from storage.files.maintenance.user_usage import user_usage

        return await user_usage(self._database)


def _owner(user_id: str | None) -> str:
    return EVERYONE if user_id == EVERYONE else user_key(user_id)


def _behind_cache(store: FileStore) -> FileStore:
    from storage.files.backends.cached import CachedFileStore

    return store.store if isinstance(store, CachedFileStore) else store
