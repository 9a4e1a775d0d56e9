"""The servers of the object stores, each started once for the whole run, when the first test asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.fake_gcs import FakeGcsServer
from tests.servers.faults import FaultProxy
from tests.servers.moto import MotoServer
from tests.servers.seaweedfs import SeaweedServer


@pytest.fixture(scope="session")
def seaweed() -> Iterator[SeaweedServer]:
    """S3 as SeaweedFS speaks it, which keeps folders as a tree."""
    with SeaweedServer() as server:
        yield server


@pytest.fixture(autouse=True)
def servers_still_run(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test during which a server ended says so, with the server's log."""
    yield
    for name in {"seaweed", "fake_gcs"}.intersection(request.fixturenames):
        request.getfixturevalue(name).check()


@pytest.fixture(scope="session")
def moto() -> Iterator[MotoServer]:
    """S3 as moto speaks it, which keeps keys in byte order, as AWS does."""
    with MotoServer() as server:
        yield server


@pytest.fixture(scope="session")
def fake_gcs() -> Iterator[FakeGcsServer]:
    """Google Cloud Storage's emulator."""
    with FakeGcsServer() as server:
        yield server


@pytest.fixture(scope="session")
def seaweed_proxy(seaweed: SeaweedServer) -> Iterator[FaultProxy]:
    """A proxy in front of SeaweedFS; `inject()` before use, since the last test's orders may be left."""
    with FaultProxy(seaweed.url) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def fake_gcs_proxy(fake_gcs: FakeGcsServer) -> Iterator[FaultProxy]:
    """A proxy in front of the emulator; see `seaweed_proxy`."""
    with FaultProxy(fake_gcs.url) as proxy:
        yield proxy
