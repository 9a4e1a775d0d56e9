"""The changes of an endpoint, each from the row as it is locked to the row as it is to be.

They are given the keys of the row's owner only once they have asked for them, so that what seals nothing works while
the keys are locked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, Final, TypeAlias, TypedDict

from storage.clock import now
from storage.database.unit import Unit, execute
from storage.encryption.keyset import KeySet
from storage.errors import Conflict, InvalidInput
from storage.webhooks.endpoints import checks as check
from storage.webhooks.endpoints.model import Batching, Include, OnDead
from storage.webhooks.endpoints.rows import batch_columns, headers_text, opened, resealed, sealed, sealed_values
from storage.webhooks.endpoints.statements import LAST_EVENT
from storage.webhooks.table import HEADERS, PREVIOUS_SECRET, SECRET

Row: TypeAlias = Mapping[str, Any]
"""A whole row by its columns' names."""

Change: TypeAlias = Callable[[Row, KeySet | None], Unit[dict[str, Any]]]
"""Makes the new row; raises MustSealError where it is given None and needs keys."""

ACTIVE: Final[Mapping[str, Any]] = {"state": "active", "state_reason": None, "failures": 0, "blocked_until": None}
"""The columns of an endpoint that nothing holds back."""

KEEP_PREVIOUS: Final = timedelta(days=1)
"""How long a secret that was replaced goes on signing beside the new one: time for people to deploy the new one."""

LONGEST_KEEP_PREVIOUS: Final = timedelta(days=90)


class MustSealError(Exception):
    """The unit found that it has to seal or open something; run it again with the keys."""


class Changes(TypedDict, total=False):
    """What of an endpoint can be changed; see Endpoint for what each is."""

    url: str
    description: str
    event_types: Iterable[str]
    headers: Mapping[str, str]
    include: Include
    include_bytes: int
    secret_names: bool
    on_dead: OnDead
    batching: Batching


def held(keys: KeySet | None) -> KeySet:
    """The keys, or a request for them."""
    if keys is None:
        raise MustSealError
    return keys


def last_event() -> Unit[int]:
    """The number of the last event that is committed; 0 if there is none."""
    ((seq,),) = yield from execute(LAST_EVENT)
    return int(seq or 0)


def updated(changes: Changes) -> Change:
    """The row with what is named changed, and all that is sealed at a new URL sealed for it.

    Raises:
        InvalidInput: a value is not acceptable, or something is named that cannot be changed.
    """
    fixed = changes.keys() - Changes.__annotations__.keys()
    if fixed:
        raise InvalidInput(
            f"update cannot change {', '.join(sorted(fixed))}; it changes {', '.join(Changes.__annotations__)}. For "
            "another format or mode add another endpoint"
        )
    named = _checked(changes)
    sent = headers_text(check.checked_headers(changes["headers"])) if "headers" in changes else None

    def change(row: Row, keys: KeySet | None) -> Unit[dict[str, Any]]:
        yield from ()
        # What is given anew need not be opened, also if it could not be.
        before = {**row, "headers": None} if "headers" in changes else row
        after = {**before, **named}
        if "event_types" in changes:
            after["event_types"] = list(check.checked_types(row["format"], changes["event_types"]))
        if "batching" in changes:
            after |= batch_columns(check.checked_batching(row["mode"], changes["batching"]))
        if after["url"] != row["url"]:
            after = _moved(after, before, keys)
        if sent is not None:
            after["headers"] = sealed(held(keys), HEADERS, after, sent)
        return after

    return change


def rotated(secret: str, keep_previous: timedelta) -> Change:
    """The row with another secret, and the one before beside it for a while.

    Raises:
        InvalidInput: too long a while, or a negative one.
    """
    if not timedelta(0) <= keep_previous <= LONGEST_KEEP_PREVIOUS:
        raise InvalidInput(f"keep_previous must be from 0 to {LONGEST_KEEP_PREVIOUS.days} days, not {keep_previous}")

    def change(row: Row, keys: KeySet | None) -> Unit[dict[str, Any]]:
        yield from ()
        previous = opened(held(keys), SECRET, row) if keep_previous else None
        return {
            **row,
            "secret": sealed(held(keys), SECRET, row, secret),
            "previous_secret": sealed(held(keys), PREVIOUS_SECRET, row, previous),
            "previous_secret_until": None if previous is None else now() + keep_previous,
        }

    return change


def paused(row: Row, keys: KeySet | None) -> Unit[dict[str, Any]]:
    """The row of an endpoint that nothing is sent to.

    Raises:
        Conflict: it is disabled.
    """
    yield from ()
    if row["state"] == "disabled":
        raise Conflict(f"the endpoint {row['id']} is disabled ({row['state_reason']}); resume it first")
    return {**row, "state": "paused"}


def resumed(row: Row, keys: KeySet | None) -> Unit[dict[str, Any]]:
    """The row of an endpoint that nothing holds back; one that was disabled begins with what comes now."""
    from_seq = (yield from last_event()) if row["state"] == "disabled" else row["from_seq"]
    return {**row, **ACTIVE, "from_seq": from_seq}


def _checked(changes: Changes) -> dict[str, Any]:
    """The columns of what can be checked without the row."""
    named: dict[str, Any] = {}
    if "url" in changes:
        named["url"] = check.checked_url(changes["url"])
    if "description" in changes:
        named["description"] = check.checked_description(changes["description"])
    if "include" in changes:
        named["include"] = check.checked_include(changes["include"])
    if "include_bytes" in changes:
        limit = check.MOST_INCLUDED
        named["include_bytes"] = check.checked_number("include_bytes", changes["include_bytes"], limit)
    if "secret_names" in changes:
        named["secret_names"] = check.checked_flag("secret_names", changes["secret_names"])
    if "on_dead" in changes:
        named["on_dead"] = check.checked_on_dead(changes["on_dead"])
    return named


def _moved(after: dict[str, Any], before: Row, keys: KeySet | None) -> dict[str, Any]:
    """The row at its new URL; `before` is what was there, without headers that are given anew."""
    if before["headers"] is not None and check.origin(after["url"]) != check.origin(before["url"]):
        raise InvalidInput(
            "the endpoint has headers, which were given for another receiver than that of the new url; give headers "
            "again, or {} for none"
        )
    return resealed(held(keys), after, before) if sealed_values(before) else after
