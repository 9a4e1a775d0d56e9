"""Files in a bucket of S3 or a compatible server, each at its own key, so that other programs can read them.

Objects go through obstore (Rust, several times aiobotocore's throughput); what it cannot do is in s3_requests.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, contextmanager
from dataclasses import replace
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar
from uuid import uuid4

from storage.clock import now
from storage.errors import (
    ConfigurationError,
    FileNotFound,
    FileStoreUnavailable,
    PathRejected,
    StorageError,
)
from storage.files.backends.key_order import Listed, Page, in_byte_order
from storage.files.backends.parts import in_parts
from storage.files.backends.retries import Retries
from storage.files.backends.s3_endpoint import AwsCredentials, S3Endpoint
from storage.files.backends.s3_errors import UploadGone, refusal, status_and_code
from storage.files.backends.s3_requests import MOST_DELETED, ConditionFailed, S3Requests
from storage.files.backends.s3_upload import PART_BYTES, upload
from storage.files.concurrency import each
from storage.files.paths import MAX_PATH_BYTES, folder_path, is_stored_path
from storage.files.store import (
    FileStat,
    FileStore,
    FileStoreConfig,
    already_there,
    changed,
    guess_media_type,
    missing,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")

CHECKS_AT_ONCE: Final = 16
"""Requests of one listing under way at once."""

LARGE_BYTES: Final = 64 * 1024 * 1024
"""From here on bytes are sent in parts too: a broken connection then costs one part and not all."""

READ_PIECE_BYTES: Final = 1024 * 1024
"""What a streamed read takes from the connection at least, before it is cut to the caller's chunk size."""

_ANY_KIND: Final = frozenset({None, "application/octet-stream", "binary/octet-stream"})
"""What servers make of a write without a media type."""

_REPEATED_ALREADY: Final = ", after "
"""obstore's message goes on `after 5 retries` when it has used them up."""

_FOREIGN_404: Final = re.compile(r"404 Not Found:[^\S\n]*\S")
"""obstore's message of a missing file whose answer has a body. S3's body names a code: without one it is a proxy's."""

_NONCE: Final = "storage-write"
"""Metadata of a write on a condition or in parts. If the answer to the first attempt is lost, the second one meets the
file that the first has written, and is refused: by this mark the writer recognises its own."""


