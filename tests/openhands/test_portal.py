from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import TYPE_CHECKING, NoReturn

import pytest

from storage.errors import ForkDetected, StorageClosed
from storage.openhands.portal import Portal, PortalBlocked

if TYPE_CHECKING:
    from collections.abc import Iterator

_asked_by: ContextVar[str] = ContextVar("asked_by", default="nobody")


@pytest.fixture
def portal() -> Iterator[Portal]:
    made = Portal()
    yield made
    made.close()


async def thread_name() -> str:
    await asyncio.sleep(0)
    return threading.current_thread().name


async def fail() -> NoReturn:
    raise FileNotFoundError("nothing there")


def test_calls_from_many_threads_run_on_the_one_thread_of_the_portal(portal: Portal) -> None:
    with ThreadPoolExecutor(8) as threads:
        names = set(threads.map(lambda _: portal.call(thread_name), range(64)))
    assert names == {"storage-portal"}


def test_calls_of_different_threads_go_on_at_the_same_time(portal: Portal) -> None:
    async def made() -> asyncio.Barrier:
        return asyncio.Barrier(4)

    barrier = portal.call(made)
    with ThreadPoolExecutor(4) as threads:
        # Each waits for the other three, so one after the other would never end.
        places = {future.result(timeout=30) for future in [threads.submit(portal.call, barrier.wait) for _ in range(4)]}
    assert places == {0, 1, 2, 3}


def test_what_the_function_raises_is_raised_in_the_caller(portal: Portal) -> None:
    with pytest.raises(FileNotFoundError, match="nothing there"):
        portal.call(fail)


async def test_a_caller_with_a_loop_of_its_own_goes_on_while_it_waits(portal: Portal) -> None:
    answered = asyncio.Event()
    here = asyncio.get_running_loop()

    async def ask_back() -> str:
        # The portal's loop waits for this one, which therefore must not be blocked.
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(answered.wait(), here))
        return await thread_name()

    waiting = asyncio.ensure_future(portal.await_(ask_back))
    await asyncio.sleep(0)
    answered.set()
    assert await waiting == "storage-portal"


async def test_an_awaited_function_raises_in_the_caller(portal: Portal) -> None:
    with pytest.raises(FileNotFoundError, match="nothing there"):
        await portal.await_(fail)


def test_threads_with_loops_of_their_own_share_the_portal(portal: Portal) -> None:
    async def several() -> set[str]:
        return set(await asyncio.gather(*(portal.await_(thread_name) for _ in range(10))))

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda _: asyncio.run(several()), range(4))) == [{"storage-portal"}] * 4


def test_a_synchronous_call_on_the_portals_own_thread_is_refused_and_not_waited_for(portal: Portal) -> None:
    async def call_again() -> str:
        return portal.call(thread_name)

    with pytest.raises(PortalBlocked, match="await the asynchronous method"):
        portal.call(call_again)


def test_awaiting_on_the_portals_own_loop_works(portal: Portal) -> None:
    async def await_again() -> str:
        return await portal.await_(thread_name)

    assert portal.call(await_again) == "storage-portal"


def test_the_callers_context_variables_are_seen(portal: Portal) -> None:
    async def asked_by() -> str:
        return _asked_by.get()

    _asked_by.set("alice")
    assert portal.call(asked_by) == "alice"


async def test_cancelling_the_wait_cancels_the_call(portal: Portal) -> None:
    began, cancelled = threading.Event(), threading.Event()

    async def wait_for_ever() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    waiting = asyncio.ensure_future(portal.await_(wait_for_ever))
    await asyncio.to_thread(began.wait, 30)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await asyncio.to_thread(cancelled.wait, 30)


def test_closing_waits_for_calls_under_way() -> None:
    portal = Portal()
    began, go_on = threading.Event(), threading.Event()

    async def finish() -> str:
        began.set()
        await asyncio.to_thread(go_on.wait, 30)
        return "finished"

    with ThreadPoolExecutor(2) as threads:
        call = threads.submit(portal.call, finish)
        began.wait(30)
        closing = threads.submit(portal.close)
        go_on.set()
        closing.result(timeout=30)
        assert call.result(timeout=30) == "finished"


def test_what_hangs_when_the_portal_closes_is_cut_off() -> None:
    portal = Portal()
    began = threading.Event()

    async def hang() -> None:
        began.set()
        await asyncio.Event().wait()

    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(portal.call, hang)
        began.wait(30)
        portal.close(timeout=0.01)
        with pytest.raises(StorageClosed, match=r"before .*hang had ended"):
            call.result(timeout=30)


async def test_an_awaited_call_that_is_cut_off_is_no_cancellation() -> None:
    portal = Portal()
    began = threading.Event()

    async def hang() -> None:
        began.set()
        await asyncio.Event().wait()

    waiting = asyncio.ensure_future(portal.await_(hang))
    await asyncio.to_thread(began.wait, 30)
    await asyncio.to_thread(portal.close, 0.01)
    with pytest.raises(StorageClosed, match=r"before .*hang had ended"):
        await waiting


async def test_a_closed_portal_takes_no_calls_and_closes_again() -> None:
    portal = Portal()
    portal.close()
    portal.close()
    assert not portal.is_open
    with pytest.raises(StorageClosed):
        portal.call(thread_name)
    with pytest.raises(StorageClosed):
        await portal.await_(thread_name)


def test_the_portal_cannot_be_closed_on_its_own_thread(portal: Portal) -> None:
    async def close() -> None:
        portal.close()

    with pytest.raises(PortalBlocked):
        portal.call(close)
    assert portal.call(thread_name) == "storage-portal"


def _in_child(portal: Portal, answer: multiprocessing.SimpleQueue[str]) -> None:
    try:
        portal.call(thread_name)
    except ForkDetected as error:
        answer.put(str(error))
    portal.close()  # nor does it wait for the parent's thread


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_is_told_to_open_its_own(portal: Portal) -> None:
    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()
    child = context.Process(target=_in_child, args=(portal, answer))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert "after the fork" in answer.get()
    assert portal.call(thread_name) == "storage-portal"
