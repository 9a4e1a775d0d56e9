"""The SQL of secrets: what tokens and custom secrets have in common is written once, with their columns' names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    LargeBinary,
    Select,
    Table,
    Uuid,
    bindparam,
    delete,
    insert,
    literal_column,
    null,
    select,
    type_coerce,
    union_all,
    update,
)

from storage.database.expressions import front_of
from storage.database.statement import Statement
from storage.database.types import JSONValue, PlainText, Sealed, UTCDateTime
from storage.database.upsert import insert_if_absent
from storage.encryption.envelope import OVERHEAD_BYTES
from storage.encryption.registry import SealedColumn
from storage.secrets.model import SecretKind
from storage.secrets.table import (
    CUSTOM_SEALED,
    TOKEN_SEALED,
    CustomSecretTable,
    ProviderTokenTable,
    UserSecretsTable,
)

_set_table: Table = UserSecretsTable.__table__  # type: ignore[attr-defined]
_token_table: Table = ProviderTokenTable.__table__  # type: ignore[attr-defined]
_custom_table: Table = CustomSecretTable.__table__  # type: ignore[attr-defined]

SET: Final = "set"
"""The kind of the one row in `ALL` and `FRONTS` that stands for the set."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A table of secrets and its statements.

    Attributes:
        name: as in SecretInfo.
        table: the table.
        key: its column of names.
        sealed: its column of values, and what they are sealed for.
        plain: its columns that are stored as they are.
        find: (id, plain columns, value) of the secret `name` of `owner`.
        hold: the same, and no one else changes it until the transaction ends.
        hold_all: (name, id, plain columns, value) of all secrets of `owner`, held likewise.
        insert: parameters are the columns.
        update: the secret `name` of `owner`; parameters are the other columns.
        delete: the secret `name` of `owner`; returns its id if it was there.
    """

    name: SecretKind
    table: Table
    key: str
    sealed: SealedColumn
    plain: tuple[str, ...]
    find: Statement
    hold: Statement
    hold_all: Statement
    insert: Statement
    update: Statement
    delete: Statement


def _kind(name: SecretKind, table: Table, key: str, sealed: SealedColumn, plain: tuple[str, ...]) -> Kind:
    columns = table.c
    of_user = columns.user_id == bindparam("owner")
    this = (of_user, columns[key] == bindparam("name"))
    shown = [columns.id, *(columns[column] for column in plain), columns[sealed.column]]
    changing = (*plain, sealed.column, "updated_at")
    return Kind(
        name=name,
        table=table,
        key=key,
        sealed=sealed,
        plain=plain,
        find=Statement(f"{name}.find", select(*shown).where(*this)),
        hold=Statement(f"{name}.hold", select(*shown).where(*this).with_for_update()),
        hold_all=Statement(f"{name}.hold_all", select(columns[key], *shown).where(of_user).with_for_update()),
        insert=Statement(f"{name}.insert", insert(table).values({c.name: bindparam(c.name) for c in columns}).inline()),
        update=Statement(f"{name}.update", update(table).where(*this).values({c: bindparam(c) for c in changing})),
        delete=Statement(f"{name}.delete", delete(table).where(*this).returning(columns.id)),
    )


TOKEN: Final = _kind(
    "provider_token",
    _token_table,
    "provider",
    TOKEN_SEALED,
    ("host", "provider_user_id"),
)
CUSTOM: Final = _kind(
    "custom_secret",
    _custom_table,
    "name",
    CUSTOM_SEALED,
    ("description",),
)
KINDS: Final = (TOKEN, CUSTOM)

_set = _set_table.c
_this_set = _set.user_id == bindparam("owner")

HOLD_SET: Final = Statement(
    "user_secrets.hold",
    select(_set.version, _set.extra, _set.sealed_extra).where(_this_set).with_for_update(),
)
INSERT_SET: Final = Statement("user_secrets.insert", insert_if_absent(_set_table, conflict=("user_id",)))
UPDATE_SET: Final = Statement(
    "user_secrets.update",
    update(_set_table)
    .where(_this_set)
    .values({name: bindparam(name) for name in ("version", "extra", "sealed_extra", "updated_at")}),
)


def _nothing(type_: Any, name: str) -> Any:
    return type_coerce(null(), type_).label(name)


def _everything(*, whole: bool) -> Any:
    """The rows of `COLUMNS`, in one statement, so that all of them are of one moment."""

    def value(column: Any) -> Any:
        # The front of a sealed value names its data key.
        return column if whole else front_of(column, OVERHEAD_BYTES)

    token, custom = _token_table.c, _custom_table.c
    parts: list[Select[Any]] = [
        select(
            literal_column(f"'{SET}'").label("kind"),
            _nothing(PlainText, "name"),
            _nothing(Uuid, "id"),
            _nothing(PlainText, "host"),
            _nothing(PlainText, "provider_user_id"),
            _nothing(PlainText, "description"),
            _set.version,
            type_coerce(_set.extra, JSONValue).label("extra"),
            type_coerce(_set.created_at, UTCDateTime).label("created_at"),
            type_coerce(_set.updated_at, UTCDateTime).label("updated_at"),
            type_coerce(value(_set.sealed_extra), Sealed if whole else LargeBinary).label("value"),
        ).where(_this_set),
        select(
            literal_column(f"'{TOKEN.name}'"),
            token.provider,
            token.id,
            token.host,
            token.provider_user_id,
            null(),
            null(),
            null(),
            token.created_at,
            token.updated_at,
            value(token.token),
        ).where(token.user_id == bindparam("owner")),
        select(
            literal_column(f"'{CUSTOM.name}'"),
            custom.name,
            custom.id,
            null(),
            null(),
            custom.description,
            null(),
            null(),
            custom.created_at,
            custom.updated_at,
            value(custom.value),
        ).where(custom.user_id == bindparam("owner")),
    ]
    return union_all(*parts)


ALL: Final = Statement("user_secrets.all", _everything(whole=True))
FRONTS: Final = Statement("user_secrets.fronts", _everything(whole=False))
COLUMNS: Final = (
    "kind",
    "name",
    "id",
    "host",
    "provider_user_id",
    "description",
    "version",
    "extra",
    "created_at",
    "updated_at",
    "value",
)
"""The columns of ALL and FRONTS; the latter has only the front of each value."""
