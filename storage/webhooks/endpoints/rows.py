"""Rows of endpoints: as what callers hold, and what of them is sealed, in clear for whoever sends.

What is sealed is sealed for the row's URL. A row that somebody points elsewhere opens no longer, so neither its headers
nor its secret go to another receiver.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NoReturn

from storage.clock import now
from storage.database.unit import Executor
from storage.encryption.keyring import EVERYONE, KeyRing
from storage.encryption.keyset import KeySet
from storage.encryption.registry import SealedColumn
from storage.webhooks.endpoints.model import Batching, Endpoint, Format, Include, Mode, OnDead
from storage.webhooks.message import Answer
from storage.webhooks.table import HEADERS, PREVIOUS_SECRET, SECRET

INCLUDE_BYTES: Final = 16 * 1024 * 1024
"""Longest content that an event brings along unless the endpoint says otherwise."""

SHORTEST_PART: Final = 3
"""Characters of a secret that say nothing of it, and occur by chance."""

_SEALED: Final = (SECRET, PREVIOUS_SECRET, HEADERS)


@dataclass(frozen=True, slots=True)
class SendingSecrets:
    """What a request to an endpoint is signed with and carries besides its message.

    Attributes:
        secrets: the present one, then the previous one while it is valid; none for an endpoint that does not sign.
        headers: by name.
    """

    secrets: tuple[str, ...] = field(default=(), repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("secrets to send are not pickled: read them where they are sent")


def owner_of(row: Mapping[str, Any]) -> str:
    """Whose keys seal the row."""
    user_id: str | None = row["user_id"]
    return EVERYONE if user_id is None else user_id


def decode(row: Mapping[str, Any]) -> Endpoint:
    """A row by its columns' names: whole, or the front of it that a listing reads."""
    return Endpoint(
        id=row["id"],
        user_id=row["user_id"],
        url=row["url"],
        description=row["description"],
        event_types=tuple(row["event_types"]),
        format=row["format"],
        mode=row["mode"],
        batching=Batching(row["batch_events"], row["batch_bytes"], row["batch_seconds"]),
        include=row["include"],
        include_bytes=row["include_bytes"],
        secret_names=row["secret_names"],
        on_dead=row["on_dead"],
        is_signed=row["is_signed"] if "is_signed" in row else row["secret"] is not None,
        has_headers=row["has_headers"] if "has_headers" in row else row["headers"] is not None,
        state=row["state"],
        state_reason=row["state_reason"],
        failures=row["failures"],
        blocked_until=row["blocked_until"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def secrets_of(keys: KeySet, row: Mapping[str, Any], *, at: datetime | None = None) -> SendingSecrets:
    """What is sealed in a whole row, in clear.

    Args:
        keys: of the row's owner.
        row: by its columns' names.
        at: the time of sending, now if None: a previous secret signs until `previous_secret_until`.

    Raises:
        Tampered: a value was altered or sealed for another row, column or URL.
        KeyMissing, KeyMismatch, KeyUnavailable: the key of a value is not at hand.
    """
    until = row["previous_secret_until"]
    is_valid = until is not None and (at or now()) < until
    secrets = (opened(keys, SECRET, row), opened(keys, PREVIOUS_SECRET, row) if is_valid else None)
    headers = opened(keys, HEADERS, row)
    return SendingSecrets(
        tuple(secret for secret in secrets if secret is not None), {} if headers is None else json.loads(headers)
    )


async def read_secrets(executor: Executor, keyring: KeyRing, row: Mapping[str, Any]) -> SendingSecrets:
    """The same, with the keys asked for only if something is sealed: so what needs none is sent while locked.

    Raises:
        EncryptionError: as `secrets_of`.
    """
    values = sealed_values(row)
    if not values:
        return SendingSecrets()
    return secrets_of(await keyring.keys_for(executor, owner_of(row), values), row)


def sealed_values(row: Mapping[str, Any]) -> list[bytes]:
    """What of the row is sealed, as it is stored."""
    return [row[column.column] for column in _SEALED if row[column.column] is not None]


def without_secrets(answer: Answer, sending: SendingSecrets) -> Answer:
    """The answer with what was sent in confidence left out: a receiver may quote it."""
    text = answer.text
    confidential = [secret for secret in (*sending.secrets, *sending.headers.values()) if secret]
    for secret in sorted(confidential, key=len, reverse=True):
        text = text.replace(secret, "***")
        # Only the beginning of an answer is kept, which may end in the middle of one.
        for length in range(min(len(secret), len(text)), SHORTEST_PART, -1):
            if text.endswith(secret[:length]):
                text = text[:-length] + "***"
                break
    return Answer(answer.status, text, answer.retry_after)


def opened(keys: KeySet, column: SealedColumn, row: Mapping[str, Any]) -> str | None:
    """A sealed column of the row in clear, None if nothing is there.

    Raises:
        EncryptionError: it cannot be opened.
    """
    value = row[column.column]
    return None if value is None else keys.open(column.context(row), value).decode()


def resealed(keys: KeySet, row: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """`row` with what was sealed for `before`, the same endpoint at another URL, sealed for where it is now.

    Raises:
        EncryptionError: a value cannot be opened.
    """
    after = dict(row)
    for column in _SEALED:
        value = opened(keys, column, before)
        after[column.column] = sealed(keys, column, row, value)
    return after


def new_row(
    endpoint_id: uuid.UUID,
    user_id: str | None,
    url: str,
    *,
    event_types: Sequence[str],
    format_: Format,
    mode: Mode,
    batching: Batching,
    include: Include = "nothing",
    include_bytes: int = INCLUDE_BYTES,
    secret_names: bool = False,
    on_dead: OnDead = "skip",
    description: str = "",
) -> dict[str, Any]:
    """A whole row of an active endpoint, with nothing sealed in it yet and its `from_seq` still to be set."""
    moment = now()
    return {
        "id": endpoint_id,
        "user_id": user_id,
        "url": url,
        "description": description,
        "secret": None,
        "previous_secret": None,
        "previous_secret_until": None,
        "headers": None,
        "event_types": list(event_types),
        "mode": mode,
        "format": format_,
        "include": include,
        "include_bytes": include_bytes,
        "secret_names": secret_names,
        "on_dead": on_dead,
        **batch_columns(batching),
        "state": "active",
        "state_reason": None,
        "from_seq": 0,
        "failures": 0,
        "blocked_until": None,
        "created_at": moment,
        "updated_at": moment,
    }


def batch_columns(batching: Batching) -> dict[str, Any]:
    """The columns of a batch's limits."""
    return {
        "batch_events": batching.events,
        "batch_bytes": batching.bytes,
        "batch_seconds": batching.seconds,
    }


def sealed(keys: KeySet, column: SealedColumn, row: Mapping[str, Any], value: str | None) -> bytes | None:
    """A value sealed for its column in the row; None for none."""
    return None if value is None else keys.seal(column.context(row), value.encode())


def headers_text(headers: Mapping[str, str]) -> str | None:
    """The headers as they are sealed; None if there are none."""
    return json.dumps(dict(headers), sort_keys=True) if headers else None
