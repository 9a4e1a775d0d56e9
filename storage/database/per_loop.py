"""Things that belong to one event loop: made when that loop first asks, closed when it ends.

A pool's sockets cannot be closed from another loop, and a Storage may be used from several, one after the other
(a script that calls asyncio.run twice, a test suite). `asyncio.run` ends with loop.shutdown_asyncgens(), which closes
every async generator that is still open on that loop: so each of these things lives in one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Generic, TypeVar

R = TypeVar("R")


class PerLoop(Generic[R]):
    """One R for each event loop.

    Args:
        make: makes it; if that fails, the next one who asks tries again.
        dispose: closes it, on its own loop.
    """

    def __init__(self, make: Callable[[], Awaitable[R]], dispose: Callable[[R], Awaitable[None]]) -> None:
        self._make = make
        self._dispose = dispose
        self._lives: dict[asyncio.AbstractEventLoop, tuple[AsyncGenerator[R, None], asyncio.Task[R]]] = {}

    async def get(self) -> R:
        """The one of the running loop. Raises what `make` raises."""
        loop = asyncio.get_running_loop()
        life = self._lives.get(loop)
        if life is None:
            generator = self._live(loop)
            life = self._lives[loop] = (generator, loop.create_task(_first(generator)))
        # Shielded: the first caller may be cancelled, others still want it.
        return await asyncio.shield(life[1])

    async def _live(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[R, None]:
        try:
            made = await self._make()
            try:
                yield made
            finally:
                await self._dispose(made)
        finally:
            self._lives.pop(loop, None)

    async def close(self) -> None:
        """Close the one of the running loop. One of a loop that still runs elsewhere is closed when that loop ends."""
        life = self._lives.pop(asyncio.get_running_loop(), None)
        if life is not None:
            generator, starting = life
            await asyncio.wait({starting})
            await generator.aclose()


async def _first(generator: AsyncGenerator[R, None]) -> R:
    return await anext(generator)
