"""The SQL of the keys: which master keys the database knows, and the wrapped data keys of users."""

from __future__ import annotations

from typing import Final

from sqlalchemy import ColumnElement, bindparam, delete, func, literal_column, select, update
from sqlalchemy.dialects.postgresql import insert

from storage.database.expressions import any_of
from storage.database.statement import Statement
from storage.encryption.table import DataKeyTable, KeyEncryptionKeyTable

_kek = KeyEncryptionKeyTable.__table__.c  # type: ignore[attr-defined]
_key = DataKeyTable.__table__.c  # type: ignore[attr-defined]

ACTIVE: Final = "active"
"""`data_key.state` of the one key of a user that new values are sealed with; the others are `retired`."""

RETIRED: Final = "retired"

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

DATA_KEY_OF_ANOTHER: Final = Statement(
    "data_key.of_another",
    select(literal_column("1"))
    .select_from(DataKeyTable)
    .where(_key.id == bindparam("id"), _key.user_id != bindparam("user_id")),
)
"""One row if this data key is another user's."""

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

HOLD_KEY: Final = Statement(
    "data_key.hold",
    select(literal_column("1"))
    .select_from(DataKeyTable)
    .where(_key.id == bindparam("id"), _key.user_id == bindparam("user_id"))
    .with_for_update(read=True, key_share=True),
)
"""One row if the user has the key, active or not; it cannot be deleted until the transaction ends."""

COUNT_DATA_KEYS: Final = Statement("report.data_keys", select(func.count()).select_from(DataKeyTable))
"""How many there are; reads the whole table, as the name tells the test that looks for scans."""

# ---- the work on all keys

MASTER_KEYS_TOLD: Final = Statement(
    "key_encryption_key.told", select(_kek.kek_id, _kek.created_at, _kek.retired_at).order_by(_kek.kek_id)
)
"""(kek_id, created_at, retired_at) of every master key, for people; a handful of rows."""

HOLD_MASTER_KEY: Final = Statement(
    "key_encryption_key.hold_one", select(_kek.retired_at).where(_kek.kek_id == bindparam("kek_id")).with_for_update()
)
"""(retired_at), after everyone who was wrapping under the key has committed; nobody wraps under it meanwhile."""

RETIRE_MASTER_KEY: Final = Statement(
    "key_encryption_key.retire",
    update(KeyEncryptionKeyTable)
    .where(_kek.kek_id == bindparam("which"), _kek.retired_at.is_(None))
    .values(retired_at=bindparam("retired_at")),
)

DATA_KEYS_BY_MASTER_KEY: Final = Statement(
    "report.data_keys_by_master_key", select(_key.kek_id, _key.state, func.count()).group_by(_key.kek_id, _key.state)
)
"""(kek_id, state, number); reads the whole table."""

COUNT_UNDER: Final = Statement(
    "data_key.count_under", select(func.count()).select_from(DataKeyTable).where(_key.kek_id == bindparam("kek_id"))
)

GIVE_UP: Final = Statement(
    "data_key.give_up", update(DataKeyTable).where(_key.kek_id == bindparam("under")).values(state=RETIRED)
)
"""Retires all data keys that are wrapped under a master key."""

_after: Final = _key.id > bindparam("after", type_=_key.id.type)

DATA_KEYS_ELSEWHERE: Final = Statement(
    "data_key.elsewhere",
    select(_key.id, _key.user_id, _key.kek_id, _key.wrapped)
    .where(_after, _key.kek_id != bindparam("kek_id"))
    .order_by(_key.id)
    .limit(bindparam("limit")),
)
"""(id, user_id, kek_id, wrapped) of the next data keys that are not under a master key, in the order of their ids."""

HOLD_ELSEWHERE: Final = Statement(
    "data_key.hold_elsewhere",
    select(_key.id, _key.wrapped)
    .where(_after, _key.id <= bindparam("last", type_=_key.id.type), _key.kek_id != bindparam("kek_id"))
    .with_for_update(key_share=True, skip_locked=True),
)
"""(id, wrapped) of those between two ids, held, but for those that someone else holds: see SealedRows.hold."""

