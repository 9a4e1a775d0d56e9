"""Files in a bucket of Google Cloud Storage, each at its own name, so that other programs can read them.

Google's client blocks, so it runs in threads of this store's own. An etag is the object's generation, which every write
makes anew: conditions are exact, also where a file is changed and changed back.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager, suppress
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from typing import Any, Final, Literal, ParamSpec, Self, TypeVar
from uuid import uuid4

from storage.errors import (
    BucketNotFound,
    ConfigurationError,
    FileChanged,
    FileStoreError,
    NotSupported,
    PathRejected,
    StorageClosed,
    StorageError,
)
from storage.files.backends.google_cloud_errors import client_failures, refusal, status_of
from storage.files.backends.key_order import Listed, Page, in_byte_order
from storage.files.backends.parts import in_parts
from storage.files.backends.retries import Retries
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

P = ParamSpec("P")
T = TypeVar("T")

WORKERS: Final = 32
"""Threads, and connections, of one store: a request waits for the network tens of milliseconds and computes little."""

PART_BYTES: Final = 4 * 1024 * 1024
"""Of a resumable upload (a multiple of 256 KiB, by its protocol), and of a streamed read."""

_ANY_KIND: Final = frozenset({None, "application/octet-stream", "text/plain"})
"""What the client makes of a write without a media type."""

_NONCE: Final = "storage-write"
"""Metadata of a conditional write. If the answer to the first attempt is lost, the second one meets the file that the
first has written, and is refused: by this mark the writer recognises its own."""


class GoogleCloudFileStore(FileStore):
    """A FileStore in a bucket. Use the same instance for all users of a process: it holds the one client.

    Credentials are Google's application default ones. Names that others put into the bucket and that break the path
    rule are left out of listings; deleting a folder takes them along.

    Args:
        bucket: its name, and after a `/` a prefix for all names; GOOGLE_CLOUD_BUCKET_NAME if None.
        project: of the bucket; by the credentials if None.
        endpoint_url: of an emulator, which is used without credentials; STORAGE_EMULATOR_HOST works as well.
        retries: of requests whose failure may pass. Google's client does not count attempts: it goes by `give_up_s`.

    Raises:
        ConfigurationError: the extra `gcs` is missing, or no bucket is named.
    """

    def __init__(
        self,
        bucket: str | None = None,
        *,
        project: str | None = None,
        endpoint_url: str | None = None,
        retries: Retries = Retries(),  # noqa: B008 - frozen
    ) -> None:
        try:
            import google.cloud.storage  # noqa: F401 - the first use may be long after the start
        except ImportError as error:
            raise ConfigurationError("Google Cloud needs the extra `gcs`: pip install 'agent-storage[gcs]'") from error
        named = (bucket or os.environ.get("GOOGLE_CLOUD_BUCKET_NAME") or "").removeprefix("gs://")
        self._name, _, prefix = named.partition("/")
        if not self._name:
            raise ConfigurationError(
                "no bucket is named; set file_store_path (or GOOGLE_CLOUD_BUCKET_NAME) to the bucket's name"
            )
        self._prefix = f"{folder}/" if (folder := folder_path(prefix)) else ""
        self._project = project
        self._endpoint_url = endpoint_url
        self._retry = _retry(retries)
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="storage-gcs")
        self._guard = threading.Lock()
        self._client: Any = None
        self._bucket_seen = False

    @classmethod
    async def get_instance(cls, config: FileStoreConfig, user_id: str | None = None) -> Self:  # noqa: ARG003
        """A store in the configured bucket, or in GOOGLE_CLOUD_BUCKET_NAME."""
        return cls(None if config.file_store_path is None else str(config.file_store_path))

    @property
    def location(self) -> str:
        return f"gs://{self._name}/{self._prefix}"

    async def close(self) -> None:
        """Finish what is under way, then end the threads and connections."""
        await asyncio.to_thread(self._pool.shutdown)
        if self._client is not None:
            self._client.close()

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
        conditions: dict[str, Any] = {}
        if if_absent:
            conditions["if_generation_match"] = 0  # no generation: there is no such object
        elif if_match is not None:
            if not if_match.isdecimal():
                raise changed(path)
            conditions["if_generation_match"] = int(if_match)
        nonce = uuid4().hex if conditions else None
        try:
            if isinstance(content, bytes):
                return await self._run(path, self._put, path, content, kind, nonce, conditions)
            return await self._put_stream(path, content, kind, nonce, conditions)
        except _ConditionFailed as error:
            blob = await self._run(path, self._found, path)
            if blob is not None and nonce is not None and (blob.metadata or {}).get(_NONCE) == nonce:
                return self._described(blob)
            raise (already_there(path) if if_absent else changed(path)) from error

    def _put(
        self, path: str, content: bytes, kind: str | None, nonce: str | None, conditions: dict[str, Any]
    ) -> FileStat:
        blob = self._blob(path, nonce)
        blob.upload_from_string(
            content, kind or "application/octet-stream", retry=self._retry, checksum="crc32c", **conditions
        )
        return self._described(blob)

    async def _put_stream(
        self,
        path: str,
        chunks: AsyncIterable[bytes],
        kind: str | None,
        nonce: str | None,
        conditions: dict[str, Any],
    ) -> FileStat:
        """A resumable upload, or a single request if the content turns out to be small."""
        parts = in_parts(chunks, PART_BYTES)
        async with aclosing(parts):
            first = await anext(parts, bytearray())
            if len(first) < PART_BYTES:
                return await self._run(path, self._put, path, bytes(first), kind, nonce, conditions)
            from storage.files.backends.google_cloud_upload import Upload

            writer = Upload(
                await self._run(path, self._blob, path, nonce),
                chunk_size=PART_BYTES,
                content_type=kind or "application/octet-stream",
                retry=self._retry,
                **conditions,
            )
            # The writer is for one thread at a time, and a cancelled write goes on in its own.
            sending = threading.Lock()

            def send(work: Callable[[], object]) -> None:
                with sending:
                    work()

            try:
                await self._run(path, send, partial(writer.write, first))
                async for part in parts:
                    await self._run(path, send, partial(writer.write, part))
                await self._run(path, send, writer.close)
            except BaseException:
                # Shielded: an upload that is not finished is never seen, but is kept for a week.
                await asyncio.shield(asyncio.create_task(self._end(path, partial(send, writer.terminate))))
                raise
        found = await self._run(path, self._found, path)
        if found is None:
            raise changed(path)
        return self._described(found)

    async def _end(self, path: str, terminate: Callable[[], None]) -> None:
        """Give up an upload. What made the write fail is raised; Google removes what an outage leaves, after a week."""
        with suppress(StorageError):
            await self._run(path, terminate)

    # ---- reading

    async def _read(self, path: str) -> bytes:
        content: bytes = await self._run(
            path, lambda: self._blob(path).download_as_bytes(raw_download=True, retry=self._retry)
        )
        return content

    async def _stat(self, path: str) -> FileStat | None:
        blob = await self._run(path, self._found, path)
        return None if blob is None else self._described(blob)

    async def _stream(self, path: str, start: int, end: int | None, chunk_size: int) -> AsyncGenerator[bytes, None]:
        found = await self._run(path, self._found, path)
        if found is None:
            raise missing(path)
        behind = found.size if end is None else min(end, found.size)
        # Pinned to the generation: all pieces are of one content, whatever is written meanwhile.
        blob = self._bucket().blob(self._key(path), generation=found.generation)
        for offset in range(start, behind, PART_BYTES):
            last = min(offset + PART_BYTES, behind) - 1  # inclusive, as in HTTP
            try:
                piece = await self._run(
                    path,
                    lambda first=offset, last=last: blob.download_as_bytes(  # type: ignore[misc]
                        start=first, end=last, raw_download=True, retry=self._retry, checksum=None
                    ),
                )
            except FileNotFoundError as error:
                raise FileChanged(f"the file {path!r} was replaced or deleted while it was read; read again") from error
            view = memoryview(piece)
            for cut in range(0, len(view), chunk_size):
                yield bytes(view[cut : cut + chunk_size])

    # ---- listing

    async def _list(self, folder: str) -> list[str]:
        prefix = f"{folder}/" if folder else ""
        async with aclosing(self._pages(prefix, "/")) as pages, aclosing(in_byte_order(pages)) as entries:
            # Consoles make an object `folder/` for an empty folder, which is shown below itself.
            return [
                entry.key
                async for entry in entries
                if entry.key != prefix and is_stored_path(entry.key.removesuffix("/"))
            ]

    async def _walk(self, folder: str) -> AsyncGenerator[FileStat, None]:
        prefix = f"{folder}/" if folder else ""
        async with aclosing(self._pages(prefix, None)) as pages:
            async for page in pages:
                for entry in page.entries:
                    if is_stored_path(entry.key):
                        yield entry.described()

    async def _pages(self, prefix: str, delimiter: str | None) -> AsyncGenerator[Page, None]:
        """Pages of the names below a prefix, without the store's own prefix."""
        token: str | None = None
        while True:
            page = await self._run("", self._page, prefix, delimiter, token)
            yield page
            if page.token is None:
                return
            token = page.token

    def _page(self, prefix: str, delimiter: str | None, token: str | None) -> Page:
        listing = self._bucket().list_blobs(
            prefix=self._prefix + prefix, delimiter=delimiter, page_token=token, retry=self._retry
        )
        page = next(listing.pages, ())
        entries = [
            Listed(blob.name.removeprefix(self._prefix), blob.size, str(blob.generation), blob.updated) for blob in page
        ]
        entries += [Listed(folder.removeprefix(self._prefix)) for folder in listing.prefixes]
        return Page(entries, listing.next_page_token)

    # ---- deleting and copying

    async def _remove(self, path: str) -> bool:
        return await self._run(path, self._removed, self._key(path))

    async def _delete(self, path: str) -> int:
        removed = int(await self._remove(path))
        async with aclosing(self._pages(f"{path}/", None)) as pages:
            async for page in pages:
                keys = [entry.key for entry in page.entries]
                done = await each(lambda key: self._run(key, self._removed, self._prefix + key), keys, WORKERS)
                removed += sum(gone and is_stored_path(key) for key, gone in zip(keys, done, strict=True))
        return removed

    def _removed(self, key: str) -> bool:
        from google.api_core.exceptions import NotFound

        try:
            self._bucket().blob(key).delete(retry=self._retry)
        except NotFound:
            self._check_bucket()
            return False
        return True

    async def _copy(self, source: str, target: str) -> FileStat:
        return await self._run(source, self._copied, source, target)

    def _copied(self, source: str, target: str) -> FileStat:
        blob, token = self._blob(target), None
        while True:  # a large object is copied in several steps
            token, _, _ = blob.rewrite(self._blob(source), token=token, retry=self._retry)
            if token is None:
                return self._described(blob)

    async def _signed_url(self, path: str, expires: timedelta, method: Literal["GET", "PUT"]) -> str:
        try:
            url: str = await self._run(
                path,
                lambda: self._blob(path).generate_signed_url(version="v4", expiration=expires, method=method),
            )
        except AttributeError as error:  # how the client says that its credentials hold no private key
            raise NotSupported(
                "signing a URL needs the credentials of a service account with its private key; "
                "set GOOGLE_APPLICATION_CREDENTIALS to its key file"
            ) from error
        return url

    # ---- the client, in the threads

    def _key(self, path: str) -> str:
        key = self._prefix + path
        if self._prefix and len(key.encode()) > MAX_PATH_BYTES:
            raise PathRejected(
                f"{path[:80]!r} is too long: with the prefix {self._prefix!r} its name has more than "
                f"{MAX_PATH_BYTES} bytes of UTF-8"
            )
        return key

    def _blob(self, path: str, nonce: str | None = None) -> Any:
        blob = self._bucket().blob(self._key(path))
        if nonce is not None:
            blob.metadata = {_NONCE: nonce}
        return blob

    def _found(self, path: str) -> Any:
        """The object with its properties; None if there is none."""
        blob = self._bucket().get_blob(self._key(path), retry=self._retry)
        if blob is None:
            self._check_bucket()
        return blob

    def _bucket(self) -> Any:
        with self._guard:
            if self._client is None:
                self._client = _new_client(self._project, self._endpoint_url)
        return self._client.bucket(self._name)

    def _check_bucket(self) -> None:
        """Tell a missing file from a missing bucket; asks once."""
        from google.api_core.exceptions import Forbidden

        if self._bucket_seen:
            return
        try:
            if not self._bucket().exists(retry=self._retry):
                raise BucketNotFound(
                    f"there is no bucket {self._name!r}; create it, or mend file_store_path (or the project)"
                )
        except Forbidden:
            pass  # reading files needs no right to read the bucket itself, and one that forbids exists
        self._bucket_seen = True

    def _described(self, blob: Any) -> FileStat:
        path = blob.name.removeprefix(self._prefix)
        kind = blob.content_type
        return FileStat(
            path=path,
            size=blob.size,
            updated_at=blob.updated,
            media_type=guess_media_type(path) if kind in _ANY_KIND else kind,
            etag=str(blob.generation),
        )

    async def _run(self, path: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        def call() -> T:
            with self._typed(path):
                return function(*args, **kwargs)

        try:
            future = self._pool.submit(call)
        except RuntimeError as error:
            raise StorageClosed(f"the file store {self.location} is closed; open a new one") from error
        return await asyncio.wrap_future(future)

    @contextmanager
    def _typed(self, path: str) -> Iterator[None]:
        """Turn what Google's client reports into this library's errors."""
        failures = client_failures()
        try:
            yield
        except failures as error:
            status = status_of(error)
            if status == HTTPStatus.PRECONDITION_FAILED:
                raise _ConditionFailed(f"the condition for {path!r} does not hold") from error
            if status == HTTPStatus.NOT_FOUND:
                try:
                    self._check_bucket()
                except failures as unknown:
                    raise refusal(unknown, "", self.location) from unknown
            raise refusal(error, path, self.location) from error


class _ConditionFailed(FileStoreError):
    """The condition of a write does not hold (HTTP 412)."""


def _retry(retries: Retries) -> Any:
    """Google's choice of what may pass: 408, 429, 5xx and broken connections; here also for writes.

    A write is one object made whole: repeating it changes nothing, and a conditional one recognises its own.
    """
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_delay(retries.first_pause_s, retries.longest_pause_s).with_timeout(retries.give_up_s)


def _new_client(project: str | None, endpoint_url: str | None) -> Any:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage
    from requests.adapters import HTTPAdapter

    emulated = endpoint_url or os.environ.get("STORAGE_EMULATOR_HOST")
    if emulated:
        client = storage.Client(
            project=project or "emulated",
            credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
            client_options={"api_endpoint": emulated},
        )
    else:
        client = storage.Client(project=project)
    # The default pool of ten would open and drop a connection for every further request.
    adapter = HTTPAdapter(pool_connections=4, pool_maxsize=WORKERS)
    for scheme in ("https://", "http://"):
        client._http.mount(scheme, adapter)  # noqa: SLF001 - the documented way (google-cloud-storage, "Client._http")
    # For its spans, even where it makes none, the client from 3.11 on asks for each bucket's project: in a thread that
    # nobody waits for, also after close(), and with a right that files do not need. Without the cache it does not ask.
    client._bucket_metadata_cache = None  # noqa: SLF001 - the other way is a variable of the application's environment
    return client
