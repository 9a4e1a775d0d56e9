"""Patterns of paths, as shells and .gitignore write them, for searches: exact in Python, and roughly in SQL.

A match takes no longer than the path's length times the pattern's, whatever the pattern: what a star has found is never
looked for again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from storage.errors import InvalidInput, PathRejected
from storage.files.paths import file_path

LIKE_ESCAPE: Final = "!"
"""Before a `%`, `_` or `!` of a LIKE pattern that stands for itself."""

_WILDCARD: Final = re.compile(r"[*?\[]")
_TOKEN: Final = re.compile(r"\*|\?|\[!?\]?[^\]]*\]|\[|[^*?\[]+")
_ANY_DEPTH: Final = "**"
_OF_ONE: Final = len("[*]")
"""Length of a choice that has one member, and so is that character."""


@dataclass(frozen=True, slots=True)
class Glob:
    """A pattern that was read.

    Attributes:
        text: in normal form.
        expression: its `fullmatch` takes just the paths that the pattern names.
        literal: what every such path begins with.
        like: a pattern for SQL's LIKE, with LIKE_ESCAPE, that lets every such path pass; and others too.
    """

    text: str
    expression: re.Pattern[str]
    literal: str
    like: str


def parse_glob(pattern: str) -> Glob:
    """A pattern of whole paths, segment by segment; upper and lower case differ.

    `*` stands for any characters within a segment, `?` for one, `[a-z]` for one of these, `[!a-z]` for one of all
    others. A segment `**` stands for any number of segments, also none; at the end, for whatever is below. No character
    escapes another: a star is `[*]`.

    Raises:
        InvalidInput: it cannot be read, or no path could match it; the message says what to write.
    """
    if not isinstance(pattern, str):
        raise InvalidInput(f"glob must be a str such as 'sessions/*/events/*.json', not {type(pattern).__name__}")
    if pattern.endswith("/"):
        raise _refused(pattern, f"it ends in '/', but it is to name files; write {pattern.rstrip('/') + '/**'!r}")
    try:
        text = file_path(pattern)
    except PathRejected as error:
        raise _refused(pattern, f"no file has such a path ({error})") from None
    blocks: list[list[str]] = [[]]
    like = ""
    for segment in text.split("/"):
        if segment == _ANY_DEPTH:
            blocks.append([])
            like += "%"
        else:
            expression, rough = _segment(segment, pattern)
            blocks[-1].append(expression)
            like += f"{rough}/"
    wildcard = _WILDCARD.search(text)
    return Glob(
        text,
        re.compile(_whole(blocks), re.DOTALL),
        text if wildcard is None else text[: wildcard.start()],
        like.removesuffix("/"),
    )


def _whole(blocks: list[list[str]]) -> str:
    """The expression for blocks of segments with any number of segments between each and the next."""
    first, *others = ["/".join(block) for block in blocks]
    if not others:
        return first
    *middle, last = others
    # The nearest place where a block fits is as good as any later one: it leaves the most for the next.
    found = "".join(f"(?>(?:[^/]+/)*?{block}/)" for block in middle if block)
    start = f"{first}/" if first else ""
    return start + found + (f"(?:[^/]+/)*{last}" if last else ".+")


def _segment(segment: str, pattern: str) -> tuple[str, str]:
    """A segment as an expression and for LIKE."""
    if _ANY_DEPTH in segment:
        raise _refused(pattern, "'**' stands for whole segments, as in 'a/**/b'; within a segment, write one '*'")
    fixed, like = [""], ""
    for token in _TOKEN.findall(segment):
        match token[0]:
            case "*":
                fixed.append("")
                like += "%"
            case "?":
                fixed[-1] += "[^/]"
                like += "_"
            case "[":
                fixed[-1] += _class(token, pattern)
                like += "_" if len(token) > _OF_ONE else _literally(token[1])
            case _:
                fixed[-1] += re.escape(token)
                like += _literally(token)
    first, *others = fixed
    if not others:
        return first, like
    *middle, last = others
    found = "".join(f"(?>[^/]*?{part})" for part in middle if part)  # the nearest one, as above
    return f"{first}{found}[^/]*{last}", like


def _literally(text: str) -> str:
    """Text for LIKE that stands for itself."""
    return re.sub(r"[%_!]", rf"{LIKE_ESCAPE}\g<0>", text)


def _class(token: str, pattern: str) -> str:
    """`[…]` as an expression for one character, which is never `/`."""
    negated = token.startswith("[!")
    members = token[2 if negated else 1 : -1]
    if len(token) == 1 or not members:
        raise _refused(pattern, "a '[' begins a choice of characters and has no end or no member; a bracket is '[[]'")
    items, index = "", 0
    while index < len(members):
        low, dash, high = members[index], members[index + 1 : index + 2], members[index + 2 : index + 3]
        if dash == "-" and high:
            if low > high:
                raise _refused(pattern, f"its range '{low}-{high}' is empty; write the smaller character first")
            items += f"{re.escape(low)}-{re.escape(high)}"
            index += 3
        else:
            items += re.escape(low)
            index += 1
    return f"(?!/)[{'^' if negated else ''}{items}]"


def _refused(pattern: str, reason: str) -> InvalidInput:
    return InvalidInput(f"glob {pattern!r} cannot be used: {reason}")
