"""A user's files with a receiver that is told of every change, under the names that the seed system has for it.

There the store itself sends, from a thread and after the write. Here it makes sure that the user has an endpoint of the
format `openhands`; what is sent then is the events of the catalogue, by whoever delivers web hooks.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from contextlib import aclosing
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Literal

from pydantic import SecretStr

from storage.errors import ConfigurationError, FileNotFound
from storage.files.catalog import FileCatalog
from storage.files.store import FileStat, FileStore
from storage.webhooks.endpoints.model import Batching, Endpoint, Mode

if TYPE_CHECKING:
    from storage.webhooks.endpoints.store import Endpoints

BATCH_TIMEOUT_SECONDS: Final = 5.0
BATCH_SIZE_LIMIT_BYTES: Final = 1024 * 1024
"""The seed system's own limits of a batch."""


class WebHookFileStore(FileStore):
    """Tells `url` of every change of a user's files: POST {url}{path} with the content, DELETE {url}{path}.

    It is the user's endpoint that does it, so it tells also of what is changed past this object, by a transaction or by
    another process, and goes on when the process ends; `storage webhooks list` shows it. The endpoint is made, or
    brought in line with the arguments, before the first change that is made through this object.

    Args:
        store: `storage.user(…).files`, also of a transaction.
        url: what a path is appended to.
        headers: sent with every request, such as Authorization.
        secret: `whsec_…` to sign with; not signed if None, unless somebody gives the endpoint a secret.

    Raises:
        ConfigurationError: another kind of store, which has no transaction that an event could be part of.
    """

    _mode: Mode = "standard"

    def __init__(
        self,
        store: FileStore,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        secret: SecretStr | str | None = None,
    ) -> None:
        self._endpoints = _endpoints_of(store)
        self.store = store
        self._url = url
        self._headers = dict(headers or {})
        self._secret = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
        self._batching = Batching()
        self._id: uuid.UUID | None = None
        self._making = asyncio.Lock()

    @property
    def location(self) -> str:
        """Where the bytes are."""
        return self.store.location

    async def endpoint(self) -> Endpoint:
        """The endpoint as it is now, made if it is not there yet.

        Raises:
            InvalidInput: the URL, a header or the secret cannot be used.
            EgressRefused: nothing may be sent to this address.
            EncryptionError: locked, and there are headers or a secret to seal.
        """
        return await self._endpoints.get(await self._ready())

    async def _ready(self) -> uuid.UUID:
        async with self._making:
            if self._id is None:
                self._id = (await self._make()).id
            return self._id

    async def _make(self) -> Endpoint:
        return await self._endpoints.ensure_file_endpoint(
            self._url, self._mode, headers=self._headers, secret=self._secret, batching=self._batching
        )

    # ---- changes

    async def _write(
        self,
        path: str,
        content: bytes | AsyncIterable[bytes],
        media_type: str | None,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
    ) -> FileStat:
        await self._ready()
        return await self.store.write(path, content, media_type=media_type, if_absent=if_absent, if_match=if_match)

    async def _delete(self, path: str) -> int:
        await self._ready()
        return await self.store.delete(path)

    async def _copy(self, source: str, target: str) -> FileStat:
        await self._ready()
        return await self.store.copy(source, target)

    async def _move(self, source: str, target: str) -> FileStat:
        await self._ready()
        return await self.store.move(source, target)

    async def _remove(self, path: str) -> bool:
        await self._ready()
        return await self.store._remove(path)  # noqa: SLF001 - deleting and moving never ask for it, a subclass might

    # ---- the rest

    async def _read(self, path: str) -> bytes:
        return await self.store.read(path)

    async def _stat(self, path: str) -> FileStat | None:
        try:
            return await self.store.stat(path)
        except FileNotFound:
            return None

    async def _walk(self, folder: str) -> AsyncGenerator[FileStat, None]:
        async with aclosing(self.store.walk(folder)) as files:
            async for file in files:
                yield file

    async def _list(self, folder: str) -> list[str]:
        return await self.store.list(folder)

    async def _stream(self, path: str, start: int, end: int | None, chunk_size: int) -> AsyncGenerator[bytes, None]:
        async with aclosing(self.store.stream(path, start, end, chunk_size=chunk_size)) as pieces:
            async for piece in pieces:
                yield piece

    async def _signed_url(self, path: str, expires: timedelta, method: Literal["GET", "PUT"]) -> str:
        return await self.store.signed_url(path, expires, method)

    async def close(self) -> None:
        """Close the store; the endpoint stays, and is told of further changes."""
        await self.store.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.store!r})"


class BatchedWebHookFileStore(WebHookFileStore):
    """The same with many changes in one request: POST {url} with a JSON array of them.

    Args:
        store: `storage.user(…).files`, also of a transaction.
        url: where batches go.
        headers: sent with every request, such as Authorization.
        secret: `whsec_…` to sign with; not signed if None, unless somebody gives the endpoint a secret.
        batch_timeout_seconds: age of the oldest change at which a batch is sent. 0 means 0: whatever is there goes.
        batch_size_limit_bytes: sum of the contents at which it is sent.

    Raises:
        ConfigurationError: another kind of store, which has no transaction that an event could be part of.
    """

    _mode: Mode = "batched"

    def __init__(
        self,
        store: FileStore,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        secret: SecretStr | str | None = None,
        batch_timeout_seconds: float = BATCH_TIMEOUT_SECONDS,
        batch_size_limit_bytes: int = BATCH_SIZE_LIMIT_BYTES,
    ) -> None:
        super().__init__(store, url, headers=headers, secret=secret)
        self._batching = Batching(bytes=batch_size_limit_bytes, seconds=batch_timeout_seconds)


def _endpoints_of(store: FileStore) -> Endpoints:
    endpoints = store.webhooks if isinstance(store, FileCatalog) else None
    if endpoints is None:
        raise ConfigurationError(
            f"{type(store).__name__} cannot tell of changes: only the files of a user, storage.user(…).files, are "
            "written in a transaction that an event can be part of. Wrap these"
        )
    return endpoints
