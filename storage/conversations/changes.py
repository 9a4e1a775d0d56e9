"""What may be changed of a stored conversation, and what counts as usage: the rules that every store shares."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from storage.conversations.filters import suggestion
from storage.conversations.model import MAX_INTEGER, ConversationMetadata, invalid
from storage.errors import InvalidInput

FIXED_FIELDS: Final = frozenset({"conversation_id", "user_id", "version"})
"""Fields that say which conversation it is, or that the store counts."""


def check_changeable(model: type[ConversationMetadata], names: Iterable[str]) -> None:
    """Pass if all are declared fields of the model that may be changed.

    Raises:
        InvalidInput: names the first that is not, and the nearest that is.
    """
    for name in sorted(names):
        if name in FIXED_FIELDS:
            raise InvalidInput(f"{name} of a conversation cannot be changed")
        if name not in model.model_fields:
            hint = suggestion(name, model.model_fields.keys() - FIXED_FIELDS)
            raise InvalidInput(f"a conversation has no field {name!r}{hint}")


def assign(metadata: ConversationMetadata, changes: Mapping[str, Any]) -> None:
    """Set fields, each checked by the model.

    Raises:
        InvalidInput: one does not fit; the message does not show the value.
    """
    try:
        for name, value in changes.items():
            setattr(metadata, name, value)
        return
    except ValidationError as error:
        problem = invalid(error, f"conversation {metadata.conversation_id!r}")
    raise problem


_LARGEST: Final[Mapping[type, int | float]] = {int: MAX_INTEGER, float: sys.float_info.max}


@dataclass(frozen=True, slots=True)
class Usage:
    """What a call of a model used.

    Attributes:
        added: by field, what its sum grows by.
        replaced: by field, its new value; None where it stays.
    """

    added: dict[str, int | float]
    replaced: dict[str, int | None]

    @property
    def most(self) -> dict[str, int | float]:
        """By field, the largest sum that this can still be added to."""
        return {name: _LARGEST[type(amount)] - amount for name, amount in self.added.items()}


def checked_usage(
    *,
    cost: float = 0.0,
    prompt_tokens: int = 0,
    completion_tokens: int = 0,
    total_tokens: int | None = None,
    cache_read_tokens: int = 0,
    cache_write_tokens: int = 0,
    reasoning_tokens: int = 0,
    context_window: int | None = None,
    per_turn_token: int | None = None,
) -> Usage:
    """The arguments of `ConversationStore.add_usage`, by field.

    Raises:
        InvalidInput: a negative or infinite number, or none at all.
    """
    counts = {
        "prompt_tokens": _count("prompt_tokens", prompt_tokens),
        "completion_tokens": _count("completion_tokens", completion_tokens),
        "cache_read_tokens": _count("cache_read_tokens", cache_read_tokens),
        "cache_write_tokens": _count("cache_write_tokens", cache_write_tokens),
        "reasoning_tokens": _count("reasoning_tokens", reasoning_tokens),
    }
    counts["total_tokens"] = _count(
        "total_tokens", prompt_tokens + completion_tokens if total_tokens is None else total_tokens
    )
    last = {"context_window": context_window, "per_turn_token": per_turn_token}
    return Usage(
        {"accumulated_cost": _amount("cost", cost), **counts},
        {name: None if value is None else _count(name, value) for name, value in last.items()},
    )


def _count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_INTEGER:
        raise InvalidInput(f"{name} must be a whole number from 0 to 2**63-1, not {value!r}")
    return value


def _amount(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise InvalidInput(f"{name} must be a number of US dollars from 0 up, not {value!r}")
    return float(value)
