"""`storage status`: what is stored, where, and whether all is well; for people, probes and scripts."""

from __future__ import annotations

from dataclasses import asdict

from storage.cli.connection import DEFAULT, AsJSON, Connection, file_place, opened
from storage.cli.output import line, pairs, show_json, size


async def status(*, connection: Connection = DEFAULT, json: AsJSON = False) -> int:
    """Show what is stored and where, and whether all is well. Changes nothing.

    Exits with 1 when something is wrong, and says what mends it.

    JSON: `{dialect, database, schema: {stored, needed, state}, counts: {…}, file_bytes, database_bytes,
    file_store: {kind, place}, keys: {state, reason, message, complete, kek_id, provider, where, data_keys},
    problems: [{code, message, remedy}]}`.
    """
    async with opened(connection) as storage:
        found = await storage.status()
        kind, place = file_place(storage)
    if json:
        show_json({**asdict(found), "file_store": {"kind": kind, "place": place}})
        return 1 if found.problems else 0
    pairs(
        [
            ("database", found.database),
            ("dialect", found.dialect),
            ("schema", f"revision {found.schema.stored} ({found.schema.state})"),
            ("database size", size(found.database_bytes)),
            ("files", place or kind),
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
