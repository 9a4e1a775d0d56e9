"""The ground floor: statements compiled once, lanes that run them, units of work, column types, migrations."""

from __future__ import annotations

from storage.database.change import Change
from storage.database.database import CommitHook, Database
from storage.database.statement import DialectName, Row, Statement
from storage.database.unit import Executor, Step, Unit, execute, execute_many
from storage.database.url import DatabaseURL, parse_url

__all__ = [
    "Change",
    "CommitHook",
    "Database",
    "DatabaseURL",
    "DialectName",
    "Executor",
    "Row",
    "Statement",
    "Step",
    "Unit",
    "execute",
    "execute_many",
    "parse_url",
]
