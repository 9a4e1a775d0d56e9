"""What an S3 service's refusals mean, from either of the two clients: a missing file is not an outage.

Codes are those of the S3 API reference, "Error responses"; compatible servers use the same and few of their own.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

from storage.errors import (
    BucketNotFound,
    FileAccessDenied,
    FileStoreError,
    FileStoreFull,
    FileStoreThrottled,
    FileStoreUnavailable,
    StorageError,
)
from storage.files.store import missing

# obstore tells status and body only in the text of its errors.
_STATUS: Final = re.compile(r"status code: (\d{3})|HTTP status (?:client|server) error \((\d{3})")
_CODE: Final = re.compile(r"<Code>([A-Za-z0-9.]+)</Code>")

_NO_BUCKET: Final = frozenset({"NoSuchBucket", "InvalidBucketName"})
_THROTTLED: Final = frozenset(
    {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests", "ServiceUnavailable"}
)
_NO_ROOM: Final = frozenset({"InsufficientStorage", "QuotaExceeded", "XMinioStorageFull", "EntityTooLarge"})
_OTHER_REGION: Final = frozenset(
    {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)

_NO_UPLOAD: Final = "NoSuchUpload"

RETRIED: Final = frozenset({429, 500, 502, 503, 504})
"""Statuses of failures that may pass."""


class UploadGone(FileStoreUnavailable):
    """An upload in parts was ended: by somebody else, or by a request that made it a file and whose answer was lost."""


def status_and_code(text: str) -> tuple[int, str]:
    """The HTTP status (0 if there was no answer) and the code (empty if the body has none) that an error names."""
    status = _STATUS.search(text)
    code = _CODE.search(text)
    return int(status.group(1) or status.group(2)) if status else 0, code.group(1) if code else ""


def refusal(path: str, location: str, status: int, code: str) -> StorageError:  # noqa: PLR0911 - one for each meaning
    """The error for an answer that was not a success; for no answer at all, `status` is 0."""
    named = f"{code or 'no code'}, HTTP {status}" if status else "no answer"
    subject = repr(path) if path else "the bucket"
    if code == _NO_UPLOAD:
        return UploadGone(
            f"the upload of {subject} to {location!r} was ended by somebody else ({named}); what was there before is"
            " unchanged. Write it again"
        )
    if code in _NO_BUCKET or (status == HTTPStatus.NOT_FOUND and not path):
        return BucketNotFound(
            f"there is no bucket {location!r} at the endpoint ({named}); create it, or mend file_store_path"
        )
    if status == HTTPStatus.NOT_FOUND:
        return missing(path)
    if code in _OTHER_REGION or status == HTTPStatus.MOVED_PERMANENTLY:
        return FileStoreError(
            f"{location!r} is in another region than the one that was asked ({named}); set AWS_REGION to the bucket's"
        )
    if status in (401, 403):
        return FileAccessDenied(
            f"access to {subject} in {location!r} was refused ({named}); check the credentials, and that they allow "
            "s3:GetObject, s3:PutObject, s3:DeleteObject, s3:ListBucket and s3:AbortMultipartUpload"
        )
    if code in _NO_ROOM or status == HTTPStatus.INSUFFICIENT_STORAGE:
        return FileStoreFull(f"no room for {subject} in {location!r} ({named}); what was there before is unchanged")
    if code in _THROTTLED or status in (429, 503):
        return FileStoreThrottled(f"{location!r} asked for fewer requests ({named}) until the retries were used up")
    if status == 0 or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return FileStoreUnavailable(
            f"{location!r} cannot be reached or failed ({named}) until the retries were used up; "
            "check the endpoint and the network, then try again"
        )
    return FileStoreError(f"{location!r} refused what was asked of {subject} ({named})")
