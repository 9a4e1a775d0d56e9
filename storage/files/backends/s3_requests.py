"""Requests to S3 that obstore has no call for, or that it gets wrong: listings, bulk deletes, multipart on a condition.

obstore fails a whole listing over one foreign key with `//` or `..` in it, and takes no condition on a streamed write.
Each request is signed with Signature Version 4, and repeated with full jitter while its failure may pass.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote_plus, urlencode
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from storage.database.per_loop import PerLoop
from storage.errors import FileStoreError, FileStoreUnavailable, StorageClosed, StorageError
from storage.files.backends.key_order import Listed, Page
from storage.files.backends.retries import Retries
from storage.files.backends.s3_endpoint import AwsCredentials, S3Endpoint
from storage.files.backends.s3_errors import RETRIED, refusal, status_and_code

if TYPE_CHECKING:
    import ssl

    import httpx2

MOST_DELETED: Final = 1_000
"""Keys that one DeleteObjects request takes."""

CONNECTIONS: Final = 64
"""Of one event loop to the endpoint."""

TIMEOUT_S: Final = 30.0
"""To connect, or without a byte; not of the whole request."""

SENT_PIECE_BYTES: Final = 256 * 1024
"""A body is given to the socket in pieces, so that the transport does not copy a whole part into its buffer."""

_CONDITIONS: Final = frozenset({"If-Match", "If-None-Match"})

# What XML 1.0 cannot carry, or not unchanged.
_NOT_XML: Final = re.compile("[\\x00-\\x1f\\x7f\\ud800-\\udfff\\ufffe\\uffff]")


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class S3Requests:
    """Signed requests to one bucket.

    Args:
        endpoint: the bucket.
        credentials: asked for at each request.
        retries: of requests whose failure may pass.
    """

    def __init__(self, endpoint: S3Endpoint, credentials: AwsCredentials, retries: Retries) -> None:
        self._endpoint = endpoint
        self._credentials = credentials
        self._retries = retries
        self._bucket_seen = False
        self._clients: PerLoop[httpx2.AsyncClient] = PerLoop(_client, _close)

    async def close(self) -> None:
        """Close the connections of the running loop."""
        await self._clients.close()

    async def page(self, prefix: str, *, delimiter: str, token: str | None, most: int | None = None) -> Page:
        """A page of the keys that begin with `prefix`, of `most` (the server's own limit if None).

        `encoding-type=url` lets keys through that XML cannot carry.
        """
        query = {"list-type": "2", "encoding-type": "url", "prefix": prefix}
        if most is not None:
            query["max-keys"] = str(most)
        if delimiter:
            query["delimiter"] = delimiter
        if token is not None:
            query["continuation-token"] = token
        answer = await self._send("GET", "", query)
        root = _xml(answer.body)
        # A server that does not know the parameter sends keys as they are.
        decode = unquote_plus if root.findtext("{*}EncodingType") == "url" else str
        entries = [
            Listed(
                key=decode(_text(found, "Key")),
                size=int(_text(found, "Size")),
                etag=_text(found, "ETag").strip('"'),
                updated_at=datetime.fromisoformat(_text(found, "LastModified")),
            )
            for found in root.iterfind("{*}Contents")
        ]
        entries += [Listed(decode(_text(found, "Prefix"))) for found in root.iterfind("{*}CommonPrefixes")]
        truncated = root.findtext("{*}IsTruncated") == "true"
        return Page(entries, root.findtext("{*}NextContinuationToken") if truncated else None)

    async def bucket_exists(self) -> None:
        """Tell a missing file from a missing bucket, which a HEAD request cannot; asks once.

        Raises:
            BucketNotFound: there is no such bucket.
        """
        if not self._bucket_seen:
            await self._send("GET", "", {"list-type": "2", "max-keys": "0"})

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete up to MOST_DELETED objects, with one request but for odd keys; missing ones are no error.

        Raises:
            FileAccessDenied, FileStoreError: for the first key that was not deleted.
        """
        for key in filter(_NOT_XML.search, keys):
            await self._send("DELETE", key, {}, accepted=(404,))
        keys = [key for key in keys if not _NOT_XML.search(key)]
        if not keys:
            return
        objects = "".join(f"<Object><Key>{escape(key)}</Key></Object>" for key in keys)
        body = f'<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{objects}<Quiet>true</Quiet></Delete>'.encode()
        checksum = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        answer = await self._send("POST", "", {"delete": ""}, body, {"Content-MD5": checksum})
        for failed in _xml(answer.body).iterfind("{*}Error"):
            code = failed.findtext("{*}Code") or ""
            raise refusal(_text(failed, "Key"), self._endpoint.bucket, 403 if code == "AccessDenied" else 500, code)

    # ---- multipart upload

    async def begin(self, key: str, headers: Mapping[str, str]) -> str:
        """Begin a multipart upload; returns its id."""
        answer = await self._send("POST", key, {"uploads": ""}, headers=headers)
        return _text(_xml(answer.body), "UploadId")

    async def part(self, key: str, upload: str, number: int, data: bytes | bytearray) -> str:
        """Send one part; returns its etag, with the quotes."""
        answer = await self._send("PUT", key, {"partNumber": str(number), "uploadId": upload}, data)
        etag: str | None = answer.headers.get("etag")
        if etag is None:
            raise FileStoreUnavailable("the S3 endpoint's answer to a part has no ETag; is it really an S3 service?")
        return etag

    async def complete(self, key: str, upload: str, etags: Sequence[str], headers: Mapping[str, str]) -> str:
        """Put the parts together, on the condition in `headers`; returns the etag of the object, without quotes."""
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag></Part>"
            for number, etag in enumerate(etags, 1)
        )
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        answer = await self._send("POST", key, {"uploadId": upload}, body, headers)
        root = _xml(answer.body)
        if root.tag.endswith("Error"):  # S3 may fail after it has sent its 200
            raise refusal(key, self._endpoint.bucket, 500, root.findtext("Code") or "")
        return _text(root, "ETag").strip('"')

    async def abort(self, key: str, upload: str) -> None:
        """Forget an upload and its parts; one that is not there is no error."""
        await self._send("DELETE", key, {"uploadId": upload}, accepted=(404,))

    # ---- one request

    async def _send(  # noqa: PLR0917 - what a request is made of
        self,
        method: str,
        key: str,
        query: Mapping[str, str],
        body: bytes | bytearray = b"",
        headers: Mapping[str, str] | None = None,
        accepted: tuple[int, ...] = (),
    ) -> _Answer:
        import httpx2

        client = await self._clients.get()
        url = f"{self._endpoint.url}/{quote(key, safe='/~')}?{urlencode(query, quote_via=quote)}"
        cause: Exception | None = None
        failure: StorageError = FileStoreUnavailable("no attempt was made")
        for attempt in range(self._retries.attempts):
            await self._retries.pause(attempt)
            signed = await asyncio.to_thread(self._signed, method, url, body, dict(headers or {}))
            try:
                answer = await client.request(method, url, content=_in_pieces(body) if body else None, headers=signed)
            except (httpx2.TransportError, RuntimeError) as error:
                if client.is_closed:
                    raise StorageClosed(
                        f"the file store in {self._endpoint.bucket!r} was closed while it was in use; open a new one"
                    ) from error
                if isinstance(error, RuntimeError):
                    raise
                cause, failure = error, refusal(key, self._endpoint.bucket, 0, "")
                continue
            if answer.is_success or answer.status_code in accepted:
                self._bucket_seen = True
                return _Answer(answer.status_code, answer.headers, answer.content)
            _, code = status_and_code(answer.text)
            failure, cause = refusal(key, self._endpoint.bucket, answer.status_code, code), None
            if answer.status_code in (409, 412) and _CONDITIONS & set(headers or ()):
                raise ConditionFailed(code)
            if answer.status_code not in RETRIED and code != "RequestTimeout":
                break
        raise failure from cause

    def _signed(self, method: str, url: str, body: bytes | bytearray, headers: dict[str, str]) -> dict[str, str]:
        """The headers of a signed request. Hashes the body, so it may take milliseconds; blocks."""
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest

        digest = hashlib.sha256(body).hexdigest()

        class Signer(S3SigV4Auth):  # type: ignore[misc]
            """Signs for the body without holding a copy of it, over https too: a damaged body is always refused."""

            def payload(self, request: Any) -> str:
                return digest

        request: Any = AWSRequest(method, url, headers)
        Signer(self._credentials.frozen(), "s3", self._endpoint.region).add_auth(request)
        signed = dict(request.headers.items())
        signed["Content-Length"] = str(len(body))
        return signed


