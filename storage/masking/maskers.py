"""Every user's secrets ready to be found, kept between writes, and prepared anew when what is stored has changed.

Whether it has is asked of the database at every use, so that a change by another process counts too: a sealed value
begins with a random salt, so the fronts of all of a user's sealed values, some dozens of bytes each, say whether any is
new. That is one statement; nothing is opened if they are the same.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from time import monotonic
from typing import Any, Final, TypeAlias
from weakref import WeakSet

from sqlalchemy import bindparam, literal_column, select, union_all

from storage.database.change import Change
from storage.database.expressions import front_of
from storage.database.metadata import metadata
from storage.database.statement import Statement
from storage.database.unit import Executor
from storage.encryption.envelope import OVERHEAD_BYTES
from storage.encryption.keyring import KeyRing
from storage.encryption.registry import SealedColumn
from storage.encryption.sealed_rows import SealedValue, sealed_values
from storage.errors import EncryptionError, StorageError
from storage.masking.masker import SHORTEST, Masker, Secrets, SecretValue, prepared

log = logging.getLogger(__name__)

CACHED_USERS: Final = 128
"""Users whose secrets are kept ready: 0.2 MB for 20 secrets, 2 MB for 500."""

CACHED_BYTES: Final = 256 * 1024 * 1024
"""Roughly how much memory these may take together: some users have thousands of secrets, or very long ones."""

TRUSTED_SECONDS: Final = 5.0
"""How long what nobody announces is not asked for again: the secrets of a store that replaces ours, and whether a
secret that could not be opened can be by now."""

_MOST_LOOKS: Final = 3
"""How often secrets that cannot be opened are read again because somebody was changing them, a re-encryption say."""

_TOUCHING: Final = ("secret.", "settings.", "webhook")
"""Types of changes that may concern secrets. Conversations are left out: they change all the time, and their secret
fields are met by the next look."""

_DECLARED: Final = frozenset({"sealed_extra", "headers"})
"""Columns of JSON objects whose every field was declared secret."""
_CONFIGURATIONS: Final = frozenset({"mcp_config"})
"""Columns of JSON of which parts are secret."""

_NOTHING: Final = prepared(())

_Fronts: TypeAlias = frozenset[tuple[int, bytes]]
_Place: TypeAlias = tuple[str, str, str, str]  # table, column, row's id, name
Others: TypeAlias = Callable[[str], Awaitable[Iterable[SecretValue]]]


@dataclass(frozen=True, slots=True)
class _Known:
    fronts: _Fronts
    secrets: Secrets = field(repr=False)
    values: Mapping[_Place, SecretValue] = field(repr=False)
    others: Sequence[SecretValue] = field(repr=False)
    at: float
    weight: int

    @property
    def is_young(self) -> bool:
        return monotonic() - self.at < TRUSTED_SECONDS


class Maskers:
    """The secrets of all users, by user.

    Args:
        keyring: opens them.
        columns: where they are; those whose values nobody is to mask are passed over.
        shortest: in characters; see storage.masking.masker.prepared.
        others: a user's further secrets, from a store that replaces ours.
    """

    def __init__(
        self,
        keyring: KeyRing,
        columns: Sequence[SealedColumn],
        shortest: int = SHORTEST,
        others: Others | None = None,
    ) -> None:
        self._keyring = keyring
        self._columns = tuple(column for column in columns if column.masked)
        self._shortest = shortest
        self._others = others
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._loading: dict[str, asyncio.Lock] = {}
        self._held: dict[str, WeakSet[Masker]] = {}

    async def masker(self, executor: Executor, user_id: str) -> Masker:
        """A masker of a user's secrets. One made in a transaction knows what that has written, and ends with it.

        Raises:
            KeyMissing, KeyMismatch, KeyUnavailable, Tampered: some cannot be opened.
            DatabaseError: they cannot be read.
        """

        def load() -> Awaitable[Secrets]:
            return self.secrets(executor, user_id, every=True)

        masker = Masker(load, await load(), user_id)
        if not executor.in_transaction:
            if user_id not in self._held and len(self._held) % CACHED_USERS == 0:
                self._held = {user: held for user, held in self._held.items() if held}
            self._held.setdefault(user_id, WeakSet()).add(masker)
        return masker

    def forget(self, user_id: str) -> None:
        """Keep nothing of a user who was deleted; maskers in use go on with what they know."""
        self._known.pop(user_id, None)

    async def secrets(self, executor: Executor, user_id: str, *, every: bool = False) -> Secrets:
        """A user's secrets as they are now.

        Args:
            executor: where they are read; in a transaction they are those that it sees.
            user_id: in its stored form.
            every: raise if some cannot be opened, instead of going on with the others.

        Raises:
            KeyMissing, KeyMismatch, KeyUnavailable, Tampered: see `every`.
            DatabaseError: they cannot be read.
        """
        fronts = await self._fronts(executor, user_id)
        secrets = self._ready(user_id, fronts, every=every)
        if secrets is None:
            if executor.in_transaction:
                # Not kept, for it may be rolled back; and not queued behind others, who may wait for this transaction.
                secrets = (await self._prepared(executor, user_id, fronts)).secrets
            else:
                secrets = await self._renewed(executor, user_id, fronts, every=every)
        if every and secrets.failure is not None:
            raise secrets.failure
        return secrets

    def on_commit(self, changes: Sequence[Change]) -> Awaitable[None] | None:
        """Renew the maskers in use whose users' secrets may have changed; a hook for Database.on_commit."""
        touched = {change.user_id for change in changes if change.type.startswith(_TOUCHING)}
        held = [masker for user_id in touched & self._held.keys() for masker in self._held[user_id]]
        return self._refreshed(held) if held else None

    async def _refreshed(self, held: Iterable[Masker]) -> None:
        for masker in held:
            try:
                await masker.refresh()
            except StorageError as error:
                log.warning("%r keeps to what it knows: %s", masker, error)

    # ---- what is known

    def _ready(self, user_id: str, fronts: _Fronts, *, every: bool) -> Secrets | None:
        if not fronts and self._others is None:
            return _NOTHING
        known = self._known.get(user_id)
        if known is None or known.fronts != fronts:
            return None
        lasting = self._others is None and known.secrets.failure is None
        if not lasting and (every or not known.is_young):
            return None
        self._known.move_to_end(user_id)
        return known.secrets

    async def _renewed(self, executor: Executor, user_id: str, fronts: _Fronts, *, every: bool) -> Secrets:
        lock = self._loading.setdefault(user_id, asyncio.Lock())
        try:
            async with lock:
                secrets = self._ready(user_id, fronts, every=every)
                if secrets is None:
                    known = await self._prepared(executor, user_id, fronts)
                    self._keep(user_id, known)
                    secrets = known.secrets
                return secrets
        finally:
            if not lock.locked():
                self._loading.pop(user_id, None)

    def _keep(self, user_id: str, known: _Known) -> None:
        self._known[user_id] = known
        self._known.move_to_end(user_id)
        weight = sum(each.weight for each in self._known.values())
        while len(self._known) > CACHED_USERS or (len(self._known) > 1 and weight > CACHED_BYTES):
            weight -= self._known.popitem(last=False)[1].weight
        if known.secrets.failure is None:
            for masker in self._held.get(user_id, ()):
                masker.take(known.secrets)

    # ---- reading

    async def _fronts(self, executor: Executor, user_id: str) -> _Fronts:
        rows = await executor.read(_fronts_of(self._columns), {"owner": user_id})
        return frozenset((number, bytes(front)) for number, front in rows)

    async def _prepared(self, executor: Executor, user_id: str, fronts: _Fronts) -> _Known:
        """What is stored now, ready; of what cannot be opened now, what it was when it could be."""
        values, lost, failure = await self._opened(executor, user_id, fronts)
        for _ in range(_MOST_LOOKS - 1):
            now = fronts if failure is None else await self._fronts(executor, user_id)
            if now == fronts:
                break
            fronts = now
            values, lost, failure = await self._opened(executor, user_id, fronts)
        before = self._known.get(user_id)
        if before is not None:
            values |= {place: before.values[place] for place in map(_place, lost) if place in before.values}
        unreadable = list(map(_called, lost))
        others: Sequence[SecretValue] = ()
        if self._others is not None:
            try:
                others = tuple(await self._others(user_id))
            except EncryptionError as error:
                unreadable.append("secrets")
                failure = failure or error
                others = () if before is None else before.others
        # Takes a tenth of a millisecond for each secret, which for many would hold up the event loop.
        every = (*values.values(), *others)
        secrets = await asyncio.to_thread(prepared, every, self._shortest, unreadable, failure)
        return _Known(fronts, secrets, values, others, monotonic(), secrets.scanner.weight)

    async def _opened(
        self, executor: Executor, user_id: str, fronts: _Fronts
    ) -> tuple[dict[_Place, SecretValue], list[SealedValue], EncryptionError | None]:
        """The sealed values, those that cannot be opened, and why."""
        stored: list[SealedValue] = []
        for number in sorted({number for number, _ in fronts}):
            stored += await sealed_values(executor, self._columns[number], [user_id])
        if not stored:
            return {}, [], None
        try:
            keys = await self._keyring.keys_for(executor, user_id, [each.sealed for each in stored])
        except EncryptionError as error:
            return {}, stored, error
        values: dict[_Place, SecretValue] = {}
        lost: list[SealedValue] = []
        failure: EncryptionError | None = None
        for each in stored:
            try:
                text = keys.open(each.context, each.sealed).decode("utf-8", "replace")
            except EncryptionError as error:
                lost.append(each)
                failure = failure or error
            else:
                values[_place(each)] = _as_value(each, text)
        return values, lost, failure


