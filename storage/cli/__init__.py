"""The command `storage`: the library's verbs for the shell, one file per noun.

A command imports what it needs when it runs, so that `--help` and a misspelt option answer at once.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Final, NoReturn

from cyclopts import App, CycloptsError

from storage.cli import (
    backup,
    conversations,
    doctor,
    exports,
    files,
    git_credential,
    imports,
    keys,
    report,
    retention,
    secrets,
    settings,
    setup,
    sql,
    status,
    users,
    webhooks,
)
from storage.cli.output import complain, warnings_as_lines

EXIT_FAILED: Final = 1
"""What was asked for could not be done, or does not exist; one line on stderr says why."""

EXIT_USAGE: Final = 2
"""The command line itself is wrong, as in every POSIX tool."""

EXIT_BUG: Final = 70
"""An error that nobody foresaw (EX_SOFTWARE of sysexits.h)."""

_EXIT_BY_SIGNAL: Final = 128


def version() -> str:
    """The installed release."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as version_of

    try:
        return f"storage {version_of('agent-storage')}"
    except PackageNotFoundError:
        return "storage (run from a checkout that is not installed)"


app = App(
    name="storage",
    help="Conversations, settings, secrets and files of AI agents, kept in SQLite or PostgreSQL.",
    help_epilogue=(
        "Where the storage is comes from the options, then from STORAGE_* environment variables, then from the"
        " configuration file. Without any of them it is a SQLite database and a folder of files in the user's data"
        " directory.\n\n"
        "Exit codes: 0 done; 1 failed, not found or not well; 2 the command line is wrong; 70 a bug."
    ),
    version=version,
    version_flags=["--version"],
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
for command in (
    setup.init,
    setup.migrate,
    status.status,
    doctor.doctor,
    sql.sql,
    backup.backup,
    backup.restore,
    backup.copy,
    git_credential.git_credential,
):
    app.command(command, help_epilogue="")
for noun in (
    imports.app,
    exports.app,
    conversations.app,
    files.app,
    settings.app,
    secrets.app,
    keys.app,
    users.app,
    webhooks.app,
    retention.app,
    report.app,
):
    noun.help_epilogue = ""  # what the program says at the end of its help is not said again for each command
    app.command(noun)
app.register_install_completion_command(help="Make the shell complete commands and options (bash, zsh, fish).")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line and end the process with its exit code.

    Args:
        arguments: without the program's name; those of the process if None.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if _is_closed("stderr"):
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A terminal that is not UTF-8 must not turn a title into a crash.
            stream.reconfigure(errors="backslashreplace")
    with warnings_as_lines():
        code = _run(words)
    sys.exit(code)


def _is_closed(stream: str) -> bool:
    """Whether the shell closed it (`>&-`); Python then has None in its place."""
    return getattr(sys, stream) is None


def _run(words: list[str]) -> int:
    if _is_closed("stdout"):
        complain("the standard output is closed; /dev/null takes what nobody wants to read")
        return EXIT_FAILED
    try:
        code = app(words, exit_on_error=False)
        sys.stdout.flush()
    except CycloptsError:
        return EXIT_USAGE  # cyclopts has printed what is wrong, and what it takes the word for
    except BrokenPipeError:
        # The reader has seen enough: `storage conversations list | head`.
        _forget_output()
        return _EXIT_BY_SIGNAL + signal.SIGPIPE
    except KeyboardInterrupt:
        complain("interrupted")
        return _EXIT_BY_SIGNAL + signal.SIGINT
    except Exception as error:
        if "--debug" in words:
            raise
        return _explain(error)
    return code if isinstance(code, int) else 0


def _forget_output() -> None:
    """Let what is still buffered go nowhere, or Python would fail on it once more while it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explain(error: Exception) -> int:
    from storage.errors import StorageError

    if isinstance(error, StorageError):
        complain(str(error))
        return EXIT_FAILED
    if isinstance(error, OSError) and error.strerror:
        if error.errno == errno.ENOSPC and error.filename is None:
            _forget_output()
        where = f"{error.filename}: " if error.filename is not None else ""
        complain(f"{where}{error.strerror}")
        return EXIT_FAILED
    # Its text was not written for people and may quote a value, so only its kind is shown.
    complain(f"unexpected {type(error).__name__}; this is a bug. Run it again with --debug for the traceback")
    return EXIT_BUG
