"""A small `openhands` package for machines that have none: the names that the drop-in subclasses and converts.

Written for these tests. The same tests run against the real package where it is installed, and
`scripts/openhands_e2e` drives the real server.
"""

from __future__ import annotations

import sys
from abc import ABC
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator


class ConversationTrigger(Enum):
    GUI = "gui"
    SLACK = "slack"


class ProviderType(Enum):
    GITHUB = "github"
    GITLAB = "gitlab"


@dataclass
class ConversationMetadata:
    conversation_id: str
    selected_repository: str | None
    user_id: str | None = None
    git_provider: ProviderType | None = None
    title: str | None = None
    last_updated_at: datetime | None = None
    trigger: ConversationTrigger | None = None
    pr_number: list[int] = field(default_factory=list)
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    llm_model: str | None = None
    accumulated_cost: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


@dataclass
class ConversationMetadataResultSet:
    results: list[ConversationMetadata] = field(default_factory=list)
    next_page_id: str | None = None


class ProviderToken(BaseModel):
    token: SecretStr | None = None
    user_id: str | None = None
    host: str | None = None


class CustomSecret(BaseModel):
    secret: SecretStr = SecretStr("")
    description: str = ""


class Secrets(BaseModel):
    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    provider_tokens: dict[ProviderType, ProviderToken] = Field(default_factory=dict)
    custom_secrets: dict[str, CustomSecret] = Field(default_factory=dict)

    @field_validator("provider_tokens", mode="before")
    @classmethod
    def known(cls, tokens: Any) -> Any:
        """As the real one: what it does not know it passes over."""
        names = {provider.value for provider in ProviderType}
        return {name: token for name, token in tokens.items() if getattr(name, "value", name) in names}


class MCPConfig(BaseModel):
    sse_servers: list[dict[str, Any]] = Field(default_factory=list)
    stdio_servers: list[dict[str, Any]] = Field(default_factory=list)
    shttp_servers: list[dict[str, Any]] = Field(default_factory=list)


class Settings(BaseModel):
    model_config = ConfigDict(validate_assignment=True)

    language: str | None = None
    agent: str | None = None
    max_iterations: int | None = None
    llm_model: str | None = None
    llm_api_key: SecretStr | None = None
    llm_base_url: str | None = None
    search_api_key: SecretStr | None = None
    sandbox_api_key: SecretStr | None = None
    mcp_config: MCPConfig | None = None
    secrets_store: Secrets = Field(default_factory=Secrets)
    user_consents_to_analytics: bool | None = None
    v1_enabled: bool = True


class Interface(ABC):  # noqa: B024 - what it demands is the real one's affair
    pass


class ServerConfig:
    conversation_store_class = settings_store_class = secret_store_class = "stock"

    def verify_config(self) -> None:
        raise ValueError("not for a class of one's own")


def get_file_store(*_: Any, **__: Any) -> str:
    return "the server's own"


def install() -> dict[str, ModuleType]:
    """Put the package where `import` finds it; what was put there, by name."""
    storage = "openhands.storage"
    names: dict[str, dict[str, Any]] = {
        "openhands": {},
        "openhands.core": {},
        "openhands.core.config": {"load_openhands_config": lambda: SimpleNamespace(file_store="memory")},
        "openhands.core.config.utils": {"get_file_store": get_file_store},
        "openhands.server": {},
        "openhands.server.config": {},
        "openhands.server.config.server_config": {"ServerConfig": ServerConfig},
        "openhands.server.shared": {"get_file_store": get_file_store},
        storage: {"get_file_store": get_file_store},
        f"{storage}.files": {"FileStore": type("FileStore", (), {})},
        f"{storage}.conversation": {},
        f"{storage}.conversation.conversation_store": {"ConversationStore": Interface},
        f"{storage}.conversation.conversation_validator": {"ConversationValidator": type("Validator", (), {})},
        f"{storage}.data_models": {},
        f"{storage}.data_models.conversation_metadata": {
            "ConversationMetadata": ConversationMetadata,
            "ConversationTrigger": ConversationTrigger,
        },
        f"{storage}.data_models.conversation_metadata_result_set": {
            "ConversationMetadataResultSet": ConversationMetadataResultSet
        },
        f"{storage}.data_models.secrets": {"Secrets": Secrets},
        f"{storage}.data_models.settings": {"Settings": Settings},
        f"{storage}.secrets": {},
        f"{storage}.secrets.secrets_store": {"SecretsStore": Interface},
        f"{storage}.settings": {},
        f"{storage}.settings.settings_store": {"SettingsStore": Interface},
        "openhands.integrations": {},
        "openhands.integrations.provider": {"CustomSecret": CustomSecret, "ProviderToken": ProviderToken},
        "openhands.integrations.service_types": {"ProviderType": ProviderType},
        "socketio": {},
        "socketio.exceptions": {"ConnectionRefusedError": type("ConnectionRefusedError", (Exception,), {})},
    }
    modules: dict[str, ModuleType] = {}
    for name, values in names.items():
        module = ModuleType(name)
        vars(module).update(values, __path__=[], __spec__=ModuleSpec(name, None))
        modules[name] = module
        parent, _, last = name.rpartition(".")
        if parent in modules:
            setattr(modules[parent], last, module)
    sys.modules.update(modules)
    return modules
