"""The catalogue's rows, and the units of work that change them: each change with its event, in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from storage.clock import now
from storage.database.change import Change
from storage.database.statement import Row
from storage.database.unit import Unit, execute, execute_many
from storage.errors import KeyMissing
from storage.files import sql
from storage.files.paths import conversation_of, under
from storage.files.store import FileStat, already_there, check, missing
from storage.files.table import CONTENT_KEY
from storage.webhooks.outbox import change, record_all

if TYPE_CHECKING:
    from storage.encryption.keyset import KeySet
    from storage.files.quota import Quota
    from storage.files.sealed_content import ContentKey

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
    """A row of the catalogue.

    Attributes:
        stat: what is known of the file.
        blob_key: where its content is; see storage.files.blobs.
        digest: the sha256 of the content in clear.
        content_key: the sealed key of the content, None if the content is not sealed.
        content: what `file_content` has of it, sealed or not; None unless it was read along and is there.
    """

    stat: FileStat
    blob_key: str
    digest: bytes
    content_key: bytes | None = field(default=None, repr=False)
    content: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Blob:
    """A content on its way to becoming a row.

    Attributes:
        path: of the row.
        key: where the content is, or will be.
        size: of the content in clear, in bytes.
        digest: sha256 of the content in clear.
        media_type: of the row.
        replaces: the key of a blob of the same content that is gone.
        content: for a row of `file_content` that is to be written with the file's; None if there is a content already.
        new_key: the key that the content was sealed with, for the unit to seal in turn.
        content_key: the same, sealed already: the content is another file's as well.
    """

    path: str
    key: str
    size: int
    digest: bytes
    media_type: str | None
    replaces: str | None = None
    content: bytes | None = field(default=None, repr=False)
    new_key: ContentKey | None = None
    content_key: bytes | None = field(default=None, repr=False)


def delete_conversation_files(user_id: str, conversation_id: str) -> Unit[int]:
    """Delete the files of a conversation within the caller's unit; returns how many they were.

    Args:
        user_id: in stored form (storage.identity.user_key).
        conversation_id: files belong to it by their path (storage.files.paths.conversation_of).
    """
    rows = yield from execute(sql.REMOVE_CONVERSATION, user_id=user_id, conversation_id=conversation_id)
    yield from record_deleted(user_id, rows)
    return len(rows)


def save(user_id: str, blob: Blob, keys: KeySet | None = None) -> Unit[FileStat]:
    """Make a stored blob the content of its path: a new row, or the next version of the one that is there.

    Args:
        user_id: in stored form.
        blob: the content.
        keys: the user's, held; needed if the blob has a new key.
    """
    values = _values(user_id, blob, keys)
    yield from add_contents(user_id, [blob])
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
    yield from record_all([_written(user_id, stat, blob.key, values["content_key"])])
    return stat


def save_if(
    user_id: str, blob: Blob, keys: KeySet | None = None, *, if_absent: bool, if_match: str | None
) -> Unit[FileStat]:
    """As `save`, on a condition; raises FileExists or FileChanged."""
    rows = yield from execute(sql.LOCK, user_id=user_id, path=blob.path)
    present = decode(rows[0]).stat.etag if rows else None
    check(blob.path, present, if_absent=if_absent, if_match=if_match)
    if not if_absent:
        return (yield from save(user_id, blob, keys))
    # There was no row to lock: of two at once, the second waits in this insert for the first's commit.
    created = yield from execute(sql.CREATE, **_values(user_id, blob, keys))
    if not created:
        raise already_there(blob.path)
    yield from add_contents(user_id, [blob])
    entry = decode(created[0])
    yield from record_all([_written(user_id, entry.stat, blob.key, entry.content_key)])
    return entry.stat


def save_all(user_id: str, blobs: Sequence[Blob], keys: KeySet | None = None) -> Unit[dict[str, Written]]:
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
    yield from execute_many(sql.SAVE_ALL, [_values(user_id, blob, keys) for blob in changed])
    yield from add_contents(user_id, changed)
    rows = yield from execute(sql.FIND_ALL, user_id=user_id, paths=[blob.path for blob in changed])
    after = {row[0]: decode(row) for row in rows}
    events = []
    for blob in changed:
        entry = after[blob.path]
        result[blob.path] = Written(entry.stat, "new" if entry.stat.version == 1 else "changed")
        events.append(_written(user_id, entry.stat, entry.blob_key, entry.content_key))
    yield from record_all(events)
    return result


def copy(user_id: str, source: str, target: str, quota: Quota | None = None) -> Unit[FileStat]:
    """Give a file's content to another path as well; raises FileNotFound, or QuotaExceeded.

    The two rows share the blob: blobs are immutable, and are only collected when no row names them any more. They share
    its sealed key too, which names the blob and no path; its data key cannot go while the source's row is locked.
    """
    if quota is not None:
        yield from quota.hold(user_id)
    rows = yield from execute(sql.LOCK, user_id=user_id, path=source)
    if not rows:
        raise missing(source)
    entry = decode(rows[0])
    if quota is not None:
        yield from quota.check(user_id, {target: entry.stat.size})
    blob = Blob(
        target,
        entry.blob_key,
        entry.stat.size,
        entry.digest,
        entry.stat.media_type,
        content_key=entry.content_key,
    )
    return (yield from save(user_id, blob))


def move(user_id: str, source: str, target: str) -> Unit[FileStat]:
    """Give one file another path; raises FileNotFound. No quota refuses it: there is no more afterwards than before."""
    stat = yield from copy(user_id, source, target)
    yield from remove(user_id, source)
    return stat


def replace_by_copy(
    user_id: str, source: str, entry: Entry, blob: Blob, keys: KeySet | None = None, *, keep: bool
) -> Unit[FileStat | None]:
    """Make `blob`, which was made from `entry`, the content of its path, and delete `source` unless it is to be kept.

    None, and no effect, if the source is not that entry any more; raises FileNotFound if it is gone.
    """
    rows = yield from execute(sql.LOCK, user_id=user_id, path=source)
    if not rows:
        raise missing(source)
    if decode(rows[0]).blob_key != entry.blob_key:
        return None
    stat = yield from save(user_id, blob, keys)
    if not keep:
        yield from remove(user_id, source)
    return stat


def remove(user_id: str, path: str) -> Unit[int]:
    """Delete one file; returns how many there were, 0 or 1."""
    rows = yield from execute(sql.REMOVE, user_id=user_id, path=path)
    yield from record_deleted(user_id, rows)
    return len(rows)


def remove_tree(user_id: str, path: str) -> Unit[int]:
    """Delete the file at `path` and every one below it; returns how many there were."""
    low, high = under(path)
    rows = yield from execute(sql.REMOVE_TREE, user_id=user_id, path=path, low=low, high=high)
    yield from record_deleted(user_id, rows)
    return len(rows)


def sealed_key(user_id: str, blob: Blob, keys: KeySet | None) -> bytes | None:
    """What the column `content_key` of a row that names this blob is to hold; None if the content is not sealed.

    Args:
        user_id: the owner, in stored form.
        blob: as Contents.put made it.
        keys: of the owner, held by the running unit, as Contents.run gives them.

    Raises:
        EncryptionError: there is no key to seal with.
    """
    if blob.new_key is None:
        return blob.content_key
    if keys is None:
        raise KeyMissing(f"the content of {blob.path!r} is sealed, and no data key is at hand to seal its key under")
    context = CONTENT_KEY.context({"user_id": user_id, "blob_key": blob.key})
    return keys.seal(context, blob.new_key.reveal())


def add_contents(user_id: str, blobs: Sequence[Blob]) -> Unit[None]:
    """Store the contents that go into the database; by the unit that writes the rows, so that neither is alone."""
    yield from execute_many(
        sql.ADD_CONTENT,
        [
            {"user_id": user_id, "blob_key": blob.key, "content": blob.content}
            for blob in blobs
            if blob.content is not None
        ],
    )


def record_deleted(user_id: str, rows: list[Row]) -> Unit[None]:
    """Write the events of files that were deleted, given their paths and versions."""
    yield from record_all(
        [
            change(user_id, FILE_DELETED, key=path, version=version, payload={"path": path})
            for path, version in sorted(rows)
        ]
    )


def _written(user_id: str, stat: FileStat, blob_key: str, content_key: bytes | None) -> Change:
    """The event says where the very bytes of this version are and what opens them, also after an overwrite."""
    payload = {
        "path": stat.path,
        "size": stat.size,
        "sha256": stat.sha256,
        "media_type": stat.media_type,
    }
    return change(
        user_id,
        FILE_WRITTEN,
        key=stat.path,
        version=stat.version,
        payload=payload,
        blob_key=blob_key,
        content_key=content_key,
    )


def _values(user_id: str, blob: Blob, keys: KeySet | None) -> dict[str, Any]:
    return {
        "user_id": user_id,
        "path": blob.path,
        "blob_key": blob.key,
        "size": blob.size,
        "sha256": blob.digest,
        "media_type": blob.media_type,
        "conversation_id": conversation_of(blob.path),
        "updated_at": now(),
        "content_key": sealed_key(user_id, blob, keys),
    }


def _etag(blob_key: str, version: int) -> str:
    """Another one for each write: the blob's id, and the version because a copy shares the blob."""
    return f"{blob_key.rpartition('/')[2]}-{version}"


def decode(row: Row) -> Entry:
    """A row of `sql.FIND` and its like, or of `sql.READ` and its like."""
    path, size, updated_at, sha256, media_type, created_at, version, key, content_key, *along = row
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
    content = None if not along or along[0] is None else bytes(along[0])
    return Entry(stat, key, bytes(sha256), content_key, content)
