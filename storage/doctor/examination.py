"""Runs the checks one after the other. One that cannot be made is a finding of its own, and keeps no other from it."""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from storage.doctor import contents, database, machine, schema, secrets, webhooks
from storage.doctor.finding import CheckResult, Finding, Report
from storage.doctor.parts import OpenParts, Patient
from storage.errors import InvalidInput, StorageError

if TYPE_CHECKING:
    from storage.database.database import Database

Told = Callable[[str], None]
"""Called with the name of each check before it is made."""


@dataclass(frozen=True, slots=True)
class Check:
    """A check, by what it needs: nothing, a database that answers, or a storage that can be opened."""

    of_machine: Callable[[Patient], Awaitable[list[Finding]]] | None = None
    of_database: Callable[[Database], Awaitable[list[Finding]]] | None = None
    of_storage: Callable[[Database, OpenParts], Awaitable[list[Finding]]] | None = None


CHECKS: Final[Mapping[str, Check]] = {
    "permissions": Check(of_machine=machine.permissions),
    "disk": Check(of_machine=machine.disk),
    "schema": Check(of_database=schema.revision),
    "drift": Check(of_storage=schema.drift),
    "views": Check(of_storage=schema.views),
    "integrity": Check(of_database=database.integrity),
    "foreign-keys": Check(of_database=database.foreign_keys),
    "wal": Check(of_database=database.write_ahead_log),
    "privileges": Check(of_storage=database.privileges),
    "clock": Check(of_storage=machine.clock),
    "secrets": Check(of_storage=secrets.readable),
    "contents": Check(of_storage=contents.orphans),
    "web-hooks": Check(of_storage=webhooks.deliveries),
}
"""By name, the cheap ones that explain others first."""


async def examine(
    patient: Patient, *, fix: bool = False, only: Collection[str] = (), told: Told | None = None
) -> Report:
    """Make the checks.

    Args:
        patient: what is looked at.
        fix: mend what can be mended without a loss, and look again.
        only: names of checks; all if empty.
        told: of each check before it is made.

    Raises:
        InvalidInput: there is no check of a name.
    """
    for name in only:
        if name not in CHECKS:
            close = difflib.get_close_matches(name, CHECKS, 1)
            hint = f"did you mean {close[0]!r}? There" if close else "there"
            raise InvalidInput(f"there is no check {name!r}; {hint} are {', '.join(CHECKS)}")
    results = []
    for name, check in CHECKS.items():
        if only and name not in only:
            continue
        if told is not None:
            told(name)
        results.append(await _result(name, check, patient, fix=fix))
    return Report(tuple(results))


async def _result(name: str, check: Check, patient: Patient, *, fix: bool) -> CheckResult:
    found = await _findings(check, patient)
    if isinstance(found, str):
        return CheckResult(name, skipped=found)
    fixes = [finding for finding in found if finding.fix is not None]
    if not fix or not fixes:
        return CheckResult(name, tuple(found))
    failed: list[Finding] = []
    for finding in fixes:
        assert finding.fix is not None  # noqa: S101 - chosen for it above
        try:
            await finding.fix()
        except (StorageError, OSError) as error:
            failed.append(Finding("error", f"this could not be mended: {finding.message}: {error}", finding.remedy))
    again = await _findings(check, patient)
    left = [] if isinstance(again, str) else [*again, *failed]
    return CheckResult(name, tuple(left), tuple(finding for finding in fixes if finding not in left))


async def _findings(check: Check, patient: Patient) -> list[Finding] | str:
    """What a check finds, or why it cannot be made."""
    try:
        if check.of_machine is not None:
            return await check.of_machine(patient)
        if patient.database is None:
            return "the database cannot be opened"
        if check.of_database is not None:
            return await check.of_database(patient.database)
        if patient.opened is None or check.of_storage is None:
            return "the storage cannot be opened; see the findings above"
        return await check.of_storage(patient.database, patient.opened)
    except (StorageError, OSError) as error:
        return [Finding("error", f"this could not be looked at: {error}", "mend that first, and run it again")]
