"""A database's complaint about a question as our error, with the name that was probably meant."""

from __future__ import annotations

import difflib
import re
from typing import Final

from storage.errors import QueryError, QueryInvalid, QueryRefused
from storage.reporting.views import VIEWS
from storage.tables import metadata

_UNKNOWN: Final = re.compile(
    r"no such (?P<kind>table|column): (?P<name>\S{1,200})"
    r'|(?P<its_kind>relation|column) "?(?P<its_name>[\w.]{1,200})"? does not exist'
)
_VIEWS: Final = [view.name for view in VIEWS]
_COLUMNS: Final = list(dict.fromkeys(column.name for view in VIEWS for column in view.columns))


def complaint(message: str) -> QueryError:
    """The error for a message. For a view or column that there is not, it names the most similar one."""
    match = _UNKNOWN.search(message)
    if match is None:
        return QueryInvalid(message)
    name = (match["name"] or match["its_name"]).rpartition(".")[2].lower()
    if "column" in (match["kind"], match["its_kind"]):
        hint = _meant(name, _COLUMNS) or "`storage sql --views` shows the columns of each view"
    elif name in metadata.tables:
        return QueryRefused(f"reading {name} is refused: a question reads the report views, {', '.join(_VIEWS)}")
    else:
        hint = _meant(name, _VIEWS) or f"there are {', '.join(_VIEWS)}"
    return QueryInvalid(f"{message}; {hint}")


def _meant(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else ""
