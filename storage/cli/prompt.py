"""Where a secret comes from: a terminal without echo, the standard input, or a file; never the command line.

Other users of a machine can see command lines, and shells write them down.
"""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pydantic import SecretStr

_LONGEST_LINE: Final = 4095
"""Bytes that a terminal hands over of one line (MAX_CANON of Linux); it drops the rest without a word."""

_MULTILINE: Final = "-----BEGIN "
"""How a key in PEM begins, which has several lines; a terminal hands over the first."""

STANDARD_INPUT: Final = "-"


def ask_secret(what: str, from_file: Path | None) -> SecretStr:
    """A value from the file, from the terminal if there is one and no file is named, else from the standard input.

    One newline at the end of a file or of the standard input is not part of the value.

    Args:
        what: it is asked for by this name: `value of API_KEY`.
        from_file: `-` is the standard input.

    Raises:
        InvalidInput: empty, not UTF-8, longer than a secret may be, or longer than a terminal can hand over.
        OSError: the file cannot be read.
    """
    from pydantic import SecretStr

    if from_file is not None or not _on_terminal():
        return SecretStr(_read(what, from_file))
    return SecretStr(_typed(what))


def ask_passphrase(what: str, from_file: Path | None, *, twice: bool) -> SecretStr:
    """A passphrase from the file, or else from the terminal; there, a new one has to be typed `twice`.

    Raises:
        InvalidInput: as `ask_secret`; or there is no terminal, or it was not typed the same way twice.
        OSError: the file cannot be read.
    """
    from pydantic import SecretStr

    from storage.errors import InvalidInput

    if from_file is not None:
        return SecretStr(_read(what, from_file))
    if not _on_terminal():
        raise InvalidInput(f"there is no terminal to ask for the {what} on; put it into a file: --passphrase-file FILE")
    first = _typed(what)
    if twice and _typed(f"{what} once more") != first:
        raise InvalidInput("the two are not the same; nothing was written")
    return SecretStr(first)


def confirm(word: str, warning: str, *, yes: bool) -> None:
    """Pass if `--yes` was given, or the word is typed on the terminal after the warning.

    Raises:
        InvalidInput: something else was typed, or there is no terminal.
    """
    from storage.cli.output import plain
    from storage.errors import InvalidInput

    if yes:
        return
    if not _on_terminal():
        raise InvalidInput(f"{warning} Give --yes to do it; there is no terminal to ask on, and nothing was changed")
    sys.stderr.write(f"{plain(warning)}\nType {plain(word)} to do it: ")
    sys.stderr.flush()
    with _interruptible():
        typed = sys.stdin.readline().strip()
    if typed != word:
        raise InvalidInput("that is something else; nothing was changed")


def _on_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _typed(what: str) -> str:
    from getpass import GetPassWarning, getpass

    from storage.errors import InvalidInput

    try:
        # Where the echo cannot be turned off, getpass only warns, and shows what is typed.
        with warnings.catch_warnings(), _interruptible():
            warnings.simplefilter("error", GetPassWarning)
            value = getpass(f"{what}: ")
    except GetPassWarning:
        problem = "this terminal cannot hide what is typed; give the value by a file or the standard input"
    except EOFError:
        problem = "nothing was entered"
    except UnicodeDecodeError:
        problem = "what was entered is not UTF-8"
    else:
        if not value:
            problem = "nothing was entered"
        elif len(value.encode(errors="surrogateescape")) >= _LONGEST_LINE or value.startswith(_MULTILINE):
            problem = f"a terminal hands over one line of at most {_LONGEST_LINE} bytes; give the value by a file"
        else:
            return value
    # Raised out here: the original's context may quote what was typed.
    raise InvalidInput(f"{problem}; nothing was changed")


def _read(what: str, from_file: Path | None) -> str:
    from storage.errors import InvalidInput
    from storage.secret_models import MAX_SECRET_BYTES

    most = MAX_SECRET_BYTES + len("\r\n")
    if from_file is None or str(from_file) == STANDARD_INPUT:
        source = "the standard input"
        if sys.stdin is None:
            raise InvalidInput(f"the {what} should come from the standard input, which is closed")
        content = sys.stdin.buffer.read(most + 1)
    else:
        source = str(from_file)
        with from_file.open("rb") as file:
            content = file.read(most + 1)
    if len(content) > most:
        raise InvalidInput(f"{source} has more than the {MAX_SECRET_BYTES} bytes that a secret may have")
    content = content.removesuffix(b"\n").removesuffix(b"\r") if content.endswith(b"\n") else content
    try:
        value = content.decode()
    except UnicodeDecodeError:
        value = None
    # Raised out here: the original holds the bytes.
    if value is None:
        raise InvalidInput(f"{source} is not UTF-8 text")
    if not value:
        raise InvalidInput(f"{source} holds no {what}: it is empty")
    return value


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end a question: asyncio's own handler would wait for the line."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
