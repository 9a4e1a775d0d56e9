"""Runs everything and says what was seen; the exit code is 0 if all of it was as it has to be."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from scripts.end_to_end.counterparts import Counterparts
from scripts.end_to_end.drive import GUI_SECRET, Drive
from scripts.end_to_end.listing import compare_listing
from scripts.end_to_end.report import Report
from tests.servers.postgres import PostgresServer


@contextmanager
def working_folder(*, keep: bool) -> Iterator[Path]:
    """A temporary folder, removed in the end unless it is to be kept."""
    folder = Path(tempfile.mkdtemp(prefix="openhands-e2e-"))
    try:
        yield folder
    finally:
        if keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="scripts/openhands_e2e", description=__doc__)
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="both")
    parser.add_argument("--listed", type=int, default=5000, metavar="N", help="conversations to list; 0 leaves it out")
    parser.add_argument("--keep", action="store_true", help="keep the folder with homes, databases and logs")
    arguments = parser.parse_args()

    report = Report()
    with ExitStack() as stack:
        folder = stack.enter_context(working_folder(keep=arguments.keep))
        counterparts = stack.enter_context(Counterparts(f"echo the value is {GUI_SECRET}"))
        kinds = ["sqlite", "postgresql"] if arguments.database == "both" else [arguments.database]
        server = stack.enter_context(PostgresServer()) if "postgresql" in kinds else None
        for kind in kinds:
            url = None if server is None or kind == "sqlite" else server.create_database()
            Drive(report, folder / kind, counterparts, url).run()
            if arguments.listed:
                url = None if server is None or kind == "sqlite" else server.create_database()
                compare_listing(report, folder / f"{kind}-listing", arguments.listed, url)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
