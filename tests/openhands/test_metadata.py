"""What a conversation's metadata.json may look like, and what becomes of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.openhands.metadata import parse_time, read_metadata, shorten, storable
from tests.openhands.conftest import UNHURRIED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.openhands.metadata import ConversationFields

MODIFIED = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
CREATED = "2025-09-01T10:00:00+00:00"


def read(
    metadata: dict[str, Any] | bytes | None,
    events: Sequence[dict[str, Any] | bytes] = (),
    user_id: str | None = None,
) -> ConversationFields:
    return read_metadata(
        json.dumps(metadata).encode() if isinstance(metadata, dict) else metadata,
        conversation_id="c1",
        user_id=user_id,
        path="sessions/c1/metadata.json",
        present=metadata is not None,
        modified=MODIFIED,
        events=lambda: [item if isinstance(item, bytes) else json.dumps(item).encode() for item in events],
    )


def codes(fields: ConversationFields) -> list[str]:
    return sorted(flaw.code for flaw in fields.flaws)


def test_good_metadata_becomes_the_row_and_nothing_else() -> None:
    fields = read(
        {
            "conversation_id": "c1",
            "selected_repository": "acme/api",
            "user_id": None,
            "selected_branch": "main",
            "git_provider": "github",
            "title": "Fix it",
            "last_updated_at": "2025-09-01T11:00:00Z",
            "trigger": "gui",
            "pr_number": [1, 2],
            "created_at": CREATED,
            "llm_model": "m",
            "accumulated_cost": 1.25,
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 15,
            "sandbox_id": None,
            "conversation_version": "V1",
            "public": False,
        }
    )
    assert fields.values == {
        "conversation_id": "c1",
        "selected_repository": "acme/api",
        "selected_branch": "main",
        "git_provider": "github",
        "title": "Fix it",
        "last_updated_at": datetime(2025, 9, 1, 11, tzinfo=UTC),
        "trigger": "gui",
        "pr_number": [1, 2],
        "created_at": datetime(2025, 9, 1, 10, tzinfo=UTC),
        "llm_model": "m",
        "accumulated_cost": 1.25,
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "conversation_version": "V1",
        "public": False,
    }
    assert (fields.extra, fields.flaws, fields.recovered, fields.keep_original) == ({}, [], None, False)


def test_missing_metadata_is_rebuilt_from_the_events() -> None:
    usage = {
        "model": "m",
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "cache_read_tokens": 2,
        "context_window": 9,
    }
    fields = read(
        None,
        [
            {
                "id": 0,
                "timestamp": "2025-05-02T10:00:00",
                "source": "agent",
                "action": "message",
                "args": {"content": "A"},
            },
            {
                "id": 1,
                "timestamp": "2025-05-01T10:00:00",
                "source": "user",
                "action": "message",
                "args": {"content": "B"},
            },
            b"{broken",
            {"id": 3, "timestamp": "2025-05-03T10:00:00+02:00", "llm_metrics": {"accumulated_cost": 0.5}},
            {"id": 4, "llm_metrics": {"accumulated_cost": 0.75, "accumulated_token_usage": usage}},
        ],
    )
    assert fields.values == {
        "conversation_id": "c1",
        "tags": ["recovered"],
        "title": "B",
        "created_at": datetime(2025, 5, 1, 10, tzinfo=UTC),
        "last_updated_at": datetime(2025, 5, 3, 8, tzinfo=UTC),
        "llm_model": "m",
        "accumulated_cost": 0.75,
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "total_tokens": 10,
        "cache_read_tokens": 2,
        "context_window": 9,
    }
    assert fields.extra["recovered"] == fields.recovered == "metadata missing"
    assert codes(fields) == ["metadata-missing"]


def test_a_model_is_told_by_a_tool_call_too() -> None:
    fields = read(None, [{"tool_call_metadata": {"model_response": {"model": "m"}}}])
    assert fields.values["llm_model"] == "m"


def test_a_message_without_a_source_gives_the_title_when_the_user_said_nothing() -> None:
    assert read(None, [{"action": "message", "args": {"content": "hi"}}]).values["title"] == "hi"


def test_without_any_time_the_time_of_the_files_is_used() -> None:
    fields = read(None)
    assert fields.values["created_at"] == MODIFIED
    assert "modification time" in fields.extra["created_at_from"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b'{"conversation_id": "c',
        b"[]",
        b"null",
        b"\xff\xfe{",
        b"[" * 100_000,
        b'{"a":' * 500 + b"1" + b"}" * 500,
    ],
)
def test_broken_metadata_is_rebuilt_and_its_bytes_are_kept(data: bytes) -> None:
    fields = read(data, [{"id": 0, "action": "message", "args": {"content": "hi"}}])
    assert fields.values["title"] == "hi"
    assert fields.recovered == "metadata broken"
    assert fields.keep_original
    assert codes(fields) == ["metadata-broken"]


def test_a_byte_order_mark_is_no_flaw() -> None:
    assert read(b'\xef\xbb\xbf{"created_at": "2025-09-01T10:00:00Z"}').flaws == []


def test_a_missing_time_of_creation_is_taken_from_the_earliest_event() -> None:
    fields = read({"title": "t"}, [{"timestamp": "2025-05-01T10:00:00"}])
    assert fields.values["created_at"] == datetime(2025, 5, 1, 10, tzinfo=UTC)
    assert fields.values["title"] == "t"
    assert fields.values["tags"] == ["recovered"]
    assert fields.extra == {"recovered": "created_at missing"}
    assert codes(fields) == ["created-at-missing"]
    assert not fields.keep_original


def test_a_missing_time_of_creation_is_taken_from_the_last_update_when_no_event_has_a_time() -> None:
    fields = read({"last_updated_at": CREATED}, [{"id": 0}])
    assert fields.values["created_at"] == datetime(2025, 9, 1, 10, tzinfo=UTC)


def test_a_time_without_zone_is_utc_and_reported() -> None:
    fields = read({"created_at": "2025-03-01T10:00:00"})
    assert fields.values["created_at"] == datetime(2025, 3, 1, 10, tzinfo=UTC)
    assert codes(fields) == ["naive-time"]


def test_a_time_in_another_zone_is_converted_and_reported() -> None:
    fields = read({"created_at": "2025-06-01T23:30:00-07:00"})
    assert fields.values["created_at"] == datetime(2025, 6, 2, 6, 30, tzinfo=UTC)
    assert codes(fields) == ["other-offset"]


@pytest.mark.parametrize("number", [1_756_720_800, 1_756_720_800_000, 1_756_720_800.0])
def test_a_time_given_as_a_number_is_read_and_reported(number: float) -> None:
    fields = read({"created_at": number})
    assert fields.values["created_at"] == datetime(2025, 9, 1, 10, tzinfo=UTC)
    assert codes(fields) == ["numeric-time"]


@pytest.mark.parametrize("value", ["yesterday", "", True, [], {}, 1e30, "0001-01-01T00:00:00+14:00"])
def test_a_time_that_is_none_is_reported_and_replaced(value: Any) -> None:
    fields = read({"created_at": value})
    assert fields.values["created_at"] == MODIFIED
    assert codes(fields) == ["bad-value", "created-at-missing"]
    assert fields.keep_original


def test_an_unknown_trigger_is_kept_and_reported() -> None:
    fields = read({"created_at": CREATED, "trigger": "carrier_pigeon"})
    assert fields.values["trigger"] == "carrier_pigeon"
    assert codes(fields) == ["unknown-trigger"]


def test_an_unknown_provider_is_kept_and_reported() -> None:
    fields = read({"created_at": CREATED, "git_provider": "sourcehut"})
    assert fields.values["git_provider"] == "sourcehut"
    assert codes(fields) == ["unknown-provider"]


def test_an_unknown_field_is_kept_in_extra_and_reported() -> None:
    fields = read({"created_at": CREATED, "field_of_tomorrow": {"a": [1]}})
    assert fields.extra == {"field_of_tomorrow": {"a": [1]}}
    assert codes(fields) == ["unknown-field"]


def test_an_unknown_field_does_not_pass_for_one_of_the_stores_own() -> None:
    fields = read({"created_at": CREATED, "version": 9})
    assert fields.extra == {"metadata_version": 9}


def test_a_field_of_an_older_release_is_kept_in_extra_and_reported() -> None:
    fields = read({"created_at": CREATED, "github_user_id": 7})
    assert fields.extra == {"github_user_id": 7}
    assert codes(fields) == ["legacy-field"]


def test_the_folder_names_the_conversation() -> None:
    fields = read({"created_at": CREATED, "conversation_id": "other"})
    assert fields.values["conversation_id"] == "c1"
    assert fields.extra == {"metadata_conversation_id": "other"}
    assert codes(fields) == ["id-differs"]


@pytest.mark.parametrize("layout", [None, "alice"])
def test_the_folder_names_the_user(layout: str | None) -> None:
    fields = read({"created_at": CREATED, "user_id": "bob"}, user_id=layout)
    assert "user_id" not in fields.values
    assert fields.extra == {"metadata_user_id": "bob"}
    assert codes(fields) == ["user-differs"]


@pytest.mark.parametrize("told", [None, "alice"])
def test_a_user_that_agrees_with_the_folder_or_is_not_told_is_no_flaw(told: str | None) -> None:
    assert read({"created_at": CREATED, "user_id": told}, user_id="alice").flaws == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("title", 5),
        ("pr_number", "7"),
        ("pr_number", [1, "x"]),
        ("accumulated_cost", "free"),
        ("accumulated_cost", -1),
        ("prompt_tokens", 1.5),
        ("prompt_tokens", -3),
        ("prompt_tokens", True),
        ("public", "yes"),
        ("tags", {"a": "b"}),
    ],
)
def test_a_value_of_the_wrong_kind_is_left_out_and_the_original_is_kept(name: str, value: Any) -> None:
    fields = read({"created_at": CREATED, name: value})
    assert name not in fields.values
    assert fields.keep_original
    assert codes(fields) == ["bad-value"]


def test_characters_that_databases_refuse_are_replaced_and_the_original_is_kept() -> None:
    fields = read(b'{"created_at": "2025-09-01T10:00:00Z", "title": "a\\u0000b\\ud83d", "x": [NaN, 1e999]}')
    assert fields.values["title"] == "a\ufffdb\ufffd"
    assert fields.extra == {"x": [None, None]}
    assert fields.keep_original
    assert codes(fields) == ["bad-character", "unknown-field"]


def test_an_export_of_ours_comes_back_with_its_extra_fields() -> None:
    fields = read({"created_at": CREATED, "tags": ["a"], "reasoning_tokens": 3, "recovered": "why"})
    assert fields.values["tags"] == ["a"]
    assert fields.values["reasoning_tokens"] == 3
    assert (fields.extra, fields.flaws) == ({"recovered": "why"}, [])


def test_a_long_title_is_cut_at_a_word() -> None:
    assert shorten("word " * 40) == "word " * 14 + "word…"
    assert shorten("x" * 200) == "x" * 79 + "…"
    assert shorten(" two\n lines ") == "two lines"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@UNHURRIED
@given(
    st.dictionaries(st.sampled_from(["title", "created_at", "pr_number", "tags", "accumulated_cost", "x"]), json_values)
)
def test_any_json_object_becomes_a_row(metadata: dict[str, Any]) -> None:
    fields = read(json.dumps(metadata).encode("utf-8", "surrogatepass"))
    assert fields.values["conversation_id"] == "c1"
    assert fields.values["created_at"].tzinfo is UTC
    json.dumps(fields.extra, allow_nan=False).encode()


@UNHURRIED
@given(json_values)
def test_what_is_storable_is_left_alone(value: Any) -> None:
    clean, replaced = storable(value)
    if replaced == 0:
        assert clean == value
    assert storable(clean) == (clean, 0)


@UNHURRIED
@given(st.datetimes(timezones=st.timezones()))
def test_every_zone_is_the_same_moment(moment: datetime) -> None:
    try:
        expected = moment.astimezone(UTC)
    except OverflowError:
        return
    if moment.utcoffset() is not None and moment.isoformat().count(":") <= 3:
        assert parse_time(moment.isoformat()) == expected
