"""Endpoints that code or configuration names instead of a person: made when first needed, and kept in line with it.

Their ids follow from what names them, so any number of processes that open at once make one endpoint between them.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from storage.clock import now
from storage.database.unit import Executor, Unit, execute
from storage.encryption.keyring import KeyRing
from storage.encryption.keyset import KeySet
from storage.errors import ConfigurationError, Conflict, EgressRefused, EncryptionError, InvalidInput
from storage.webhooks.endpoints import checks as check
from storage.webhooks.endpoints.changes import ACTIVE, MustSealError, held, last_event
from storage.webhooks.endpoints.model import FILE_TYPES, Batching, Endpoint, Mode
from storage.webhooks.endpoints.rows import (
    SendingSecrets,
    batch_columns,
    decode,
    headers_text,
    new_row,
    owner_of,
    resealed,
    sealed,
    sealed_values,
    secrets_of,
)
from storage.webhooks.endpoints.statements import CHANGING, COLUMNS, INSERT, NOBODYS, OWN
from storage.webhooks.table import HEADERS, SECRET

if TYPE_CHECKING:
    from storage.config import StorageConfig
    from storage.webhooks.sending.egress import Egress

log = logging.getLogger(__name__)

CONFIGURED_ID: Final = uuid.UUID("636f6e66-6967-8572-a564-000000000001")
"""The endpoint of `file_store_web_hook_url`."""

_FILE_STORES: Final = uuid.UUID("66696c65-2073-846f-b265-000000000000")
"""The namespace of the ids of file stores' endpoints (RFC 9562 section 5.5)."""

SESSION_KEY: Final = "SESSION_API_KEY"
SESSION_HEADER: Final = "X-Session-API-Key"
"""As in the seed system: the variable's value is sent in this header where the configuration names no headers."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An endpoint of the format `openhands` as it is to be.

    Attributes:
        id: follows from what names it.
        owner: a user in stored form; None for the operator's.
        url: see Endpoint.
        mode: see Mode.
        headers: sent with every request.
        secret: to sign with; None leaves it to whoever has set one, and a new endpoint without.
        batching: see Batching.
        description: for people; of a new endpoint.
    """

    id: uuid.UUID
    owner: str | None
    url: str
    mode: Mode
    headers: Mapping[str, str] = field(repr=False)
    secret: str | None = field(default=None, repr=False)
    batching: Batching = Batching()  # noqa: RUF009 - immutable
    description: str = ""


def store_endpoint_id(user_id: str, url: str, mode: Mode) -> uuid.UUID:
    """The id of the endpoint of a file store that tells `url` of this user's files."""
    return uuid.uuid5(_FILE_STORES, f"{mode} {url} {user_id}")


async def ensure_configured(
    executor: Executor,
    keyring: KeyRing,
    egress: Egress,
    config: StorageConfig,
    environment: Mapping[str, str] | None = None,
) -> Endpoint | None:
    """Make the operator's endpoint of the configuration, or bring it in line; None if none is configured.

    Without a configuration an endpoint that there is stays: another process may be configured with it. While the keys
    are locked, one that has headers is left as it is, with a warning.

    Args:
        executor: where.
        keyring: seals the headers.
        egress: must trust the URL's host.
        config: `file_store_web_hook_url`, `_headers` and `_batch`.
        environment: of this process if None.

    Raises:
        ConfigurationError: the URL or a header cannot be used.
        DatabaseError: the database failed.
    """
    url = config.file_store_web_hook_url
    if not url:
        return None
    headers = config.file_store_web_hook_headers
    if headers is None:
        key = (os.environ if environment is None else environment).get(SESSION_KEY)
        headers = {SESSION_HEADER: key} if key else {}
    mode: Mode = "batched" if config.file_store_web_hook_batch else "standard"
    description = "of the configuration (file_store_web_hook_url)"
    try:
        egress.check_url(check.checked_url(url))
        wanted = Wanted(CONFIGURED_ID, None, url, mode, check.checked_headers(headers), description=description)
    except (InvalidInput, EgressRefused) as error:
        raise ConfigurationError(f"file_store_web_hook_url or file_store_web_hook_headers: {error}") from error
    try:
        return await ensure(executor, keyring, wanted)
    except EncryptionError as error:
        log.warning("the web hook of file_store_web_hook_url stays as it is, because it has headers: %s", error)
        return None


