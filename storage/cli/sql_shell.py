"""Statements typed at a terminal, one after the other."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from storage.cli.output import complain, count, line, note
from storage.cli.result_formats import write_result
from storage.errors import StorageError

if TYPE_CHECKING:
    from storage.storage import Storage

_PROMPT: Final = "storage> "
_MORE: Final = "      -> "
_WORDS: Final = (
    "SELECT FROM WHERE GROUP BY ORDER LIMIT HAVING JOIN LEFT ON AND OR NOT NULL IS IN LIKE BETWEEN AS DESC ASC"
    " DISTINCT UNION ALL WITH CASE WHEN THEN ELSE END count sum avg min max round coalesce"
)


async def shell(storage: Storage, *, user: str | None, max_rows: int, timeout: float) -> int:
    """Run statements until the end of the input; each ends with a semicolon. Returns the exit code."""
    read = _reader()
    note(f"{storage.database.url.display}; a statement ends with ; and \\q leaves")
    while True:
        try:
            statement = await _statement(read)
        except EOFError:
            return 0
        except KeyboardInterrupt:
            continue
        if statement in ("\\q", "exit", "quit"):
            return 0
        if not statement:
            continue
        try:
            result = await storage.query(statement, user=user, max_rows=max_rows, timeout=timeout)
        except StorageError as error:
            complain(str(error))
            continue
        write_result(result, "table", None)
        more = ", and there are more" if result.truncated else ""
        line(f"({count(len(result.rows), 'row')}{more}, {result.seconds:.3f} s)")


async def _statement(read: Callable[[str], Awaitable[str]]) -> str:
    lines: list[str] = []
    while True:
        text = await read(_MORE if lines else _PROMPT)
        lines.append(text)
        whole = "\n".join(lines).strip()
        if not whole or whole.endswith(";") or whole in ("\\q", "exit", "quit"):
            return whole.rstrip(";").strip()


def _reader() -> Callable[[str], Awaitable[str]]:
    """What reads a line: with history and completion if the library for it is there."""
    try:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
    except ImportError:
        return lambda prompt: asyncio.to_thread(input, prompt)
    completer = WordCompleter(completions(), ignore_case=True, pattern=re.compile(r"[A-Za-z_]\w*"))
    session: PromptSession[str] = PromptSession(completer=completer, complete_while_typing=False)

    async def typed(prompt: str) -> str:
        text: str = await session.prompt_async(prompt)
        return text

    return typed


def completions() -> list[str]:
    """The words to choose from: views, their columns, and SQL's own."""
    from storage.reporting.views import VIEWS

    columns = dict.fromkeys(column.name for view in VIEWS for column in view.columns)
    return [*(view.name for view in VIEWS), *columns, *_WORDS.split()]
