"""Bar charts of characters: bars that lie beside their names, and columns that stand on an axis."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

_EIGHTHS_RIGHT: Final = " ▏▎▍▌▋▊▉█"
_EIGHTHS_UP: Final = " ▁▂▃▄▅▆▇█"
_PLAIN: Final = " ####"
"""For an output that has no blocks: a cell is drawn from a quarter on."""


def bar(value: float, highest: float, width: int) -> str:
    """A bar that lies, `width` characters long for the highest; what there is shows, however little it is."""
    if value <= 0 or highest <= 0:
        return ""
    signs = _signs(_EIGHTHS_RIGHT)
    steps = len(signs) - 1
    filled = max(round(min(value / highest, 1.0) * width * steps), 1)
    whole, part = divmod(filled, steps)
    return (signs[-1] * whole + signs[part]).rstrip()


def columns(values: Sequence[float], highest: float, height: int, thickness: int) -> list[str]:
    """Lines from top to bottom; each value is a column of so many characters, with a gap after all but thin ones."""
    signs = _signs(_EIGHTHS_UP)
    steps = len(signs) - 1
    filled = [0 if value <= 0 or highest <= 0 else max(round(value / highest * height * steps), 1) for value in values]
    thick, gap = (thickness, "") if thickness == 1 else (thickness - 1, " ")
    lines = []
    for level in range(height - 1, -1, -1):
        cells = (signs[min(max(one - level * steps, 0), steps)] * thick for one in filled)
        lines.append(gap.join(cells).rstrip())
    return lines


def _signs(blocks: str) -> str:
    try:
        blocks.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return _PLAIN
    return blocks