class ConditionFailed(FileStoreError):
    """The condition of a request does not hold (HTTP 412), or others are changing the object just now (HTTP 409)."""


async def _in_pieces(body: bytes | bytearray) -> AsyncIterator[bytes]:
    view = memoryview(body)
    for offset in range(0, len(view), SENT_PIECE_BYTES):
        yield bytes(view[offset : offset + SENT_PIECE_BYTES])


async def _client() -> httpx2.AsyncClient:
    import httpx2

    limits = httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    # A full pool is no failure: the request waits for its turn.
    return httpx2.AsyncClient(limits=limits, timeout=httpx2.Timeout(TIMEOUT_S, pool=None), verify=_tls())


@cache
def _tls() -> ssl.SSLContext:
    """One for the process: reading the authorities takes 60 ms, more than most requests."""
    import httpx2

    return httpx2.create_ssl_context()


async def _close(client: httpx2.AsyncClient) -> None:
    await client.aclose()


def _xml(body: bytes) -> ET.Element:
    try:
        # From the endpoint that is trusted with the files themselves; expat (>= 2.4.1) limits what entities expand to.
        return ET.fromstring(body)  # noqa: S314
    except ET.ParseError as error:
        raise FileStoreUnavailable(f"the S3 endpoint answered something that is not XML: {body[:80]!r}") from error


def _text(element: ET.Element, name: str) -> str:
    found = element.findtext(f"{{*}}{name}")
    if found is None:
        raise FileStoreUnavailable(f"the S3 endpoint's answer has no {name}; is it really an S3 service?")
    return found
