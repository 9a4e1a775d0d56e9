"""Whether every data key and every secret can be opened; the work is storage.encryption.rotation.doctor's."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from storage.doctor.finding import Finding, some

if TYPE_CHECKING:
    from storage.database.database import Database
    from storage.doctor.parts import OpenParts
    from storage.encryption.status import Unreadable


async def readable(_: Database, opened: OpenParts) -> list[Finding]:
    """What is wrong with the keys, and which values do not open, by their rows."""
    found = await opened.keys.doctor()
    findings = []
    for problem in found.problems:
        message, mend = _split(problem)
        findings.append(Finding("error", message, mend))
    by_reason: dict[str, list[Unreadable]] = defaultdict(list)
    for value in found.unreadable:
        by_reason[value.reason].append(value)
    for reason, values in sorted(by_reason.items()):
        places = some([_place(value) for value in values])
        remedy = "`storage keys doctor` lists them all; `storage secrets set` replaces one"
        findings.append(Finding("error", f"{len(values):,} values cannot be read ({reason}): {places}", remedy))
    return findings


def _split(problem: str) -> tuple[str, str]:
    """What is wrong, and what mends it; the doctor of keys gives both in one sentence."""
    message, separator, mend = problem.rpartition("; ")
    return (message, mend) if separator else (problem, "`storage keys status` says what to do")


def _place(value: Unreadable) -> str:
    name = f" {value.name}" if value.name else ""
    return f"{value.table}.{value.column}{name} of {value.user_id or 'everyone'!r}"
