"""The part of docs/reporting.md that lists the report views."""

from __future__ import annotations

from storage.reporting.views import KINDS, VIEWS


def section() -> str:
    """A table of what columns hold, and one for each view."""
    kinds = [
        "| A column that holds | is |",
        "| --- | --- |",
        *(f"| {kind} | {about} |" for kind, about in KINDS.items()),
    ]
    parts = ["\n".join(kinds)]
    for view in VIEWS:
        rows = [f"| `{column.name}` | {column.kind} | {column.about} |" for column in view.columns]
        head = ["| Column | Holds | Meaning |", "| --- | --- | --- |"]
        parts.append("\n".join([f"### `{view.name}`", "", view.about, "", *head, *rows]))
    return "\n\n".join(parts)
