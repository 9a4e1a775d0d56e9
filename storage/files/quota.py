"""How much one user may store: decided in the unit that writes, so that racing writers cannot pass it together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from storage.database.statement import Row
from storage.database.unit import Executor, Unit, execute
from storage.errors import QuotaExceeded
from storage.files import sql


class Allowance:
    """How many bytes may still come, for contents whose length only their end shows.

    Args:
        limit: in bytes; any number if None.
        refusal: what to raise.
    """

    def __init__(self, limit: int | None, refusal: QuotaExceeded) -> None:
        self._left = limit
        self._refusal = refusal

    def take(self, size: int) -> None:
        """Take so many bytes of it.

        Raises:
            QuotaExceeded: they are not left.
        """
        if self._left is None:
            return
        self._left -= size
        if self._left < 0:
            raise self._refusal


@dataclass(frozen=True, slots=True)
class Quota:
    """What the files of one user may come to.

    A change that leaves a sum no larger than it was is allowed, also beyond the quota.

    Attributes:
        bytes: sum of the files' sizes at most; no limit if None.
        files: number of files at most; no limit if None.
    """

    bytes: int | None = None
    files: int | None = None

    def hold(self, user_id: str) -> Unit[None]:
        """Have other writers of this user wait until the transaction ends: the first thing that a unit does.

        Nothing on SQLite, where one writes at a time.
        """
        yield from execute(sql.QUOTA_LOCK, user_id=user_id)

    def check(self, user_id: str, sizes: Mapping[str, int], without: Collection[str] = ()) -> Unit[None]:
        """Pass if the files may be written; to be asked after `hold`, and before they are.

        Args:
            user_id: the owner, in stored form.
            sizes: of the files to be written, in bytes, by path.
            without: paths of files that the same transaction deletes.

        Raises:
            QuotaExceeded: the user would have too many bytes or files.
        """
        paths = list({*sizes, *without})
        there = yield from execute(sql.SIZES, user_id=user_id, paths=paths)
        usage = _Usage.of((yield from execute(sql.USAGE, user_id=user_id)), there)
        self._check(user_id, "bytes", usage.bytes, usage.bytes - usage.bytes_there + sum(sizes.values()), self.bytes)
        self._check(user_id, "files", usage.files, usage.files - usage.files_there + len(sizes), self.files)

    async def allowance(self, executor: Executor, user_id: str, paths: Collection[str]) -> Allowance:
        """How many bytes files at these paths may come to as things are now: spares uploads that are refused after.

        Raises:
            QuotaExceeded: there would be too many files.
        """
        there = await executor.read(sql.SIZES, {"user_id": user_id, "paths": list(paths)}, scan=True)
        usage = _Usage.of(await executor.read(sql.USAGE, {"user_id": user_id}, scan=True), there)
        self._check(user_id, "files", usage.files, usage.files - usage.files_there + len(paths), self.files)
        limit = None if self.bytes is None else max(self.bytes - usage.bytes + usage.bytes_there, usage.bytes_there)
        return Allowance(limit, self._refusal(user_id, "bytes", f"more than {self.bytes}", self.bytes))

    def _check(self, user_id: str, what: str, before: int, after: int, limit: int | None) -> None:
        if limit is not None and after > limit and after > before:
            raise self._refusal(user_id, what, str(after), limit)

    @staticmethod
    def _refusal(user_id: str, what: str, number: str, limit: int | None) -> QuotaExceeded:
        return QuotaExceeded(
            f"with this change the files of {user_id!r} would come to {number} {what}, and the quota is {limit}; "
            f"nothing was changed. Delete some, or raise quota_{what}"
        )


@dataclass(frozen=True, slots=True)
class _Usage:
    """Of all files of a user, and of those among them that are at given paths."""

    files: int
    bytes: int
    files_there: int
    bytes_there: int

    @classmethod
    def of(cls, sums: list[Row], there: list[Row]) -> _Usage:
        """From the rows of sql.USAGE and sql.SIZES."""
        [(files, size)] = sums
        return cls(files, size, len(there), sum(row[0] for row in there))