REWRAP: Final = Statement(
    "data_key.rewrap",
    update(DataKeyTable)
    .where(
        _key.id == bindparam("which", type_=_key.id.type),
        _key.wrapped == bindparam("old", type_=_key.wrapped.type),
    )
    .values(kek_id=bindparam("kek_id"), wrapped=bindparam("new", type_=_key.wrapped.type)),
)

USERS_WITH_ACTIVE: Final = Statement(
    "data_key.users_with_active",
    select(_key.user_id, _key.id, _key.kek_id, _key.wrapped)
    .where(_key.user_id >= bindparam("start"), _is_active)
    .order_by(_key.user_id)
    .limit(bindparam("limit")),
)
"""(user_id, id, kek_id, wrapped) of the next active data keys, in the order of their users."""

_of_users: Final = any_of(_key.user_id, bindparam("user_ids"))

HOLD_ACTIVE_OF_USERS: Final = Statement(
    "data_key.hold_active_of_users",
    select(_key.id).where(_of_users, _is_active).with_for_update(key_share=True),
)
"""(id) of the active data keys of users; their state is nobody else's to change, and writers go on sealing."""

HOLD_TO_RESEAL: Final = Statement(
    "data_key.hold_to_reseal",
    select(_key.id).where(_of_users, _is_active).with_for_update(read=True, key_share=True, skip_locked=True),
)
"""(id) of the active data keys of users, which cannot be deleted until the transaction ends; see SealedRows.hold."""

RETIRE_DATA_KEY: Final = Statement(
    "data_key.retire",
    update(DataKeyTable).where(_key.id == bindparam("which", type_=_key.id.type), _is_active).values(state=RETIRED),
)

_is_retired: Final[ColumnElement[bool]] = _key.state == literal_column("'retired'")

USERS_WITH_RETIRED: Final = Statement(
    "data_key.users_with_retired",
    select(_key.user_id)
    .distinct()
    .where(_key.user_id >= bindparam("start"), _is_retired)
    .order_by(_key.user_id)
    .limit(bindparam("limit")),
)
"""The next users that have retired data keys, `start` among them if it has."""

COUNT_USERS_WITH_RETIRED: Final = Statement(
    "report.users_with_retired", select(func.count(_key.user_id.distinct())).where(_is_retired)
)
"""Reads the whole table."""

COUNT_USERS: Final = Statement("report.users_with_data_keys", select(func.count(_key.user_id.distinct())))
"""Reads the whole table."""

DATA_KEYS_OF_USERS: Final = Statement(
    "data_key.of_users", select(_key.user_id, _key.id, _key.kek_id, _key.wrapped, _key.state).where(_of_users)
)
"""(user_id, id, kek_id, wrapped, state) of all keys of some users."""

RETIRED_OF_USERS: Final = Statement(
    "data_key.retired_of_users", select(_key.user_id, _key.id).where(_of_users, _is_retired)
)
"""(user_id, id) of the retired data keys of users."""

HOLD_RETIRED: Final = Statement(
    "data_key.hold_retired",
    select(_key.user_id, _key.id).where(_of_users, _is_retired).with_for_update(skip_locked=True),
)
"""(user_id, id) of the retired data keys of users, but for those that a writer who began before still holds."""

AWAIT_RETIRED: Final = Statement(
    "data_key.await_retired", select(_key.user_id, _key.id).where(_of_users, _is_retired).with_for_update()
)
"""The same, after waiting for such writers to end."""

DELETE_RETIRED: Final = Statement(
    "data_key.delete_retired",
    delete(DataKeyTable).where(_key.id == bindparam("which", type_=_key.id.type), _is_retired),
)

NEXT_OWNERS: Final = Statement(
    "data_key.next_owners",
    select(_key.user_id)
    .distinct()
    .where(_key.user_id >= bindparam("start"))
    .order_by(_key.user_id)
    .limit(bindparam("limit")),
)
"""The next users that have data keys, `start` among them if it has."""
