"""The catalogue's rows, and the units of work that change them: each change with its event, in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from storage.clock import now
from storage.database.change import Change
from storage.database.statement import Row
from storage.database.unit import Unit, execute, execute_many
from storage.files import sql
from storage.files.paths import conversation_of, under
from storage.files.store import FileStat, already_there, check, missing
from storage.webhooks.outbox import change, record_all

FILE_WRITTEN: Final = "file.written"
FILE_DELETED: Final = "file.deleted"


@dataclass(frozen=True, slots=True)
class Written:
    """What write_many did with one item.

    Attributes:
        stat: of the file as it is now.
        outcome: `unchanged` means that the same bytes were there already: no new version, no event.
    """

    stat: FileStat
    outcome: Literal["new", "changed", "unchanged"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the catalogue."""

    stat: FileStat
    blob_key: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Blob:
    """Stored bytes on their way to becoming a row; `replaces` is the key of a blob of the same bytes that is gone."""

    path: str
    key: str
    size: int
    digest: bytes
    media_type: str | None
    replaces: str | None = None


def delete_conversation_files(user_id: str, conversation_id: str) -> Unit[int]:
    """Delete the files of a conversation within the caller's unit; returns how many they were.

    Args:
        user_id: in stored form (storage.identity.user_key).
        conversation_id: files belong to it by their path (storage.files.paths.conversation_of).
    """
    rows = yield from execute(sql.REMOVE_CONVERSATION, user_id=user_id, conversation_id=conversation_id)
    yield from _record_deleted(user_id, rows)
    return len(rows)


def save(user_id: str, blob: Blob) -> Unit[FileStat]:
    """Make a stored blob the content of its path: a new row, or the next version of the one that is there."""
    values = _values(user_id, blob)
    [(version, created_at)] = yield from execute(sql.SAVE, **values)
    stat = FileStat(
        path=blob.path,
        size=blob.size,
        updated_at=values["updated_at"],
        sha256=blob.digest.hex(),
        media_type=blob.media_type,
        created_at=created_at,
        version=version,
        etag=_etag(blob.key, version),
    )
    yield from record_all([_written(user_id, stat, blob.key)])
    return stat


def save_if(user_id: str, blob: Blob, *, if_absent: bool, if_match: str | None) -> Unit[FileStat]:
    """As `save`, on a condition; raises FileExists or FileChanged."""
    rows = yield from execute(sql.LOCK, user_id=user_id, path=blob.path)
    present = decode(rows[0]).stat.etag if rows else None
    check(blob.path, present, if_absent=if_absent, if_match=if_match)
    if not if_absent:
        return (yield from save(user_id, blob))
    # There was no row to lock: of two at once, the second waits in this insert for the first's commit.
    created = yield from execute(sql.CREATE, **_values(user_id, blob))
    if not created:
        raise already_there(blob.path)
    stat = decode(created[0]).stat
    yield from record_all([_written(user_id, stat, blob.key)])
    return stat


def save_all(user_id: str, blobs: Sequence[Blob]) -> Unit[dict[str, Written]]:
    """As `save`, for many paths; a path that has the same bytes already is left as it is. Results by path."""
    paths = [blob.path for blob in blobs]
    before = {row[0]: decode(row) for row in (yield from execute(sql.LOCK_ALL, user_id=user_id, paths=paths))}
    # Somebody else may have written the same bytes since the caller looked.
    changed = [
        blob
        for blob in blobs
        if (found := before.get(blob.path)) is None or found.digest != blob.digest or found.blob_key == blob.replaces
    ]
    result = {blob.path: Written(before[blob.path].stat, "unchanged") for blob in blobs if blob.path in before}
    if not changed:
        return result
    yield from execute_many(sql.SAVE_ALL, [_values(user_id, blob) for blob in changed])
    rows = yield from execute(sql.FIND_ALL, user_id=user_id, paths=[blob.path for blob in changed])
    after = {row[0]: decode(row) for row in rows}
    events = []
    for blob in changed:
        entry = after[blob.path]
        result[blob.path] = Written(entry.stat, "new" if entry.stat.version == 1 else "changed")
        events.append(_written(user_id, entry.stat, entry.blob_key))
    yield from record_all(events)
    return result


