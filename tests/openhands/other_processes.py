"""Other Python processes on the same storage, which the tests talk to by lines and kill when they like."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage.config import StorageConfig

_REPOSITORY = Path(__file__).parents[2]


def environment(config: StorageConfig) -> dict[str, str]:
    """The environment of a process that opens the same storage when it asks for none in particular."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("STORAGE_")}
    return own | {
        "STORAGE_DATABASE_URL": config.database_url or "",
        "STORAGE_DATA_DIR": str(config.data_dir),
        "STORAGE_FILE_STORE": "local",
        "STORAGE_FILE_STORE_PATH": str(config.file_store_path),
        "STORAGE_MASTER_KEY_FILE": str(config.master_key_file),
        "PYTHONPATH": str(_REPOSITORY),
    }


class OtherProcess:
    """A process that was started and has not been waited for."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self._popen = popen

    def say(self, line: str) -> None:
        """Send a line to its standard input."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(f"{line}\n")
        self._popen.stdin.flush()

    def hear(self) -> str:
        """The next line of its standard output; empty when it ended."""
        assert self._popen.stdout is not None
        return self._popen.stdout.readline().strip()

    def kill(self) -> None:
        """End it in the middle of whatever it does."""
        self._popen.kill()
        self._popen.wait(30)

    def end(self) -> None:
        """Wait until it ended by itself, and well."""
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        assert self._popen.wait(120) == 0


@contextmanager
def other_process(code: str, config: StorageConfig, *arguments: str) -> Iterator[OtherProcess]:
    """Run `code` in a process of its own; it is killed when the block ends, if it has not ended by itself."""
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=environment(config),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as popen:
        try:
            yield OtherProcess(popen)
        finally:
            popen.kill()
