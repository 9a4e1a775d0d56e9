"""Users as a whole: who has something stored, and the removal of all of it, their data key first.

A user is not a row of a table; a user is whoever owns rows. So both verbs walk every table that has an owner, and a
table added later takes part without being named here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Integer, Table, bindparam, delete, exists, func, literal_column, select, union_all

from storage.database.statement import Statement
from storage.database.unit import Unit, execute
from storage.encryption.keyring import EVERYONE
from storage.errors import FileStoreError
from storage.files.blobs import BLOB_CONCURRENCY, is_in_database
from storage.files.concurrency import each
from storage.identity import user_key
from storage.tables import metadata

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.database.database import Database
    from storage.encryption.keyring import KeyRing
    from storage.files.store import FileStore

_KEYS: Final = "data_key"
_FILES: Final = "file"
_CONTENTS: Final = "file_content"
_EVENTS: Final = "event"
_EVENTS_AT_ONCE: Final = 5000
"""A user may have very many, and SQLite's one writer is not to wait for all of them; so many take some 80 ms."""


def owned_tables() -> tuple[Table, ...]:
    """Every table whose rows belong to a user, the data keys first."""
    owned = [table for table in metadata.tables.values() if "user_id" in table.c]
    return tuple(sorted(owned, key=lambda table: (table.name != _KEYS, table.name)))


@dataclass(frozen=True, slots=True)
class UserInfo:
    """Someone who has something stored.

    Attributes:
        user_id: in its stored form; `local` is the one user of a desktop install.
        rows: how many rows of each table, by the table's name, belong to the user; tables with none are left out.
    """

    user_id: str
    rows: dict[str, int]


@dataclass(frozen=True, slots=True)
class DeletedUser:
    """What a deletion removed.

    Attributes:
        user_id: in its stored form.
        rows: removed rows by table; tables that had none are left out.
        blobs: how many blobs of files were removed from the file store.
        blobs_left: keys of blobs that the file store did not remove; nothing names them any more.
    """

    user_id: str
    rows: dict[str, int]
    blobs: int
    blobs_left: tuple[str, ...] = ()


_COUNT: Final = {
    table.name: Statement(
        f"user.count_{table.name}", select(func.count()).select_from(table).where(table.c.user_id == bindparam("owner"))
    )
    for table in owned_tables()
    if table.name != _EVENTS
}
_DELETE: Final = {
    table.name: Statement(f"user.delete_{table.name}", delete(table).where(table.c.user_id == bindparam("owner")))
    for table in owned_tables()
    if table.name not in (_CONTENTS, _EVENTS)
}
_events: Final = metadata.tables[_EVENTS]
_SOME_EVENTS: Final = (
    select(_events.c.seq)
    .where(_events.c.user_id == bindparam("owner"))
    .order_by(_events.c.seq)
    .limit(bindparam("most", type_=Integer))
)
_COUNT_SOME_EVENTS: Final = Statement(
    "user.count_some_events", select(func.count()).select_from(_SOME_EVENTS.subquery())
)
_DELETE_SOME_EVENTS: Final = Statement(
    "user.delete_some_events", delete(_events).where(_events.c.seq.in_(_SOME_EVENTS))
)
_files: Final = metadata.tables[_FILES]
_contents: Final = metadata.tables[_CONTENTS]
_DELETE[_CONTENTS] = Statement(
    "user.delete_unnamed_file_content",
    # What is written meanwhile comes with its file's row: either both are there by now, or neither.
    delete(_contents).where(
        _contents.c.user_id == bindparam("owner"),
        ~exists().where(_files.c.user_id == _contents.c.user_id, _files.c.blob_key == _contents.c.blob_key),
    ),
)
_BLOBS: Final = Statement("user.blobs", select(_files.c.blob_key).where(_files.c.user_id == bindparam("owner")))
_BLOBS_OF_SOME_EVENTS: Final = Statement(
    "user.blobs_of_some_events",
    select(_events.c.blob_key).where(
        _events.c.seq.in_(_SOME_EVENTS),
        _events.c.blob_key.is_not(None),
        # A user who has come back meanwhile keeps what is theirs now.
        ~exists().where(_files.c.user_id == bindparam("owner"), _files.c.blob_key == _events.c.blob_key),
    ),
)