def copy(user_id: str, source: str, target: str) -> Unit[FileStat]:
    """Give a file's content to another path as well; raises FileNotFound.

    The two rows share the blob: blobs are immutable, and are only collected when no row names them any more.
    """
    rows = yield from execute(sql.LOCK, user_id=user_id, path=source)
    if not rows:
        raise missing(source)
    entry = decode(rows[0])
    return (
        yield from save(user_id, Blob(target, entry.blob_key, entry.stat.size, entry.digest, entry.stat.media_type))
    )


def move(user_id: str, source: str, target: str) -> Unit[FileStat]:
    """Give one file another path; raises FileNotFound."""
    stat = yield from copy(user_id, source, target)
    yield from remove(user_id, source)
    return stat


def replace_by_copy(user_id: str, source: str, entry: Entry, blob: Blob, *, keep: bool) -> Unit[FileStat | None]:
    """Make `blob`, which was made from `entry`, the content of its path, and delete `source` unless it is to be kept.

    None, and no effect, if the source is not that entry any more; raises FileNotFound if it is gone.
    """
    rows = yield from execute(sql.LOCK, user_id=user_id, path=source)
    if not rows:
        raise missing(source)
    if decode(rows[0]).blob_key != entry.blob_key:
        return None
    stat = yield from save(user_id, blob)
    if not keep:
        yield from remove(user_id, source)
    return stat


def remove(user_id: str, path: str) -> Unit[int]:
    """Delete one file; returns how many there were, 0 or 1."""
    rows = yield from execute(sql.REMOVE, user_id=user_id, path=path)
    yield from _record_deleted(user_id, rows)
    return len(rows)


def remove_tree(user_id: str, path: str) -> Unit[int]:
    """Delete the file at `path` and every one below it; returns how many there were."""
    low, high = under(path)
    rows = yield from execute(sql.REMOVE_TREE, user_id=user_id, path=path, low=low, high=high)
    yield from _record_deleted(user_id, rows)
    return len(rows)


def _record_deleted(user_id: str, rows: list[Row]) -> Unit[None]:
    yield from record_all(
        [
            change(user_id, FILE_DELETED, key=path, version=version, payload={"path": path})
            for path, version in sorted(rows)
        ]
    )


def _written(user_id: str, stat: FileStat, key: str) -> Change:
    """The event carries the blob's key, so that the very bytes of this version can be sent after an overwrite."""
    payload = {
        "path": stat.path,
        "size": stat.size,
        "sha256": stat.sha256,
        "media_type": stat.media_type,
        "blob_key": key,
    }
    return change(user_id, FILE_WRITTEN, key=stat.path, version=stat.version, payload=payload)


def _values(user_id: str, blob: Blob) -> dict[str, Any]:
    return {
        "user_id": user_id,
        "path": blob.path,
        "blob_key": blob.key,
        "size": blob.size,
        "sha256": blob.digest,
        "media_type": blob.media_type,
        "conversation_id": conversation_of(blob.path),
        "updated_at": now(),
    }


def _etag(blob_key: str, version: int) -> str:
    """Another one for each write: the blob's id, and the version because a copy shares the blob."""
    return f"{blob_key.rpartition('/')[2]}-{version}"


def decode(row: Row) -> Entry:
    """A row of `sql.FIND` and its like."""
    path, size, updated_at, sha256, media_type, created_at, version, key = row
    stat = FileStat(
        path=path,
        size=size,
        updated_at=updated_at,
        sha256=sha256.hex(),
        media_type=media_type,
        created_at=created_at,
        version=version,
        etag=_etag(key, version),
    )
    return Entry(stat, key, bytes(sha256))
