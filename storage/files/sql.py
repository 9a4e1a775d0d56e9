"""The catalogue's statements. Paths compare by bytes on both databases, so a folder is a range of the primary key."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Integer,
    and_,
    bindparam,
    case,
    cast,
    delete,
    func,
    literal_column,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.elements import ColumnElement

from storage.database.expressions import any_of, locked_until_commit
from storage.database.statement import Statement
from storage.database.types import PlainText
from storage.files.table import FileContentTable, FileTable

FILE: Final[Any] = FileTable.__table__  # type: ignore[attr-defined]
_content = FileContentTable.__table__  # type: ignore[attr-defined]
OF_USER: Final = FILE.c.user_id == bindparam("user_id")
_at_path = and_(OF_USER, FILE.c.path == bindparam("path"))

FACTS: Final = (
    FILE.c.path,
    FILE.c.size,
    FILE.c.updated_at,
    FILE.c.sha256,
    FILE.c.media_type,
    FILE.c.created_at,
    FILE.c.version,
    FILE.c.blob_key,
    FILE.c.content_key,
)
"""What storage.files.rows decodes into an Entry, in this order."""

_with_content = FILE.outerjoin(
    _content, and_(_content.c.user_id == FILE.c.user_id, _content.c.blob_key == FILE.c.blob_key)
)

# ---- one file

FIND: Final = Statement("file.find", select(*FACTS).where(_at_path))
READ: Final = Statement("file.read", select(*FACTS, _content.c.content).select_from(_with_content).where(_at_path))
LOCK: Final = Statement("file.lock", select(*FACTS).where(_at_path).with_for_update())

_new: dict[str, Any] = {
    column.name: bindparam(column.name) for column in FILE.c if column.name not in ("version", "created_at")
}
# PostgreSQL's insert, because the generic one has no ON CONFLICT; SQLite's compiler writes the same words for it.
_insert = insert(FILE).values(**_new, version=1, created_at=bindparam("updated_at"))
_upsert = _insert.on_conflict_do_update(
    index_elements=[FILE.c.user_id, FILE.c.path],
    set_={
        **{name: _insert.excluded[name] for name in _new if name not in ("user_id", "path")},
        "version": FILE.c.version + 1,
    },
)

SAVE: Final = Statement("file.save", _upsert.returning(FILE.c.version, FILE.c.created_at))
CREATE: Final = Statement("file.create", _insert.on_conflict_do_nothing().returning(*FACTS))
REMOVE: Final = Statement("file.remove", delete(FILE).where(_at_path).returning(FILE.c.path, FILE.c.version))

# ---- many files

FIND_ALL: Final = Statement("file.find_all", select(*FACTS).where(OF_USER, any_of(FILE.c.path, bindparam("paths"))))
READ_ALL: Final = Statement(
    "file.read_all",
    select(*FACTS, _content.c.content)
    .select_from(_with_content)
    .where(OF_USER, any_of(FILE.c.path, bindparam("paths"))),
)
LOCK_ALL: Final = Statement(
    "file.lock_all",
    select(*FACTS).where(OF_USER, any_of(FILE.c.path, bindparam("paths"))).with_for_update(),
)
SAVE_ALL: Final = Statement("file.save_all", _upsert.inline())

REMOVE_TREE: Final = Statement(
    "file.remove_tree",
    # Two ranges and not one from the file to the folder's end, which would read every name-sake (`a-…` between `a`
    # and `a/…`) only to leave it out.
    delete(FILE)
    .where(
        or_(
            _at_path,
            and_(OF_USER, FILE.c.path >= bindparam("low"), FILE.c.path < bindparam("high")),
        )
    )
    .returning(FILE.c.path, FILE.c.version),
)
REMOVE_CONVERSATION: Final = Statement(
    "file.remove_conversation",
    delete(FILE)
    .where(OF_USER, FILE.c.conversation_id == bindparam("conversation_id"))
    .returning(FILE.c.path, FILE.c.version),
)

WALK: Final = Statement(
    "file.walk",
    select(*FACTS)
    .where(OF_USER, FILE.c.path >= bindparam("low"), FILE.c.path < bindparam("high"))
    .order_by(FILE.c.path)
    .limit(bindparam("limit", type_=Integer)),
)

# ---- contents that are kept in the database

ADD_CONTENT: Final = Statement(
    "file_content.add", insert(_content).values({column.name: bindparam(column.name) for column in _content.c})
)
CONTENT: Final = Statement(
    "file_content.read",
    select(_content.c.content).where(
        _content.c.user_id == bindparam("user_id"), _content.c.blob_key == bindparam("blob_key")
    ),
)

# ---- one level of a folder


class position_of(ColumnElement[int]):  # noqa: N801 - reads as SQL
    """The position of the text `sought` in `text`, counted from 1; 0 if it is not there."""

    inherit_cache = True
    type = Integer()

    def __init__(self, sought: ColumnElement[Any], text: ColumnElement[Any]) -> None:
        self.sought = sought
        self.text = text


@compiles(position_of, "postgresql")
def _position_of_postgresql(element: position_of, compiler: Any, **options: Any) -> str:
    return f"strpos({compiler.process(element.text, **options)}, {compiler.process(element.sought, **options)})"


@compiles(position_of, "sqlite")
def _position_of_sqlite(element: position_of, compiler: Any, **options: Any) -> str:
    return f"instr({compiler.process(element.text, **options)}, {compiler.process(element.sought, **options)})"


AFTER_FILE: Final = "\x01"
"""Appended to a path it gives the first possible path behind it: no path holds a control character."""

AFTER_FOLDER: Final = "0"
"""The character after `/`: appended to a folder it gives the first possible path behind everything below it."""


_ONE: Final[ColumnElement[int]] = literal_column("1", Integer)


def _children() -> Any:
    """A skip scan: look up the first path, jump behind the file or the whole folder it shows, look up the next.

    As many index look-ups as there are children, however many files are below them.
    """
    folder_length: Any = bindparam("folder_length", type_=Integer)

    def first_from(low: ColumnElement[Any]) -> Any:
        found = FILE.alias()
        return (
            select(found.c.path)
            .where(
                found.c.user_id == bindparam("user_id"),
                found.c.path >= low,
                found.c.path < bindparam("high", type_=PlainText()),
            )
            .order_by(found.c.path)
            .limit(_ONE)
            .scalar_subquery()
        )

    def split(path: ColumnElement[Any]) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
        slash = position_of(literal_column("'/'"), func.substr(path, folder_length + _ONE))
        is_file = slash == literal_column("0")
        child = func.substr(path, _ONE, folder_length + slash)
        folder = func.substr(path, _ONE, folder_length + slash - _ONE)
        entry: ColumnElement[Any] = case((is_file, path), else_=child)
        behind: ColumnElement[Any] = case(
            (is_file, path.concat(bindparam("after_file", AFTER_FILE, type_=PlainText()))),
            else_=folder.concat(bindparam("after_folder", AFTER_FOLDER, type_=PlainText())),
        )
        return entry, behind

    first = select(first_from(bindparam("low", type_=PlainText())).label("path")).cte("child", recursive=True)
    _, behind = split(first.c.path)
    child = first.union_all(select(first_from(behind)).where(first.c.path.is_not(None)))
    entry, _ = split(child.c.path)
    return select(entry.label("entry")).where(child.c.path.is_not(None)).limit(bindparam("limit", type_=Integer))


CHILDREN: Final = Statement("file.children", _children())

# ---- sums

_sums = (func.count(), cast(func.coalesce(func.sum(FILE.c.size), 0), BigInteger))

USAGE: Final = Statement("file.usage", select(*_sums).select_from(FILE).where(OF_USER))

_FILE_QUOTA: Final = int.from_bytes(b"filequot")
"""Tells the lock from the other advisory locks of the database."""

QUOTA_LOCK: Final = Statement(
    "file.quota_lock", select(locked_until_commit(_FILE_QUOTA, bindparam("user_id", type_=PlainText())))
)
SIZES: Final = Statement(
    "file.sizes",
    # The version is for SQLite: without it the index of the sizes has all that is asked for, and is read as a whole.
    select(FILE.c.size, FILE.c.version).where(OF_USER, any_of(FILE.c.path, bindparam("paths"))),
)
"""The sizes of the files at `paths`, those that are there."""

TOTAL: Final = Statement("report.file_total", select(*_sums).select_from(FILE))
"""The whole table by intention: asked by people, never by a request."""
