"""The endpoints of one user, or of the operator: who hears of events, at which address, signed with which secret.

A listing reads nothing that is sealed, so it works while the keys are locked; so does every change that has nothing to
seal.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias, TypeVar, Unpack

from pydantic import SecretStr

from storage.clock import now
from storage.database.unit import Executor, Step, Unit, execute
from storage.encryption.keyring import EVERYONE, KeyRing
from storage.errors import EndpointNotFound, InvalidInput, QuotaExceeded
from storage.identity import new_id, user_key
from storage.webhooks import outbox
from storage.webhooks.endpoints import checks as check
from storage.webhooks.endpoints.changes import (
    KEEP_PREVIOUS,
    Change,
    Changes,
    MustSealError,
    Row,
    last_event,
    paused,
    resumed,
    rotated,
    updated,
)
from storage.webhooks.endpoints.model import Batching, Endpoint, Format, Include, Mode, OnDead
from storage.webhooks.endpoints.rows import (
    INCLUDE_BYTES,
    decode,
    headers_text,
    new_row,
    owner_of,
    read_secrets,
    sealed,
)
from storage.webhooks.endpoints.statements import ANY, CHANGING, COLUMNS, FRONT, INSERT, OWN
from storage.webhooks.message import Answer
from storage.webhooks.table import HEADERS, SECRET

if TYPE_CHECKING:
    from storage.database.change import Change as Announced
    from storage.encryption.keyset import KeySet
    from storage.webhooks.sending.egress import Egress

T = TypeVar("T")

MOST_ENDPOINTS: Final = 100
"""Of one user: each of them multiplies every event. The operator knows what he does."""

ATTEMPT_SECONDS: Final = 15.0
"""How long `test` may take, unless the configuration says otherwise (`webhook_timeout`)."""

Listing: TypeAlias = list[Endpoint]
"""Because `list` is also the name of a method here."""


@dataclass(frozen=True, slots=True)
class Added:
    """A new endpoint.

    Attributes:
        endpoint: what it is.
        secret: what its receiver verifies signatures with, None if requests are not signed. It is not shown again.
    """

    endpoint: Endpoint
    secret: SecretStr | None = field(repr=False)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("what adding an endpoint gave holds its secret and is not pickled: keep the endpoint's id")


class Endpoints:
    """Endpoints in a Database or an open Transaction.

    Args:
        executor: where statements run.
        keyring: seals secrets and headers.
        egress: says where web hooks may be sent to.
        owner: the user whose endpoints these are, in stored form. None is the operator, who adds endpoints that hear of
            everyone's events, and reaches everyone's endpoints.
        attempt_seconds: how long `test` may take.
        wake: called after a change which a dispatcher of this process should know of at once.
    """

    def __init__(
        self,
        executor: Executor,
        keyring: KeyRing,
        egress: Egress,
        owner: str | None,
        *,
        attempt_seconds: float = ATTEMPT_SECONDS,
        wake: Callable[[], None] | None = None,
    ) -> None:
        self._executor = executor
        self._keyring = keyring
        self._egress = egress
        self._owner = None if owner is None else user_key(owner)
        self._reach = ANY if owner is None else OWN
        self._attempt_seconds = attempt_seconds
        self._wake = wake

    # ---- reading

    async def list(self) -> Listing:
        """All endpoints that can be reached, oldest first. Nothing is decrypted."""
        rows = await self._executor.read(self._reach.list, {"owner": self._owner}, scan=self._owner is None)
        found = [decode(dict(zip(FRONT, row, strict=True))) for row in rows]
        return sorted(found, key=lambda endpoint: (endpoint.created_at, endpoint.id))

    async def get(self, endpoint_id: uuid.UUID) -> Endpoint:
        """One endpoint. Nothing is decrypted.

        Raises:
            EndpointNotFound: there is none with this id, or it is not within reach.
        """
        rows = await self._executor.read(self._reach.find, self._named(endpoint_id))
        if not rows:
            raise _no_endpoint(endpoint_id)
        return decode(dict(zip(FRONT, rows[0], strict=True)))

    # ---- writing

    async def add(
        self,
        url: str,
        *,
        event_types: Iterable[str] | None = None,
        format: Format = "standard",  # noqa: A002 - what everyone calls it
        mode: Mode = "standard",
        secret: SecretStr | str | None = None,
        signed: bool = True,
        headers: Mapping[str, str] | None = None,
        include: Include = "nothing",
        include_bytes: int = INCLUDE_BYTES,
        secret_names: bool = False,
        on_dead: OnDead = "skip",
        batching: Batching = Batching(),  # noqa: B008 - immutable
        description: str = "",
    ) -> Added:
        """Add an endpoint. It hears of what is changed from then on, also by transactions that begin before it is used.

        A transaction that is under way at this moment may be heard of or not.

        Args:
            url: where requests go; see Endpoint.
            event_types: patterns; all types if None, or all that the format can express.
            format: see Format; it stays.
            mode: see Mode; it stays.
            secret: to sign with, `whsec_…`; a new one if None.
            signed: False for an endpoint without a secret, as the receiver of the seed system expects it: only for
                the format `openhands`.
            headers: sent with every request, such as Authorization; sealed.
            include: see Include.
            include_bytes: a longer content is not included.
            secret_names: whether an event of a secret says which one.
            on_dead: see OnDead.
            batching: of mode `batched`.
            description: for people.

        Raises:
            InvalidInput: one of these is not acceptable.
            EgressRefused: nothing may be sent to this address; the message names the setting that allows it.
            QuotaExceeded: the user has 100 endpoints.
            KeyMissing, KeyMismatch, KeyUnavailable: locked, and there is something to seal.
        """
        kind, how = check.checked_format(format), check.checked_mode(mode)
        self._check_url(url)
        row = new_row(
            new_id(),
            self._owner,
            url,
            event_types=check.checked_types(kind, event_types),
            format_=kind,
            mode=how,
            batching=check.checked_batching(how, batching),
            include=check.checked_include(include),
            include_bytes=check.checked_number("include_bytes", include_bytes, check.MOST_INCLUDED),
            secret_names=check.checked_flag("secret_names", secret_names),
            on_dead=check.checked_on_dead(on_dead),
            description=check.checked_description(description),
        )
        if not signed and kind != "openhands":
            raise InvalidInput(f"the format {kind!r} is signed; only the format 'openhands' may do without")
        if not signed and secret is not None:
            raise InvalidInput("an endpoint that is not signed has no secret; leave one of the two out")
        signing = _secret(secret) if signed else None
        sent = headers_text(check.checked_headers(headers or {}))

        def unit(keys: KeySet | None) -> Unit[Endpoint]:
            if self._owner is not None:
                there = len((yield from execute(self._reach.list, owner=self._owner)))
                if there >= MOST_ENDPOINTS:
                    raise QuotaExceeded(f"{self._owner!r} has {there} endpoints already; remove one first")
            after = {**row, "from_seq": (yield from last_event())}
            if keys is not None:
                after["secret"] = sealed(keys, SECRET, row, signing)
                after["headers"] = sealed(keys, HEADERS, row, sent)
            yield Step(INSERT, after, self._announced("webhook.added", after))
            return decode(after)

        if signing is None and sent is None:
            endpoint = await self._executor.run(lambda: unit(None))
        else:
            endpoint = await self._keyring.run(self._executor, owner_of(row), unit)
        return self._told(Added(endpoint, None if signing is None else SecretStr(signing)))

    async def update(self, endpoint_id: uuid.UUID, **changes: Unpack[Changes]) -> Endpoint:
        """Change what is named, and nothing else. Format and mode stay what they are.

        Headers are for the receiver that they were given for: with a URL of another origin (scheme, host or port) they
        have to be given again, or `{}`.

        Raises:
            EndpointNotFound: there is none with this id, or it is not within reach.
            InvalidInput: a value is not acceptable, or something else is named.
            EgressRefused: nothing may be sent to the new address.
            KeyMissing, KeyMismatch, KeyUnavailable, Tampered: headers are to be sealed, or what is sealed has to be
                sealed for the new URL.
        """
        if "url" in changes:
            self._check_url(changes["url"])
        return await self._change(endpoint_id, updated(changes), seals=bool(changes.get("headers")))

    async def rotate_secret(
        self,
        endpoint_id: uuid.UUID,
        *,
        secret: SecretStr | str | None = None,
        keep_previous: timedelta = KEEP_PREVIOUS,
    ) -> SecretStr:
        """Give the endpoint another secret, and return it: it is not shown again.

        Args:
            endpoint_id: which one.
            secret: `whsec_…`; a new one if None.
            keep_previous: how long requests carry a signature by the secret before as well, so that the receiver can
                take up the new one at its own time. An older one that was still kept is given up. 0 if the secret is
                known to others.

        Raises:
            EndpointNotFound: there is none with this id, or it is not within reach.
            InvalidInput: the secret or the duration is not acceptable.
            KeyMissing, KeyMismatch, KeyUnavailable: locked.
            Tampered: the secret before cannot be opened; with keep_previous=timedelta(0) it need not be.
        """
        signing = _secret(secret)
        await self._change(endpoint_id, rotated(signing, keep_previous), seals=True)
        return SecretStr(signing)

    async def remove(self, endpoint_id: uuid.UUID) -> None:
        """Remove an endpoint with what it has not received yet.

        Raises:
            EndpointNotFound: there is none with this id, or it is not within reach.
        """

        def unit() -> Unit[bool]:
            rows = yield from execute(self._reach.find, **self._named(endpoint_id))
            if not rows:
                return False
            gone = dict(zip(FRONT, rows[0], strict=True))
            yield Step(self._reach.remove, self._named(endpoint_id), self._announced("webhook.removed", gone))
            return True

        if not self._told(await self._executor.run(unit)):
            raise _no_endpoint(endpoint_id)

    async def pause(self, endpoint_id: uuid.UUID) -> Endpoint:
        """Send nothing until `resume`; events are kept for it. Pausing what is paused changes nothing.

        Raises:
            EndpointNotFound: there is none with this id, or it is not within reach.
            Conflict: it is disabled.
        """
        return await self._change(endpoint_id, paused)

    async def resume(self, endpoint_id: uuid.UUID) -> Endpoint:
        """Send again, and at once: failures so far are forgotten.

        A paused endpoint gets what was kept for it. One that was disabled gets what had waited for it before, and hears
        of what is changed from now on; what happened in between it missed.

        Raises:
            EndpointNotFound: there is none with this id, or it is not within reach.
        """
        return await self._change(endpoint_id, resumed)

    async def test(self, endpoint_id: uuid.UUID) -> Answer:
        """Send one event of type `webhook.test` now, past the queue and whatever the state; what came back.

        An endpoint of the format `openhands` gets the deletion of a file that never was (see the module `trial`).

        Raises:
            EndpointNotFound: there is none with this id, or it is not within reach.
            EgressRefused: nothing may be sent to its address.
            EncryptionError: its secret or headers cannot be opened.
        """
        from storage.webhooks.endpoints.trial import send_trial

        rows = await self._executor.read(self._reach.read, self._named(endpoint_id))
        if not rows:
            raise _no_endpoint(endpoint_id)
        row = dict(zip(COLUMNS, rows[0], strict=True))
        sending = await read_secrets(self._executor, self._keyring, row)
        return await send_trial(self._egress, decode(row), sending, timeout=self._attempt_seconds)

    async def ensure_file_endpoint(
        self,
        url: str,
        mode: Mode = "standard",
        *,
        headers: Mapping[str, str] | None = None,
        secret: SecretStr | str | None = None,
        batching: Batching = Batching(),  # noqa: B008 - immutable
    ) -> Endpoint:
        """The one endpoint of the format `openhands` for this URL and mode that code names: made, or brought in line.

        Any number of processes make one between them. What the other methods change of its headers and limits is
        brought in line again; a secret that they give it stays, unless `secret` is another.

        Raises:
            InvalidInput: one of these is not acceptable.
            EgressRefused: nothing may be sent to this address.
            EncryptionError: locked, and there are headers or a secret to seal.
        """
        from storage.webhooks.endpoints.configured import Wanted, ensure, store_endpoint_id

        self._check_url(url)
        how = check.checked_mode(mode)
        wanted = Wanted(
            store_endpoint_id(self._owner or EVERYONE, url, how),
            self._owner,
            url,
            how,
            check.checked_headers(headers or {}),
            None if secret is None else _secret(secret),
            check.checked_batching(how, batching),
            "of a file store",
        )
        return self._told(await ensure(self._executor, self._keyring, wanted))

    # ---- below

    async def _change(self, endpoint_id: uuid.UUID, change: Change, *, seals: bool = False) -> Endpoint:
        """Lock the row and write what `change` makes of it; with its owner's keys only if there is need of them."""

        def unit(keys: KeySet | None) -> Unit[Endpoint]:
            rows = yield from execute(self._reach.lock, **self._named(endpoint_id))
            if not rows:
                raise _no_endpoint(endpoint_id)
            row = dict(zip(COLUMNS, rows[0], strict=True))
            after = yield from change(row, keys)
            if after == row:
                return decode(row)
            after["updated_at"] = now()
            values = {name: after[name] for name in CHANGING}
            yield Step(self._reach.update, values | self._named(endpoint_id), self._announced("webhook.updated", after))
            return decode(after)

        if not seals:
            try:
                return self._told(await self._executor.run(lambda: unit(None)))
            except MustSealError:
                pass
        user_id = (await self.get(endpoint_id)).user_id  # an endpoint never changes hands
        return self._told(await self._keyring.run(self._executor, EVERYONE if user_id is None else user_id, unit))

    def _told(self, result: T) -> T:
        if self._wake is not None:
            self._wake()
        return result

    def _named(self, endpoint_id: uuid.UUID) -> dict[str, Any]:
        if not isinstance(endpoint_id, uuid.UUID):
            raise InvalidInput(f"an endpoint's id is a uuid.UUID, not {type(endpoint_id).__name__}")
        return {"endpoint_id": endpoint_id, "owner": self._owner}

    def _check_url(self, url: str) -> None:
        self._egress.check_url(check.checked_url(url))

    def _announced(self, type_: str, row: Row) -> tuple[Announced, ...]:
        """For this process's hooks only, no event: among what masks a user's secrets is what an endpoint sends."""
        user_id = row["user_id"]
        return () if user_id is None else (outbox.change(user_id, type_, key=str(row["id"])),)

    def __repr__(self) -> str:
        return f"Endpoints({'the operator' if self._owner is None else repr(self._owner)})"


def _secret(secret: SecretStr | str | None) -> str:
    from storage.webhooks.sending.signature import checked_secret, new_secret

    given = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
    return new_secret() if given is None else checked_secret(given)


def _no_endpoint(endpoint_id: uuid.UUID) -> EndpointNotFound:
    return EndpointNotFound(f"there is no web hook endpoint {endpoint_id} here; list() shows which there are")
