"""A streamed write to S3 in parts (multipart upload), of which nothing stays behind when it fails.

Parts of an upload that is neither complete nor aborted are paid for and not seen: so every way out of here ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any, Final

from storage.errors import InvalidInput, StorageError
from storage.files.backends.s3_requests import S3Requests

PART_BYTES: Final = 6 * 1024 * 1024
"""Of a multipart upload (S3 wants 5 MiB at least). With what is being filled and what is on its way, a streamed write
holds three of them, whatever its size."""

PARTS_AT_ONCE: Final = 2
"""Parts on their way at once."""

MOST_PARTS: Final = 10_000
"""Of one upload, so that a streamed file can have 58 GiB."""

# The event loop itself holds tasks only weakly.
_ending: set[asyncio.Task[None]] = set()


async def upload(  # noqa: PLR0917 - what an upload is made of
    requests: S3Requests,
    key: str,
    first: bytearray,
    rest: AsyncIterator[bytearray],
    about: Mapping[str, str],
    condition: Mapping[str, str],
) -> tuple[str, int]:
    """Write an object from parts of PART_BYTES, of which the last may be smaller; returns its etag and size.

    Args:
        requests: to the bucket.
        key: of the object.
        first: part.
        rest: of the parts.
        about: headers of the object: its media type and metadata.
        condition: headers that the last request carries, which makes the object.

    Raises:
        InvalidInput: it has more than MOST_PARTS parts.
        ConditionFailed: the condition does not hold.
        UploadGone: it was ended: by somebody else, or by its own last request, whose answer was lost.
    """
    number = await _begin(requests, key, about)
    sending: set[asyncio.Task[str]] = set()
    sent: list[asyncio.Task[str]] = []
    size = 0
    try:
        part: bytearray | None = first
        while part is not None:
            if len(sent) == MOST_PARTS:
                raise InvalidInput(f"{key!r} is larger than {MOST_PARTS * PART_BYTES} bytes; write it as bytes")
            size += len(part)
            task = asyncio.create_task(requests.part(key, number, len(sent) + 1, part))
            sent.append(task)
            sending.add(task)
            if len(sending) == PARTS_AT_ONCE:
                done, sending = await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
                for finished in done:
                    finished.result()
            part = await anext(rest, None)
        etags = [await task for task in sent]
        return await requests.complete(key, number, etags, condition), size
    except BaseException:
        await _shielded(_end(requests, key, number, sent))
        raise


async def _begin(requests: S3Requests, key: str, about: Mapping[str, str]) -> str:
    beginning = asyncio.create_task(requests.begin(key, about))
    try:
        return await asyncio.shield(beginning)
    except asyncio.CancelledError:
        await _shielded(_end_begun(requests, key, beginning))
        raise


async def _end_begun(requests: S3Requests, key: str, beginning: asyncio.Task[str]) -> None:
    """The server may have begun already, and only its answer names what is to be ended."""
    try:
        number = await beginning
    except StorageError:
        return
    await _end(requests, key, number, [])


async def _end(requests: S3Requests, key: str, number: str, sent: list[asyncio.Task[str]]) -> None:
    for task in sent:
        task.cancel()
    await asyncio.gather(*sent, return_exceptions=True)
    try:
        await requests.abort(key, number)
    except StorageError:
        # What made the write fail is raised; a bucket's lifecycle rule removes what an outage leaves.
        return


async def _shielded(ending: Coroutine[Any, Any, None]) -> None:
    """To its end, also if the caller is cancelled again meanwhile."""
    task = asyncio.create_task(ending)
    _ending.add(task)
    task.add_done_callback(_ending.discard)
    await asyncio.shield(task)
