"""`storage webhooks listen` in a process of its own, beside the commands that send to it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.cli.conftest import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Shell

SECONDS = 20.0
"""After so long a receiver that has not ended by itself fails its test."""


class Listener:
    """The process, and where it listens."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url

    def ended(self) -> list[str]:
        """What it has shown, once it has ended by itself."""
        output, errors = self.process.communicate(timeout=SECONDS)
        assert (self.process.returncode, errors) == (0, "")
        return output.splitlines()


@contextmanager
def listening(shell: Shell, *words: str | Path) -> Iterator[Listener]:
    """A receiver with these options, on a port of its own unless they name one."""
    words = words if "--port" in words else ("--port", "0", *words)
    command = [sys.executable, "-m", "storage", "webhooks", "listen", *map(str, words)]
    environment = {**os.environ, **shell.environment, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=shell.folder
    ) as process:
        try:
            assert process.stderr is not None
            told = process.stderr.readline()
            assert told.startswith("listening on http://127.0.0.1:"), told
            yield Listener(process, told.split()[2].rstrip(";"))
        finally:
            process.kill()
