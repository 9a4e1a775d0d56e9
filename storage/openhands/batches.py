"""Records in portions: so many at once that a transaction is worth it, so few that memory and locks stay small."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from storage.openhands.flaws import Flaw
from storage.openhands.reader import ConversationRecord, Home, SourceFile, unreadable

MAX_CONVERSATIONS: Final = 100
MAX_FILES: Final = 1_000
MAX_BYTES: Final = 32 * 1024 * 1024  # a batch holds at most this and one file more


@dataclass(slots=True)
class Batch:
    """Some of one user's data, contents included. `user` is None when the layout names none.

    A conversation with very many files comes in several batches, its record in the first of them.
    """

    user: str | None
    records: list[ConversationRecord] = field(default_factory=list)
    files: list[tuple[SourceFile, bytes]] = field(default_factory=list)
    unreadable: int = 0
    flaws: list[Flaw] = field(default_factory=list)
    bytes: int = 0

    @property
    def full(self) -> bool:
        return len(self.records) >= MAX_CONVERSATIONS or len(self.files) >= MAX_FILES or self.bytes >= MAX_BYTES

    def load(self, file: SourceFile) -> None:
        """Read one file into the batch; what cannot be read becomes a flaw."""
        try:
            data = file.read()
        except OSError as error:
            self.flaws.append(unreadable(file.source_path, error))
            self.unreadable += 1
            return
        self.files.append((file, data))
        self.bytes += len(data)
        flaw = file.examine(data)
        if flaw is not None:
            self.flaws.append(flaw)


def batches(home: Home) -> Iterator[Batch]:
    """All conversations, then all loose files, in batches of one user each."""
    batch = Batch(None)
    for record in home.conversations():
        if batch.full or record.user != batch.user:
            yield batch
            batch = Batch(record.user)
        batch.records.append(record)
        batch.flaws.extend(record.flaws)
        for file in record.files:
            if batch.full and batch.files:
                yield batch
                batch = Batch(record.user)
            batch.load(file)
    for user, file in home.loose_files():
        if batch.full or user != batch.user:
            yield batch
            batch = Batch(user)
        batch.load(file)
    yield batch
