"""One attempt: from a claim to a request, and from its answer to what becomes of the claim.

Nothing that goes wrong here is raised: whatever it is, the claim gets an outcome, and the queue goes on.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from random import random
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar

from storage.clock import now
from storage.errors import (
    DatabaseError,
    EgressRefused,
    EncryptionError,
    FileCorrupted,
    FileStoreError,
    InvalidInput,
    KeyUnavailable,
)
from storage.files.blobs import BLOB_CONCURRENCY
from storage.files.concurrency import each
from storage.webhooks.delivery.included import included
from storage.webhooks.endpoints.rows import SendingSecrets, decode, read_secrets, without_secrets
from storage.webhooks.message import Answer, Event, Included, Message
from storage.webhooks.queue.exchange import Claim, Claimed, Settled
from storage.webhooks.queue.fan_out import line_of
from storage.webhooks.queue.retry import verdict

if TYPE_CHECKING:
    from storage.database.database import Database
    from storage.encryption.keyring import KeyRing
    from storage.files.blobs import Contents
    from storage.webhooks.endpoints.model import Endpoint
    from storage.webhooks.sending.sender import Sender

log = logging.getLogger(__name__)

T = TypeVar("T")

_IN_THREAD_BYTES: Final = 1024 * 1024
"""From here on it takes longer than a thread hop by far."""

UNTRIED_SECONDS: Final = 30.0
"""When to look again after a key or a file store was not at hand, which is no fault of the receiver's."""

Observer = Callable[["Endpoint", Answer, float], None]
"""Told of each attempt: the endpoint, the answer, and how many seconds it took."""


MaySend = Callable[[Claim], Awaitable[bool]]
"""Whether a claim is still the caller's for as long as an attempt takes."""


