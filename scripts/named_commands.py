"""The commands that the library names in its messages and docstrings: "mend it with `storage doctor --fix`"."""

from __future__ import annotations

import ast
import re
import shlex
from typing import TYPE_CHECKING, Final

from cyclopts import CycloptsError, MissingArgumentError

from storage.cli import app

if TYPE_CHECKING:
    from collections.abc import Iterator

_VERBS: Final = "|".join(name for name in app if not name.startswith("-"))
_NAMED: Final = (
    re.compile(rf"`(storage (?:{_VERBS})\b[^`]*)`"),
    re.compile(rf"(?:with|run|use|by|:) (storage (?:{_VERBS})\b[^;.,)`]*)"),
)
_LEFT_OPEN: Final = "…"
_SOME_VALUE: Final = "00000000-0000-0000-0000-000000000000"
"""For what a message puts in; it is a text, a path and an id."""


def named_commands(source: str) -> Iterator[str]:
    """Command lines in the strings of a Python file."""
    for text in _texts(ast.parse(source)):
        for pattern in _NAMED:
            yield from pattern.findall(" ".join(text.split()))


def _texts(tree: ast.AST) -> Iterator[str]:
    parts: set[int] = set()
    for node in ast.walk(tree):  # from the outside in, so what is put together comes before its parts
        if isinstance(node, ast.JoinedStr):
            parts.update(map(id, node.values))
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else _SOME_VALUE for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.value


def refusal(command: str) -> str | None:
    """Why the command line's parser refuses a command; None if it does not, or only wants more arguments."""
    words = [word for word in shlex.split(command)[1:] if word != _LEFT_OPEN]
    try:
        app.parse_args(words, exit_on_error=False, print_error=False)
    except MissingArgumentError:
        return None  # a message may leave them to whoever reads it
    except CycloptsError as error:
        return " ".join(str(error).split())
    return None
