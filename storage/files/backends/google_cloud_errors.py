"""What Google's client raises, in this library's terms: a missing file is not an outage.

The client has three families of errors (its API's, its uploads' and downloads', its transport's), and one more that
wraps the last of any of them when the time for retries is over.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from storage.errors import (
    BucketNotFound,
    FileAccessDenied,
    FileChanged,
    FileCorrupted,
    FileStoreError,
    FileStoreFull,
    FileStoreThrottled,
    FileStoreUnavailable,
    StorageError,
)
from storage.files.store import missing

_TOO_FAST: Final = frozenset({"rateLimitExceeded", "userRateLimitExceeded"})
"""Reasons of a 403 that is no refusal of access ("HTTP status and error codes for JSON", Cloud Storage)."""


def client_failures() -> tuple[type[Exception], ...]:
    """What the client raises when a request fails."""
    from google.api_core.exceptions import GoogleAPICallError, RetryError
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
    from requests import RequestException

    return (
        GoogleAPICallError,
        RetryError,
        InvalidResponse,
        DataCorruption,
        GoogleAuthError,
        RequestException,
        ConnectionError,
    )


def status_of(error: BaseException) -> int:
    """The HTTP status that an error of the client's carries; 0 if there was no answer."""
    from google.cloud.storage.exceptions import InvalidResponse

    if isinstance(error, InvalidResponse):
        return int(error.response.status_code)
    return int(getattr(error, "code", None) or 0)


def refusal(error: BaseException, path: str, location: str) -> StorageError:
    """The error for what the client raised; `path` is empty where the request was about the bucket."""
    from google.api_core.exceptions import RetryError
    from google.auth.exceptions import GoogleAuthError, TransportError
    from google.cloud.storage.exceptions import DataCorruption

    if isinstance(error, RetryError) and error.cause is not None:
        error = error.cause
    status = status_of(error)
    subject = repr(path) if path else "the bucket"
    named = f"{type(error).__name__}, HTTP {status}" if status else type(error).__name__
    reasons = {each.get("reason") for each in getattr(error, "errors", ()) if isinstance(each, dict)}
    if status == HTTPStatus.TOO_MANY_REQUESTS or reasons & _TOO_FAST:
        return FileStoreThrottled(f"{location!r} asked for fewer requests ({named}) until the retries were used up")
    if status == HTTPStatus.NOT_FOUND:
        return missing(path) if path else BucketNotFound(f"there is no bucket any more at {location!r} ({named})")
    if status in (401, 403) or (isinstance(error, GoogleAuthError) and not isinstance(error, TransportError)):
        return FileAccessDenied(
            f"access to {subject} in {location!r} was refused ({named}); check the "
            "credentials, and that they may read, create, delete and list objects (roles/storage.objectUser)"
        )
    if status == HTTPStatus.INSUFFICIENT_STORAGE:
        return FileStoreFull(f"no room for {subject} in {location!r} ({named}); what was there before is unchanged")
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return FileChanged(f"the file {path!r} was replaced while it was read; read again")
    if isinstance(error, DataCorruption):
        return FileCorrupted(f"what arrived of {subject} in {location!r} does not have its checksum; try again")
    if 0 < status < HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.REQUEST_TIMEOUT:
        return FileStoreError(f"{location!r} refused what was asked of {subject} ({named})")
    return FileStoreUnavailable(
        f"{location!r} cannot be reached or failed ({named}) until the retries were used up; "
        "check the network, then try again"
    )
