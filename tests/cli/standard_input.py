"""A program that pipes something into a command: a shell whose commands find given bytes on their standard input."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import Outcome, Shell

if TYPE_CHECKING:
    from pathlib import Path

CANARY = "canary-7f3a9c51e0"
"""A secret that is easy to find again where it must not be."""


class Piped(Shell):
    """A shell whose commands find these bytes on their standard input."""

    content = b""

    def into(self, content: bytes) -> Piped:
        self.content = content
        return self

    def __call__(self, *words: str | Path, **environment: str) -> Outcome:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(self.content), encoding="utf-8"))
            return super().__call__(*words, **environment)


def revealed(shell: Shell, *words: str) -> bytes:
    return shell.well("secrets", "show", *words, "--reveal").content
