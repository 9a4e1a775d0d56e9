"""What callers hold of a user's settings: the fields of OpenHands 1.6.0, validated, with every key out of sight."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from enum import StrEnum
from typing import Annotated, Any, Final, NoReturn, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    Field,
    Secret,
    SecretStr,
    field_validator,
    model_validator,
)

from storage.database.types import checked_text
from storage.secret_fields import holds_secret
from storage.secret_models import MASK, StoredModel

FEWEST_CONDENSER_EVENTS: Final = 20
"""Lowest `condenser_max_size`: below it a condenser would forget what the agent is doing right now."""

MOST: Final = 2**31 - 1
"""Largest whole number in a setting: the columns are 32-bit integers on PostgreSQL."""

Text = Annotated[str, AfterValidator(checked_text)]
"""Text without NUL."""
Number = Annotated[int, Field(ge=-MOST, le=MOST)]

# Names of undeclared fields that hold a credential by every convention: GITHUB_TOKEN, db-password, apiKey, api_key_old.
_NAMED_SECRET: Final = re.compile(
    r"(?:^|[_\-.])(?i:key|token|secrets?|passwords?|passwd|passphrase|credentials?|authorization)$"
    r"|[a-z0-9](?:Key|Token|Secrets?|Passwords?|Passphrase|Credentials?)$"
    r"|(?i:api[_\-.]?keys?(?:$|[_\-.])|(?:access|auth|bearer|refresh)[_\-.]?tokens$)"
)
# Tokens do not belong into settings; older releases of the seed system kept them there, under either name.
_MISPLACED: Final = ("secrets_store", "secret_store")
_HIDDEN: Final = frozenset({"env", "headers"})
# Objects of which every value may be a secret, whatever its name.
_HARMLESS: Final = frozenset({"name", "command", "type", "transport", "description", "timeout", "disabled", "enabled"})


class SandboxGroupingStrategy(StrEnum):
    """How conversations share sandboxes, by the value under which it is stored."""

    NO_GROUPING = "NO_GROUPING"
    GROUP_BY_NEWEST = "GROUP_BY_NEWEST"
    LEAST_RECENTLY_USED = "LEAST_RECENTLY_USED"
    FEWEST_CONVERSATIONS = "FEWEST_CONVERSATIONS"
    ADD_TO_ANY = "ADD_TO_ANY"


class MCPConfig(Secret[dict[str, Any]]):
    """The configuration of MCP servers, any JSON object; secret as a whole, because keys hide in many places of it.

    `get_secret_value()` gives the object. Shown are its structure, the servers' names, commands and hosts.
    """

    def masked(self) -> dict[str, Any]:
        """The object with every text and number masked but those that are harmless by their name."""
        shown: dict[str, Any] = _masked("", self.get_secret_value())
        return shown

    def _display(self) -> str:
        return str(self.masked())

    def __copy__(self) -> Self:
        return type(self)(self.get_secret_value())

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)(deepcopy(self.get_secret_value(), memo))

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("an MCPConfig holds secrets and is never pickled: pass get_secret_value() if it may be seen")


class Settings(StoredModel):
    """A user's settings. Those that are None were never set.

    Unknown fields are accepted, kept in `model_extra` and stored; an unknown one whose name says that it is a key or a
    token is wrapped in `pydantic.Secret`, masked and sealed. A subclass may declare further fields; they come back
    typed, and those declared SecretStr (or SecretBytes, Secret[T], or holding one) are sealed.

    Secrets are masked in every dump unless the context says so:
    `settings.model_dump(mode="json", context={"expose_secrets": True})`. An empty key counts as none.

    Attributes:
        llm_api_key: sealed for `llm_base_url`: it opens only together with the URL that it was set for.
        mcp_config: an object such as `{"shttp_servers": [{"url": …, "api_key": …}]}`; sealed as a whole.
        max_iterations: steps of an agent, at least 1.
        max_budget_per_task: US dollars; None is no limit.
        remote_runtime_resource_factor: multiple of the smallest sandbox, at least 1.
        condenser_max_size: events in an agent's view before they are condensed, at least 20.
        sandbox_grouping_strategy: a value that this release does not know is kept as text.
        version: how often the stored settings had changed when this was read; 0 if it does not come from a store.

    Raises:
        pydantic.ValidationError (a ValueError): a value does not fit; names field and limit, shows no input.
    """

    language: Text | None = None
    agent: Text | None = None
    max_iterations: Annotated[Number, Field(ge=1)] | None = None
    security_analyzer: Text | None = None
    confirmation_mode: bool | None = None
    llm_model: Text | None = None
    llm_api_key: SecretStr | None = None
    llm_base_url: Text | None = None
    user_version: Number | None = None
    remote_runtime_resource_factor: Annotated[Number, Field(ge=1)] | None = None
    enable_default_condenser: bool = True
    enable_sound_notifications: bool = False
    enable_proactive_conversation_starters: bool = True
    enable_solvability_analysis: bool = True
    user_consents_to_analytics: bool | None = None
    sandbox_base_container_image: Text | None = None
    sandbox_runtime_container_image: Text | None = None
    mcp_config: MCPConfig | None = None
    disabled_skills: list[Text] | None = None
    search_api_key: SecretStr | None = None
    sandbox_api_key: SecretStr | None = None
    max_budget_per_task: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    condenser_max_size: Annotated[Number, Field(ge=FEWEST_CONDENSER_EVENTS)] | None = None
    email: Text | None = None
    email_verified: bool | None = None
    git_user_name: Text | None = None
    git_user_email: Text | None = None
    v1_enabled: bool = True
    sandbox_grouping_strategy: Annotated[SandboxGroupingStrategy | Text, Field(union_mode="left_to_right")] = (
        SandboxGroupingStrategy.NO_GROUPING
    )

    @field_validator("llm_api_key", "search_api_key", "sandbox_api_key")
    @classmethod
    def _empty_is_unset(cls, value: SecretStr | None) -> SecretStr | None:
        return value if value is not None and value.get_secret_value().strip() else None

    @model_validator(mode="before")
    @classmethod
    def _refuse_tokens(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        for name in _MISPLACED:
            content = data.get(name)
            if isinstance(content, Mapping) and any(content.values()):
                raise ValueError(f"{name} is no setting: store tokens and custom secrets with a SecretsStore")
        return {name: value for name, value in data.items() if name not in _MISPLACED}

    @classmethod
    def _hides(cls, name: str, value: Any) -> bool:
        return holds_secret(value) or _is_named_secret(name, value)


def _is_named_secret(name: str, value: Any) -> bool:
    if isinstance(value, Mapping):
        # Below a name that says so everything is: {"api_keys": {"openai": …}}.
        named = _NAMED_SECRET.search(name) is not None
        return any(_is_named_secret(name if named else str(key), item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return any(_is_named_secret(name, item) for item in value)
    return isinstance(value, str) and bool(value) and _NAMED_SECRET.search(name) is not None


def _masked(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _masked(name if name in _HIDDEN else str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(name, item) for item in value]
    if value is None or isinstance(value, bool) or value == "" or name in _HARMLESS:
        return value
    if name == "url" and isinstance(value, str):
        return _without_credentials(value)
    return MASK


def _without_credentials(url: str) -> str:
    """Scheme and host; a path, a query or a user may be the key."""
    try:
        parts = urlsplit(url)
        host = f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname
    except ValueError:
        return MASK
    if not parts.scheme or not host:
        return MASK
    shown = f"{parts.scheme}://{host}"
    return shown if url.rstrip("/") == shown else f"{shown}/{MASK}"
