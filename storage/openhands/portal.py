"""One thread with an event loop of its own, so that synchronous callers and other event loops share one open storage.

A Storage belongs to the loop that opened it, while OpenHands calls its stores from many threads and from several loops.
Whatever touches the storage therefore runs here, and callers wait for the result where they are.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from typing import Any, Final, ParamSpec, TypeVar

from storage.errors import ForkDetected, StorageClosed, StorageError

P = ParamSpec("P")
T = TypeVar("T")

CLOSE_SECONDS: Final = 10.0
"""How long closing waits for calls under way before it cancels them: one that hangs must not keep a process alive."""


class PortalBlocked(StorageError, RuntimeError):
    """A call that waits was made on the portal's own thread, where what it waits for could never run."""


class Portal:
    """A running event loop in a daemon thread; `close` ends it. Safe to use from any number of threads and loops.

    What is called sees the caller's context variables, and its exceptions are raised in the caller.

    Args:
        name: of the thread, for debuggers.
    """

    def __init__(self, name: str = "storage-portal") -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._closed = False
        self._running: set[asyncio.Task[Any]] = set()
        self._started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        # A daemon: threads that are not are waited for before anything that is called at exit could end them.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        self._loop, self._ending = self._started.result()

    def call(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `await function(…)` on the portal's loop and wait for the result, blocking this thread.

        An interruption of the wait (KeyboardInterrupt) cancels the call.

        Raises:
            PortalBlocked: this is the portal's own thread.
            StorageClosed: the portal was closed.
            ForkDetected: this process was forked from the one that the portal runs in.
        """
        if threading.current_thread() is self._thread:
            raise PortalBlocked(
                f"{_named(function)} was called synchronously on the storage's own thread, which would wait for itself;"
                " await the asynchronous method there"
            )
        future = self._submit(function, *args, **kwargs)
        try:
            return future.result()
        except CancelledError:
            raise self._cut_off(function) from None
        except BaseException:
            future.cancel()  # of no effect on one that has ended
            raise

    async def await_(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `await function(…)` on the portal's loop from another one, which goes on meanwhile.

        Cancelling the wait cancels the call. On the portal's own loop it is awaited as it is.

        Raises:
            StorageClosed: the portal was closed.
            ForkDetected: this process was forked from the one that the portal runs in.
        """
        if threading.current_thread() is self._thread:
            return await function(*args, **kwargs)
        future = self._submit(function, *args, **kwargs)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise self._cut_off(function) from None  # nobody cancelled the wait

    @property
    def is_open(self) -> bool:
        """Whether calls are taken, by this process."""
        return not self._closed and os.getpid() == self._pid

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        """Take no more calls, wait for those under way, and end the thread. Closing twice does nothing.

        Args:
            timeout: seconds after which calls that still run are cancelled.

        Raises:
            PortalBlocked: this is the portal's own thread.
        """
        if os.getpid() != self._pid:
            return  # the thread is the parent's
        if threading.current_thread() is self._thread:
            raise PortalBlocked("the portal cannot be closed on its own thread, which would wait for itself")
        with self._lock:
            first, self._closed = not self._closed, True
        if first:
            asyncio.run_coroutine_threadsafe(self._drain(timeout), self._loop)
        self._thread.join()

    def _submit(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if os.getpid() != self._pid:
            raise ForkDetected(
                "this process was forked after the storage was opened; open it after the fork, by process_storage()"
            )
        with self._lock:
            if self._closed:
                raise StorageClosed("the storage of this process was closed")
            return asyncio.run_coroutine_threadsafe(self._called(function, *args, **kwargs), self._loop)

    @staticmethod
    def _cut_off(function: Callable[..., Any]) -> StorageClosed:
        return StorageClosed(f"the storage of this process was closed before {_named(function)} had ended")

    # ---- on the portal's thread

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _serve(self) -> None:
        ending = asyncio.Event()
        self._started.set_result((asyncio.get_running_loop(), ending))
        await ending.wait()

    async def _called(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker: this runs as a task
        self._running.add(task)
        try:
            return await function(*args, **kwargs)
        finally:
            self._running.discard(task)

    async def _drain(self, timeout: float) -> None:
        """End the loop once the calls have ended. What is left by then, asyncio.run cancels."""
        # Each call began before this task did: both were handed over in this order.
        if self._running:
            await asyncio.wait(tuple(self._running), timeout=timeout)
        self._ending.set()

    def __repr__(self) -> str:
        return f"<Portal {self._thread.name!r}{' closed' if self._closed else ''}>"


def _named(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", type(function).__qualname__)
