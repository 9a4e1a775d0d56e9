"""Settings in SQL: one row a user, each key sealed for its column and its destination.

A ciphertext is written again only if what it holds or what it is for has changed. So saving the language touches no
key, works without the master key, and never undoes a rotation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self, TypeVar, get_args

from sqlalchemy import bindparam, select, update

from storage.clock import now
from storage.database.expressions import front_of
from storage.database.statement import Statement
from storage.database.unit import Executor, Unit, execute
from storage.database.upsert import insert_if_absent
from storage.encryption.envelope import OVERHEAD_BYTES, SealContext
from storage.encryption.keyring import KeyRing
from storage.encryption.keyset import Keys, KeySet, SecretState, state_of
from storage.errors import EncryptionError, KeyUnavailable, Tampered, VersionConflict
from storage.extension import open_storage_parts
from storage.identity import user_key
from storage.secret_fields import secret_fields
from storage.secret_models import (
    Parts,
    refuse_unknown,
    revalidated,
    secret_bytes,
    take_apart,
    together,
    validated,
)
from storage.settings.model import Settings
from storage.settings.store import SettingsStore, mark_incomplete, refuse_incomplete
from storage.settings.table import SEALED, SettingsTable
from storage.webhooks import outbox

T = TypeVar("T")

_table = SettingsTable.__table__  # type: ignore[attr-defined]
_c = _table.c

EVENT_KEY: Final = "settings"
"""The key of the one event that settings have, `settings.updated`: a user has one row."""

_REST: Final = "sealed_extra"
_TEXTS: Final = frozenset({"llm_api_key", "search_api_key", "sandbox_api_key"})
_PLAIN: Final = tuple(name for name in Settings.model_fields if name not in SEALED)
_NAMES: Final = tuple(_c.keys())
_CHANGING: Final = tuple(name for name in _NAMES if name not in {"user_id", "created_at"})

_of_user = _c.user_id == bindparam("owner")

LOAD: Final = Statement("settings.load", select(*_c).where(_of_user))
LOCK: Final = Statement("settings.lock", select(*_c).where(_of_user).with_for_update())
STATES: Final = Statement(
    "settings.states",
    # The front of a sealed value names its data key; the rest is not read.
    select(_c.extra, *(front_of(_c[name], OVERHEAD_BYTES).label(name) for name in SEALED)).where(_of_user),
)
INSERT: Final = Statement("settings.insert", insert_if_absent(_table, conflict=("user_id",), returning=("version",)))
UPDATE: Final = Statement(
    "settings.update",
    update(_table).where(_of_user).values({name: bindparam(name) for name in _CHANGING}),
)


@dataclass(frozen=True, slots=True, repr=False)
class _Stored:
    """A row as read: `opened` has what its sealed columns hold, in clear; `failures` why some could not be opened."""

    row: Mapping[str, Any]
    opened: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, EncryptionError] = field(default_factory=dict)

    @property
    def version(self) -> int:
        return int(self.row.get("version", 0))


class _MustSealError(Exception):
    """The unit found that it has to seal something; run it again with a key that is held."""


class SQLSettingsStore(SettingsStore):
    """Settings in a Database or an open Transaction.

    Args:
        executor: where statements run.
        user_id: None is the local user.
        keyring: holds the keys.
        model: the class of what `load` returns.
    """

    def __init__(
        self, executor: Executor, user_id: str | None, keyring: KeyRing, model: type[Settings] = Settings
    ) -> None:
        self._executor = executor
        self._user_id = user_key(user_id)
        self._keyring = keyring
        self.model = model

    @classmethod
    async def get_instance(cls, config: Any, user_id: str | None = None) -> Self:
        """The store of a user on an open storage (whatever has a `database` and a `keyring`).

        Raises:
            ConfigurationError: anything else, such as a StorageConfig: this class is the default and needs no naming.
        """
        database, keyring = open_storage_parts(cls, config)
        return cls(database, user_id, keyring)

    # ---- reading

    async def load(self) -> Settings | None:
        row = await self._read()
        if row is None:
            return None
        sealed = [row[name] for name in SEALED if row[name] is not None]
        stored = _Stored(row)
        if sealed:
            stored = _open(row, await self._keyring.keys_for(self._executor, self._user_id, sealed))
        for name, error in stored.failures.items():
            raise self._unreadable(name, error)
        return self._settings(stored)

    async def load_without_secrets(self) -> Settings | None:
        row = await self._read()
        if row is None:
            return None
        settings = self._settings(_Stored(row))
        holds_secrets = any(row[name] is not None for name in SEALED)
        return mark_incomplete(settings, settings.version) if holds_secrets else settings

    async def secret_states(self) -> dict[str, SecretState]:
        rows = await self._executor.read(STATES, {"owner": self._user_id})
        extra, *fronts = rows[0] if rows else ({}, *([None] * len(SEALED)))
        try:
            keys: Keys = await self._keyring.keys_for(self._executor, self._user_id, fronts)
        except EncryptionError as error:
            keys = error
        columns = {name: state_of(keys, front) for name, front in zip(SEALED, fronts, strict=True)}
        rest = columns.pop(_REST)
        declared = secret_fields(self.model) - columns.keys()
        # An unset secret of a subclass is noted among the fields that are not sealed.
        others: dict[str, SecretState] = {name: "unset" if name in extra else rest for name in sorted(declared)}
        return {**columns, **others}

    async def _read(self) -> Mapping[str, Any] | None:
        rows = await self._executor.read(LOAD, {"owner": self._user_id})
        return dict(zip(_NAMES, rows[0], strict=True)) if rows else None

    def _settings(self, stored: _Stored, changes: Mapping[str, Any] | None = None) -> Settings:
        """The row with the changes as a model; what could not be opened is left at its default."""
        row, secret = stored.row, dict(stored.opened)
        plain = {
            name: row[name]
            for name in _PLAIN
            if name in row and (row[name] is not None or _takes_none(self.model, name))
        }
        secret.update(secret.pop(_REST, {}))
        data = {**together(self.model, Parts({**plain, **row.get("extra", {})}, secret)), **(changes or {})}
        for name in secret_fields(self.model):
            if name not in data and self.model.model_fields[name].is_required():
                for error in stored.failures.values():
                    raise error
        what = "settings" if changes else f"the stored settings of {self._user_id!r}"
        settings = validated(self.model, data, what)
        settings._version = stored.version  # noqa: SLF001 - set by stores only
        return mark_incomplete(settings, stored.version) if stored.failures else settings

    # ---- writing

    async def store(self, settings: Settings, expected_version: int | None = None) -> int:
        refuse_incomplete(settings)
        parts = take_apart(revalidated(settings, "settings"))

        def unit(keys: Keys, *, may_seal: bool) -> Unit[int]:
            while True:
                stored = yield from self._lock(keys)
                if expected_version is not None and stored.version != expected_version:
                    raise VersionConflict(
                        f"the settings of {self._user_id!r} are at version {stored.version}, not {expected_version}: "
                        "load them again, and apply the change to what is there now"
                    )
                for name, error in stored.failures.items():
                    # What was altered is lost. What only lacks its key is not, and is replaced only by its name.
                    if not isinstance(error, Tampered):
                        raise self._unreadable(name, error)
                written = yield from self._write(stored, parts, keys if may_seal else None, frozenset(SEALED))
                if written is not None:
                    return written

        return await self._run(unit, seals=bool(parts.secret))

    async def update(self, **changes: Any) -> Settings:
        refuse_unknown(self.model, changes)
        named = (secret_fields(self.model) | SEALED.keys()).intersection(changes)

        def unit(keys: Keys, *, may_seal: bool) -> Unit[Settings]:
            while True:
                stored = yield from self._lock(keys)
                rewritten = named & SEALED.keys()
                if _REST in stored.failures and named - SEALED.keys():
                    # One sealed value holds them all. What was altered is lost; what only lacks its key is not.
                    if not isinstance(stored.failures[_REST], Tampered):
                        raise self._unreadable(_REST, stored.failures[_REST])
                    rewritten |= {_REST}
                settings = self._settings(stored, changes)
                written = yield from self._write(stored, take_apart(settings), keys if may_seal else None, rewritten)
                if written is not None:
                    settings._version = written  # noqa: SLF001 - set by stores only
                    return settings

        settings = await self._run(unit, seals=any(changes[name] is not None for name in named))
        if settings.is_complete:
            return settings
        try:
            # Perhaps the user's keys have changed since they were cached; load() asks for those it needs.
            return await self.load() or settings
        except EncryptionError:
            return settings

    async def discard_unreadable(self) -> tuple[str, ...]:
        def unit(keys: KeySet) -> Unit[tuple[str, ...]]:
            stored = yield from self._lock(keys)
            for error in stored.failures.values():
                if isinstance(error, KeyUnavailable):
                    raise error
            gone = tuple(sorted(stored.failures))
            if gone:
                after = {**stored.row, **dict.fromkeys(gone), "version": stored.version + 1, "updated_at": now()}
                yield from execute(UPDATE, owner=self._user_id, **after)
                payload = {"changed": list(gone)}
                version = after["version"]
                yield from outbox.record(
                    self._user_id, "settings.updated", key=EVENT_KEY, version=version, payload=payload
                )
            return gone

        return await self._keyring.run_with_keys_read_now(self._executor, self._user_id, unit)

    async def _run(self, unit: Callable[..., Unit[T]], *, seals: bool) -> T:
        """Run a unit, with a key to seal with only if it needs one: without, it also works while locked."""
        if not seals:
            try:
                return await self._keyring.run_with_what_is_held(
                    self._executor, self._user_id, lambda keys: unit(keys, may_seal=False)
                )
            except _MustSealError:
                pass
        return await self._keyring.run(self._executor, self._user_id, lambda held: unit(held, may_seal=True))

    def _unreadable(self, name: str, error: EncryptionError) -> EncryptionError:
        told = type(error)(f"settings.{name} of {self._user_id!r} cannot be read: {error}")
        told.__cause__ = error
        return told

    def _lock(self, keys: Keys) -> Unit[_Stored]:
        rows = yield from execute(LOCK, owner=self._user_id)
        return _open(dict(zip(_NAMES, rows[0], strict=True)), keys) if rows else _Stored({})

    def _write(
        self, stored: _Stored, parts: Parts, keys: Keys | None, rewritten: frozenset[str] | set[str]
    ) -> Unit[int | None]:
        """Write what differs; returns the version, or None if another writer has just made the row."""
        before = stored.row
        after, values = self._columns(parts)
        for name, column in SEALED.items():
            context = column.context(after)
            stays = bool(before) and column.context(before) == context
            if name in stored.failures and name not in rewritten:
                after[name] = _left(stored, name, keys, stays=stays)
            elif stays and name in stored.opened and stored.opened[name] == values[name]:
                after[name] = before[name]
            else:
                after[name] = _sealed(name, values[name], context, keys)
        changed = _changed(stored, after, values)
        if before and not changed:
            return stored.version
        moment = now()
        after.update(version=stored.version + 1, updated_at=moment)
        if before:
            yield from execute(UPDATE, owner=self._user_id, **after)
        elif not (yield from execute(INSERT, created_at=moment, **after)):
            return None
        yield from outbox.record(
            self._user_id,
            "settings.updated",
            key=EVENT_KEY,
            version=after["version"],
            payload={"changed": changed},
        )
        return int(after["version"])

    def _columns(self, parts: Parts) -> tuple[dict[str, Any], dict[str, Any]]:
        """The columns that are not sealed, and what goes into the sealed ones."""
        plain, secret = dict(parts.plain), dict(parts.secret)
        row: dict[str, Any] = {"user_id": self._user_id}
        for name in _PLAIN:
            default = Settings.model_fields[name].default
            # A subclass may declare a field more widely than its column, or secret: then the column has no say.
            row[name] = plain.pop(name) if plain.get(name) is not None else default
        # A subclass may also declare that nothing is secret about a field; its column is sealed all the same.
        values = {
            name: secret.pop(name) if name in secret else plain.pop(name, None) for name in SEALED if name != _REST
        }
        row["extra"] = {
            name: value
            for name, value in plain.items()
            if not (name in _PLAIN and Settings.model_fields[name].default is None)
        }
        return row, {**values, _REST: secret or None}


def _open(row: Mapping[str, Any], keys: Keys) -> _Stored:
    stored = _Stored(row)
    for name, column in SEALED.items():
        sealed = row[name]
        if sealed is None:
            continue
        if isinstance(keys, EncryptionError):
            stored.failures[name] = keys
            continue
        try:
            opened = keys.open(column.context(row), sealed)
            stored.opened[name] = opened.decode() if name in _TEXTS else json.loads(opened)
        except EncryptionError as error:
            stored.failures[name] = error
    return stored


def _left(stored: _Stored, name: str, keys: Keys | None, *, stays: bool) -> bytes | None:
    """What cannot be opened and is not to be replaced: it stays as it is, if it can stay where it is."""
    if stays:
        left: bytes | None = stored.row[name]
        return left
    if keys is None:
        raise _MustSealError
    raise stored.failures[name]


def _sealed(name: str, value: Any, context: SealContext, keys: Keys | None) -> bytes | None:
    if value is None:
        return None
    data = secret_bytes(name, value)
    if not isinstance(keys, KeySet):
        raise _MustSealError
    return keys.seal(context, data)


def _changed(stored: _Stored, after: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """Names of the fields that differ from what is stored, or from the defaults; never their values."""
    before = stored.row
    if not before:
        defaults = {name: Settings.model_fields[name].default for name in _PLAIN}
        before = {**defaults, **dict.fromkeys(SEALED), "extra": {}}
    changed = {name for name in (*_PLAIN, *SEALED) if before[name] != after[name]}
    if _REST in changed:
        changed.remove(_REST)
        changed.update(_differing(stored.opened.get(_REST) or {}, values[_REST] or {}))
    return sorted(changed | _differing(before["extra"], after["extra"]))


def _differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    missing = object()
    return {name for name in before.keys() | after.keys() if before.get(name, missing) != after.get(name, missing)}


def _takes_none(model: type[Settings], name: str) -> bool:
    """Whether None fits the field; a subclass may have declared it more narrowly than its column."""
    return type(None) in get_args(model.model_fields[name].annotation)
