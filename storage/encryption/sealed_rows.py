"""The sealed values of any registered column, read and replaced without knowing what they mean.

Rotation, the doctor and masking treat all features' secrets alike: by the registry, and by the primary key of their
tables.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Final

from sqlalchemy import LargeBinary, bindparam, func, literal_column, select, update

from storage.database.expressions import any_of, front_of
from storage.database.metadata import metadata
from storage.database.statement import Row, Statement
from storage.database.unit import Executor
from storage.encryption.envelope import OVERHEAD_BYTES, SealContext
from storage.encryption.keyring import EVERYONE
from storage.encryption.registry import SealedColumn

_INLINE_ROWS: Final = 100
"""Rows, of some 25 µs each, that are put together on the event loop; more are on a thread."""


@dataclass(frozen=True, slots=True, eq=False)
class SealedValue:
    """A sealed value with its place, as it was read; equal only to itself.

    Attributes:
        column: where it is stored.
        key: the primary key of its row, by column name.
        context: what it was sealed for.
        sealed: the value as stored.
    """

    column: SealedColumn
    key: Mapping[str, Any]
    context: SealContext
    sealed: bytes = field(repr=False)


async def sealed_values(executor: Executor, column: SealedColumn, user_ids: Sequence[str]) -> list[SealedValue]:
    """What these users have stored in a sealed column, in no particular order; needs no key and opens nothing.

    Args:
        executor: where to read.
        column: one of `sealed_columns()`, which are complete once `storage.tables` is imported.
        user_ids: in their stored form; EVERYONE stands for the rows that belong to no user, also those whose owner is
            NULL.

    Raises:
        DatabaseError: the database cannot be read.
    """
    rows = rows_of(column)
    found = await executor.read(rows.of_users, {"user_ids": list(user_ids)}, scan=True)
    if EVERYONE in user_ids and rows.may_be_nobodys:
        found += await executor.read(rows.of_nobody, {}, scan=True)
    if len(found) > _INLINE_ROWS:
        return await asyncio.to_thread(rows.values, found)
    return rows.values(found)


class SealedRows:
    """The statements of one sealed column. Made by `rows_of`.

    Attributes:
        column: the column.
        key: the names of the primary key's columns.
        may_be_nobodys: whether the owner may be NULL.
    """

    def __init__(self, column: SealedColumn) -> None:
        self.column = column
        self._table = metadata.tables[column.table]
        self.key: Final = tuple(self._table.primary_key.columns.keys())
        self._names = tuple(dict.fromkeys((*self.key, *column.context_columns)))
        self._sealed = self._table.c[column.column]
        self._owner = self._table.c[column.user_id]
        self.may_be_nobodys = bool(self._owner.nullable)
        self._of_users = any_of(self._owner, bindparam("user_ids"))
        self._shown = [*(self._table.c[name] for name in self._names), self._sealed]

    def values(self, found: Sequence[Row]) -> list[SealedValue]:
        """Rows of `of_users` or `of_nobody`."""
        values = []
        for row in found:
            columns = dict(zip(self._names, row, strict=False))
            key = {name: columns[name] for name in self.key}
            values.append(SealedValue(self.column, key, self.column.context(columns), row[-1]))
        return values

    @cached_property
    def of_users(self) -> Statement:
        """The values of `user_ids`."""
        return self._statement("of_users", select(*self._shown).where(self._of_users, self._sealed.is_not(None)))

    @cached_property
    def of_nobody(self) -> Statement:
        """The values of rows without an owner."""
        return self._statement(
            "of_nobody", select(*self._shown).where(self._owner.is_(None), self._sealed.is_not(None))
        )

    @cached_property
    def owners(self) -> Statement:
        """The next `limit` users that have values, in order, `start` among them if it has; NULL owners are left out."""
        distinct = select(self._owner).distinct().where(self._owner >= bindparam("start"), self._sealed.is_not(None))
        return self._statement("owners", distinct.order_by(self._owner).limit(bindparam("limit")))

    @cached_property
    def fronts_of_users(self) -> Statement:
        """(user_id, front) of the values of `user_ids`: the front is enough to tell which data key it names."""
        return self._statement("fronts_of_users", self._fronts().where(self._of_users))

    @cached_property
    def fronts_of_nobody(self) -> Statement:
        """The same of rows without an owner, with EVERYONE for it."""
        return self._statement("fronts_of_nobody", self._fronts().where(self._owner.is_(None)))

    @cached_property
    def hold(self) -> Statement:
        """(primary key…, value) of the values of `user_ids`; nobody else changes them until the transaction ends.

        Rows that someone else holds are left out: whoever never waits with locks in hand is part of no deadlock.
        """
        return self._statement("hold", self._held().where(self._of_users))

    @cached_property
    def hold_nobodys(self) -> Statement:
        """The same of rows without an owner."""
        return self._statement("hold_nobodys", self._held().where(self._owner.is_(None)))

    @cached_property
    def replace(self) -> Statement:
        """Put `new` in the place of `old` in the row of a primary key, if it still is what is there; nothing else."""
        this = [
            self._table.c[name] == bindparam(f"key_{name}", type_=self._table.c[name].type, required=True)
            for name in self.key
        ]
        old = bindparam("old", type_=LargeBinary(), required=True)
        new = bindparam("new", type_=self._sealed.type, required=True)
        return self._statement(
            "replace", update(self._table).where(*this, self._sealed == old).values({self._sealed: new})
        )

    def _fronts(self) -> Any:
        owner = func.coalesce(self._owner, literal_column(f"'{EVERYONE}'")) if self.may_be_nobodys else self._owner
        return select(owner, front_of(self._sealed, OVERHEAD_BYTES)).where(self._sealed.is_not(None))

    def _held(self) -> Any:
        key = [self._table.c[name] for name in self.key]
        return select(*key, self._sealed).where(self._sealed.is_not(None)).with_for_update(skip_locked=True)

    def _statement(self, name: str, element: Any) -> Statement:
        # Columns are registered by whoever has them, so their statements cannot be listed when this is imported.
        return Statement(f"{self.column.table}.{self.column.column}.{name}", element, register=False)

    def __repr__(self) -> str:
        return f"SealedRows({self.column.table}.{self.column.column})"


@lru_cache(maxsize=256)
def rows_of(column: SealedColumn) -> SealedRows:
    """The statements of a column, made once.

    Raises:
        KeyError: its table is not defined; import `storage.tables` first.
    """
    return SealedRows(column)
