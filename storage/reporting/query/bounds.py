"""How much a question may ask for: unless whoever asks says otherwise, and in any case."""

from __future__ import annotations

from typing import Final

MAX_ROWS: Final = 10_000
TIMEOUT_SECONDS: Final = 30.0

MAX_BYTES: Final = 64 * 1024 * 1024
"""Of a whole result, which is held in memory here and by the database. Ten thousand rows may hold anything else."""

TOO_MUCH: Final = f"the result is larger than {MAX_BYTES // 2**20} MiB; ask for fewer rows, or for less of each"

MAX_SQL: Final = 1_000_000
"""Characters of a statement: enough for a list of some ten thousand ids."""
