"""How the commands of `storage files` show a file: as a row for people, and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from storage.cli.output import Column, count, line, moment, size, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.files.store import FileStat

_DIGITS: Final = 12
"""Of a SHA-256 in a table: enough to tell two files apart."""


def as_dict(name: str, stat: FileStat | None) -> dict[str, Any]:
    """A file, or the folder `name` if there is no stat."""
    if stat is None:
        return {"path": name, "kind": "folder"}
    return {
        "path": stat.path,
        "kind": "file",
        "size": stat.size,
        "sha256": stat.sha256,
        "media_type": stat.media_type,
        "version": stat.version,
        "created_at": stat.created_at,
        "updated_at": stat.updated_at,
        "etag": stat.etag,
    }


def show_table(entries: Sequence[tuple[str, FileStat | None]]) -> None:
    """Files and folders with what is known of them."""
    columns = [Column("Size", number=True), Column("Updated (UTC)"), Column("SHA-256"), Column("Path", wrap=True)]
    table(columns, [_row(name, stat) for name, stat in entries])


def show_sum(sizes: Sequence[int]) -> None:
    """How many files these are, and how large together."""
    line(f"{count(len(sizes), 'file')}, {size(sum(sizes))}")


def _row(name: str, stat: FileStat | None) -> tuple[object, ...]:
    if stat is None:
        return ("", "", "", name)
    return (f"{stat.size:,}", moment(stat.updated_at), (stat.sha256 or "")[:_DIGITS], name)
