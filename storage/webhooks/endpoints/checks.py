"""What an endpoint may be: the rules for its address, headers, sizes and event types, checked before it is stored."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, get_args

from storage.database.types import checked_text
from storage.errors import InvalidInput
from storage.webhooks.endpoints.model import FILE_TYPES, Batching, Format, Include, Mode, OnDead, checked_event_types
from storage.webhooks.sending.egress import parse
from storage.webhooks.sending.sender import FRAMING

LONGEST_URL: Final = 2048
"""Characters; what servers and proxies take without complaint."""

LONGEST_DESCRIPTION: Final = 1000
"""Characters."""

MOST_HEADERS: Final = 50
LONGEST_HEADERS: Final = 16 * 1024
"""Bytes of all names and values: servers refuse more (nginx and Apache allow 8 KiB for one line)."""

MOST_INCLUDED: Final = 256 * 1024 * 1024
MOST_BATCH_BYTES: Final = 256 * 1024 * 1024
"""A request is put together in memory, several at once."""

MOST_BATCH_EVENTS: Final = 10_000
LONGEST_BATCH_SECONDS: Final = 24 * 60 * 60.0

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""RFC 9110 5.6.2: what a header's name consists of."""


def checked_choice(name: str, value: Any, choices: Any) -> Any:
    """The value, if it is one of a Literal's.

    Raises:
        InvalidInput: it is not.
    """
    allowed = get_args(choices)
    if value not in allowed:
        raise InvalidInput(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}")
    return value


def checked_format(value: Any) -> Format:
    """See Format.

    Raises:
        InvalidInput: another one.
    """
    found: Format = checked_choice("format", value, Format)
    return found


def checked_mode(value: Any) -> Mode:
    """See Mode.

    Raises:
        InvalidInput: another one.
    """
    found: Mode = checked_choice("mode", value, Mode)
    return found


def checked_url(url: object) -> str:
    """The URL, if it is a text of sensible length; everything else about it is for the Egress to judge.

    Raises:
        InvalidInput: it is not.
    """
    if not isinstance(url, str) or not url:
        raise InvalidInput("url must be a text such as 'https://receiver.example.com/hook'")
    if len(url) > LONGEST_URL:
        raise InvalidInput(f"the url has {len(url):,} characters; at most {LONGEST_URL:,} are allowed")
    return url


def origin(url: str) -> tuple[str, str, int]:
    """(scheme, host, port) of a URL (RFC 6454 section 4): who gets what is sent there.

    Raises:
        InvalidInput: not an absolute http or https URL.
    """
    target = parse(url)
    return target.scheme, target.host, target.port


def checked_headers(headers: Mapping[Any, Any]) -> dict[str, str]:
    """The headers, which are sent with every request to the endpoint.

    Raises:
        InvalidInput: a name that is none, is ours or occurs twice; a value with control characters or that is no
            ASCII; too many. The message names headers and never quotes their values.
    """
    if not isinstance(headers, Mapping):
        raise InvalidInput(f"headers must be a mapping of names to texts, not {type(headers).__name__}")
    if len(headers) > MOST_HEADERS:
        raise InvalidInput(f"{len(headers)} headers are too many; at most {MOST_HEADERS} are allowed")
    found: dict[str, str] = {}
    seen: set[str] = set()
    for name, value in headers.items():
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise InvalidInput(f"{name!r} is no name of a header")
        if name.lower() in FRAMING or name.lower().startswith("webhook-"):
            raise InvalidInput(f"the header {name!r} is set by the delivery itself; leave it out")
        if name.lower() in seen:
            raise InvalidInput(f"the header {name!r} is given twice")
        if not isinstance(value, str) or not value.isascii() or not value.isprintable() or value != value.strip(" "):
            raise InvalidInput(
                f"the value of the header {name!r} must be printable ASCII text, without spaces around it"
            )
        seen.add(name.lower())
        found[name] = value
    if sum(len(name) + len(value) for name, value in found.items()) > LONGEST_HEADERS:
        raise InvalidInput(f"the headers are longer than {LONGEST_HEADERS:,} bytes together")
    return found


def checked_types(format_: Format, patterns: Iterable[str] | None) -> tuple[str, ...]:
    """The patterns of events' types for a format; what it can express if None.

    Raises:
        InvalidInput: one that matches nothing, or that the format cannot express.
    """
    if isinstance(patterns, str):
        raise InvalidInput(f"event_types must be several texts, such as [{patterns!r}], not one")
    if patterns is None:
        return FILE_TYPES if format_ == "openhands" else ("*",)
    found = checked_event_types(patterns)
    if format_ == "openhands":
        for pattern in found:
            if not pattern.startswith("file."):
                raise InvalidInput(
                    f"the format 'openhands' tells of files only, so {pattern!r} cannot be sent; write 'file.*', or "
                    "use another format"
                )
    return found


def checked_batching(mode: Mode, batching: Batching) -> Batching:
    """The limits of a batch.

    Raises:
        InvalidInput: one that is negative or beyond what is sensible, or given for a mode without batches.
    """
    if not isinstance(batching, Batching):
        raise InvalidInput(f"batching must be a Batching, not {type(batching).__name__}")
    if mode != "batched" and batching != Batching():
        raise InvalidInput("batching is for the mode 'batched'; give mode='batched', or leave it out")
    return Batching(
        events=checked_number("batching.events", batching.events, MOST_BATCH_EVENTS),
        bytes=checked_number("batching.bytes", batching.bytes, MOST_BATCH_BYTES),
        seconds=_checked_seconds(batching.seconds),
    )


def checked_number(name: str, value: int, most: int) -> int:
    """A whole number from 0 to `most`.

    Raises:
        InvalidInput: another one.
    """
    if type(value) is not int or not 0 <= value <= most:
        raise InvalidInput(f"{name} must be a whole number from 0 to {most:,}, not {value!r}")
    return value


def _checked_seconds(value: float) -> float:
    is_number = type(value) in (int, float) and math.isfinite(value)
    if not is_number or not 0 <= value <= LONGEST_BATCH_SECONDS:
        raise InvalidInput(f"batching.seconds must be a number from 0 to {LONGEST_BATCH_SECONDS:,.0f}, not {value!r}")
    return float(value)


def checked_description(value: object) -> str:
    """A text for people.

    Raises:
        InvalidInput: no text, too long, or one that a database cannot hold.
    """
    if not isinstance(value, str):
        raise InvalidInput(f"description must be a text, not {type(value).__name__}")
    if len(value) > LONGEST_DESCRIPTION:
        raise InvalidInput(
            f"the description has {len(value):,} characters; at most {LONGEST_DESCRIPTION:,} are allowed"
        )
    return checked_text(value)


def checked_flag(name: str, value: bool) -> bool:  # noqa: FBT001 - it is the value
    """Either True or False.

    Raises:
        InvalidInput: neither.
    """
    if type(value) is not bool:
        raise InvalidInput(f"{name} must be True or False, not {value!r}")
    return value


def checked_include(value: Any) -> Include:
    """See Include.

    Raises:
        InvalidInput: another one.
    """
    found: Include = checked_choice("include", value, Include)
    return found


def checked_on_dead(value: Any) -> OnDead:
    """See OnDead.

    Raises:
        InvalidInput: another one.
    """
    found: OnDead = checked_choice("on_dead", value, OnDead)
    return found
