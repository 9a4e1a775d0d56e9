"""The base class of our tables, on a registry and MetaData of their own.

Of their own, because an application that embeds this library may have SQLModel tables too: its create_all() and its
alembic must not see ours. The naming convention comes before any table: without it the two databases invent different
names for constraints, and a migration cannot drop what it cannot name.
"""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import MetaData
from sqlalchemy.orm import registry
from sqlmodel import SQLModel

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
"""All tables of this library, once `storage.tables` is imported."""


class Table(SQLModel, registry=registry(metadata=metadata)):
    """Base of all tables of this library. Its `metadata` holds them and nothing of the embedding application."""

    metadata: ClassVar[Any] = metadata
