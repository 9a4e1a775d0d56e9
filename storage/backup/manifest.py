"""What an archive says of itself: everything that is in it, with its hash, and which keys it needs; never a key."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final

from storage.backup.values import KINDS, ArchivedColumn
from storage.database.statement import DialectName
from storage.errors import ArchiveDamaged, ArchiveTooNew

FORMAT: Final = "agent-storage-backup"
FORMAT_VERSION: Final = 1

MANIFEST: Final = "manifest.json"
"""Written last: without it there is no archive."""

LARGEST_MANIFEST: Final = 16 * 1024 * 1024
"""Bytes; it names tables and no rows, so a larger one is none of ours."""

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
_PART: Final = re.compile(r"data-[0-9a-f]{32}/[a-z0-9_]+\.jsonl")
_HASH: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Part:
    """A file of the archive.

    Attributes:
        path: in the archive.
        lines: how many it has.
        sha256: of its bytes, 64 hexadecimal digits.
    """

    path: str
    lines: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ArchivedTable:
    """A table: its rows are the lines of the part, in the order of the keys, the columns of its primary key."""

    name: str
    columns: tuple[ArchivedColumn, ...]
    keys: tuple[str, ...]
    part: Part


@dataclass(frozen=True, slots=True)
class ArchivedBlobs:
    """The contents that are in the file store.

    Attributes:
        part: names each that is in the archive, with size and hash; None if they were left out.
        number: how many are in the archive.
        bytes: of these.
        left_out: how many the catalogue has that are not in the archive.
    """

    part: Part | None
    number: int
    bytes: int
    left_out: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is in an archive.

    Attributes:
        made_at: the moment whose state it holds: everything that was committed before.
        dialect: of the database it comes from.
        revision: of the schema.
        tables: in an order in which rows can be inserted.
        sequences: by table, the last number given out.
        blobs: contents of files.
        master_keys: ids of the master keys that the data keys are wrapped with, hexadecimal.
    """

    made_at: datetime
    dialect: DialectName
    revision: str
    tables: tuple[ArchivedTable, ...]
    sequences: dict[str, int]
    blobs: ArchivedBlobs
    master_keys: tuple[str, ...]
    format: str = field(default=FORMAT)
    version: int = field(default=FORMAT_VERSION)

    def to_json(self) -> bytes:
        """The manifest as text, for the archive."""
        return (json.dumps(asdict(self), indent=1, default=datetime.isoformat) + "\n").encode()

    @property
    def rows(self) -> int:
        """Of all tables."""
        return sum(table.part.lines for table in self.tables)


def read_manifest(content: bytes) -> Manifest:
    """A manifest from its text; every name in it is one that we would have given.

    Raises:
        ArchiveTooNew: a newer release has made it.
        ArchiveDamaged: it is no manifest.
    """
    try:
        found = json.loads(content)
        if found["format"] != FORMAT:
            raise ValueError("of another format")
        if found["version"] > FORMAT_VERSION:
            raise ArchiveTooNew(
                f"the archive has format {found['version']}, and this release knows {FORMAT_VERSION}: upgrade it"
            )
        blobs = found["blobs"]
        return Manifest(
            made_at=datetime.fromisoformat(found["made_at"]),
            dialect=_one_of(found["dialect"], "sqlite", "postgresql"),
            revision=_matching(re.compile(r"[0-9a-z]{1,32}"), found["revision"]),
            tables=tuple(_table(table) for table in found["tables"]),
            sequences={_matching(_NAME, name): int(number) for name, number in found["sequences"].items()},
            blobs=ArchivedBlobs(
                None if blobs["part"] is None else _part(blobs["part"]),
                int(blobs["number"]),
                int(blobs["bytes"]),
                int(blobs["left_out"]),
            ),
            master_keys=tuple(_matching(re.compile(r"[0-9a-f]+"), each) for each in found["master_keys"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ArchiveDamaged(f"{MANIFEST} is not one of ours: {error}") from None


def _table(found: dict[str, Any]) -> ArchivedTable:
    columns = tuple(
        ArchivedColumn(_matching(_NAME, column["name"]), _one_of(column["kind"], *KINDS)) for column in found["columns"]
    )
    keys = tuple(_one_of(key, *(column.name for column in columns)) for key in found["keys"])
    return ArchivedTable(_matching(_NAME, found["name"]), columns, keys, _part(found["part"]))


def _part(found: dict[str, Any]) -> Part:
    return Part(_matching(_PART, found["path"]), int(found["lines"]), _matching(_HASH, found["sha256"]))


def _matching(pattern: re.Pattern[str], value: Any) -> str:
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise ValueError(f"{value!r} is not what stands there")
    return value


def _one_of(value: Any, *known: Any) -> Any:
    if value not in known:
        raise ValueError(f"{value!r} is not known")
    return value
