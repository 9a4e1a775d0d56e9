"""The SQL of the key ring: which master keys the database knows, and the wrapped data keys of a user."""

from __future__ import annotations

from typing import Final

from sqlalchemy import ColumnElement, bindparam, func, literal_column, select
from sqlalchemy.dialects.postgresql import insert

from storage.database.statement import Statement
from storage.encryption.table import DataKeyTable, KeyEncryptionKeyTable

_kek = KeyEncryptionKeyTable.__table__.c  # type: ignore[attr-defined]
_key = DataKeyTable.__table__.c  # type: ignore[attr-defined]

ACTIVE: Final = "active"
"""`data_key.state` of the one key of a user that new values are sealed with; the others are `retired`."""

_is_active: ColumnElement[bool] = _key.state == literal_column("'active'")
# A literal, because the partial index serves only the expression that it was made with.

MASTER_KEYS: Final = Statement(
    "key_encryption_key.all",
    select(
        _kek.kek_id,
        _kek.check_value,
        _kek.retired_at,
        # One row of the index at most. PostgreSQL would turn EXISTS into a hash of every user's data key.
        select(literal_column("1"))
        .where(_key.kek_id == _kek.kek_id)
        .correlate(KeyEncryptionKeyTable)
        .limit(1)
        .scalar_subquery()
        .is_not(None)
        .label("in_use"),
    ),
)
"""(kek_id, check_value, retired_at, in_use) of every master key; a handful of rows."""

MASTER_KEYS_HELD: Final = Statement(
    "key_encryption_key.hold",
    select(_kek.kek_id, _kek.retired_at).with_for_update(read=True),
)
"""(kek_id, retired_at), and none of them can be retired until the transaction ends."""

ADD_MASTER_KEY: Final = Statement(
    "key_encryption_key.add",
    insert(KeyEncryptionKeyTable).values(
        kek_id=bindparam("kek_id"),
        check_value=bindparam("check_value"),
        created_at=bindparam("created_at"),
        retired_at=None,
    ),
)

REGISTRATION_LOCK: Final = Statement(
    "key_encryption_key.lock",
    # "agentkek" in ASCII; it only has to differ from the other advisory locks of the database.
    select(func.pg_advisory_xact_lock(literal_column("7018690069354210667::bigint"))),
    register=False,
)
"""PostgreSQL only: one registration of a master key at a time. There is no row yet that could be locked."""

ANY_DATA_KEY: Final = Statement("data_key.any", select(literal_column("1")).select_from(DataKeyTable).limit(1))

DATA_KEYS_OF_USER: Final = Statement(
    "data_key.of_user",
    select(_key.id, _key.kek_id, _key.wrapped, _key.state).where(_key.user_id == bindparam("user_id")),
)
"""(id, kek_id, wrapped, state) of all keys of a user."""

ADD_DATA_KEY: Final = Statement(
    "data_key.add",
    insert(DataKeyTable)
    .values(
        id=bindparam("id"),
        user_id=bindparam("user_id"),
        kek_id=bindparam("kek_id"),
        wrapped=bindparam("wrapped"),
        state=ACTIVE,
        created_at=bindparam("created_at"),
    )
    .on_conflict_do_nothing(),
)
"""Does nothing if the user has an active key by now: the faster process's key is everybody's."""

HOLD_ACTIVE: Final = Statement(
    "data_key.hold_active",
    select(literal_column("1"))
    .select_from(DataKeyTable)
    .where(_key.id == bindparam("id"), _is_active)
    .with_for_update(read=True, key_share=True),
)
"""One row if the key is still the active one; it cannot be deleted until the transaction ends."""

COUNT_DATA_KEYS: Final = Statement("report.data_keys", select(func.count()).select_from(DataKeyTable))
"""How many there are; reads the whole table, as the name tells the test that looks for scans."""
