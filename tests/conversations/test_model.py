"""What a ConversationMetadata accepts, refuses, keeps and shows."""

from __future__ import annotations

import enum
import json
import pickle
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretStr, ValidationError

from storage.conversations.model import ConversationMetadata, ConversationTrigger, invalid
from storage.providers import ProviderType

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class WithSecrets(ConversationMetadata):
    token: SecretStr | None = None
    headers: dict[str, SecretStr] = Field(default_factory=dict)


@pytest.mark.parametrize(
    "values",
    [
        {"conversation_id": ""},
        {"conversation_id": "a\nb"},
        {"conversation_id": "x" * 256},
        {"conversation_id": None},
        {"title": "nul\0"},
        {"title": "\ud800"},
        {"selected_repository": "\0"},
        {"trigger": 5},
        {"trigger": "nul\0"},
        {"git_provider": ["github"]},
        {"created_at": datetime(2026, 3, 1)},  # noqa: DTZ001 - naive on purpose
        {"created_at": "2026-03-01T12:00:00"},
        {"last_updated_at": datetime(2026, 3, 1)},  # noqa: DTZ001 - naive on purpose
        {"created_at": "0001-01-01T00:00:00+23:00"},
        {"accumulated_cost": -0.01},
        {"accumulated_cost": float("nan")},
        {"max_budget_per_task": float("inf")},
        {"prompt_tokens": -1},
        {"total_tokens": 2**63},
        {"context_window": 1.5},
        {"tags": "urgent"},
        {"tags": ["nul\0"]},
        {"pr_number": ["seven"]},
        {"parent_conversation_id": ""},
    ],
    ids=str,
)
def test_a_value_that_does_not_fit_is_refused_by_its_field(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        ConversationMetadata(**{"conversation_id": "c1", **values})


def test_an_assignment_is_checked_like_the_constructor() -> None:
    metadata = ConversationMetadata(conversation_id="c1")
    with pytest.raises(ValidationError, match="prompt_tokens"):
        metadata.prompt_tokens = -1
    metadata.trigger = "gui"
    assert metadata.trigger is ConversationTrigger.GUI


def test_known_triggers_and_providers_are_members_and_others_stay_text() -> None:
    class Foreign(enum.Enum):
        SLACK = "slack"
        PIGEON = "pigeon"

    def trigger(value: Any) -> Any:
        return ConversationMetadata(conversation_id="c1", trigger=value).trigger

    assert trigger("openhands_api") is ConversationTrigger.REMOTE_API_KEY
    assert trigger(Foreign.SLACK) is ConversationTrigger.SLACK
    assert trigger(Foreign.PIGEON) == "pigeon"
    assert trigger("pigeon") == "pigeon"
    assert trigger(None) is None
    assert (
        ConversationMetadata(conversation_id="c1", git_provider="azure_devops").git_provider
        is ProviderType.AZURE_DEVOPS
    )


def test_times_are_kept_in_utc() -> None:
    metadata = ConversationMetadata.model_validate({"conversation_id": "c1", "created_at": "2026-03-01T14:00:00+02:00"})
    assert metadata.created_at == NOON
    assert metadata.created_at.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    "moment",
    [
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-14))),
    ],
    ids=str,
)
def test_a_time_that_one_of_the_databases_would_bend_is_refused(moment: datetime) -> None:
    with pytest.raises(ValidationError, match="within the years 1 to 9999"):
        ConversationMetadata(conversation_id="c1", created_at=moment)


def test_unknown_fields_are_kept() -> None:
    metadata = ConversationMetadata.model_validate({"conversation_id": "c1", "from_the_future": [1]})
    assert metadata.model_extra == {"from_the_future": [1]}
    assert metadata.model_dump()["from_the_future"] == [1]


def test_dumps_leave_out_the_version_and_read_back() -> None:
    metadata = ConversationMetadata(conversation_id="c1", created_at=NOON, version=3, trigger="pigeon")
    dumped = json.loads(metadata.model_dump_json())
    assert "version" not in dumped
    assert dumped["trigger"] == "pigeon"
    assert ConversationMetadata.model_validate(dumped).model_dump() == metadata.model_dump()


def test_the_json_schema_shows_the_fields() -> None:
    for mode in ("validation", "serialization"):
        schema = ConversationMetadata.model_json_schema(mode=mode)
        assert {"conversation_id", "title", "accumulated_cost", "tags"} <= schema["properties"].keys()


def test_declared_secrets_are_masked_unless_asked_for() -> None:
    metadata = WithSecrets(conversation_id="c1", token=SecretStr("t0p"), headers={"X": SecretStr("s3cret")})
    for shown in (
        repr(metadata),
        str(metadata.model_dump()),
        str(metadata.model_dump(mode="json")),
        metadata.model_dump_json(),
        metadata.model_dump_json(context={"expose_secrets": False}),
    ):
        assert "t0p" not in shown
        assert "s3cret" not in shown
    exposed = metadata.model_dump(mode="json", context={"expose_secrets": True})
    assert (exposed["token"], exposed["headers"]) == ("t0p", {"X": "s3cret"})


def test_errors_do_not_quote_what_was_put_in() -> None:
    class Strict(ConversationMetadata):
        token: SecretStr

    with pytest.raises(ValidationError) as caught:
        Strict.model_validate({"conversation_id": "c1", "token": ["t0p"], "title": {"t0p": 1}})
    assert "t0p" not in str(caught.value)
    assert "t0p" not in str(invalid(caught.value, "conversation 'c1'"))
    assert "token" in str(invalid(caught.value, "conversation 'c1'"))


def test_a_conversation_without_secrets_can_be_pickled() -> None:
    metadata = ConversationMetadata(conversation_id="c1", title="x", foo=1)
    assert pickle.loads(pickle.dumps(metadata)) == metadata


def test_a_model_can_be_nested_in_a_response() -> None:
    class Response(BaseModel):
        items: list[ConversationMetadata]

    dumped = Response(items=[ConversationMetadata(conversation_id="c1")]).model_dump(mode="json")
    assert dumped["items"][0]["conversation_id"] == "c1"
