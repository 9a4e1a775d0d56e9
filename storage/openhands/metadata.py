"""A conversation's metadata.json as a row's values: repaired, or rebuilt from the events.

The seed system hides a conversation whose metadata it does not like; nothing here is a reason to hide one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from storage.openhands.event_facts import USAGE_FIELDS, EventFacts, read_facts, storable_text
from storage.openhands.flaws import Flaw

RECOVERED_TAG: Final = "recovered"
"""The tag of every conversation whose metadata had to be rebuilt, so that a search by tag finds them."""

# As of OpenHands 1.6.0; others are kept as they are, because a newer release knows more of them.
KNOWN_TRIGGERS: Final = frozenset(
    (
        "resolver",
        "gui",
        "suggested_task",
        "openhands_api",
        "slack",
        "microagent_management",
        "jira",
        "jira_dc",
        "linear",
        "bitbucket",
    )
)
KNOWN_PROVIDERS: Final = frozenset(
    ("github", "gitlab", "bitbucket", "bitbucket_data_center", "forgejo", "azure_devops", "enterprise_sso")
)
_LEGACY_FIELDS: Final = frozenset({"github_user_id"})
_RESERVED_FIELDS: Final = frozenset({"version"})
# What an earlier import put among the extra fields, and an export wrote back.
_OWN_FIELDS: Final = frozenset({"recovered", "created_at_from", "metadata_conversation_id", "metadata_user_id"})

_MAX_INTEGER: Final = 2**63 - 1
_MAX_DEPTH: Final = 100  # PostgreSQL and Python both give up on JSON that is nested some thousand deep
_TITLE_LENGTH: Final = 80
_LAST_SECOND: Final = 2e10  # in the year 2603; larger numbers are milliseconds, as pydantic reads them too


@dataclass(slots=True)
class ConversationFields:
    """What a conversation's row is made of.

    `values` holds only fields of ConversationMetadata, with aware UTC times, and always `conversation_id` and
    `created_at`. `extra` holds what has no column. `recovered` says why the row had to be rebuilt, if it had.
    `keep_original` tells that metadata.json holds more than the row does, so its bytes are worth keeping.
    """

    values: dict[str, Any]
    extra: dict[str, Any] = field(default_factory=dict)
    recovered: str | None = None
    keep_original: bool = False
    flaws: list[Flaw] = field(default_factory=list)


def read_metadata(
    data: bytes | None,
    *,
    conversation_id: str,
    user_id: str | None,
    path: str,
    present: bool,
    modified: datetime,
    events: Callable[[], Iterable[bytes]],
) -> ConversationFields:
    """The row of one conversation.

    Args:
        data: the bytes of metadata.json, None when there is none or it cannot be read.
        conversation_id: the name of the conversation's folder; it wins over the file's.
        user_id: the user in whose folder it lay, None for `sessions/`.
        path: of metadata.json, for the flaws.
        present: whether there is a metadata.json at all.
        modified: the latest modification of the conversation's files, the last resort for a time of creation.
        events: gives the conversation's events in order; called only when something must be rebuilt.
    """
    fields = ConversationFields({"conversation_id": conversation_id})
    if data is None:
        what = "cannot be read" if present else "is missing"
        fields.flaws.append(Flaw("metadata-missing", path, f"{what}; the conversation was rebuilt from its events"))
        _rebuild(fields, "metadata unreadable" if present else "metadata missing", read_facts(events()), modified)
        return fields
    try:
        raw = json.loads(data.decode("utf-8-sig"))
        if not isinstance(raw, dict):
            raise TypeError("it is not a JSON object")
        clean, replaced = storable(raw)
    except (ValueError, TypeError, RecursionError) as error:
        fields.keep_original = True
        reason = _short(str(error)) or "nested too deeply"
        fields.flaws.append(
            Flaw("metadata-broken", path, f"is broken ({reason}); the conversation was rebuilt from its events")
        )
        _rebuild(fields, "metadata broken", read_facts(events()), modified)
        return fields
    _Reading(fields, path, user_id).take(clean, replaced)
    if "created_at" not in fields.values:
        facts = read_facts(events())
        source = _created(fields, facts, modified)
        fields.extra["recovered"] = fields.recovered = "created_at missing"
        fields.values.setdefault("tags", []).append(RECOVERED_TAG)
        fields.flaws.append(Flaw("created-at-missing", path, f"has no usable created_at; {source} was used"))
    return fields


class _Reading:
    """One pass over the fields of a metadata.json."""

    def __init__(self, fields: ConversationFields, path: str, user_id: str | None) -> None:
        self._fields = fields
        self._path = path
        self._user_id = user_id

    def take(self, clean: dict[str, Any], replaced: int) -> None:
        """Sort every field into the row's values or its extra fields."""
        if replaced:
            self._flaw(
                "bad-character",
                f"{replaced} values that no database stores were replaced; the original is kept",
            )
            self._fields.keep_original = True
        for name, value in clean.items():
            if name == "conversation_id":
                self._identity(name, value, self._fields.values["conversation_id"], "id-differs")
            elif name == "user_id":
                self._identity(name, value, self._user_id, "user-differs")
            elif name in _READERS:
                self._known(name, value)
            else:
                self._unknown(name, value)

    def _identity(self, name: str, value: Any, ours: str | None, code: str) -> None:
        if value is None or value == ours:
            return
        self._fields.extra[f"metadata_{name}"] = value
        told = (
            f"{name} is {_short(repr(value))}, but the folder says {ours!r}"
            if ours
            else f"{name} is {_short(repr(value))}"
        )
        self._flaw(code, f"{told}; the folder was followed, the other kept among the extra fields")

    def _unknown(self, name: str, value: Any) -> None:
        # A name of the model's own that does not come from files would be taken for the model's.
        kept = f"metadata_{name}" if name in _RESERVED_FIELDS else name
        self._fields.extra[kept] = value
        if kept not in _OWN_FIELDS:
            code = "legacy-field" if name in _LEGACY_FIELDS else "unknown-field"
            self._flaw(code, f"{name} has no column; it was kept among the extra fields")

    def _known(self, name: str, value: Any) -> None:
        if value is None:
            return
        try:
            taken = _READERS[name](value)
        except (ValueError, TypeError, OverflowError):
            self._fields.keep_original = True
            self._flaw("bad-value", f"{name} is {_short(repr(value))}, which does not fit; it was left out")
            return
        if isinstance(taken, datetime):
            self._report_time(name, value, taken)
        elif name == "trigger" and taken not in KNOWN_TRIGGERS:
            self._flaw("unknown-trigger", f"trigger {_short(repr(taken))} is not known; it was kept")
        elif name == "git_provider" and taken not in KNOWN_PROVIDERS:
            self._flaw("unknown-provider", f"git_provider {_short(repr(taken))} is not known; it was kept")
        self._fields.values[name] = taken

    def _report_time(self, name: str, value: Any, taken: datetime) -> None:
        if not isinstance(value, str):
            self._flaw("numeric-time", f"{name} is the number {value}; it was read as {taken.isoformat()}")
            return
        given = datetime.fromisoformat(value.strip())
        if given.tzinfo is None:
            self._flaw("naive-time", f"{name} {value} has no zone; it was taken as UTC")
        elif given.utcoffset():
            self._flaw("other-offset", f"{name} {value} was converted to {taken.isoformat()}")

    def _flaw(self, code: str, message: str) -> None:
        self._fields.flaws.append(Flaw(code, self._path, message))


