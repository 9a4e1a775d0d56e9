"""`python -m storage`: the command line where the console script is not on the PATH."""

from __future__ import annotations

from storage.cli import main

main()
