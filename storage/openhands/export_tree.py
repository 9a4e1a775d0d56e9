"""Where an export puts its files: a folder of its own that becomes the state directory when everything is in it."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from storage.durable import flush, sync
from storage.openhands.locations import SESSIONS, home_path
from storage.private_folder import make_private_folder

_MODE: Final = 0o600
_ACCOUNT_FILE: Final = re.compile(r"(users/[^/]+/)?(settings|secrets)\.json")


@dataclass(frozen=True, slots=True)
class Displaced:
    """A file that is not in the state directory, because its place is another's there."""

    path: str
    size: int
    reason: str


def place_files(staging: Path, root: Path, owner: str | None) -> list[Displaced]:
    """Move a user's files from where the catalogue's paths have put them to where OpenHands looks for them.

    Args:
        staging: on the same file system as `root`.
        root: the state directory.
        owner: None for the user whose data lies at the top.

    Returns:
        those that could not be moved, for something else has their place.
    """
    displaced = []
    for folder, names, files in os.walk(staging):
        inside = Path(folder).relative_to(staging).as_posix()
        if inside == SESSIONS:
            # By the folder, as far as it goes: a conversation may have thousands of files.
            names[:] = [name for name in names if not _move_conversation(Path(folder, name), root, owner)]
        for name in files:
            path = name if inside == "." else f"{inside}/{name}"
            reason = _move(Path(folder, name), root, home_path(owner, path))
            if reason is not None:
                size = Path(folder, name).stat().st_size
                displaced.append(Displaced(home_path(owner, path), size, reason))
    return displaced


def clear_for_metadata(place: Path, root: Path) -> list[Displaced]:
    """Remove what lies where a conversation's metadata.json has to be, unless it is a file of this name."""
    if place.parent.is_file():
        found, told = [place.parent], "the folder of a conversation has this name"
    elif place.is_dir():
        found = [path for path in place.rglob("*") if path.is_file()]
        told = "below a conversation's metadata.json"
    else:
        return []
    displaced = [Displaced(path.relative_to(root).as_posix(), path.stat().st_size, told) for path in found]
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.parent.unlink()
    return displaced


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, in place of one that is there; it is on the disk afterwards."""
    make_private_folder(path.parent)
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        flush(file.fileno())


def sync_folders(root: Path) -> None:
    """Have all names on the disk; the contents are there already."""
    for folder, _, _ in os.walk(root):
        sync(Path(folder))


def _move_conversation(folder: Path, root: Path, owner: str | None) -> bool:
    place = root / home_path(owner, f"{SESSIONS}/{folder.name}/")
    if os.path.lexists(place):
        return False
    try:
        make_private_folder(place.parent)
    except (FileExistsError, NotADirectoryError):
        return False  # the files are refused one by one
    folder.rename(place)
    return True


def _move(file: Path, root: Path, path: str) -> str | None:
    """Why the file could not go to a path of the state directory; None if it did."""
    if _ACCOUNT_FILE.fullmatch(path):
        return "OpenHands keeps the settings or the secrets under this name"
    place = root / path
    if os.path.lexists(place):
        return "something else has this name in a state directory"
    try:
        make_private_folder(place.parent)
    except (FileExistsError, NotADirectoryError):
        return "a file has the name of a folder that it is in"
    file.rename(place)
    return None
