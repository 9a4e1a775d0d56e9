"""What a database leaves on disk: its files, its log, backups and dumps, as those find it who steal one."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

from tests.security.evidence import Evidence
from tests.servers.postgres import PostgresServer, _installation, database_name


class SQLiteFiles:
    """A SQLite database and what a backup of it looks like."""

    kinds = ("the database file", "write-ahead log", "rollback journal", "dump", "backup")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "canary.db"
        self.url = f"sqlite:///{self.path}"

    def statements(self) -> list[str]:
        """What makes a COMMIT fail for a secret named COMMIT, and a statement for one named CHECK."""
        return [
            "CREATE TABLE parent (id INTEGER PRIMARY KEY)",
            "CREATE TABLE child (id INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED, value BLOB)",
            """CREATE TRIGGER orphan AFTER INSERT ON custom_secret WHEN NEW.name = 'COMMIT'
               BEGIN INSERT INTO child VALUES (1, NEW.value); END""",
            """CREATE TRIGGER refused BEFORE INSERT ON custom_secret WHEN NEW.name = 'CHECK'
               BEGIN SELECT RAISE(ABORT, 'refused'); END""",
        ]

    def collect(self, evidence: Evidence) -> None:
        evidence.add_files("the database file", [self.path])
        evidence.add_files("write-ahead log", [Path(f"{self.path}-wal")])
        evidence.add_files("shared memory", [Path(f"{self.path}-shm")])
        number = len(list(self.folder.glob("backup*")))
        by_api, vacuumed = (self.folder / f"backup-{number}-{kind}.db" for kind in ("api", "vacuum"))
        with closing(sqlite3.connect(self.path)) as source, closing(sqlite3.connect(by_api)) as target:
            source.backup(target)
            source.execute("VACUUM INTO ?", (str(vacuumed),))
            evidence.add("dump", "\n".join(source.iterdump()))
            # A rollback journal holds the pages as they were.
            target.execute("PRAGMA journal_mode=DELETE")
            target.execute("BEGIN IMMEDIATE")
            target.execute("UPDATE custom_secret SET description = ''")
            target.execute("PRAGMA cache_spill=1")
            target.execute("DELETE FROM conversation")
            evidence.add_files("rollback journal", [Path(f"{by_api}-journal")])
            target.rollback()
        evidence.add_files("backup", [by_api, vacuumed])


class PostgresFiles:
    """A PostgreSQL database on a server of its own that logs every statement, with parameters in full."""

    kinds = ("the server's log", "the data directory", "pg_dump")

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self.url = server.create_database()
        settings = {
            "log_min_duration_statement": "0",
            "log_statement": "'all'",
            "log_parameter_max_length": "-1",
            "log_parameter_max_length_on_error": "-1",
            "log_error_verbosity": "verbose",
            "log_min_messages": "debug1",
            "log_min_error_statement": "debug1",
        }
        for name, value in settings.items():
            server.psql(f"ALTER DATABASE {database_name(self.url)} SET {name} = {value}")

    def statements(self) -> list[str]:
        return [
            "CREATE TABLE parent (id INTEGER PRIMARY KEY)",
            "CREATE TABLE child (id INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED, value BYTEA)",
            """CREATE FUNCTION orphan() RETURNS trigger LANGUAGE plpgsql AS
               $$BEGIN INSERT INTO child VALUES (1, NEW.value); RETURN NULL; END$$""",
            """CREATE TRIGGER orphan AFTER INSERT ON custom_secret
               FOR EACH ROW WHEN (NEW.name = 'COMMIT') EXECUTE FUNCTION orphan()""",
            # Its error shows the whole row.
            "ALTER TABLE custom_secret ADD CONSTRAINT refused CHECK (name <> 'CHECK')",
        ]

    def collect(self, evidence: Evidence) -> None:
        self.server.psql("CHECKPOINT")
        folder = self.server.socket_directory.parent
        evidence.add_files("the server's log", [folder / "log"])
        # Tables, indexes, and the write-ahead log in pg_wal; a physical backup is a copy of this.
        evidence.add_files("the data directory", (folder / "data").rglob("*"))
        for options in ([], ["--inserts"], ["--format=tar"]):
            command = [str(_installation() / "bin/pg_dump"), *options, self.url]
            dumped = subprocess.run(command, capture_output=True, check=True, env=_without_pg_variables())
            evidence.add("pg_dump", dumped.stdout)


def _without_pg_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}
