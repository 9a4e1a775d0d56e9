"""The `settings` table: one row a user, one typed column a setting, the keys among them sealed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Double
from sqlmodel import Field

from storage.database.metadata import Table
from storage.database.types import JSONValue, PlainText, Sealed, UTCDateTime
from storage.encryption.registry import SealedColumn, register


class SettingsTable(Table, table=True):
    """A user's settings: those of OpenHands 1.6.0, each NULL when it was never set."""

    __tablename__ = "settings"

    user_id: str = Field(primary_key=True, sa_type=PlainText)
    language: str | None = Field(sa_type=PlainText)
    agent: str | None = Field(sa_type=PlainText)
    max_iterations: int | None
    security_analyzer: str | None = Field(sa_type=PlainText)
    confirmation_mode: bool | None
    llm_model: str | None = Field(sa_type=PlainText)
    llm_api_key: bytes | None = Field(sa_type=Sealed)
    llm_base_url: str | None = Field(sa_type=PlainText)
    user_version: int | None
    remote_runtime_resource_factor: int | None
    enable_default_condenser: bool
    enable_sound_notifications: bool
    enable_proactive_conversation_starters: bool
    enable_solvability_analysis: bool
    user_consents_to_analytics: bool | None
    sandbox_base_container_image: str | None = Field(sa_type=PlainText)
    sandbox_runtime_container_image: str | None = Field(sa_type=PlainText)
    mcp_config: bytes | None = Field(sa_type=Sealed)
    disabled_skills: list[str] | None = Field(sa_type=JSONValue)
    search_api_key: bytes | None = Field(sa_type=Sealed)
    sandbox_api_key: bytes | None = Field(sa_type=Sealed)
    max_budget_per_task: float | None = Field(sa_type=Double)
    condenser_max_size: int | None
    email: str | None = Field(sa_type=PlainText)
    email_verified: bool | None
    git_user_name: str | None = Field(sa_type=PlainText)
    git_user_email: str | None = Field(sa_type=PlainText)
    v1_enabled: bool
    sandbox_grouping_strategy: str = Field(sa_type=PlainText)
    version: int
    extra: dict[str, Any] = Field(sa_type=JSONValue)
    sealed_extra: bytes | None = Field(sa_type=Sealed)
    created_at: datetime = Field(sa_type=UTCDateTime)
    updated_at: datetime = Field(sa_type=UTCDateTime)


SEALED: Final[Mapping[str, SealedColumn]] = {
    # A user has one row, so the user's id is the row's id.
    name: register(
        SealedColumn(
            "settings",
            name,
            f"settings.{name}/1",
            row_id="user_id",
            destination="llm_base_url" if name == "llm_api_key" else None,
        )
    )
    for name in ("llm_api_key", "search_api_key", "sandbox_api_key", "mcp_config", "sealed_extra")
}
"""The sealed columns by name; `sealed_extra` holds the secret fields that a subclass of Settings adds."""
