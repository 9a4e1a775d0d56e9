"""Folders that only their owner may enter: for the key file and for files, whose names alone tell something."""

from __future__ import annotations

from pathlib import Path
from typing import Final

FOLDER_MODE: Final = 0o700


def make_private_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, each with mode 0700; one that is there stays as it is.

    `Path.mkdir(parents=True)` leaves those above to the umask, and whoever may write to one of them can put a folder
    of their own in the place of ours.

    Raises:
        OSError: it cannot be made, or something else is in the way (FileExistsError).
    """
    try:
        path.mkdir(mode=FOLDER_MODE, exist_ok=True)
    except FileNotFoundError:
        make_private_folder(path.parent)
        path.mkdir(mode=FOLDER_MODE, exist_ok=True)
