"""A person at a terminal: a command whose questions are answered, and everything that was to be seen meanwhile."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.cli.conftest import REPOSITORY, Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.cli.conftest import Shell

SILENCE_SECONDS = 60.0
"""After which a command that waits for an answer which nobody gives is ended, and its test fails."""

# A session of its own, whose terminal is the one that the test holds: getpass asks /dev/tty. What a shell starts in the
# background ignores Ctrl-C, and so would what that starts.
_LAUNCH = """
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
os.setsid()
os.close(os.open(os.ttyname(0), os.O_RDWR))
from storage.cli import main
main()
"""


def typed(
    shell: Shell, *words: str | Path, answers: Sequence[str], after: bytes = b": ", **environment: str
) -> Outcome:
    """Run a command on a terminal, and type each answer (a line, or Ctrl-C) once `after` was to be seen."""
    main, side = pty.openpty()
    variables = {**os.environ, **shell.environment, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm", **environment}
    left = list(answers)
    seen = b""
    command = [sys.executable, "-c", _LAUNCH, *map(str, words)]
    with subprocess.Popen(command, env=variables, stdin=side, stdout=side, stderr=side) as child:
        os.close(side)
        asked_until = 0
        while True:
            if not select.select([main], [], [], SILENCE_SECONDS)[0]:
                child.kill()
                break
            try:
                part = os.read(main, 65536)
            except OSError:  # how Linux reports the end of a terminal
                break
            if not part:
                break
            seen += part
            if left and after in seen[asked_until:]:
                asked_until = len(seen)
                os.write(main, left.pop(0).encode())
        os.close(main)
        code = child.wait()
    assert not left, f"it never asked for {len(left)} of the answers: {seen!r}"
    return Outcome(code, seen.replace(b"\r\n", b"\n"), "")