class Attempts:
    """Makes attempts, and counts them.

    Args:
        database: for contents that are kept in it.
        keyring: opens the endpoints' secrets.
        contents: reads what the files' versions hold.
        sender: sends.
        max_attempts: failed attempts after which an event is dead.

    Attributes:
        counts: attempts by what came back, `2xx` to `5xx`, and `none` where there was no answer.
    """

    def __init__(
        self, database: Database, keyring: KeyRing, contents: Contents, sender: Sender, *, max_attempts: int
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._contents = contents
        self._sender = sender
        self._max_attempts = max_attempts
        self.counts: Counter[str] = Counter()
        self.observers: list[Observer] = []
        self._told: dict[uuid.UUID, str] = {}

    async def make(self, row: Mapping[str, Any], claim: Claim, may_send: MaySend) -> list[Settled]:
        """Send a claim; what became of it, or of its parts if some of a batch cannot be sent at all.

        Args:
            row: of the endpoint.
            claim: what to send.
            may_send: asked right before a request is made: what took too long may be another dispatcher's by then.
        """
        try:
            return await self._make(row, claim, may_send)
        except EncryptionError as error:
            return [self._untried(row, claim, f"waits for the master key: {error}")]
        except FileStoreError as error:
            return [self._untried(row, claim, f"waits for the file store: {error}")]
        except DatabaseError as error:
            return [self._untried(row, claim, f"waits for the database: {error}")]
        except EgressRefused as error:
            return [self._settled(claim, Answer(None, str(error)))]
        except Exception as error:
            # Whoever reads the log can mend it; its text was not written for a database and may quote a content.
            log.exception("a web hook to endpoint %s could not be sent; it is tried again", row["id"])
            return [self._settled(claim, Answer(None, f"could not be sent: {type(error).__name__}"))]

    async def _make(self, row: Mapping[str, Any], claim: Claim, may_send: MaySend) -> list[Settled]:
        endpoint = decode(row)
        sending = await read_secrets(self._database, self._keyring, row)
        found = await each(lambda item: self._included(endpoint, item.event), claim.items, BLOB_CONCURRENCY)
        items: list[tuple[Event, Included]] = []
        left: list[Claimed] = []
        settled: list[Settled] = []
        blocked: set[int] = set()
        for item, brought in zip(claim.items, found, strict=True):
            part = replace(claim, items=(item,))
            line = line_of(item.event.user_id, item.event.type, item.event.key)
            if isinstance(brought, Exception):
                settled.append(_impossible(part, str(brought)))
                blocked.add(line)
            elif line in blocked and endpoint.on_dead == "block":
                settled.append(Settled(part, "waits", text="waits behind a dead letter of its key", is_attempt=False))
            else:
                items.append((item.event, brought))
                left.append(item)
        if not items:
            return settled
        claim = replace(claim, items=tuple(left))
        try:
            message = await _in_thread_if_long(_content_bytes(items), _message, endpoint, claim, items)
            if not await may_send(claim):
                return [*settled, Settled(claim, "released", text="was not ready in time", is_attempt=False)]
            answer = await self.send(endpoint, message, sending)
        except InvalidInput as error:
            return [*settled, _impossible(claim, str(error))]
        self._told.pop(endpoint.id, None)
        return [*settled, self._settled(claim, answer)]

    async def _included(self, endpoint: Endpoint, event: Event) -> Included | Exception:
        """What the event brings along, or why it can never be sent; raises what may pass."""
        try:
            return await included(endpoint, event, self._database, self._contents)
        except (FileCorrupted, InvalidInput) as error:
            return error
        except EncryptionError as error:
            # With the right master key at hand it is this one content whose key is lost or was altered.
            if isinstance(error, KeyUnavailable) or self._keyring.state == "locked":
                raise
            return error

    async def send(self, endpoint: Endpoint, message: Message, sending: SendingSecrets) -> Answer:
        """Sign and send one message.

        Raises:
            EgressRefused: the address is not one that web hooks may be sent to.
        """
        from storage.webhooks.sending.signature import signature_headers

        begun = monotonic()
        body = message.body
        signed = await _in_thread_if_long(len(body), signature_headers, sending.secrets, message.id, now(), body)
        answer = await self._sender.send(message, {**sending.headers, **signed})
        answer = without_secrets(answer, sending)
        self.counts["none" if answer.status is None else f"{answer.status // 100}xx"] += 1
        for observer in self.observers:
            observer(endpoint, answer, monotonic() - begun)
        return answer

    def _settled(self, claim: Claim, answer: Answer) -> Settled:
        attempts = max(item.attempts for item in claim.items)
        judged = verdict(answer, attempts, max_attempts=self._max_attempts, random=random)
        return Settled(claim, judged.kind, judged.after, judged.hold, answer.status, answer.text)

    def _untried(self, row: Mapping[str, Any], claim: Claim, why: str) -> Settled:
        if self._told.get(row["id"]) != why:
            self._told[row["id"]] = why
            log.warning("web hooks to endpoint %s: the queue %s", row["id"], why)
        return Settled(claim, "released", UNTRIED_SECONDS, text=why, is_attempt=False)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._sender.close()


Make = Callable[[Mapping[str, Any], Claim, MaySend], Awaitable[list[Settled]]]
"""What a dispatcher calls for each claim: Attempts.make."""


async def _in_thread_if_long(size: int, function: Callable[..., T], *arguments: Any) -> T:
    """Encoding and signing megabytes would hold up the event loop of the application."""
    return await asyncio.to_thread(function, *arguments) if size >= _IN_THREAD_BYTES else function(*arguments)


def _content_bytes(items: list[tuple[Event, Included]]) -> int:
    return sum(len(brought.content) for _, brought in items if brought.content is not None)


def _message(endpoint: Endpoint, claim: Claim, items: list[tuple[Event, Included]]) -> Message:
    from storage.webhooks.formats import render, render_batch

    if claim.batch_id is None:
        return render(endpoint, *items[0])
    return render_batch(endpoint, claim.batch_id, items)


def _impossible(claim: Claim, why: str) -> Settled:
    return Settled(claim, "dead", text=why, is_attempt=False)