@lru_cache(maxsize=16)
def _fronts_of(columns: tuple[SealedColumn, ...]) -> Statement:
    """(number of the column, front) of each sealed value of `owner`."""
    parts: list[Any] = []
    for number, column in enumerate(columns):
        table = metadata.tables[column.table]
        sealed, owner = table.c[column.column], table.c[column.user_id]
        front = front_of(sealed, OVERHEAD_BYTES)
        parts.append(
            select(literal_column(str(number)).label("number"), front.label("front")).where(
                owner == bindparam("owner"), sealed.is_not(None)
            )
        )
    # Columns are registered by whoever has them, so the statement cannot be listed when this is imported.
    return Statement("masking.fronts", union_all(*parts), register=False)


def _as_value(stored: SealedValue, text: str) -> SecretValue:
    column = stored.column.column
    if column not in _DECLARED | _CONFIGURATIONS:
        return SecretValue(_called(stored), text)
    return SecretValue(_called(stored), json.loads(text), declared=column in _DECLARED)


def _place(stored: SealedValue) -> _Place:
    return stored.column.table, stored.column.column, stored.context.row_id, stored.context.name


def _called(stored: SealedValue) -> str:
    """The place of a secret, for people: `custom_secret.value 'OPENAI'`, `settings.llm_api_key`."""
    context, column = stored.context, stored.column
    place = f"{column.table}.{column.column}"
    which = context.name or (context.row_id if context.row_id != context.user_id else "")
    return f"{place} {which!r}" if which else place
