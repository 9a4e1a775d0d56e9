"""`storage status`: what is stored, where, and whether all is well; for people, probes and scripts."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from storage.cli.connection import DEFAULT, AsJSON, Connection, opened
from storage.cli.output import count, line, pairs, show_json, size

if TYPE_CHECKING:
    from storage.files.backends.cached import CacheStatistics


async def status(*, connection: Connection = DEFAULT, json: AsJSON = False) -> int:
    """Show what is stored and where, and whether all is well. Changes nothing.

    Exits with 1 when something is wrong, and says what mends it.

    JSON: `{dialect, database, schema: {stored, needed, state}, counts: {…}, file_bytes, database_bytes,
    file_store: {kind, place}, keys: {state, reason, message, complete, kek_id, provider, where, data_keys},
    file_cache: {limit_bytes, folder, held_bytes, held_files, hits, misses, bypassed}, problems: [{code, message,
    remedy}]}`. place is a folder, a bucket, or for `memory` a text. file_cache is null without one; its folder is null
    if it is in the memory of each process, and its hits, misses and bypassed files are those of this command.
    """
    async with opened(connection) as storage:
        found = await storage.status()
        kind, place = storage.config.file_store, storage.blobs.location
    if json:
        show_json({**asdict(found), "file_store": {"kind": kind, "place": place}})
        return 1 if found.problems else 0
    pairs(
        [
            ("database", found.database),
            ("dialect", found.dialect),
            ("schema", f"revision {found.schema.stored} ({found.schema.state})"),
            ("database size", size(found.database_bytes)),
            ("files", place if kind == "local" else f"{kind}: {place}"),
            *([] if found.file_cache is None else [("file cache", _shown(found.file_cache))]),
            ("size of files", size(found.file_bytes)),
            *((name.replace("_", " "), f"{number:,}") for name, number in found.counts.items()),
            ("keys", found.keys.state),
            ("key provider", found.keys.provider),
            ("key place", found.keys.where),
            ("data keys", found.keys.data_keys),
        ]
    )
    line()
    if not found.problems:
        line("all is well")
        return 0
    for problem in found.problems:
        line(f"problem: {problem.message}")
        line(f"  remedy: {problem.remedy}")
    return 1


def _shown(cache: CacheStatistics) -> str:
    """How large a cache may become, and what is in it where this process can see that."""
    if cache.folder is None:
        return f"at most {size(cache.limit_bytes)} in the memory of each process"
    held = f"{size(cache.held_bytes)} of {size(cache.limit_bytes)}, {count(cache.held_files, 'file')}"
    return f"{held}, in {cache.folder}"
