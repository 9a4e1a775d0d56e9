"""The text of a key file, changed without losing a key or a comment.

The lines are people's: they note beside a key which one it is. So comments move with the key below them, and
everything else stays as it was written.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import takewhile
from typing import Final

from storage.encryption.providers.local_keys import MasterKey, parse_master_keys

HEADER: Final = (
    "# Master keys of agent-storage, the active one first. Without this file nobody can read the secrets in the\n"
    "# database. Keep a copy of it in a safe place, apart from the database's backups.\n"
)


def new_text(keys: Sequence[MasterKey]) -> str:
    """A key file of these keys."""
    return HEADER + _entries(keys)


def with_keys_behind(text: str, keys: Sequence[MasterKey]) -> str:
    """`text` and, at its end, the keys that are not in it."""
    present = _keys(text)
    missing = [key for key in dict.fromkeys(keys) if key not in present]
    if not missing:
        return text
    return text + ("" if text.endswith("\n") else "\n") + _entries(missing)


def with_key_first(text: str, key: MasterKey) -> str:
    """`text` with `key`, which must be in it, before all others.

    A key on a line of its own takes along the comments right above it; a key among others on a line leaves it.
    """
    if _keys(text)[0] == key:
        return text
    moved: list[str] = []
    kept: list[str] = []
    for line in text.splitlines(keepends=True):
        words = _words(line)
        others = [word for word in words if _keys(word) != (key,)]
        if len(others) == len(words):
            kept.append(line)
        elif others:
            kept.append(" ".join(others) + "\n")
        else:
            comments = list(takewhile(lambda above: above.lstrip().startswith("#"), reversed(kept)))
            del kept[len(kept) - len(comments) :]
            moved += [*reversed(comments), line if line.endswith("\n") else line + "\n"]
    if not moved:
        moved = [f"{key.encoded()}\n"]
    place = _first_entry(kept)
    return "".join([*kept[:place], *moved, *kept[place:]])


def _entries(keys: Sequence[MasterKey]) -> str:
    day = datetime.now(UTC).date().isoformat()
    return "".join(f"\n# Stored here on {day}.\n{key.encoded()}\n" for key in keys)


def _first_entry(lines: list[str]) -> int:
    """Where the first key's comments begin: below the header, or below whatever comes before them."""
    key_line = next(number for number, line in enumerate(lines) if _words(line))
    comments = takewhile(
        lambda above: above.lstrip().startswith("#") and above.strip() not in HEADER.splitlines(),
        reversed(lines[:key_line]),
    )
    return key_line - len(list(comments))


def _words(line: str) -> list[str]:
    return [] if line.lstrip().startswith("#") else line.replace(",", " ").split()


def _keys(text: str) -> tuple[MasterKey, ...]:
    return parse_master_keys(text, "the key file")
