"""`storage doctor`: looks for whatever is wrong, and says what mends it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from storage.cli.connection import DEFAULT, AsJSON, Connection, flag, opened, require_database
from storage.cli.output import line, note, plain, show_json

if TYPE_CHECKING:
    from storage.config import StorageConfig
    from storage.doctor.finding import CheckResult, Finding, Report

_LABELS = {"error": "problem", "warning": "warning", "note": "note"}


async def doctor(
    *,
    fix: Annotated[
        bool, flag("Mend what can be mended without a loss: permissions, indexes, SQLite's log, dangling rows.")
    ] = False,
    only: Annotated[
        tuple[str, ...],
        Parameter(
            negative="",
            show_default=False,
            help="Only this check, by its name as it is printed; may be given several times.",
        ),
    ] = (),
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> int:
    """Look for whatever is wrong, and say for each finding what mends it. Changes nothing without --fix.

    It compares the schema with what this release needs, checks the database's pages, indexes and foreign keys, lists
    the file store and compares it with the catalogue both ways, opens every secret, and looks at web hooks, disks,
    clocks and permissions. That reads a lot; `storage status` is what a probe asks. It also works where the storage
    cannot be opened. Exits with 1 if something is wrong; notes alone are no fault.

    JSON: `{well, checks: [{name, skipped, findings: [{severity, message, remedy, fixable}], fixed: […]}]}`; severity is
    `"error"`, `"warning"` or `"note"`, skipped is empty or says why the check was not made.
    """
    report = await _report(connection, fix=fix, only=only, quiet=json)
    if json:
        show_json({"well": report.is_well, "checks": [_as_json(check) for check in report.checks]})
    else:
        _show(report, fix=fix)
    return 0 if report.is_well else 1


async def _report(connection: Connection, *, fix: bool, only: Sequence[str], quiet: bool) -> Report:
    from storage.errors import DatabaseError

    def told(name: str) -> None:
        if not quiet and sys.stderr.isatty():
            note(f"looking at: {name}")

    config = connection.settings()
    require_database(config)
    async with AsyncExitStack() as stack:
        try:
            storage = await stack.enter_async_context(opened(connection, locked=True))
        except DatabaseError:
            return await _report_closed(config, fix=fix, only=only, told=told)
        return await storage.doctor(fix=fix, only=only, told=told)


async def _report_closed(
    config: StorageConfig, *, fix: bool, only: Sequence[str], told: Callable[[str], None]
) -> Report:
    """Of a storage that cannot be opened, because of its database."""
    from storage.cli.connection import database_only
    from storage.doctor.examination import examine
    from storage.doctor.finding import CheckResult, Finding, Report
    from storage.doctor.parts import Patient
    from storage.errors import DatabaseUnavailable

    try:
        async with database_only(config) as database:
            return await examine(Patient(config, database), fix=fix, only=only, told=told)
    except DatabaseUnavailable as error:
        report = await examine(Patient(config, None), fix=fix, only=only, told=told)
        broken = Finding("error", str(error), "mend that, or restore the database from a backup")
        return Report((CheckResult("database", (broken,)), *report.checks))


def _show(report: Report, *, fix: bool) -> None:
    width = max((len(check.name) for check in report.checks), default=0)
    for check in report.checks:
        if check.skipped:
            verdict = f"not looked at: {check.skipped}"
        elif check.findings:
            verdict = f"{len(check.findings)} found" + (f", {len(check.fixed)} mended" if check.fixed else "")
        else:
            verdict = f"well, {len(check.fixed)} mended" if check.fixed else "well"
        line(f"{check.name.ljust(width)}  {plain(verdict)}")
    findings = [finding for check in report.checks for finding in check.findings]
    for finding in findings:
        line()
        line(f"{_LABELS[finding.severity]}: {plain(finding.message)}")
        line(f"  remedy: {plain(finding.remedy)}")
    mended = [finding for check in report.checks for finding in check.fixed]
    for finding in mended:
        line()
        line(f"mended: {plain(finding.message)}")
    line()
    if report.is_well:
        line("all is well")
    elif not fix and any(finding.fix is not None for finding in findings):
        line("not all is well; `storage doctor --fix` mends some of it")
    else:
        line("not all is well")


def _as_json(check: CheckResult) -> dict[str, Any]:
    return {
        "name": check.name,
        "skipped": check.skipped,
        "findings": [_finding(finding) for finding in check.findings],
        "fixed": [_finding(finding) for finding in check.fixed],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "severity": finding.severity,
        "message": finding.message,
        "remedy": finding.remedy,
        "fixable": finding.fix is not None,
    }
