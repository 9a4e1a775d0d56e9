"""What is to be kept and for how long."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import timedelta
from math import isfinite
from typing import TYPE_CHECKING, Final

from storage.errors import InvalidInput

if TYPE_CHECKING:
    from storage.config import StorageConfig

LONGEST: Final = timedelta(days=36_500)
"""A hundred years; much more would reach back behind the year 1."""


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """Rules, each of which removes something; one that is None removes nothing.

    A conversation counts with its sub-conversations: it is as young as the youngest of them, was used when one of them
    was, and goes with all of them and their files.

    Attributes:
        conversation_age: conversations that began longer ago go, however much they are used.
        conversation_idle: conversations that neither changed nor got a file for so long go.
        conversations_per_user: of each user's, only so many stay: those that changed last.
        event_age: events that happened longer ago and that no web hook waits for go.
        events_per_user: of each user's events, only so many stay: the latest, and what web hooks wait for.

    Raises:
        InvalidInput: a time that is not positive or longer than a hundred years, or a number below 1.
    """

    conversation_age: timedelta | None = None
    conversation_idle: timedelta | None = None
    conversations_per_user: int | None = None
    event_age: timedelta | None = None
    events_per_user: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, timedelta) and not timedelta() < value <= LONGEST:
                raise InvalidInput(f"{field.name} must be positive and at most {LONGEST.days:,} days, not {value}")
            if isinstance(value, int) and value < 1:
                raise InvalidInput(f"{field.name} must be at least 1, not {value}; None keeps all")

    @classmethod
    def of(cls, config: StorageConfig) -> RetentionPolicy:
        """The policy that the configuration has."""
        return cls(
            conversation_age=_days(config.conversation_retention_days),
            conversation_idle=_days(config.conversation_idle_days),
            conversations_per_user=config.conversations_per_user,
            event_age=_days(config.event_retention_days) if config.event_retention_days > 0 else None,
            events_per_user=config.events_per_user,
        )

    @property
    def has_conversation_rules(self) -> bool:
        """Whether a conversation may go."""
        rules = (self.conversation_age, self.conversation_idle, self.conversations_per_user)
        return any(rule is not None for rule in rules)

    @property
    def is_empty(self) -> bool:
        """Whether nothing may go."""
        return all(getattr(self, field.name) is None for field in fields(self))


def _days(value: float | None) -> timedelta | None:
    if value is None or not isfinite(value):
        return None
    return min(timedelta(days=min(value, LONGEST.days)), LONGEST)
