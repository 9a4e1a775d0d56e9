"""A folder that is filled beside its place, and is there whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.durable import sync
from storage.errors import Conflict, FileAccessDenied, InvalidInput
from storage.private_folder import make_private_folder


@contextmanager
def whole_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A new folder beside `folder` to fill; it takes its place when the block ends well, and is removed otherwise.

    Raises:
        Conflict: there is something in `folder`, before or after the block.
        InvalidInput: `folder` is a file or a mount point.
        FileAccessDenied: it cannot be made.
    """
    target = Path(os.path.realpath(folder))
    _refuse_what_is_there(target)
    if os.path.ismount(target):
        raise InvalidInput(f"{target} is a mount point, which no other folder can take the place of; name one inside")
    try:
        make_private_folder(target.parent)
        building = Path(tempfile.mkdtemp(prefix=f".{target.name}.export-", dir=target.parent))
    except OSError as error:
        raise FileAccessDenied(f"{target} cannot be made: {error.strerror}") from error
    try:
        yield building
        _refuse_what_is_there(target)
        building.rename(target)  # onto an empty folder, too
        sync(target.parent)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def _refuse_what_is_there(target: Path) -> None:
    try:
        if next(target.iterdir(), None) is not None:
            raise Conflict(f"{target} is not empty; name a folder that is not there yet")
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise InvalidInput(f"{target} is a file; name a folder that is not there yet") from None
