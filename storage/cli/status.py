"""`storage status`: what is stored, where, and whether all is well; for people, probes and scripts."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from storage.cli.connection import DEFAULT, AsJSON, Connection, flag, opened
from storage.cli.output import count, line, moment, pairs, plain, show_json, size

if TYPE_CHECKING:
    from storage.files.backends.cached import CacheStatistics
    from storage.files.disk_guard import DiskSpace
    from storage.status import StorageStatus, WebhookTotals


async def status(
    *,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
    metrics: Annotated[bool, flag("Print Prometheus text, for a scraper; exits with 0 whatever it finds.")] = False,
) -> int:
    """Show what is stored and where, and whether all is well. Changes nothing, and opens no secret.

    Exits with 1 when something is wrong, and says what mends it; a warning alone is no error. `storage doctor` looks
    closer, and takes longer.

    JSON: `{dialect, database, schema: {stored, needed, state}, counts: {…}, file_bytes, database_bytes,
    file_store: {kind, place}, keys: {state, reason, message, complete, kek_id, provider, where, data_keys},
    disks: [{place, path, free_bytes, total_bytes, state}], webhooks: {endpoints: {state: number}, breakers_open,
    pending, oldest_pending_at, dead, to_fan_out, oldest_to_fan_out_at}, file_cache: {limit_bytes, folder, held_bytes,
    held_files, hits, misses, bypassed}, problems: [{code, message, remedy, severity}]}`. The place of file_store is a
    folder, a bucket, or for `memory` a text. The state of a disk is `"ok"`, `"low"` or `"full"` (new files are
    refused); severity is `"error"` or `"warning"`. file_cache is null without one; its folder is null if it is in the
    memory of each process, and its hits, misses and bypassed files are those of this command.
    """
    from storage.errors import InvalidInput

    if json and metrics:
        raise InvalidInput("--json and --metrics exclude each other; give one of them")
    async with opened(connection) as storage:
        found = await storage.status()
        kind, place = storage.config.file_store, storage.blobs.location
    code = 1 if any(problem.severity == "error" for problem in found.problems) else 0
    if metrics:
        from storage.metrics import prometheus_text

        line(prometheus_text(found).rstrip("\n"))
        return 0
    if json:
        show_json({**asdict(found), "file_store": {"kind": kind, "place": place}})
        return code
    _show(found, place if kind == "local" else f"{kind}: {place}")
    line()
    for problem in found.problems:
        line(f"{'problem' if problem.severity == 'error' else 'warning'}: {plain(problem.message)}")
        line(f"  remedy: {plain(problem.remedy)}")
    if not found.problems:
        line("all is well")
    return code


def _show(found: StorageStatus, files: str) -> None:
    pairs(
        [
            ("database", found.database),
            ("dialect", found.dialect),
            ("schema", f"revision {found.schema.stored} ({found.schema.state})"),
            ("database size", size(found.database_bytes)),
            ("files", files),
            *([] if found.file_cache is None else [("file cache", _cached(found.file_cache))]),
            ("size of files", size(found.file_bytes)),
            *((f"disk of {disk.place}", _room(disk)) for disk in found.disks),
            *((name.replace("_", " "), f"{number:,}") for name, number in found.counts.items()),
            ("web hooks", _hooks(found.webhooks)),
            ("keys", found.keys.state),
            ("key provider", found.keys.provider),
            ("key place", found.keys.where),
            ("data keys", found.keys.data_keys),
        ]
    )


def _room(disk: DiskSpace) -> str:
    room = f"{size(disk.free_bytes)} of {size(disk.total_bytes)} free"
    return room if disk.state == "ok" else f"{room} ({disk.state})"


def _hooks(hooks: WebhookTotals) -> str:
    """What waits, where there is somebody to wait for."""
    number = sum(hooks.endpoints.values())
    if not number:
        return "no endpoints"
    since = "" if hooks.oldest_pending_at is None else f" since {moment(hooks.oldest_pending_at)}"
    return f"{count(number, 'endpoint')}, {hooks.pending:,} pending{since}, {hooks.dead:,} dead"


def _cached(cache: CacheStatistics) -> str:
    """How large a cache may become, and what is in it where this process can see that."""
    if cache.folder is None:
        return f"at most {size(cache.limit_bytes)} in the memory of each process"
    held = f"{size(cache.held_bytes)} of {size(cache.limit_bytes)}, {count(cache.held_files, 'file')}"
    return f"{held}, in {cache.folder}"