def _rebuild(fields: ConversationFields, reason: str, facts: EventFacts, modified: datetime) -> None:
    fields.recovered = reason
    fields.extra["recovered"] = reason
    fields.values["tags"] = [RECOVERED_TAG]
    if facts.title:
        fields.values["title"] = shorten(facts.title)
    source = _created(fields, facts, modified)
    fields.extra["created_at_from"] = source
    if facts.latest is not None:
        fields.values["last_updated_at"] = facts.latest
    if facts.llm_model:
        fields.values["llm_model"] = facts.llm_model
    fields.values.update(facts.usage)


def _created(fields: ConversationFields, facts: EventFacts, modified: datetime) -> str:
    """Set created_at from the best witness, and name it."""
    if facts.earliest is not None:
        fields.values["created_at"], source = facts.earliest, "the time of the earliest event"
    elif "last_updated_at" in fields.values:
        fields.values["created_at"], source = fields.values["last_updated_at"], "last_updated_at"
    else:
        fields.values["created_at"], source = modified, "the modification time of the files"
    return source


def parse_time(value: Any) -> datetime:
    """An ISO 8601 text, or seconds or milliseconds since 1970, as an aware time; naive text is taken as UTC.

    Raises ValueError, TypeError or OverflowError when it is none of these.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value / 1000 if abs(value) > _LAST_SECOND else value
        try:
            return datetime.fromtimestamp(seconds, UTC)
        except OSError as error:
            raise ValueError("out of range") from error
    given = datetime.fromisoformat(_text(value).strip())
    return given.replace(tzinfo=UTC) if given.tzinfo is None else given.astimezone(UTC)


def shorten(text: str, length: int = _TITLE_LENGTH) -> str:
    """One line of at most `length` characters, cut at a word and marked with an ellipsis where it was cut."""
    line = " ".join(text.split())
    if len(line) <= length:
        return line
    cut = line[: length - 1]
    head, space, _ = cut.rpartition(" ")
    return f"{(head if space and len(head) > length // 2 else cut).rstrip()}…"


def storable(value: Any, depth: int = 0) -> tuple[Any, int]:
    """`value` without what databases refuse, and how many values were replaced.

    NUL and lone surrogates become U+FFFD, NaN and infinities null, integers beyond 64 bits text.
    Raises ValueError when it is nested more than 100 deep.
    """
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested more than {_MAX_DEPTH} deep")
    if isinstance(value, str):
        clean = storable_text(value)
        return clean, int(clean != value)
    if isinstance(value, float) and not math.isfinite(value):
        return None, 1
    if isinstance(value, int) and not -_MAX_INTEGER - 1 <= value <= _MAX_INTEGER:
        return str(value), 1
    if isinstance(value, dict):
        pairs = [(storable(key), storable(item, depth + 1)) for key, item in value.items()]
        return {key[0]: item[0] for key, item in pairs}, sum(key[1] + item[1] for key, item in pairs)
    if isinstance(value, list):
        items = [storable(item, depth + 1) for item in value]
        return [item for item, _ in items], sum(count for _, count in items)
    return value, 0


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("expected a text")
    return value


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or int(value) != value:
        raise TypeError("expected a whole number")
    if not 0 <= value <= _MAX_INTEGER:
        raise ValueError("expected a number from 0 to 2^63-1")
    return int(value)


def _amount(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("expected a number")
    if not math.isfinite(value) or value < 0:
        raise ValueError("expected a number from 0 up")
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("expected true or false")
    return value


def _counts(value: Any) -> list[int]:
    return [_count(item) for item in _list(value)]


def _texts(value: Any) -> list[str]:
    return [_text(item) for item in _list(value)]


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("expected a list")
    return value


def _short(text: str, length: int = 60) -> str:
    return shorten(text, length)


_TEXT_FIELDS: Final = (
    "title",
    "selected_repository",
    "selected_branch",
    "git_provider",
    "trigger",
    "llm_model",
    "conversation_version",
    "sandbox_id",
    "parent_conversation_id",
)
_COUNT_FIELDS: Final = (*USAGE_FIELDS, "total_tokens")

_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(_TEXT_FIELDS, _text),
    **dict.fromkeys(_COUNT_FIELDS, _count),
    "accumulated_cost": _amount,
    "max_budget_per_task": _amount,
    "pr_number": _counts,
    "tags": _texts,
    "public": _flag,
    "created_at": parse_time,
    "last_updated_at": parse_time,
}
