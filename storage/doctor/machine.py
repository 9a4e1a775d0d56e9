"""What surrounds the storage: room on the disks, who may read its files, and whether the clocks agree."""

from __future__ import annotations

import asyncio
import os
import stat
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import DateTime, column, select, text

from storage.clock import now
from storage.database.statement import Statement
from storage.database.url import parse_url
from storage.doctor.finding import Finding
from storage.status import disk_problem
from storage.tables import EventTable

if TYPE_CHECKING:
    from datetime import datetime

    from storage.config import StorageConfig
    from storage.database.database import Database
    from storage.doctor.parts import OpenParts, Patient

CLOCK_SECONDS: Final = 5.0
"""Clocks that NTP sets agree within milliseconds. Leases of web hooks last minutes, the collector's grace hours."""

_event: Final[Any] = EventTable.__table__  # type: ignore[attr-defined]
_LATEST_EVENT: Final = Statement(
    "report.doctor_latest_event", select(_event.c.created_at).order_by(_event.c.seq.desc()).limit(1)
)
_SERVER_TIME: Final = Statement(
    "report.doctor_server_time", text("SELECT clock_timestamp()").columns(column("now", DateTime(timezone=True)))
)


# ---- disks


async def disk(patient: Patient) -> list[Finding]:
    """Whether a disk of this machine is low or full."""
    guard = _guard(patient.config) if patient.opened is None else patient.opened.guard
    problems = [disk_problem(found) for found in await asyncio.to_thread(guard.read) if found.state != "ok"]
    return [Finding(problem.severity, problem.message, problem.remedy) for problem in problems]


def _guard(config: StorageConfig) -> Any:
    from storage.files.disk_guard import DiskGuard

    places = {name: path for name, path, _ in _places(config)}
    return DiskGuard(places, config.disk_warn_bytes, config.disk_refuse_bytes)


# ---- permissions


def _places(config: StorageConfig) -> list[tuple[str, Path, bool]]:
    """The folders of the database and of the local file store: name, path, and whether the folder is ours alone."""
    places = []
    file = parse_url(config.database_url or config.sqlite_default()).file
    if file is not None:
        # A database that was placed elsewhere may share its folder with other things.
        places.append(("database", file.parent, config.database_url is None))
    if config.file_store == "local":
        places.append(("files", Path(config.file_store_path or config.files_default()).expanduser(), True))
    return places


async def permissions(patient: Patient) -> list[Finding]:
    """Whether others may read what is stored, and whether this user may read and write it."""
    return await asyncio.to_thread(_permissions, patient.config)


def _permissions(config: StorageConfig) -> list[Finding]:
    if os.name != "posix":
        return []
    findings: list[Finding] = []
    for _, folder, is_ours in _places(config):
        if is_ours:
            findings += _of(folder, "the folder", os.R_OK | os.W_OK | os.X_OK)
    file = parse_url(config.database_url or config.sqlite_default()).file
    if file is not None:
        for ending in ("", "-wal", "-shm"):
            findings += _of(Path(f"{file}{ending}"), "the database file", os.R_OK | os.W_OK)
    if config.key_provider in (None, "key-file") and config.master_key is None:
        # The provider refuses a key file that others may read, so here it is no matter of taste.
        findings += _of(config.master_key_file.expanduser(), "the key file", os.R_OK, group_too=True)
    return findings


def _of(path: Path, what: str, needed: int, *, group_too: bool = False) -> list[Finding]:
    try:
        found = path.stat()
    except OSError:
        return []  # what is not there yet is made with the right mode; what cannot be looked at, opening tells of
    mode = stat.S_IMODE(found.st_mode)
    findings = []
    if not os.access(path, needed):
        message = f"{what} {path} cannot be used by this user (mode {mode:04o}, owner {found.st_uid})"
        findings.append(Finding("error", message, f"`chown` or `chmod` it for the user {os.geteuid()}"))
    open_to = mode & (stat.S_IRWXO | (stat.S_IRWXG if group_too else 0))
    if open_to:
        message = f"others may use {what} {path} (mode {mode:04o})"
        remedy = f"`chmod {'go' if group_too else 'o'}-rwx {path}`, or `storage doctor --fix`"
        findings.append(
            Finding(
                "error" if group_too else "warning", message, remedy, partial(asyncio.to_thread, _close, path, open_to)
            )
        )
    elif mode & stat.S_IRWXG:
        message = f"the group of {what} {path} may use it (mode {mode:04o})"
        findings.append(Finding("note", message, f"`chmod g-rwx {path}`, unless that is meant"))
    return findings


def _close(path: Path, bits: int) -> None:
    path.chmod(stat.S_IMODE(path.stat().st_mode) & ~bits)


# ---- clock


async def clock(database: Database, _: OpenParts) -> list[Finding]:
    """Whether this machine's clock agrees with the database server's, and with those of whoever wrote last."""
    findings = []
    if database.dialect == "postgresql":
        before = now()
        ((there,),) = await database.read(_SERVER_TIME, {})
        # It read its clock at some time in between.
        ahead = max((before - there).total_seconds(), (there - now()).total_seconds())
        if ahead > CLOCK_SECONDS:
            message = f"this machine's clock and the database server's differ by {ahead:.0f} seconds"
            findings.append(Finding("error", message, "set both by NTP (timedatectl set-ntp true)"))
    rows = await database.read(_LATEST_EVENT, {})
    latest: datetime | None = rows[0][0] if rows else None
    if latest is not None and (ahead := (latest - now()).total_seconds()) > CLOCK_SECONDS:
        message = f"the latest event is of {latest:%Y-%m-%d %H:%M:%S} UTC, {ahead:.0f} s to come: a clock is wrong"
        findings.append(Finding("error", message, "set the clocks of all machines that write by NTP"))
    return findings
