"""What callers hold of a conversation: validated, typed, and open to fields that this release does not know.

A plain pydantic model and not the table's class: that one skips validation, expires on commit and loses edits in place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, StrEnum
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PrivateAttr,
    Secret,
    ValidationError,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from storage.clock import now
from storage.database.types import checked_text
from storage.errors import InvalidInput
from storage.identity import checked_id
from storage.providers import ProviderType
from storage.secret_models import SecretModel

MAX_INTEGER = 2**63 - 1
"""Both databases count in 64 bits."""


class ConversationTrigger(StrEnum):
    """What started a conversation, by the value under which it is stored."""

    RESOLVER = "resolver"
    GUI = "gui"
    SUGGESTED_TASK = "suggested_task"
    REMOTE_API_KEY = "openhands_api"
    SLACK = "slack"
    MICROAGENT_MANAGEMENT = "microagent_management"
    JIRA = "jira"
    JIRA_DC = "jira_dc"
    LINEAR = "linear"
    BITBUCKET = "bitbucket"


_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
"""asyncpg makes PostgreSQL's infinities of these two, and naive times of those."""


def _in_utc(value: datetime) -> datetime:
    """An aware time in UTC; raises ValueError outside the years 1 to 9999, and for their first and last microsecond."""
    try:
        moved = value.astimezone(UTC)
    except OverflowError:
        moved = _LAST
    if not _FIRST < moved < _LAST:
        raise ValueError("the time does not lie within the years 1 to 9999 in UTC")
    return moved


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def _conversation_id(value: str) -> str:
    return checked_id("conversation_id", value)


Text = Annotated[str, AfterValidator(checked_text)]
"""Text without NUL."""
Identifier = Annotated[str, AfterValidator(_conversation_id)]
"""A conversation's id: printable, at most 255 bytes of UTF-8."""
Time = Annotated[AwareDatetime, AfterValidator(_in_utc)]
"""A time with a zone, kept in UTC; one without is refused, because its meaning depends on where it was written."""
Count = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
"""How many tokens."""
Money = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""US dollars."""
Trigger = Annotated[ConversationTrigger | Text | None, Field(union_mode="left_to_right"), BeforeValidator(_plain)]
Provider = Annotated[ProviderType | Text | None, Field(union_mode="left_to_right"), BeforeValidator(_plain)]


@dataclass(frozen=True, slots=True)
class SealedRest:
    """The part of a stored conversation's secrets that its model does not show, kept so that a save does not lose it.

    Attributes:
        user_id: the stored owner; with the conversation's id the only place where `sealed` can be opened.
        conversation_id: see user_id.
        sealed: the bytes as stored, for models that declare no secret and for secrets that cannot be read now.
        undeclared: opened secrets that the model declares no field for.
        problem: why `sealed` could not be opened, None if nobody needed to.
    """

    user_id: str
    conversation_id: str
    sealed: bytes = field(repr=False)
    undeclared: Secret[dict[str, Any]] = field(default_factory=lambda: Secret({}))
    problem: str | None = None


class ConversationMetadata(SecretModel):
    """A conversation, without its events.

    Unknown fields are accepted, kept in `model_extra` and stored. Unknown triggers and git providers are kept as text.
    A subclass may declare further fields; they come back typed. Those declared SecretStr (or SecretBytes, Secret[T],
    or holding one) are sealed in the database, and masked in dumps unless the context says `expose_secrets`::

        metadata.model_dump(mode="json", context={"expose_secrets": True})

    Attributes:
        conversation_id: unique in the whole database.
        user_id: the owner, filled in by the store; None for the local user.
        last_updated_at: when it was last worked on; None counts as `created_at` when sorting and filtering.
        accumulated_cost: US dollars.
        max_budget_per_task: US dollars; None is no limit.
        prompt_tokens: and the others of this kind: sums over the conversation's life.
        context_window: tokens that the model's window holds.
        per_turn_token: tokens of the last turn.
        version: how often it was stored; 0 before the first time. Set by the store and not part of dumps.

    Raises:
        pydantic.ValidationError (a ValueError): a value does not fit. Inputs are not quoted, for they may be secrets.
    """

    # Constants, because the default makes null of NaN in an unknown field, and nobody would know.
    model_config = ConfigDict(extra="allow", ser_json_inf_nan="constants")

    conversation_id: Identifier
    selected_repository: Text | None = None
    user_id: Text | None = None
    selected_branch: Text | None = None
    git_provider: Provider = None
    title: Text | None = None
    last_updated_at: Time | None = None
    trigger: Trigger = None
    pr_number: list[int] = Field(default_factory=list)
    created_at: Time = Field(default_factory=now)
    llm_model: Text | None = None
    accumulated_cost: Money = 0.0
    max_budget_per_task: Money | None = None
    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    total_tokens: Count = 0
    cache_read_tokens: Count = 0
    cache_write_tokens: Count = 0
    reasoning_tokens: Count = 0
    context_window: Count = 0
    per_turn_token: Count = 0
    sandbox_id: Text | None = None
    conversation_version: Text | None = None
    public: bool | None = None
    tags: list[Text] = Field(default_factory=list)
    parent_conversation_id: Identifier | None = None
    version: int = Field(default=0, exclude=True)

    _sealed_rest: SealedRest | None = PrivateAttr(default=None)

    @property
    def unreadable_secrets(self) -> str | None:
        """Why the stored secrets could not be opened, None if they could or there are none.

        Its secret fields have their defaults then, or None. Saving it keeps what is stored, unless one of them is set.
        """
        return self._sealed_rest.problem if self._sealed_rest is not None else None

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The schema of the fields: masking changes values, and would otherwise reduce it to "an object"."""
        fields: Any = {key: value for key, value in core_schema.items() if key != "serialization"}
        return handler(fields)


@dataclass(slots=True)
class ConversationMetadataResultSet:
    """One page of a search.

    Attributes:
        results: at most `limit` conversations, in the order asked for.
        next_page_id: what to pass as `page_id` for the next page; None on the last one.
    """

    results: list[ConversationMetadata] = field(default_factory=list)
    next_page_id: str | None = None


def invalid(error: ValidationError, what: str) -> InvalidInput:
    """A pydantic error as ours: `what`, then each field with its rule, without the values.

    Raise it outside of the `except`: the original keeps the inputs, which may be secrets, and would be its context.
    """
    problems = "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or 'the whole'}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_input=False, include_context=False)
    )
    return InvalidInput(f"{what}: {problems}")
