"""The first start on a state directory that OpenHands' own stores have written: everything in it is moved in, once."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any, Final

from storage.clock import now
from storage.config import StorageConfig
from storage.durable import flush
from storage.openhands.importer import Progress, import_home
from storage.openhands.process_storage import ProcessStorage
from storage.openhands.reader import open_home
from storage.openhands.report import ImportReport

log = logging.getLogger(__name__)

MARKER: Final = ".imported-by-agent-storage"
"""In the state directory, once all of it is imported: a restart must not bring back what was deleted since."""

_STAYS: Final = ("openhands.db", "openhands.db-wal", "openhands.db-shm", "openhands.db-journal", "v1_conversations")
"""What the app server of releases 1.0 and later keeps there, and goes on using: a copy would be of no use to it."""

_MODE: Final = 0o600


def switch_over(place: ProcessStorage, state: Path) -> ImportReport | None:
    """Import the state directory unless that was done; blocks until it is, and tells the log how far it is.

    Interrupted, it goes on at the next start: what is there already is left as it is. The directory is only read, but
    for the marker.

    Returns:
        what was imported; None if nothing was to be.

    Raises:
        StorageError: it cannot be read, or not be stored.
    """
    database = place.storage.database.url.display
    marker = state / MARKER
    if (done := _read(marker)) is not None:
        if done.get("database") != database:
            log.warning(
                "%s was imported into %s on %s, and this is %s: nothing is imported again. To have it here as well, "
                "run `storage import openhands %s`",
                state,
                done.get("database"),
                done.get("finished_at"),
                database,
                state,
            )
        return None
    if not _holds_anything(state):
        return None
    log.info("importing %s into %s; the server starts when that is done", state, database)
    with open_home(state, left_out=[*_ours_below(state, place.storage.config), *_STAYS]) as home:
        report = place.portal.call(import_home, place.storage, home, progress=_told)
    for text in report.lines():
        log.info("%s", text)
    _write(marker, {"database": database, "finished_at": now().isoformat(), "imported": report.as_dict()["total"]})
    return report


def _holds_anything(state: Path) -> bool:
    return any((state / name).exists() for name in ("settings.json", "secrets.json", "sessions", "users"))


def _ours_below(state: Path, config: StorageConfig) -> list[str]:
    """What in the state directory is this library's, by relative path: in a container it may be the only volume."""
    root = state.resolve()
    places = [config.data_dir, config.master_key_file, Path(config.file_store_path or config.data_dir)]
    paths = [place.expanduser().resolve() for place in places]
    return [path.relative_to(root).as_posix() for path in paths if path != root and path.is_relative_to(root)]


def _told(progress: Progress) -> None:
    log.info(
        "imported %d of %d conversations, %d files",
        progress.conversations,
        progress.total_conversations,
        progress.files,
    )


def _read(marker: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(marker.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _write(marker: Path, content: dict[str, Any]) -> None:
    """At once and whole: a marker that is half written would be taken for one."""
    temporary = marker.with_name(f"{marker.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _MODE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.flush()
        flush(file.fileno())
    temporary.replace(marker)
