"""What can be wrong in what is imported, by name.

An import never hides a repair, a skip or a guess, and a stable code lets programs and tests count them
without reading the sentences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

# code → what it means for the data. `Flaw.code` is always one of these keys.
FLAW_CODES: Final[dict[str, str]] = {
    # a conversation's metadata.json
    "metadata-missing": "the conversation was rebuilt from its events",
    "metadata-broken": "the conversation was rebuilt from its events; the broken bytes are kept as a file",
    "created-at-missing": "the time of creation was taken from elsewhere",
    "naive-time": "a time without zone was taken as UTC",
    "other-offset": "a time in another zone was converted to UTC",
    "numeric-time": "a time given as a number was read as seconds since 1970",
    "bad-value": "a value of the wrong kind was left out; the original bytes are kept as a file",
    "bad-character": "characters that no database stores were replaced",
    "unknown-trigger": "a trigger that is not known was kept as it is",
    "unknown-provider": "a provider that is not known was kept as it is",
    "unknown-field": "a field that is not known was kept",
    "legacy-field": "a field of an older release was kept among the extra fields",
    "id-differs": "the folder's name was used as the conversation's id",
    "user-differs": "the folder's user was used as the conversation's user",
    "split-conversation": "one conversation lay in two folders and was put together",
    "duplicate-conversation": "the id is used by two users; the first one's conversation has it",
    "empty-conversation": "a folder without any file was skipped",
    # files
    "event-broken": "an event that is not JSON was kept as a file",
    "event-gap": "numbers are missing in the sequence of events",
    "foreign-file": "a file of the operating system's was skipped",
    "hidden-file": "a hidden file outside conversations was skipped",
    "secret-file": "a file that holds secrets in clear was skipped",
    "unknown-file": "a file that belongs to no conversation was kept as a file of its user",
    "renamed-file": "a name that cannot be stored was escaped",
    "unreadable-file": "a file that could not be read was skipped",
    "unreadable-folder": "a folder that could not be read was skipped",
    "file-too-large": "a file over the size limit was skipped",
    "link": "a link was not followed",
    "special-file": "a pipe, socket or device was skipped",
    # archives
    "unsafe-member": "a member that points outside the archive, or lies endlessly deep, was skipped",
    "damaged-archive": "the archive ends early or is damaged; what came before was read",
    # settings.json and secrets.json
    "settings-broken": "the settings could not be read and were skipped",
    "settings-invalid": "a setting outside its limits was left out",
    "secrets-broken": "the secrets could not be read and were skipped",
    "masked-secret": "a masked secret was not imported: its value is not in the source",
    "encrypted-secret": "an encrypted value was not imported: the JWT secret that it needs is not at hand",
    "empty-secret": "an empty secret was imported empty",
    "empty-token": "a provider without a token was skipped",
    "secrets-in-settings": "secrets found in the settings were put with the secrets",
    # the database of an OpenHands enterprise installation
    "duplicate-row": "two rows of a user say the same thing differently; one was left out",
    "organization-secret": "an organisation's keys belong to no user and were left out",
    "ownerless-row": "rows that name no user were left out",
    "unread-table": "a table of another release was not read",
    # the database that is imported into
    "identifier-taken": "the id belongs to another user of this storage; the conversation was skipped",
    "kept-existing": "the storage has its own; it was not overwritten",
    "path-taken": "the path holds other bytes in the storage; they were not overwritten",
    "rejected": "the storage refused it",
}


@dataclass(frozen=True, slots=True, order=True)
class Flaw:
    """One thing that was not as it should be.

    `path` is relative to the state directory, with `/` between the parts, or a table and whose rows they are;
    `message` says what was found and what was done about it. Neither ever holds a secret value, and both can be
    printed whatever a name holds.
    """

    code: str
    path: str
    message: str

    def __post_init__(self) -> None:
        if self.code not in FLAW_CODES:
            raise ValueError(f"{self.code!r} is not a flaw code; the codes are the keys of FLAW_CODES")
        object.__setattr__(self, "path", printable(self.path))
        object.__setattr__(self, "message", printable(self.message))

    def __str__(self) -> str:
        return f"{self.path}: {self.message} [{self.code}]"


def printable(text: str) -> str:
    """The text with control characters and what is not Unicode escaped, as Python writes them."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def count_by_code(flaws: Iterable[Flaw]) -> dict[str, int]:
    """How often each code occurs, sorted by code."""
    return dict(sorted(Counter(flaw.code for flaw in flaws).items()))
