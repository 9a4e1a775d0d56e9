"""A real receiver for the tests of web hooks: one process for all of them, as new for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.receiver import ReceiverProcess


@pytest.fixture(scope="session")
def receiver_process() -> Iterator[ReceiverProcess]:
    """The receiver's process, started when the first test asks for it."""
    with ReceiverProcess() as process:
        yield process


@pytest.fixture
def receiver(receiver_process: ReceiverProcess) -> ReceiverProcess:
    """A receiver that accepts, answers 200 and remembers nothing yet."""
    receiver_process.reset()
    return receiver_process
