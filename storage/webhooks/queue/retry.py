"""What an attempt's answer means, and how long to wait before the next: pure rules, with the chance passed in.

Waits are random so that events which failed together do not all come back together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, Literal

from storage.webhooks.message import Answer

BASE_SECONDS: Final = 5.0
"""The longest wait after the first failure: a receiver that restarts is back by then."""

GROWTH: Final = 4.0
CAP_SECONDS: Final = 6 * 60 * 60.0
"""The longest wait of ours: a receiver that was down for a night has the events soon after the morning's repair."""

RETRY_AFTER_CAP_SECONDS: Final = 24 * 60 * 60.0
"""The longest wait that a receiver may ask for; one that means more should be paused."""

FAILURES_TO_OPEN: Final = 5
"""Failures in a row after which the endpoint, and not the event, is taken to be at fault."""

PAUSE_BASE_SECONDS: Final = 10.0
PAUSE_CAP_SECONDS: Final = 10 * 60.0
"""The longest pause between two probes of an endpoint that is down: what its repair may go unnoticed."""

_SUCCESS: Final = 2
_REFUSAL: Final = 4
"""First digits of a status."""

_GONE: Final = 410

_PASSING: Final = frozenset({408, 425, 429})
"""Refusals that are about this moment (timeout, too early, too many) and not about the request."""

_ASKING_TO_WAIT: Final = frozenset({429, 503})
"""RFC 6585 section 4 and RFC 9110 section 15.6.4: the receiver as a whole has too much to do."""

_SECONDS: Final = re.compile(r"-?[0-9]+")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of what was sent.

    Attributes:
        kind: `delivered`; `retry`; `dead`: to the dead letters; `gone`: the endpoint wants nothing more (410).
        after: seconds until the next attempt, for `retry`.
        hold: seconds for which the whole endpoint is to be left alone; None if it is not.
    """

    kind: Literal["delivered", "retry", "dead", "gone"]
    after: float = 0.0
    hold: float | None = None


def verdict(answer: Answer, attempts: int, *, max_attempts: int, random: Callable[[], float]) -> Verdict:
    """Judge an answer.

    Any 2xx is success, 410 ends the endpoint, another 4xx is final unless it is about this moment, and everything else
    may pass: no answer, 1xx, 3xx (redirects are not followed), 5xx.

    Args:
        answer: of this attempt.
        attempts: how many were made, this one included.
        max_attempts: after so many it is a dead letter.
        random: from 0.0 up to and without 1.0, uniformly.
    """
    status = answer.status
    family = 0 if status is None else status // 100
    if family == _SUCCESS:
        return Verdict("delivered")
    if status == _GONE:
        return Verdict("gone")
    asked = None if answer.retry_after is None else min(max(answer.retry_after, 0.0), RETRY_AFTER_CAP_SECONDS)
    hold = asked if status in _ASKING_TO_WAIT else None
    is_final = family == _REFUSAL and status not in _PASSING
    if is_final or attempts >= max_attempts:
        return Verdict("dead", hold=hold)
    return Verdict("retry", max(_full_jitter(attempts, random), asked or 0.0), hold)


def breaker_pause(failures: int, random: Callable[[], float]) -> float | None:
    """How long to leave an endpoint alone after so many failures in a row, in seconds; None if not at all.

    From 5 to 10 s at first, doubled with each failure of the one request that probes it, up to 5 to 10 minutes. Never
    less than half of the most: a probe that comes at once probes nothing.
    """
    if failures < FAILURES_TO_OPEN:
        return None
    most = _grown(PAUSE_BASE_SECONDS, 2.0, failures - FAILURES_TO_OPEN, PAUSE_CAP_SECONDS)
    return most / 2 + random() * most / 2


def parse_retry_after(value: str, now: datetime) -> float | None:
    """The seconds that a Retry-After header asks to wait for (RFC 9110 section 10.2.3), at most 24 hours.

    Args:
        value: of the header: a number of seconds, or an HTTP date in any of its three forms (section 5.6.7).
        now: aware; what a date is compared with.

    Returns:
        0.0 for what has passed; None for what is neither form.
    """
    value = value.strip()
    if _SECONDS.fullmatch(value):
        seconds = float(value)
    else:
        try:
            until = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        # asctime's form names no zone, and means UTC as the others do.
        seconds = ((until if until.tzinfo else until.replace(tzinfo=UTC)) - now).total_seconds()
    return min(max(seconds, 0.0), RETRY_AFTER_CAP_SECONDS)


def _full_jitter(attempts: int, random: Callable[[], float]) -> float:
    return random() * _grown(BASE_SECONDS, GROWTH, attempts - 1, CAP_SECONDS)


def _grown(base: float, growth: float, times: int, cap: float) -> float:
    # Beyond 64 times every cap is reached, and a power of a million would be computed in full.
    return min(cap, base * math.pow(growth, min(max(times, 0), 64)))