async def ensure(executor: Executor, keyring: KeyRing, wanted: Wanted) -> Endpoint:
    """Make the endpoint, or bring it in line. Whether it is active, paused or disabled stays, but for a new URL.

    Raises:
        Conflict: its id belongs to somebody else's.
        EncryptionError: locked, and there is something to seal or open.
        DatabaseError: the database failed.
    """
    reach = NOBODYS if wanted.owner is None else OWN
    named = {"endpoint_id": wanted.id, "owner": wanted.owner}
    rows = await executor.read(reach.read, named)
    before = dict(zip(COLUMNS, rows[0], strict=True)) if rows else None
    if before is not None and _agrees(before, wanted, await _secrets(executor, keyring, before)):
        return decode(before)
    fresh = new_row(
        wanted.id,
        wanted.owner,
        wanted.url,
        event_types=FILE_TYPES,
        format_="openhands",
        mode=wanted.mode,
        batching=wanted.batching,
        description=wanted.description,
    )

    def unit(keys: KeySet | None) -> Unit[Endpoint]:
        row = _sealed(keys, {**fresh, "from_seq": (yield from last_event())}, wanted)
        if (yield from execute(INSERT, **row)):
            return decode(row)
        there = yield from execute(reach.lock, **named)
        if not there:
            raise Conflict(f"the web hook endpoint {wanted.id} belongs to somebody else")
        row = dict(zip(COLUMNS, there[0], strict=True))
        after = _sealed(keys, _moved(keys, row, wanted), wanted)
        yield from execute(reach.update, **named, **{name: after[name] for name in CHANGING})
        return decode(after)

    if not wanted.headers and wanted.secret is None:
        try:
            return await executor.run(lambda: unit(None))
        except MustSealError:
            pass
    return await keyring.run(executor, owner_of(fresh), unit)


async def _secrets(executor: Executor, keyring: KeyRing, row: Mapping[str, Any]) -> SendingSecrets | None:
    """What is sealed in the row; None if it opens no longer, then it is replaced by what is wanted."""
    values = sealed_values(row)
    if not values:
        return SendingSecrets()
    keys = await keyring.keys_for(executor, owner_of(row), values)
    try:
        return secrets_of(keys, row)
    except EncryptionError:
        return None


def _agrees(row: Mapping[str, Any], wanted: Wanted, secrets: SendingSecrets | None) -> bool:
    return (
        secrets is not None
        and (row["url"], row["mode"]) == (wanted.url, wanted.mode)
        and batch_columns(wanted.batching).items() <= row.items()
        and secrets.headers == wanted.headers
        and (wanted.secret is None or secrets.secrets[:1] == (wanted.secret,))
    )


def _moved(keys: KeySet | None, there: Mapping[str, Any], wanted: Wanted) -> dict[str, Any]:
    """The row with what is not sealed as wanted; at a new URL nothing holds it back, for that was another receiver."""
    given: dict[str, Any] = {"headers": None} if wanted.secret is None else {"headers": None, "secret": None}
    before = {**there, **given}
    columns = {"url": wanted.url, "mode": wanted.mode, **batch_columns(wanted.batching), "updated_at": now()}
    after = {**before, **columns}
    if wanted.url == there["url"]:
        return after
    if there["state"] == "disabled":
        after |= ACTIVE
    return resealed(held(keys), after, before) if sealed_values(before) else after


def _sealed(keys: KeySet | None, row: dict[str, Any], wanted: Wanted) -> dict[str, Any]:
    """The row with the wanted headers, and with the wanted secret if there is one."""
    secret, headers = row["secret"], headers_text(wanted.headers)
    if wanted.secret is not None:
        secret = sealed(held(keys), SECRET, row, wanted.secret)
    return {**row, "secret": secret, "headers": None if headers is None else sealed(held(keys), HEADERS, row, headers)}
