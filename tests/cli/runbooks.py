"""The runbooks of a page in docs/: the commands below a heading, as a test can run them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests.cli.conftest import REPOSITORY


class Runbooks:
    """The part of a page below `## Runbooks`.

    Args:
        page: its name in docs/.
    """

    def __init__(self, page: str) -> None:
        self._text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8").partition("## Runbooks")[2]

    def commands(self, title: str) -> list[list[str]]:
        """The words of each command below `### title`, behind `storage`."""
        (block,) = re.findall(
            rf"^### {re.escape(title)}\n.*?^```console\n(.*?)^```$", self._text, re.MULTILINE | re.DOTALL
        )
        return [shlex.split(line.removeprefix("$ storage ")) for line in block.splitlines()]

    def untested(self, test_file: str) -> list[str]:
        """The titles that a test file does not name."""
        titles = re.findall(r"^### (.+)$", self._text, re.MULTILINE)
        assert titles
        source = Path(test_file).read_text(encoding="utf-8")
        return [title for title in titles if f'"{title}"' not in source]
