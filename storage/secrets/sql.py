"""Secrets in SQL: a row for each token and each custom secret, sealed for exactly that row, and one for the set.

Every write locks the row of the set first, so that two writers of one user come one after the other, and what the
second decides is based on what the first has stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

from pydantic import SecretStr

from storage.clock import now
from storage.database.change import Change
from storage.database.unit import Executor, Unit, execute, execute_many
from storage.encryption.keyring import KeyRing
from storage.encryption.keyset import Keys, KeySet, state_of
from storage.encryption.registry import SealedColumn, sealed_columns
from storage.errors import EncryptionError, InvalidInput, VersionConflict
from storage.extension import open_storage_parts
from storage.identity import new_id, user_key
from storage.masking.masker import Masker
from storage.masking.maskers import Maskers
from storage.providers import ProviderType
from storage.secret_models import Parts, revalidated, secret_bytes, take_apart, together, validated
from storage.secrets import statements as sql
from storage.secrets.model import CustomSecret, ProviderToken, SecretInfo, UserSecrets
from storage.secrets.rows import (
    Entry,
    called,
    column_of,
    custom_entry,
    entries,
    head_of,
    held_or_raise,
    is_lost,
    opened_or_none,
    refuse_loss,
    row_of,
    token_entry,
)
from storage.secrets.store import Listing, SecretsStore, checked_custom, checked_token, no_secret
from storage.secrets.table import SET_SEALED
from storage.webhooks import outbox

_BY_KIND = ("provider_tokens", "custom_secrets")
_NAMED: Final = ("user_id", sql.TOKEN.key, *sql.COLUMNS)


class SQLSecretsStore(SecretsStore):
    """Secrets in a Database or an open Transaction.

    Args:
        executor: where statements run.
        user_id: None is the local user.
        keyring: holds the keys.
        model: the class of what `load` returns.
        maskers: of the storage, for all of the user's secrets; of the registered columns if None.
    """

    def __init__(
        self,
        executor: Executor,
        user_id: str | None,
        keyring: KeyRing,
        model: type[UserSecrets] = UserSecrets,
        maskers: Maskers | None = None,
    ) -> None:
        self._executor = executor
        self._user_id = user_key(user_id)
        self._keyring = keyring
        self._maskers = maskers
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

    async def load(self) -> UserSecrets | None:
        rows = await self._rows(sql.ALL)
        if not rows:
            return None
        keys = await self._keys_to_open([row["value"] for row in rows])
        opened: list[str | None] = []
        failures: list[tuple[str, EncryptionError]] = []
        for row in rows:
            try:
                opened.append(self._opened(keys, column_of(row), row))
            except EncryptionError as error:
                failures.append((called(row), error))
                opened.append(None)
        if failures:
            failures.sort(key=lambda failure: failure[0])  # rows come in any order
            names = ", ".join(name for name, _ in failures)
            first = failures[0][1]
            raise type(first)(
                f"{len(failures)} of the secrets of {self._user_id!r} cannot be opened: {names}. The first: {first}"
            ) from first
        return self._assembled(rows, opened)

    async def list(self) -> Listing:
        rows = await self._rows(sql.FRONTS)
        try:
            keys: Keys = await self._keyring.keys_for(self._executor, self._user_id, [row["value"] for row in rows])
        except EncryptionError as error:
            keys = error
        infos = [
            SecretInfo(
                kind=row["kind"],
                name=row["name"],
                description=row["description"] or "",
                host=row["host"],
                provider_user_id=row["provider_user_id"],
                state=state_of(keys, row["value"]),
                created_at=row["created_at"],
                updated_at=row["updated_at"],
            )
            for row in rows
            if row["kind"] != sql.SET
        ]
        return sorted(infos, key=lambda info: (info.kind, info.name))

    async def get_provider_token(self, provider: ProviderType | str) -> ProviderToken:
        row, value = await self._find(sql.TOKEN, str(provider), "provider token")
        return ProviderToken(
            token=None if value is None else SecretStr(value), host=row["host"], user_id=row["provider_user_id"]
        )

    async def get_custom_secret(self, name: str) -> CustomSecret:
        row, value = await self._find(sql.CUSTOM, name, "custom secret")
        return CustomSecret(secret=SecretStr(value or ""), description=row["description"])

    async def masker(self) -> Masker:
        maskers = self._maskers or Maskers(self._keyring, sealed_columns())
        return await maskers.masker(self._executor, self._user_id)

    async def _rows(self, statement: Any) -> Sequence[dict[str, Any]]:
        rows = await self._executor.read(statement, {"owner": self._user_id})
        # With the columns that a value is sealed for, by their tables' names.
        return [dict(zip(_NAMED, (self._user_id, row[1], *row), strict=True)) for row in rows]

    async def _find(self, kind: sql.Kind, name: str, called: str) -> tuple[dict[str, Any], str | None]:
        rows = await self._executor.read(kind.find, {"owner": self._user_id, "name": name})
        if not rows:
            raise no_secret(called, name)
        row = row_of(kind, (name, *rows[0]))
        keys = await self._keys_to_open([row[kind.sealed.column]])
        return row, self._opened(keys, kind.sealed, {**row, "user_id": self._user_id})

    async def _keys_to_open(self, values: Sequence[bytes | None]) -> KeySet | None:
        sealed = [value for value in values if value is not None]
        return await self._keyring.keys_for(self._executor, self._user_id, sealed) if sealed else None

    def _opened(self, keys: KeySet | None, column: SealedColumn, row: Mapping[str, Any]) -> str | None:
        """The value of a row of this user, in clear; the row has its table's column names, or `value` for it."""
        sealed = row["value"] if "value" in row else row[column.column]
        if sealed is None or keys is None:
            return None
        return keys.open(column.context(row), sealed).decode()

    def _assembled(self, rows: Sequence[Mapping[str, Any]], opened: Sequence[str | None]) -> UserSecrets:
        tokens, customs = {}, {}
        parts, version = Parts({}, {}), 0
        for row, value in sorted(zip(rows, opened, strict=True), key=lambda pair: pair[0]["name"] or ""):
            if row["kind"] == sql.TOKEN.name:
                tokens[row["name"]] = {"token": value, "host": row["host"], "user_id": row["provider_user_id"]}
            elif row["kind"] == sql.CUSTOM.name:
                customs[row["name"]] = {"secret": value, "description": row["description"]}
            else:
                parts, version = Parts(row["extra"], json.loads(value) if value else {}), row["version"]
        data = {**together(self.model, parts), "provider_tokens": tokens, "custom_secrets": customs}
        secrets = validated(self.model, data, f"the stored secrets of {self._user_id!r}")
        secrets._version = version  # noqa: SLF001 - set by stores only
        return secrets

    # ---- all at once

    async def store(self, secrets: UserSecrets, expected_version: int | None = None) -> int:
        if not isinstance(secrets, UserSecrets):
            raise InvalidInput(f"secrets must be a UserSecrets object, not {type(secrets).__name__}")
        secrets = revalidated(secrets, "secrets")
        parts = take_apart(secrets, without=_BY_KIND)
        wanted = entries(secrets)

        def unit(keys: Keys) -> Unit[int]:
            head = yield from self._hold_set()
            if expected_version is not None and head["version"] != expected_version:
                raise VersionConflict(
                    f"the secrets of {self._user_id!r} are at version {head['version']}, not {expected_version}: load "
                    "them again, and apply the change to what is there now"
                )
            changes: list[Change] = []
            refuse_loss(keys, head["sealed_extra"])
            for kind in sql.KINDS:
                rows = yield from execute(kind.hold_all, owner=self._user_id)
                there = {row[0]: row_of(kind, row) for row in rows}
                for row in there.values():
                    refuse_loss(keys, row[kind.sealed.column])
                changes += yield from self._replace(keys, kind, there, wanted[kind.name])
            extra = self._extra(keys, head, parts)
            if not changes and head["version"] and all(extra[name] == head[name] for name in extra):
                return int(head["version"])
            return (yield from self._finish(head, changes, **extra))

        if parts.secret or any(entry.value is not None for kind in wanted.values() for entry in kind.values()):
            return await self._keyring.run(self._executor, self._user_id, unit)
        return await self._keyring.run_with_what_is_held(self._executor, self._user_id, unit)

    def _replace(
        self, keys: Keys, kind: sql.Kind, there: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, Entry]
    ) -> Unit[Sequence[Change]]:
        """Make one table hold exactly what is wanted."""
        gone = sorted(there.keys() - wanted.keys())
        yield from execute_many(kind.delete, [{"owner": self._user_id, "name": name} for name in gone])
        planned = {name: self._planned(keys, kind, there.get(name), name, entry) for name, entry in wanted.items()}
        rows = {name: row for name, row in planned.items() if row is not None}
        yield from execute_many(kind.insert, [row for name, row in rows.items() if name not in there])
        yield from execute_many(
            kind.update,
            [{"owner": self._user_id, **row, "name": name} for name, row in rows.items() if name in there],
        )
        return [self._deleted(kind, name) for name in gone] + [
            self._updated(keys, kind, there.get(name), name, wanted[name]) for name in rows
        ]

    def _extra(self, keys: Keys, head: Mapping[str, Any], parts: Parts) -> dict[str, Any]:
        """The fields beyond tokens and custom secrets, as the columns of the set."""
        context = SET_SEALED.context({"user_id": self._user_id})
        before = head["sealed_extra"]
        value = parts.secret or None
        if value is not None and before is not None and isinstance(keys, KeySet):
            opened = opened_or_none(keys, context, before)
            if opened is not None and json.loads(opened) == value:
                return {"extra": parts.plain, "sealed_extra": before}
        sealed = None if value is None else held_or_raise(keys).seal(context, secret_bytes("the secret fields", value))
        return {"extra": parts.plain, "sealed_extra": sealed}

    # ---- one by one

    async def set_provider_token(
        self,
        provider: ProviderType | str,
        token: SecretStr | str | None,
        host: str | None = None,
        user_id: str | None = None,
    ) -> None:
        name, made = checked_token(provider, token, host, user_id)
        await self._set(sql.TOKEN, str(name), token_entry(made))

    async def set_custom_secret(self, name: str, value: SecretStr | str, description: str = "") -> None:
        await self._set(sql.CUSTOM, name, custom_entry(checked_custom(name, value, description)))

    async def delete_provider_token(self, provider: ProviderType | str) -> bool:
        return await self._delete(sql.TOKEN, str(provider))

    async def delete_custom_secret(self, name: str) -> bool:
        return await self._delete(sql.CUSTOM, name)

    async def _set(self, kind: sql.Kind, name: str, entry: Entry) -> None:
        def unit(keys: Keys) -> Unit[None]:
            head = yield from self._hold_set()
            rows = yield from execute(kind.hold, owner=self._user_id, name=name)
            before = row_of(kind, (name, *rows[0])) if rows else None
            row = self._planned(keys, kind, before, name, entry)
            if row is None:
                return
            if before is None:
                yield from execute(kind.insert, **row)
            else:
                yield from execute(kind.update, owner=self._user_id, **{**row, "name": name})
            yield from self._finish(head, [self._updated(keys, kind, before, name, entry)])

        if entry.value is not None:
            await self._keyring.run(self._executor, self._user_id, unit)
        else:
            await self._keyring.run_with_what_is_held(self._executor, self._user_id, unit)

    async def _delete(self, kind: sql.Kind, name: str) -> bool:
        def unit() -> Unit[bool]:
            rows = yield from execute(sql.HOLD_SET, owner=self._user_id)
            if not rows or not (yield from execute(kind.delete, owner=self._user_id, name=name)):
                return False
            yield from self._finish(head_of(rows[0]), [self._deleted(kind, name)])
            return True

        return await self._executor.run(unit)

    async def discard_unreadable(self) -> tuple[str, ...]:
        def unit(held: KeySet) -> Unit[tuple[str, ...]]:
            if not (yield from execute(sql.HOLD_SET, owner=self._user_id)):
                return ()
            head = yield from self._hold_set()
            gone: list[str] = []
            changes: list[Change] = []
            for kind in sql.KINDS:
                for values in (yield from execute(kind.hold_all, owner=self._user_id)):
                    row = row_of(kind, values)
                    context = kind.sealed.context({"user_id": self._user_id, **row})
                    if is_lost(held, context, row[kind.sealed.column]):
                        yield from execute(kind.delete, owner=self._user_id, name=row[kind.key])
                        gone.append(called({"kind": kind.name, "name": row[kind.key]}))
                        changes.append(self._deleted(kind, row[kind.key]))
            extra: dict[str, Any] = {}
            if is_lost(held, SET_SEALED.context({"user_id": self._user_id}), head["sealed_extra"]):
                extra["sealed_extra"] = None
                gone.append(called({"kind": sql.SET}))
            if gone:
                yield from self._finish(head, changes, **extra)
            return tuple(gone)

        return await self._keyring.run_with_keys_read_now(self._executor, self._user_id, unit)

    # ---- what both do

    def _hold_set(self) -> Unit[dict[str, Any]]:
        """The row of the set, made if need be, locked until the transaction ends."""
        rows = yield from execute(sql.HOLD_SET, owner=self._user_id)
        if not rows:
            moment = now()
            yield from execute(
                sql.INSERT_SET,
                user_id=self._user_id,
                version=0,
                extra={},
                sealed_extra=None,
                created_at=moment,
                updated_at=moment,
            )
            rows = yield from execute(sql.HOLD_SET, owner=self._user_id)
        return head_of(rows[0])

    def _finish(self, head: Mapping[str, Any], changes: Sequence[Change], **columns: Any) -> Unit[int]:
        version = int(head["version"]) + 1
        values = {"extra": head["extra"], "sealed_extra": head["sealed_extra"], **columns}
        yield from execute(sql.UPDATE_SET, owner=self._user_id, version=version, updated_at=now(), **values)
        yield from outbox.record_all(changes)
        return version

    def _planned(
        self, keys: Keys, kind: sql.Kind, before: Mapping[str, Any] | None, name: str, entry: Entry
    ) -> dict[str, Any] | None:
        """The row to write, None if it is there already. The value keeps its bytes unless it or its place changes."""
        moment = now()
        row: dict[str, Any] = {"user_id": self._user_id, kind.key: name, **entry.plain, "updated_at": moment}
        row["id"] = new_id() if before is None else before["id"]
        row[kind.sealed.column] = self._sealed(keys, kind, before, row, entry.value)
        if before is None:
            return {**row, "created_at": moment}
        return row if any(row[column] != before[column] for column in (*kind.plain, kind.sealed.column)) else None

    def _sealed(
        self, keys: Keys, kind: sql.Kind, before: Mapping[str, Any] | None, row: Mapping[str, Any], value: str | None
    ) -> bytes | None:
        sealed: bytes | None = None if before is None else before[kind.sealed.column]
        if value is None:
            if sealed is not None:
                held_or_raise(keys)  # without the key nobody can tell what would be lost
            return None
        held, context = held_or_raise(keys), kind.sealed.context(row)
        data = secret_bytes(f"{kind.name} {row[kind.key]!r}", value)
        stays = before is not None and sealed is not None and kind.sealed.context({**row, **before}) == context
        if stays and sealed is not None and opened_or_none(held, context, sealed) == data:
            return sealed
        return held.seal(context, data)

    def _updated(self, keys: Keys, kind: sql.Kind, before: Mapping[str, Any] | None, name: str, entry: Entry) -> Change:
        """`secret.rotated` if another value stands where there was one: what whoever uses the secret has to know."""
        sealed = None if before is None else before[kind.sealed.column]
        is_rotated = False
        if before is not None and sealed is not None and entry.value is not None and isinstance(keys, KeySet):
            context = kind.sealed.context({"user_id": self._user_id, **before})
            is_rotated = opened_or_none(keys, context, sealed) != secret_bytes(kind.name, entry.value)
        type_ = "secret.rotated" if is_rotated else "secret.updated"
        return outbox.change(self._user_id, type_, key=name, payload={"kind": kind.name})

    def _deleted(self, kind: sql.Kind, name: str) -> Change:
        return outbox.change(self._user_id, "secret.deleted", key=name, payload={"kind": kind.name})
