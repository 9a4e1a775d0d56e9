"""How much is removed at once, so that nobody else waits long: as much as takes some ten milliseconds, then a pause.

On SQLite one writes at a time, so whoever writes meanwhile waits for what is under way, and a process that finds the
database locked asks again and again: there have to be gaps in which it finds it free. On PostgreSQL only who wants the
same rows waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from storage.database.unit import T, Unit

TARGET_SECONDS: Final = 0.010
"""For which one piece of work may hold the database: with the commit, a fifth of the 50 ms that a writer may wait."""

REST: Final = 4.0
"""Times as long as the work, the pause after it. The commit is not in the work's time, and takes about as long."""

FIRST: Final = 20
FEWEST: Final = 5
MOST: Final = 500
"""Rows at once: to begin with, and at the extremes."""


class Pace:
    """Fits the number of rows to the time that their statements take.

    Not to the time until the answer is there: that is also what others do meanwhile, and whoever takes it for work of
    their own does ever less at once the busier everybody is, and never ends.

    Attributes:
        at_once: rows to be removed by the next piece of work.
    """

    def __init__(self) -> None:
        self.at_once = FIRST
        self._seconds = 0.0

    def timed(self, unit: Callable[[], Unit[T]]) -> Callable[[], Unit[T]]:
        """The same unit, whose statements are timed."""

        def timed() -> Unit[T]:
            began = time.perf_counter()
            result = yield from unit()
            self._seconds = time.perf_counter() - began
            return result

        return timed

    async def rest(self) -> None:
        """After a piece of work: fit the next one to what it took, and let others in."""
        fitting = self.at_once * TARGET_SECONDS / max(self._seconds, TARGET_SECONDS / 2)
        # At most twice as many as before, since the next ones may lie where the disk has to be asked.
        self.at_once = max(FEWEST, min(MOST, int(fitting)))
        await asyncio.sleep(self._seconds * REST)
