"""What an import did, by kind and by user, with every flaw by name: the proof that nothing was lost silently."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from storage.openhands.flaws import Flaw, count_by_code

KINDS: Final = ("conversations", "files", "settings", "secrets")
_LISTED_USERS: Final = 50  # more are a number: an installation may have thousands
_LISTED_FLAWS: Final = 200  # more than a person reads; programs get them all from as_dict()


@dataclass(slots=True)
class Tally:
    """How many of one kind were found, and what became of them; a dry run counts what would become of them.

    Attributes:
        found: in the source; always the sum of the others.
        imported: that were not there and are now.
        overwritten: that were there with other content, and now have the source's.
        unchanged: that were there already, the same.
        kept: that are there with other content, which was left as it is.
        skipped: that could not be imported; a flaw says why.
        bytes: of what was imported or overwritten; 0 for what is not a file.
    """

    imported: int = 0
    overwritten: int = 0
    unchanged: int = 0
    kept: int = 0
    skipped: int = 0
    bytes: int = 0

    @property
    def found(self) -> int:
        return self.imported + self.overwritten + self.unchanged + self.kept + self.skipped

    def add(self, other: Tally) -> None:
        """Add the other's counts to this one's."""
        for name, count in asdict(other).items():
            setattr(self, name, getattr(self, name) + count)


@dataclass(slots=True)
class UserReport:
    """The tallies of one user's data."""

    conversations: Tally = field(default_factory=Tally)
    files: Tally = field(default_factory=Tally)
    settings: Tally = field(default_factory=Tally)
    secrets: Tally = field(default_factory=Tally)


@dataclass(slots=True)
class ImportReport:
    """An import's result.

    Attributes:
        source: the path that was imported, as it was given.
        dry_run: nothing was written, and the tallies tell what would have been.
        users: by user id in stored form, in the order of the source.
        recovered: how many of the conversations found had to be rebuilt.
        flaws: in the order in which they were met.
    """

    source: str
    dry_run: bool
    users: dict[str, UserReport] = field(default_factory=dict)
    recovered: int = 0
    flaws: list[Flaw] = field(default_factory=list)

    def user(self, user_id: str) -> UserReport:
        """The user's part, begun if there is none yet."""
        return self.users.setdefault(user_id, UserReport())

    def total(self, kind: str) -> Tally:
        """The sum over all users of one of KINDS."""
        total = Tally()
        for report in self.users.values():
            total.add(getattr(report, kind))
        return total

    @property
    def changed(self) -> bool:
        """Whether the import wrote anything (or, on a dry run, would)."""
        totals = [self.total(kind) for kind in KINDS]
        return any(total.imported or total.overwritten for total in totals)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values, for programs."""
        return {
            "source": self.source,
            "dry_run": self.dry_run,
            "changed": self.changed,
            "recovered": self.recovered,
            "total": {kind: _counts(self.total(kind)) for kind in KINDS},
            "users": {
                user: {kind: _counts(getattr(report, kind)) for kind in KINDS} for user, report in self.users.items()
            },
            "flaw_counts": count_by_code(self.flaws),
            "flaws": [{"code": flaw.code, "path": flaw.path, "message": flaw.message} for flaw in self.flaws],
        }

    def lines(self) -> Iterator[str]:
        """The report as text, line by line, for people."""
        done = "would be imported" if self.dry_run else "imported"
        for kind in KINDS:
            total = self.total(kind)
            if total.found:
                yield f"{kind}: {', '.join(_told(total, done, with_bytes=kind == 'files'))}"
        if self.recovered:
            yield f"recovered: {self.recovered} of the conversations, rebuilt and tagged 'recovered'"
        if len(self.users) > 1:
            yield self._users()
        if not any(self.total(kind).found for kind in KINDS):
            yield "nothing to import: no conversation, file, setting or secret that can be read"
        elif not self.changed:
            yield "nothing to do: everything that can be imported is there already"
        if self.flaws:
            yield f"flaws: {len(self.flaws)}"
        for flaw in self.flaws[:_LISTED_FLAWS]:
            yield f"  {flaw}"
        if len(self.flaws) > _LISTED_FLAWS:
            yield f"  … and {len(self.flaws) - _LISTED_FLAWS} more"

    def _users(self) -> str:
        counts = {user: report.conversations.found for user, report in self.users.items()}
        if not any(counts.values()) or len(counts) > _LISTED_USERS:
            return f"users: {len(counts):,}"
        return f"conversations by user: {', '.join(f'{user} {count}' for user, count in counts.items())}"


def _counts(tally: Tally) -> dict[str, int]:
    return {"found": tally.found, **asdict(tally)}


def _told(tally: Tally, done: str, *, with_bytes: bool) -> Iterator[str]:
    yield f"{tally.found:,} found"
    size = f" ({tally.bytes:,} bytes)" if with_bytes else ""
    yield f"{tally.imported:,} {done}{size}"
    if tally.overwritten:
        yield f"{tally.overwritten:,} overwritten"
    if tally.unchanged:
        yield f"{tally.unchanged:,} unchanged"
    if tally.kept:
        yield f"{tally.kept:,} left as they are in the storage"
    if tally.skipped:
        yield f"{tally.skipped:,} skipped"