def _counted(table: Table) -> Any:
    owner = func.coalesce(table.c.user_id, literal_column(f"'{EVERYONE}'")).label("owner")
    return select(owner, literal_column(f"'{table.name}'").label("name"), func.count().label("number")).group_by(owner)


_ALL: Final = Statement("report.users", union_all(*[_counted(table) for table in owned_tables()]))


async def list_users(database: Database) -> list[UserInfo]:
    """Everyone who has something stored, by id. Reads every table; what belongs to no user is not listed.

    Raises:
        DatabaseError: the database cannot be read.
    """
    found: dict[str, dict[str, int]] = {}
    for owner, name, number in await database.read(_ALL, {}, scan=True):
        if owner != EVERYONE:
            found.setdefault(owner, {})[name] = int(number)
    return [UserInfo(user_id, dict(sorted(found[user_id].items()))) for user_id in sorted(found)]


async def delete_user(database: Database, keyring: KeyRing, blobs: FileStore, user_id: str | None) -> DeletedUser:
    """Remove the user's data keys and rows in one transaction, then the blobs of their files, then their events.

    The events come last and some thousands at a time, so that others can write in between; with each goes the blob that
    it names, which is an older version's. Interrupted, it leaves events, which list_users still shows, and perhaps
    blobs that nothing names, which the collector removes; running it again removes the events.

    With the data keys gone, no copy of the database's present content opens the user's secrets. Copies made before
    (backups, replicas, SQLite's WAL until its next checkpoint, PostgreSQL's until VACUUM and WAL recycling) still hold
    rows and wrapped keys. The event rows go too, so web hooks that were not delivered yet are not.

    Args:
        database: where.
        keyring: forgets the user's keys in this process. Another one may hold them in memory for some minutes, with
            nothing left to open.
        blobs: where the files' bytes are.
        user_id: None is the local user.

    Raises:
        InvalidInput: no acceptable user id.
        DatabaseError: nothing was removed, or all but blobs or events; running it again removes these events.
    """
    owner = user_key(user_id)

    def unit() -> Unit[tuple[dict[str, int], list[str]]]:
        # The keys go first: whoever is sealing under one is waited for, and whoever comes later makes a new one.
        rows: dict[str, int] = {}
        keys: list[str] = []
        for name, statement in _DELETE.items():
            if name == _FILES:
                keys = [key for (key,) in (yield from execute(_BLOBS, owner=owner))]
            ((number,),) = yield from execute(_COUNT[name], owner=owner)
            if number:
                rows[name] = int(number)
            yield from execute(statement, owner=owner)
        # A copy that was committed since its source's row was read may name the same blob.
        named = {key for (key,) in (yield from execute(_BLOBS, owner=owner))}
        return rows, [key for key in keys if key not in named]

    rows, keys = await database.run(unit)
    keyring.forget(owner)
    done: set[str] = set()
    removed, left = 0, []
    number = _EVENTS_AT_ONCE
    while True:
        new = sorted({key for key in keys if not is_in_database(key)} - done)
        done.update(new)
        gone, kept = await _remove(blobs, new)
        removed += gone
        left += kept
        if number < _EVENTS_AT_ONCE:
            return DeletedUser(owner, rows, removed, tuple(left))
        number, keys = await database.run(lambda: _some_events(owner))
        if number:
            rows[_EVENTS] = rows.get(_EVENTS, 0) + number


def _some_events(owner: str) -> Unit[tuple[int, list[str]]]:
    """Delete some events; returns how many, and the keys of the blobs that they named."""
    ((number,),) = yield from execute(_COUNT_SOME_EVENTS, owner=owner, most=_EVENTS_AT_ONCE)
    if not number:
        return 0, []
    keys = [key for (key,) in (yield from execute(_BLOBS_OF_SOME_EVENTS, owner=owner, most=_EVENTS_AT_ONCE))]
    yield from execute(_DELETE_SOME_EVENTS, owner=owner, most=_EVENTS_AT_ONCE)
    return int(number), keys


async def _remove(blobs: FileStore, keys: Sequence[str]) -> tuple[int, list[str]]:
    """Delete blobs; returns how many were there, and those that a failing file store has left.

    The rows are gone either way.
    """

    async def remove(key: str) -> int | None:
        try:
            return await blobs.delete(key)
        except FileStoreError:
            return None

    removed = await each(remove, keys, BLOB_CONCURRENCY)
    return sum(map(bool, removed)), [key for key, found in zip(keys, removed, strict=True) if found is None]
