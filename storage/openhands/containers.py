"""What is stored by default lies in the user's folders, and in a container these go with it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

from storage.errors import ConfigurationError

MARKS: Final = (Path("/.dockerenv"), Path("/run/.containerenv"))
"""What Docker and Podman put into every container."""

_DATA: Final = ("database_url", "data_dir")
_KEY: Final = ("master_key", "master_key_file", "key_provider")


def refuse_what_a_container_loses(said: Collection[str], marks: Collection[Path] = MARKS) -> None:
    """Do nothing outside of containers, and in one whose data and key were placed on purpose.

    Args:
        said: names of the settings that were made, by whatever means.
        marks: files that only a container has.

    Raises:
        ConfigurationError: the place of the data or of the key was not said; names the variables.
    """
    if not any(mark.exists() for mark in marks):
        return
    missing = []
    if not set(_DATA) & set(said):
        missing.append("STORAGE_DATA_DIR (a folder on a mounted volume) or STORAGE_DATABASE_URL")
    if not set(_KEY) & set(said):
        missing.append("STORAGE_MASTER_KEY or STORAGE_MASTER_KEY_FILE (on a mounted volume, better another one)")
    if missing:
        raise ConfigurationError(
            "this is a container, and what is stored without further settings would go with it: set "
            + " and ".join(missing)
        )
