"""What callers hold of a receiver of web hooks, and which events it hears of."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final, Literal, TypeAlias

from storage.errors import InvalidInput

Format: TypeAlias = Literal["standard", "cloudevents", "openhands"]
"""`standard`: Standard Webhooks 1.0. `cloudevents`: CloudEvents 1.0 in JSON. `openhands`: as the seed system sends."""

Mode: TypeAlias = Literal["standard", "batched"]
"""`standard`: one request for each event. `batched`: one for many, complete by number, bytes or age of the oldest."""

Include: TypeAlias = Literal["nothing", "link", "content"]
"""What an event of a written file brings along: nothing but facts, a signed URL, or the content."""

OnDead: TypeAlias = Literal["skip", "block"]
"""What happens to later events of a key of which one could not be delivered: they go on, or wait for it."""

EndpointState: TypeAlias = Literal["active", "paused", "disabled"]
"""`paused` by a person: events are kept for it. `disabled` by the receiver (410 Gone): it hears of nothing more."""

FILE_TYPES: Final = ("file.*",)
"""What the `openhands` format can express."""

_PATTERN: Final = re.compile(r"[a-z_*?]+(\.[a-z_*?]+)*")


@dataclass(frozen=True, slots=True)
class Batching:
    """When a batch is complete: as soon as one of these is reached. 0 means 0: whatever is there goes at once.

    Attributes:
        events: number of events.
        bytes: sum of the contents and payloads, before they are encoded. One event that is larger goes alone.
        seconds: age of the oldest event.
    """

    events: int = 100
    bytes: int = 1024 * 1024
    seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A receiver of events.

    Attributes:
        id: UUIDv7.
        user_id: whose events it hears of, in stored form; None for everyone's (the operator's endpoint).
        url: where requests go; for the `openhands` format what a path is appended to.
        description: for people.
        event_types: patterns of types, such as `file.*`; `*` and `?` as in a shell.
        format: see Format.
        mode: see Mode.
        batching: of mode `batched`.
        include: see Include; what the `openhands` format sends is always the content.
        include_bytes: a longer content is not included.
        secret_names: whether an event of a secret says which one. Values never leave.
        on_dead: see OnDead.
        is_signed: whether it has a secret to sign with.
        has_headers: whether it has headers of its own.
        state: see EndpointState.
        state_reason: why it is disabled.
        failures: attempts that failed since the last one that did not.
        blocked_until: nothing is sent before; None if nothing holds it back.
        created_at: aware UTC.
        updated_at: aware UTC.
    """

    id: uuid.UUID
    user_id: str | None
    url: str
    description: str
    event_types: tuple[str, ...]
    format: Format
    mode: Mode
    batching: Batching
    include: Include
    include_bytes: int
    secret_names: bool
    on_dead: OnDead
    is_signed: bool
    has_headers: bool
    state: EndpointState
    state_reason: str | None
    failures: int
    blocked_until: datetime | None
    created_at: datetime
    updated_at: datetime

    @property
    def sends_content(self) -> bool:
        """Whether a request may hold the content of a file."""
        return self.format == "openhands" or self.include == "content"


def checked_event_types(patterns: Iterable[str]) -> tuple[str, ...]:
    """The patterns, each once.

    Raises:
        InvalidInput: none at all, or one that no type of an event could match.
    """
    found = tuple(dict.fromkeys(patterns))
    if not found:
        raise InvalidInput("name at least one event type, for example 'file.*', or '*' for all")
    for pattern in found:
        if not _PATTERN.fullmatch(str(pattern)):
            raise InvalidInput(f"{pattern!r} is no pattern of event types; write one such as 'file.*' or '*'")
    return found


@lru_cache(maxsize=1024)
def wants(patterns: tuple[str, ...], type_: str) -> bool:
    """Whether one of the patterns matches the type of an event."""
    return any(_regex(pattern).fullmatch(type_) for pattern in patterns)


@lru_cache(maxsize=1024)
def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile("".join({"*": ".*", "?": "."}.get(letter, re.escape(letter)) for letter in pattern))
