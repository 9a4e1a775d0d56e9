"""What has to be on the disk before going on: contents of files, and names in folders."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def flush(descriptor: int) -> None:
    """Make what was written reach the disk itself."""
    if sys.platform == "darwin":
        import fcntl

        # fsync there only hands the data to the drive, which may still lose it (fsync(2), F_FULLFSYNC).
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


def sync(path: Path) -> None:
    """The same for a file that somebody else has written, or for the names in a folder.

    Raises:
        OSError: the disk refuses, or there is no such file.
    """
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open a folder; NTFS journals the names
    descriptor = os.open(path, os.O_RDONLY)
    try:
        flush(descriptor)
    finally:
        os.close(descriptor)
