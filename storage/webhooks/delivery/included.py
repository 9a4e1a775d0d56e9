"""What an event of a written file brings along: the bytes of exactly that version, or a link to them.

The file may have been overwritten or deleted since, so its row is not asked: the event names the blob.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from storage.errors import InvalidInput, NotSupported
from storage.files.blobs import is_in_database
from storage.files.rows import Entry
from storage.files.store import FileStat
from storage.webhooks.message import Event, Included

if TYPE_CHECKING:
    from storage.database.unit import Executor
    from storage.files.blobs import Contents
    from storage.webhooks.endpoints.model import Endpoint

LINK_LIFETIME: Final = timedelta(hours=24)
"""How long a signed URL works from the attempt on that brought it; a receiver may work through a queue of its own."""

NOTHING: Final = Included()


async def included(endpoint: Endpoint, event: Event, executor: Executor, contents: Contents) -> Included:
    """What this endpoint gets of the event besides facts.

    Raises:
        InvalidInput: the format is nothing but the content, and the content is longer than the endpoint takes.
        FileCorrupted: the content is missing, or not what was written.
        KeyMissing, KeyMismatch, KeyUnavailable: it is sealed, and its key is not at hand.
        FileStoreError: of the backend.
    """
    if event.blob_key is None:
        return NOTHING
    if endpoint.sends_content:
        size = event.payload["size"]
        if size <= endpoint.include_bytes:
            return Included(content=await contents.read(executor, event.user_id, _entry(event)))
        if endpoint.format == "openhands":
            raise InvalidInput(
                f"the content of {event.key!r} has {size} bytes, and the endpoint takes {endpoint.include_bytes}; raise"
                " include_bytes, and replay it"
            )
    elif endpoint.include == "link" and event.content_key is None and not is_in_database(event.blob_key):
        try:
            return Included(link=await contents.backend.signed_url(event.blob_key, expires=LINK_LIFETIME))
        except NotSupported:
            return NOTHING
    return NOTHING


def _entry(event: Event) -> Entry:
    """The row that the file had at this version."""
    facts = event.payload
    stat = FileStat(
        path=event.key,
        size=facts["size"],
        updated_at=event.created_at,
        sha256=facts["sha256"],
        media_type=facts["media_type"],
        version=event.version,
    )
    return Entry(stat, event.blob_key or "", bytes.fromhex(facts["sha256"]), event.content_key)
