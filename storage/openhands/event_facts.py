"""What the events of a conversation tell about it when its metadata does not.

When it was, about what, by which model and for how much. An event that says nothing useful is passed over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from storage.openhands.flaws import Flaw

EVENT_PATH: Final = re.compile(r"events/([0-9]{1,18})\.json")
"""An event's path within its conversation's folder; the group is the event's number."""

USAGE_FIELDS: Final = (
    "prompt_tokens",
    "completion_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "context_window",
    "per_turn_token",
)


@dataclass(slots=True)
class EventFacts:
    """What a conversation's events tell. `usage` holds fields of ConversationMetadata."""

    title: str | None = None
    earliest: datetime | None = None
    latest: datetime | None = None
    llm_model: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)


def read_facts(events: Iterable[bytes]) -> EventFacts:
    """Fold the events, given in their order, into facts.

    The title is the text of the first message of the user's, or of the first message without a source. Events
    carry the server's local time without zone, which is taken as UTC. Their metrics are running totals: the
    last one counts.
    """
    facts = EventFacts()
    anonymous: str | None = None
    for data in events:
        event = _parsed(data)
        if event is None:
            continue
        _note_time(facts, event.get("timestamp"))
        text, source = _message(event), event.get("source")
        if text and source == "user":
            facts.title = facts.title or text
        elif text and source is None:
            anonymous = anonymous or text
        _note_metrics(facts, event)
    facts.title = facts.title or anonymous
    return facts


def examine_event(path: str, data: bytes) -> Flaw | None:
    """The flaw of an event file that is not a JSON object; None when it is one."""
    if _parsed(data) is not None:
        return None
    what = "is not a JSON object" if data.strip() else "is empty"
    return Flaw("event-broken", path, f"{what}; its {len(data):,} bytes were kept as they are")


def missing_numbers(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """The gaps in a sequence of event numbers that should start at 0, as inclusive ranges."""
    gaps, expected = [], 0
    for number in sorted(numbers):
        if number > expected:
            gaps.append((expected, number - 1))
        expected = max(expected, number + 1)
    return gaps


def _parsed(data: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


def _note_time(facts: EventFacts, value: Any) -> None:
    if not isinstance(value, str):
        return
    try:
        given = datetime.fromisoformat(value)
        moment = given.replace(tzinfo=UTC) if given.tzinfo is None else given.astimezone(UTC)
    except (ValueError, OverflowError):
        return
    facts.earliest = moment if facts.earliest is None else min(facts.earliest, moment)
    facts.latest = moment if facts.latest is None else max(facts.latest, moment)


def _message(event: dict[str, Any]) -> str | None:
    if event.get("action") != "message":
        return None
    arguments = event.get("args")
    text = arguments.get("content") if isinstance(arguments, dict) else event.get("message")
    return storable_text(text) if isinstance(text, str) and text.strip() else None


def _note_metrics(facts: EventFacts, event: dict[str, Any]) -> None:
    call = event.get("tool_call_metadata")
    response = call.get("model_response") if isinstance(call, dict) else None
    if isinstance(response, dict):
        _note_model(facts, response.get("model"))
    metrics = event.get("llm_metrics")
    if not isinstance(metrics, dict):
        return
    cost = metrics.get("accumulated_cost")
    if isinstance(cost, int | float) and not isinstance(cost, bool) and 0 <= cost < float("inf"):
        facts.usage["accumulated_cost"] = float(cost)
    usage = metrics.get("accumulated_token_usage")
    if not isinstance(usage, dict):
        return
    _note_model(facts, usage.get("model"))
    for name in USAGE_FIELDS:
        count = usage.get(name)
        if isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 2**63:
            facts.usage[name] = count
    total = facts.usage.get("prompt_tokens", 0) + facts.usage.get("completion_tokens", 0)
    facts.usage["total_tokens"] = min(total, 2**63 - 1)


def _note_model(facts: EventFacts, name: Any) -> None:
    # "default" is what the seed system calls a model that it was not told.
    if isinstance(name, str) and name and name != "default":
        facts.llm_model = storable_text(name)


def storable_text(text: str) -> str:
    """The text with U+FFFD in place of what PostgreSQL (NUL) and UTF-8 (lone surrogates) refuse."""
    return text.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
