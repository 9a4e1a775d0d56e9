"""What was checked and measured, printed as it comes."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager


class Report:
    """Checks that held, checks that did not, and figures."""

    def __init__(self) -> None:
        self._held = 0
        self._failed: list[str] = []
        self._figures: list[tuple[str, str]] = []

    def section(self, title: str) -> None:
        """What comes belongs to this."""
        print(f"\n== {title}", flush=True)

    @contextmanager
    def check(self, sentence: str) -> Iterator[None]:
        """The block raises if the sentence does not hold."""
        try:
            yield
        except Exception:  # noqa: BLE001 - whatever it is, the next check is made all the same
            self._failed.append(sentence)
            print(f"  FAILED  {sentence}\n{traceback.format_exc()}", flush=True)
        else:
            self._held += 1
            print(f"  holds   {sentence}", flush=True)

    def figure(self, name: str, value: str) -> None:
        """Something measured."""
        self._figures.append((name, value))
        print(f"  figure  {name}: {value}", flush=True)

    def finish(self) -> int:
        """Print the end; the exit code."""
        print("\n== figures")
        for name, value in self._figures:
            print(f"  {name}: {value}")
        print(f"\n{self._held} checks held, {len(self._failed)} failed")
        for sentence in self._failed:
            print(f"  FAILED  {sentence}")
        return 1 if self._failed else 0
