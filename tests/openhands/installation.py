"""Databases in the shape of OpenHands' enterprise edition, of an early and of a late release, made by SQLAlchemy as it
makes them."""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from cryptography.fernet import Fernet
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Identity,
    Integer,
    MetaData,
    String,
    Table,
    Uuid,
    insert,
    make_url,
)
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

SECRET = "example-jwt-secret-not-real"


def once(value: str, secret: str = SECRET) -> str:
    """A token of a git provider, as OpenHands stores it."""
    key = base64.b64encode(hashlib.sha256(secret.encode()).digest())
    return Fernet(key).encrypt(value.encode()).decode()


def twice(value: str, secret: str = SECRET) -> str:
    """Any other secret, as OpenHands stores it."""
    return base64.b64encode(once(value, secret).encode()).decode()


def early() -> MetaData:
    """As its migrations leave it when secrets have one row each: no organisations, few settings."""
    metadata = MetaData()
    Table(
        "user_settings",
        metadata,
        Column("id", Integer, Identity(), primary_key=True),
        Column("keycloak_user_id", String, index=True),
        Column("language", String),
        Column("agent", String),
        Column("max_iterations", Integer),
        Column("security_analyzer", String),
        Column("confirmation_mode", Boolean),
        Column("llm_model", String),
        Column("llm_api_key", String),
        Column("llm_base_url", String),
        Column("enable_default_condenser", Boolean, nullable=False, default=True),
        Column("user_consents_to_analytics", Boolean),
        Column("billing_margin", Float),
        Column("accepted_tos", DateTime),
        Column("mcp_config", JSON),
        Column("search_api_key", String),
        Column("llm_api_key_for_byor", String),
    )
    _secrets(metadata, "user_secrets")
    _tokens(metadata)
    return metadata


def first() -> MetaData:
    """When all custom secrets of a user were one object."""
    metadata = MetaData()
    Table(
        "user_secrets",
        metadata,
        Column("id", Integer, Identity(), primary_key=True),
        Column("keycloak_user_id", String),
        Column("custom_secrets", JSON),
    )
    Table("settings", metadata, Column("id", String, primary_key=True), Column("llm_api_key", String))
    return metadata


def late() -> MetaData:
    """With organisations, over which settings are spread, and the language model's inside agent_settings."""
    metadata = MetaData()
    Table(
        "org",
        metadata,
        Column("id", Uuid, primary_key=True),
        Column("name", String, unique=True),
        Column("contact_email", String),
        Column("_llm_api_key", String),
        Column("_search_api_key", String),
        Column("agent_settings", JSON, nullable=False, default=dict),
        Column("conversation_settings", JSON, nullable=False, default=dict),
        Column("llm_profiles", String),
        Column("default_max_iterations", Integer),
    )
    Table(
        "user",
        metadata,
        Column("id", Uuid, primary_key=True),
        Column("current_org_id", Uuid, ForeignKey("org.id"), nullable=False),
        Column("language", String),
        Column("email", String),
        Column("email_verified", Boolean),
        Column("disabled_skills", JSON),
    )
    Table(
        "org_member",
        metadata,
        Column("org_id", Uuid, ForeignKey("org.id"), primary_key=True),
        Column("user_id", Uuid, ForeignKey("user.id"), primary_key=True),
        Column("role_id", Integer),
        Column("_llm_api_key", String, nullable=False),
        Column("has_custom_llm_api_key", Boolean, nullable=False, default=False),
        Column("agent_settings_diff", JSON, nullable=False, default=dict),
    )
    Table(
        "user_settings",
        metadata,
        Column("id", Integer, Identity(), primary_key=True),
        Column("keycloak_user_id", String, index=True),
        Column("language", String),
        Column("llm_api_key", String),
        Column("git_user_name", String),
        Column("already_migrated", Boolean),
        Column("updated_at", DateTime(timezone=True)),
        Column("field_of_tomorrow", String),
    )
    _secrets(metadata, "custom_secrets", Column("org_id", Uuid, ForeignKey("org.id")))
    _tokens(metadata)
    return metadata


def _secrets(metadata: MetaData, name: str, *more: Column[Any]) -> None:
    Table(
        name,
        metadata,
        Column("id", Integer, Identity(), primary_key=True),
        Column("keycloak_user_id", String, index=True),
        Column("secret_name", String, nullable=False),
        Column("secret_value", String, nullable=False),
        Column("description", String),
        *more,
    )


def _tokens(metadata: MetaData) -> None:
    Table(
        "auth_tokens",
        metadata,
        Column("id", Integer, Identity(), primary_key=True),
        Column("keycloak_user_id", String, nullable=False),
        Column("identity_provider", String, nullable=False),
        Column("access_token", String, nullable=False),
        Column("refresh_token", String, nullable=False),
        Column("access_token_expires_at", BigInteger, nullable=False),
        Column("refresh_token_expires_at", BigInteger, nullable=False),
    )


class Installation:
    """A database under construction."""

    def __init__(self, url: str, metadata: MetaData, connection: AsyncConnection) -> None:
        self.url = url
        self._metadata = metadata
        self._connection = connection

    async def add(self, table: str, **values: Any) -> None:
        """Insert a row."""
        await self._connection.execute(insert(self._metadata.tables[table]), values)

    async def settings(self, user: str | None, **values: Any) -> None:
        """Insert a row of user_settings."""
        await self.add("user_settings", keycloak_user_id=user, **values)

    async def secret(
        self, user: str | None, name: str, value: str, description: str | None = None, **more: Any
    ) -> None:
        """Insert a custom secret."""
        table = "custom_secrets" if "custom_secrets" in self._metadata.tables else "user_secrets"
        await self.add(
            table, keycloak_user_id=user, secret_name=name, secret_value=value, description=description, **more
        )

    async def token(self, user: str, provider: str, access: str, refresh: str) -> None:
        """Insert the tokens of a git provider."""
        await self.add(
            "auth_tokens",
            keycloak_user_id=user,
            identity_provider=provider,
            access_token=access,
            refresh_token=refresh,
            access_token_expires_at=1_700_000_000,
            refresh_token_expires_at=0,
        )

    async def member(self, user: uuid.UUID, org: uuid.UUID, **values: Any) -> None:
        """Insert a row of org_member, whose key must not be null."""
        await self.add("org_member", user_id=user, org_id=org, **{"_llm_api_key": twice(""), **values})


@asynccontextmanager
async def installation(url: str, metadata: MetaData) -> AsyncIterator[Installation]:
    """Makes the tables in an empty database; commits in the end."""
    driver = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
    parsed = make_url(url)
    engine = create_async_engine(parsed.set(drivername=driver[parsed.get_backend_name()]))
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        yield Installation(url, metadata, connection)
    await engine.dispose()
