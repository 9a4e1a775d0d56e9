"""How often, and how long apart, a request is repeated whose failure may pass."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from storage.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Retries:
    """Attempts with exponential backoff and full jitter ("Exponential Backoff And Jitter", AWS Architecture Blog).

    With the defaults the pauses are up to 0.2, 0.4, … 3.2 s, so an outage is reported after 3 s in the mean.

    Attributes:
        attempts: how often a request is sent at most, 1 or more.
        first_pause_s: the longest pause before the second attempt, in seconds; it doubles with each further one.
        longest_pause_s: what no pause exceeds.
        give_up_s: after this time no request is repeated any more. S3's signatures hold for 15 minutes; a caller should
            hear of an outage sooner.
    """

    attempts: int = 6
    first_pause_s: float = 0.2
    longest_pause_s: float = 5.0
    give_up_s: float = 60.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or min(self.first_pause_s, self.longest_pause_s, self.give_up_s) < 0:
            raise InvalidInput(f"retries need at least one attempt and no negative time, not {self}")

    async def pause(self, attempt: int) -> None:
        """Wait before an attempt (counted from 0, which waits for nothing)."""
        if attempt:
            longest = min(self.longest_pause_s, self.first_pause_s * 2 ** (attempt - 1))
            await asyncio.sleep(random.uniform(0, longest))  # noqa: S311 - spreads load, hides nothing
