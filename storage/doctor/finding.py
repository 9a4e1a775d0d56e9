"""What the doctor's checks give: findings, and how to mend them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Severity: TypeAlias = Literal["error", "warning", "note"]
"""`error`: something does not work, or is lost. `warning`: it will come to that. `note`: worth knowing, no fault."""

Fix: TypeAlias = Callable[[], Awaitable[None]]
"""Mends a finding. Only what can take nothing away from anybody, whatever is configured wrongly, has one."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a check has found.

    Attributes:
        severity: see Severity.
        message: what it is; names rows and files by their ids, never by their content.
        remedy: the command or setting that mends it.
        fix: mends it too; None if a person has to decide.
    """

    severity: Severity
    message: str
    remedy: str
    fix: Fix | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check has found.

    Attributes:
        name: stable, for programs and `only`.
        findings: what is wrong now, after what was mended.
        fixed: what was wrong and was mended.
        skipped: why the check was not made; empty if it was.
    """

    name: str
    findings: tuple[Finding, ...] = ()
    fixed: tuple[Finding, ...] = ()
    skipped: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What the doctor has found.

    Attributes:
        checks: in the order in which they were made.
    """

    checks: tuple[CheckResult, ...]

    @property
    def is_well(self) -> bool:
        """Whether nothing but notes is left, and no check had to be left out because of an error."""
        return not any(finding.severity != "note" for check in self.checks for finding in check.findings)


NAMED: int = 5
"""How many rows or files a finding names; more would be a list and not a sentence."""


def some(names: list[str]) -> str:
    """The first names of a list as text, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
