"""How large a statement becomes when SQLite puts the parts of its WITH clauses where they are named.

SQLite does so for every mention, and before 3.41 without a look at the clock: thirty parts that each name the one
before twice are a billion. What is found here decides nothing but whether SQLite is asked at all.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from storage.errors import QueryInvalid, QueryTooLarge

MOST: Final = 20_000
"""Parts, after putting them in. SQLite takes some tenths of a second and some 50 MB for so many."""

MOST_NAMED: Final = 200
"""Parts that a statement names. Nobody writes so many; and looking at them takes one level of recursion for each."""

MOST_DEEP: Final = 200
"""Parentheses around one place; SQLite itself takes about a hundred."""

_VIEW: Final = 10
"""Parts that a view of ours has, about."""
_TOKENS: Final = 20
"""Words and signs that take as much room as a part."""

_TOKEN: Final = re.compile(
    r"""
    --[^\n]* | /\*.*?(?:\*/|\Z)
    | (?P<quoted>'(?:[^']|'')*' | "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*(?:\]|\Z))   # SQLite takes each for a name
    | (?P<word>[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*)
    | (?P<sign>[(),.;])
    """,
    re.VERBOSE | re.DOTALL,
)
_OPEN: Final = "("
_CLOSE: Final = ")"
_ENDS_TABLES: Final = frozenset({"where", "group", "order", "having", "limit", "window", "select", "values"})


@dataclass(slots=True, eq=False)
class _Part:
    """What is between two parentheses, or the whole statement."""

    parent: _Part | None = None
    depth: int = 0
    named: dict[str, _Part] = field(default_factory=dict)  # the parts of its WITH clause
    name: str | None = None  # in the WITH clause of the one around it
    mentions: list[tuple[str, _Part]] = field(default_factory=list)  # of tables, and between which parentheses
    tokens: int = 0
    tables: bool = False  # whether tables are listed at this place
    owner: _Part = field(init=False)  # the part of a WITH clause that this is in, or the whole statement

    def __post_init__(self) -> None:
        self.owner = self if self.name is not None or self.parent is None else self.parent.owner


def check(sql: str) -> None:
    """Pass if the statement stays of a bearable size.

    Raises:
        QueryTooLarge: it would not.
        QueryInvalid: it would have no end.
    """
    whole, parts = _read(sql)
    if len(parts) > MOST_NAMED:
        raise QueryTooLarge(f"a question has at most {MOST_NAMED} parts in WITH")
    sizes: dict[int, int] = {}
    within: list[_Part] = []

    def size(part: _Part) -> int:
        if id(part) in sizes:
            return sizes[id(part)]
        if part in within:
            raise QueryInvalid("the parts of WITH name each other in a circle")
        within.append(part)
        inside = 0
        for (name, place), times in Counter(part.mentions).items():
            found = _meant(name, place)
            if found is None:
                inside += times * _VIEW
            elif found not in _around(place):  # a recursive one is not put into itself
                inside += times * size(found)
        within.pop()
        sizes[id(part)] = min(1 + part.tokens // _TOKENS + inside, MOST + 1)
        return sizes[id(part)]

    if size(whole) > MOST:
        raise QueryTooLarge(
            "the question is too large once the parts of its WITH are put in; name them less often, or use fewer"
        )


def _around(place: _Part) -> Iterator[_Part]:
    """The place itself, and whatever it is in."""
    around: _Part | None = place
    while around is not None:
        yield around
        around = around.parent


def _meant(name: str, place: _Part) -> _Part | None:
    """The part that a name stands for at a place; None for a view."""
    return next((around.named[name] for around in _around(place) if name in around.named), None)


def _read(sql: str) -> tuple[_Part, list[_Part]]:
    """The statement, and the parts of all its WITH clauses."""
    whole = here = _Part()
    parts: list[_Part] = []
    before: list[str] = []  # tokens
    opened: list[int] = []  # where in `before` the parentheses around are
    closed: dict[int, int] = {}
    for token in _tokens(sql):
        here.owner.tokens += 1
        previous = before[-1] if before else ""
        if token == _OPEN:
            # A list of tables may be in parentheses, and those of a function are not one.
            tables = here.tables and previous in ("from", "join", ",", _OPEN)
            name = _named(before, closed)
            here = _Part(parent=here, depth=here.depth + 1, tables=tables, name=name)
            if here.depth > MOST_DEEP:
                raise QueryTooLarge(f"a question has parentheses in parentheses at most {MOST_DEEP} times")
            if name is not None and here.parent is not None:
                here.parent.named[name] = here
                parts.append(here)
            opened.append(len(before))
        elif token == _CLOSE:
            if here.parent is not None:
                closed[len(before)] = opened.pop()
                here = here.parent
        elif token in ("from", "join"):
            here.tables = here.tables or previous != "distinct"  # IS DISTINCT FROM compares
        elif token in _ENDS_TABLES:
            here.tables = False
        elif token.startswith('"') and (
            previous == "in" or (here.tables and previous in ("from", "join", ",", _OPEN, "."))
        ):
            here.owner.mentions.append((token, here))
        before.append(token)
    return whole, parts


def _named(before: list[str], closed: dict[int, int]) -> str | None:
    """The name in `name(columns) AS NOT MATERIALIZED (`, where what is before the last parenthesis is given."""
    end = len(before) - 1
    for word in ('"materialized', "not"):
        if end >= 0 and before[end] == word:
            end -= 1
    if end < 1 or before[end] != "as":
        return None
    end -= 1
    if before[end] == _CLOSE:
        end = closed.get(end, 0) - 1
    return before[end] if end >= 0 and before[end].startswith('"') else None


_KEYWORDS: Final = _ENDS_TABLES | {
    "from",
    "join",
    "as",
    "not",
    "in",
    "on",
    "using",
    "distinct",
    "union",
    "except",
    "intersect",
}


def _tokens(sql: str) -> Iterator[str]:
    """Keywords and signs as they are, and names, quoted or not, after a quotation mark; all in lower case."""
    for match in _TOKEN.finditer(sql):
        if match["quoted"]:
            yield '"' + match["quoted"][1:-1].lower()
        elif match["word"]:
            word = match["word"].lower()
            yield word if word in _KEYWORDS else '"' + word
        elif match["sign"]:
            yield match["sign"]
