"""The masker that an application holds: a user's secrets, out of whatever it is about to store, log or send."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, Literal, NoReturn, TypeVar

from pydantic import BaseModel

from storage.errors import InvalidInput
from storage.masking.credentials import in_json, in_text
from storage.masking.json_text import masked
from storage.masking.scanner import HIDDEN, REPLACEMENT, Scanner

V = TypeVar("V")

SHORTEST: Final = 8
"""Characters below which a secret is not masked, unless configured otherwise: a short text occurs by chance, and a file
without its every `test` or `1234` would be of no use."""


@dataclass(frozen=True, slots=True)
class SecretValue:
    """A stored secret on its way to a masker.

    Attributes:
        name: what people call it.
        value: in clear: a text that is secret as a whole, or JSON of which parts are.
        declared: JSON's fields were declared secret (see storage.masking.credentials).
    """

    name: str
    value: Any = field(repr=False)
    declared: bool = False


@dataclass(frozen=True, slots=True)
class Skipped:
    """A secret that is not masked.

    Attributes:
        name: which one; not secret.
        reason: `short`, or `unreadable`: it could not be opened, so nobody was given it either.
    """

    name: str
    reason: Literal["short", "unreadable"]


@dataclass(frozen=True, slots=True)
class Secrets:
    """A user's secrets, ready to be found; immutable.

    Attributes:
        scanner: finds them.
        skipped: those that it does not find.
        failure: why some could not be opened.
    """

    scanner: Scanner
    skipped: tuple[Skipped, ...] = ()
    failure: Exception | None = None

    def masked(self, data: bytes) -> bytes:
        """The bytes with each secret replaced."""
        return masked(self.scanner, data) if self.scanner else data


def prepared(
    values: Iterable[SecretValue],
    shortest: int = SHORTEST,
    unreadable: Iterable[str] = (),
    failure: Exception | None = None,
) -> Secrets:
    """The secrets that are to be found.

    Args:
        values: the user's secrets.
        shortest: in characters; shorter ones, and those that are part of the replacement, are left out.
        unreadable: names of secrets that could not be opened.
        failure: why.
    """
    texts: set[str] = set()
    skipped = [Skipped(name, "unreadable") for name in unreadable]
    for each in values:
        whole = isinstance(each.value, str)
        found = set(in_text(each.value) if whole else in_json(each.value, declared=each.declared))
        long = {text for text in found if len(text.strip()) >= shortest and text not in REPLACEMENT}
        if found and not long:
            skipped.append(Skipped(each.name, "short"))
        texts |= long
    return Secrets(Scanner(texts, shortest), tuple(sorted(skipped, key=lambda one: one.name)), failure)


class Masker:
    """Replaces every secret of one user, in whatever form of storage.masking.forms, by `<secret_hidden>`.

    Current when it was made, after `refresh()`, and after each write of a masked file through the same storage; the
    storage also renews it after every commit of its own that changes the user's secrets or settings. A change by
    another process is noticed by the next `refresh()` or masked write.

    Nothing in it is shown, pickled or copied.

    Args:
        load: reads the user's secrets.
        secrets: as of now.
        whose: the user, for people.
    """

    __slots__ = ("__weakref__", "_load", "_secrets", "_whose")

    def __init__(self, load: Callable[[], Awaitable[Secrets]], secrets: Secrets, whose: str) -> None:
        self._load = load
        self._secrets = secrets
        self._whose = whose

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The secrets that are not masked, by name, and why."""
        return self._secrets.skipped

    async def refresh(self) -> None:
        """Read again what the secrets are now.

        Raises:
            KeyMissing, KeyMismatch, KeyUnavailable, Tampered: some cannot be opened; those of before are masked still.
            DatabaseError: they cannot be read.
        """
        secrets = await self._load()
        if secrets.failure is not None:
            raise secrets.failure
        self._secrets = secrets

    def take(self, secrets: Secrets) -> None:
        """Mask these from now on; for the storage."""
        self._secrets = secrets

    def mask(self, value: V) -> V:
        """`value` with every secret replaced; it is not changed itself. Secrets that overlap become one replacement.

        - str and bytes (bytearray and memoryview give bytes): in any place, JSON and lines of JSON remaining that; what
          is UTF-8 or not makes no difference.
        - Mappings give a dict, with keys masked too (a second key that would be the same gets ` (2)` behind it), lists,
          tuples and sets their like, pydantic models their `model_dump()` (a set of these a list), each with everything
          inside masked.
        - A number whose digits contain a secret of digits becomes a text.
        - Anything else is passed through, SecretStr among it.

        Takes 5 ms for a megabyte of text, some times that for JSON with secrets in it; it may be called on any thread.

        Raises:
            InvalidInput: it contains itself, or goes too deep for JSON.
        """
        if not self._secrets.scanner:
            return value
        try:
            masked_value: V = _masked(self._secrets, value)
        except RecursionError:
            raise InvalidInput("the value contains itself or is nested too deep; mask its parts") from None
        return masked_value

    def __repr__(self) -> str:
        return f"<Masker of the secrets of {self._whose!r}>"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a Masker holds secrets and is never pickled or copied: make one where it is needed")


def _masked(secrets: Secrets, value: Any) -> Any:
    if isinstance(value, str):
        return _text(secrets, value)
    if isinstance(value, bytes):
        return secrets.masked(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        hidden = secrets.scanner.finds_numbers and bool(secrets.scanner.spans(_digits(value).encode()))
        return REPLACEMENT if hidden else value
    if isinstance(value, bytearray | memoryview):
        return secrets.masked(bytes(value))
    return _container(secrets, value)


def _digits(value: float) -> str:
    try:
        return repr(value)
    except ValueError:  # an int of more than 4,300 digits
        return str(Decimal(value))


def _text(secrets: Secrets, text: str) -> str:
    data = text.encode("utf-8", "surrogatepass")
    hidden = secrets.masked(data)
    return text if hidden == data else hidden.decode("utf-8", "surrogatepass")


def _container(secrets: Secrets, value: Any) -> Any:
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, Mapping):
        return _mapping(secrets, value)
    if isinstance(value, list):
        return [_masked(secrets, item) for item in value]
    if isinstance(value, tuple):
        items = [_masked(secrets, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, set | frozenset):
        kind = frozenset if isinstance(value, frozenset) else set
        items = [_masked(secrets, item) for item in value]
        return items if any(isinstance(item, dict) for item in items) else kind(items)
    return value


def _mapping(secrets: Secrets, value: Mapping[Any, Any]) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    for key, item in value.items():
        hidden = name = _masked(secrets, key)
        number = 1
        while name in made and isinstance(hidden, str | bytes):
            number += 1
            name = f"{hidden} ({number})" if isinstance(hidden, str) else hidden + b" (%d)" % number
        made[name] = _masked(secrets, item)
    return made


__all__ = ["HIDDEN", "REPLACEMENT", "SHORTEST", "Masker", "SecretValue", "Secrets", "Skipped", "prepared"]