class S3FileStore(FileStore):
    """A FileStore in a bucket. Use the same instance for all users of a process.

    A condition (`if_absent`, `if_match`) is the server's own: AWS, MinIO, SeaweedFS, Ceph and R2 keep it. Etags depend
    on the bytes only, so `if_match` does not notice a file that was changed and changed back. The time that a write
    returns is this machine's; `stat` gives the server's. A copy on the server is limited to 5 GiB. For SeaweedFS a
    folder is in the way of a file of its name that is to be created (`if_absent`), for a while also an emptied one: it
    answers that there is such a file.

    Keys that others put into the bucket and that break the path rule (`a//b`, `a/../b`) are left out of listings;
    deleting a folder takes them along.

    Args:
        bucket: its name, and after a `/` a prefix for all keys; AWS_S3_BUCKET if None.
        endpoint_url: of another service than AWS.
        region: that requests are signed for.
        ordered_listing: whether the server lists keys in byte order. AWS does, and then a walk takes one request for
            1,000 files; others may keep a tree: then a walk takes a request per folder, and a listing one per
            folder it shows. None: AWS.
        retries: of requests whose failure may pass.

    Raises:
        ConfigurationError: the extra `s3` is missing, no bucket is named, or the endpoint is no URL.
    """

    def __init__(
        self,
        bucket: str | None = None,
        *,
        endpoint_url: str | None = None,
        region: str | None = None,
        ordered_listing: bool | None = None,
        retries: Retries = Retries(),  # noqa: B008 - frozen
    ) -> None:
        try:
            import obstore
            from obstore.store import S3Store
        except ImportError as error:
            raise ConfigurationError("S3 needs the extra `s3`: pip install 'agent-storage[s3]'") from error
        name, _, prefix = (bucket or "").removeprefix("s3://").partition("/")
        endpoint = S3Endpoint.resolve(name or None, endpoint_url, region)
        self._prefix = f"{folder}/" if (folder := folder_path(prefix)) else ""
        self._bucket = endpoint.bucket
        self._ordered = endpoint.is_aws if ordered_listing is None else ordered_listing
        credentials = AwsCredentials()
        self._requests = S3Requests(endpoint, credentials, retries)
        self._retries = retries
        self._obstore = obstore
        errors = obstore.exceptions
        self._refused = (ConditionFailed, errors.AlreadyExistsError, errors.PreconditionError)
        self._store = S3Store(
            endpoint.bucket,
            config={
                "endpoint": endpoint.client_url,
                "region": endpoint.region,
                "virtual_hosted_style_request": endpoint.virtual_hosted,
                "conditional_put": "etag",
            },
            client_options={
                "allow_http": endpoint.url.startswith("http://"),
                "connect_timeout": timedelta(seconds=5),
                "read_timeout": timedelta(seconds=30),
                # Of a whole request: a gigabyte on a slow line must not be cut after the default of 30 s.
                "timeout": timedelta(hours=1),
            },
            retry_config=_retry_config(retries),  # type: ignore[arg-type]
            credential_provider=credentials,  # type: ignore[arg-type]
        )

    @classmethod
    async def get_instance(cls, config: FileStoreConfig, user_id: str | None = None) -> Self:  # noqa: ARG003
        """A store in the configured bucket, or in AWS_S3_BUCKET."""
        return cls(None if config.file_store_path is None else str(config.file_store_path))

    @property
    def location(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}"

    async def close(self) -> None:
        """Close the connections that this event loop made."""
        await self._requests.close()

    # ---- writing

    async def _write(
        self,
        path: str,
        content: bytes | AsyncIterable[bytes],
        media_type: str | None,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
    ) -> FileStat:
        kind = media_type or guess_media_type(path)
        nonce = uuid4().hex if if_absent or if_match is not None else None
        try:
            if isinstance(content, bytes) and len(content) > LARGE_BYTES:
                content = _cut(content)
            if isinstance(content, bytes):
                etag, size = await self._put(path, content, kind, nonce, if_match), len(content)
            else:
                etag, size = await self._put_stream(path, content, kind, nonce, if_match)
        except self._refused as error:
            if nonce is None:
                raise refusal(path, self._bucket, *_known(error, HTTPStatus.CONFLICT)) from error
            own = await self._written_by(path, nonce)
            if own is not None:
                return own
            raise (already_there(path) if if_absent else changed(path)) from error
        return FileStat(path=path, size=size, updated_at=now(), media_type=kind, etag=etag)

    async def _put(self, path: str, content: bytes, kind: str | None, nonce: str | None, if_match: str | None) -> str:
        attributes = {**({"Content-Type": kind} if kind else {}), **({_NONCE: nonce} if nonce else {})}
        mode: Any = "overwrite"
        if nonce is not None:
            mode = "create" if if_match is None else {"e_tag": f'"{if_match}"'}
        key = self._key(path)
        put = await self._repeated(
            path,
            lambda: self._obstore.put_async(
                self._store, key, content, attributes=attributes, mode=mode, use_multipart=False
            ),
            conditional=True,
        )
        return (put["e_tag"] or "").strip('"')

    async def _put_stream(
        self, path: str, chunks: AsyncIterable[bytes], kind: str | None, nonce: str | None, if_match: str | None
    ) -> tuple[str, int]:
        """A multipart upload, or a plain put if the content turns out to be small."""
        parts = in_parts(chunks, PART_BYTES)
        async with aclosing(parts):
            first = await anext(parts, bytearray())
            if len(first) < PART_BYTES:
                return await self._put(path, bytes(first), kind, nonce, if_match), len(first)
            return await self._put_parts(path, first, parts, kind, nonce, if_match)

    async def _put_parts(  # noqa: PLR0917 - what a write is made of
        self,
        path: str,
        first: bytearray,
        rest: AsyncIterator[bytearray],
        kind: str | None,
        nonce: str | None,
        if_match: str | None,
    ) -> tuple[str, int]:
        mark = nonce or uuid4().hex
        about = {**({"Content-Type": kind} if kind else {}), f"x-amz-meta-{_NONCE}": mark}
        condition: dict[str, str] = {}
        if nonce is not None:
            condition = {"If-Match": f'"{if_match}"'} if if_match is not None else {"If-None-Match": "*"}
        try:
            return await upload(self._requests, self._key(path), first, rest, about, condition)
        except UploadGone:
            own = await self._written_by(path, mark)
            if own is None or own.etag is None:
                raise
            return own.etag, own.size

    async def _written_by(self, path: str, nonce: str | None) -> FileStat | None:
        """The file, if it is the one that the write with this mark has made."""
        if nonce is None:
            return None
        try:
            found = await self._head(path)
        except FileNotFound:
            return None
        return self._described(path, found) if found.attributes.get(_NONCE) == nonce else None

    # ---- reading

    async def _read(self, path: str) -> bytes:
        key = self._key(path)

        async def get() -> bytes:
            found = await self._obstore.get_async(self._store, key)
            return bytes(await found.bytes_async())

        return await self._repeated(path, get)

    async def _stat(self, path: str) -> FileStat | None:
        try:
            return self._described(path, await self._head(path))
        except FileNotFound:
            await self._requests.bucket_exists()
            return None

    async def _stream(self, path: str, start: int, end: int | None, chunk_size: int) -> AsyncGenerator[bytes, None]:
        if start == end:
            if await self._stat(path) is None:
                raise missing(path)
            return
        options: Any = {}
        if end is not None:
            options = {"range": (start, end)}
        elif start:
            options = {"range": {"offset": start}}
        with self._typed(path):
            try:
                found = await self._obstore.get_async(self._store, self._key(path), options=options)
            except self._obstore.exceptions.BaseError as error:
                if status_and_code(str(error))[0] == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # begins at the end
                    return
                raise
            async for piece in found.stream(READ_PIECE_BYTES):
                view = memoryview(piece)
                for offset in range(0, len(view), chunk_size):
                    yield bytes(view[offset : offset + chunk_size])

    async def _head(self, path: str) -> Any:
        key = self._key(path)
        return await self._repeated(path, lambda: self._obstore.get_async(self._store, key, options={"head": True}))

    # ---- listing

    async def _list(self, folder: str) -> list[str]:
        prefix = f"{folder}/" if folder else ""
        async with aclosing(self._level(prefix)) as entries:
            found = [entry.key async for entry in entries]
        if self._ordered:
            return found
        # Servers that keep a tree show a folder for a while after its last file, and then it is none.
        used = await each(self._is_used, found, CHECKS_AT_ONCE)
        return [key for key, shown in zip(found, used, strict=True) if shown]

    async def _is_used(self, key: str) -> bool:
        return not key.endswith("/") or bool(
            (await self._requests.page(self._prefix + key, delimiter="", token=None, most=1)).entries
        )

    async def _walk(self, folder: str) -> AsyncGenerator[FileStat, None]:
        prefix = f"{folder}/" if folder else ""
        async with aclosing(self._flat(prefix) if self._ordered else self._deep(prefix)) as entries:
            async for entry in entries:
                yield entry.described()

    async def _flat(self, prefix: str) -> AsyncGenerator[Listed, None]:
        async with aclosing(self._pages(prefix, delimiter="")) as pages:
            async for page in pages:
                for entry in page.entries:
                    if is_stored_path(entry.key):
                        yield entry

    async def _deep(self, prefix: str) -> AsyncGenerator[Listed, None]:
        levels = [self._level(prefix)]
        try:
            while levels:
                entry = await anext(levels[-1], None)
                if entry is None:
                    await levels.pop().aclose()
                elif entry.key.endswith("/"):
                    levels.append(self._level(entry.key))
                else:
                    yield entry
        finally:
            for level in levels:
                await level.aclose()

    async def _level(self, prefix: str) -> AsyncGenerator[Listed, None]:
        """Files and folders (their keys end in `/`) directly below a prefix, in byte order."""
        async with aclosing(self._pages(prefix, delimiter="/")) as pages, aclosing(in_byte_order(pages)) as entries:
            async for entry in entries:
                # SeaweedFS shows an empty folder below itself.
                if entry.key != prefix and is_stored_path(entry.key.removesuffix("/")):
                    yield entry

    async def _pages(self, prefix: str, *, delimiter: str) -> AsyncGenerator[Page, None]:
        """Pages of the keys below a prefix, without the store's own prefix."""
        token: str | None = None
        while True:
            page = await self._requests.page(self._prefix + prefix, delimiter=delimiter, token=token)
            entries = [replace(entry, key=entry.key.removeprefix(self._prefix)) for entry in page.entries]
            yield Page(entries, page.token)
            if page.token is None:
                return
            token = page.token

    # ---- deleting and copying

    async def _remove(self, path: str) -> bool:
        if await self._stat(path) is None:
            return False
        await self._requests.delete([self._key(path)])
        return True

    async def _delete(self, path: str) -> int:
        removed = int(await self._remove(path))
        async with aclosing(self._pages(f"{path}/", delimiter="")) as pages:
            async for page in pages:
                keys = [entry.key for entry in page.entries]
                for start in range(0, len(keys), MOST_DELETED):
                    await self._requests.delete([self._prefix + key for key in keys[start : start + MOST_DELETED]])
                removed += sum(map(is_stored_path, keys))
        return removed

    async def _copy(self, source: str, target: str) -> FileStat:
        origin, destination = self._key(source), self._key(target)
        await self._repeated(source, lambda: self._obstore.copy_async(self._store, origin, destination))
        return self._described(target, await self._head(target))

    async def _signed_url(self, path: str, expires: timedelta, method: Literal["GET", "PUT"]) -> str:
        with self._typed(path):
            url: str = await self._obstore.sign_async(self._store, method, self._key(path), expires)
        return url

    # ---- what goes out and comes back

    def _key(self, path: str) -> str:
        key = self._prefix + path
        if self._prefix and len(key.encode()) > MAX_PATH_BYTES:
            raise PathRejected(
                f"{path[:80]!r} is too long: with the prefix {self._prefix!r} its key has more than "
                f"{MAX_PATH_BYTES} bytes of UTF-8"
            )
        return key

    def _described(self, path: str, found: Any) -> FileStat:
        meta = found.meta
        kind = found.attributes.get("Content-Type")
        return FileStat(
            path=path,
            size=meta["size"],
            updated_at=meta["last_modified"],
            media_type=kind if kind not in _ANY_KIND else guess_media_type(path),
            etag=(meta["e_tag"] or "").strip('"'),
        )

    async def _repeated(self, path: str, call: Callable[[], Awaitable[T]], *, conditional: bool = False) -> T:
        """What `call` gives; repeated where obstore does not do it.

        obstore repeats what HTTP calls safe. A PUT here is one too: it writes an object whole, and a conditional one
        recognises its own.
        """
        for attempt in range(self._retries.attempts):
            await self._retries.pause(attempt)
            try:
                with self._typed(path, conditional=conditional):
                    return await call()
            except FileStoreUnavailable as error:
                if attempt == self._retries.attempts - 1 or _REPEATED_ALREADY in str(error.__cause__):
                    raise
        raise AssertionError("unreachable: the last attempt returns or raises")

    @contextmanager
    def _typed(self, path: str, *, conditional: bool = False) -> Iterator[None]:
        """Turn what obstore reports into this library's errors; with `conditional`, a condition that fails is left."""
        exceptions = self._obstore.exceptions
        try:
            yield
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError) as error:
            if conditional:
                raise
            raise refusal(path, self._bucket, *_known(error, HTTPStatus.CONFLICT)) from error
        except FileNotFoundError as error:
            if isinstance(error, StorageError):
                raise
            status, code = _known(error, HTTPStatus.NOT_FOUND)
            if not code and _FOREIGN_404.search(str(error)):
                raise FileStoreUnavailable(
                    f"the endpoint of {self._bucket!r} answered 404 with something that is not S3's; check the"
                    " endpoint, and what is between it and this machine"
                ) from error
            raise refusal(path, self._bucket, status, code) from error
        except exceptions.UnauthenticatedError as error:  # also where the chain found no credentials to send
            raise refusal(path, self._bucket, *_known(error, HTTPStatus.UNAUTHORIZED)) from error
        except exceptions.BaseError as error:
            raise refusal(path, self._bucket, *_known(error, 0)) from error


def _retry_config(retries: Retries) -> dict[str, Any]:
    """The same as obstore takes it."""
    return {
        "max_retries": retries.attempts - 1,
        "backoff": {
            "init_backoff": timedelta(seconds=retries.first_pause_s / 2),
            "max_backoff": timedelta(seconds=retries.longest_pause_s),
            "base": 2,
        },
        "retry_timeout": timedelta(seconds=retries.give_up_s),
    }


async def _cut(content: bytes) -> AsyncGenerator[bytes, None]:
    view = memoryview(content)
    for offset in range(0, len(view), PART_BYTES):
        yield bytes(view[offset : offset + PART_BYTES])


def _known(error: Exception, status: int) -> tuple[int, str]:
    """Status and code by an error's text; `status` where the text names none."""
    told, code = status_and_code(str(error))
    return told or status, code
