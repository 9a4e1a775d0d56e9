"""The tables of a user's secrets: provider tokens, custom secrets, and one row for the set as a whole."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, Final

from sqlalchemy import UniqueConstraint
from sqlmodel import Field

from storage.database.metadata import Table
from storage.database.types import JSONValue, PlainText, Sealed, UTCDateTime
from storage.encryption.registry import SealedColumn, register


class UserSecretsTable(Table, table=True):
    """One row a user: the version of the whole set, and the fields that a subclass of UserSecrets adds."""

    __tablename__ = "user_secrets"

    user_id: str = Field(primary_key=True, sa_type=PlainText)
    version: int
    extra: dict[str, Any] = Field(sa_type=JSONValue)
    sealed_extra: bytes | None = Field(sa_type=Sealed)
    created_at: datetime = Field(sa_type=UTCDateTime)
    updated_at: datetime = Field(sa_type=UTCDateTime)


class ProviderTokenTable(Table, table=True):
    """A token for a git provider, sealed to the host it may be sent to. `id` binds the ciphertext to its row."""

    __tablename__ = "provider_token"
    __table_args__ = (UniqueConstraint("id"),)

    user_id: str = Field(primary_key=True, sa_type=PlainText)
    provider: str = Field(primary_key=True, sa_type=PlainText)
    id: uuid.UUID
    host: str | None = Field(sa_type=PlainText)
    provider_user_id: str | None = Field(sa_type=PlainText)
    token: bytes | None = Field(sa_type=Sealed)
    created_at: datetime = Field(sa_type=UTCDateTime)
    updated_at: datetime = Field(sa_type=UTCDateTime)


class CustomSecretTable(Table, table=True):
    """A named secret of the user's own. `id` binds the ciphertext to its row."""

    __tablename__ = "custom_secret"
    __table_args__ = (UniqueConstraint("id"),)

    user_id: str = Field(primary_key=True, sa_type=PlainText)
    name: str = Field(primary_key=True, sa_type=PlainText)
    id: uuid.UUID
    description: str = Field(sa_type=PlainText)
    value: bytes = Field(sa_type=Sealed)
    created_at: datetime = Field(sa_type=UTCDateTime)
    updated_at: datetime = Field(sa_type=UTCDateTime)


TOKEN_SEALED: Final = register(
    SealedColumn("provider_token", "token", "provider_token.token/1", name="provider", destination="host")
)
CUSTOM_SEALED: Final = register(SealedColumn("custom_secret", "value", "custom_secret.value/1", name="name"))
SET_SEALED: Final = register(
    # A user has one row, so the user's id is the row's id.
    SealedColumn("user_secrets", "sealed_extra", "user_secrets.sealed_extra/1", row_id="user_id")
)
