"""What people are told about the keys: one small record, nothing in it secret."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

KeyState: TypeAlias = Literal["new", "unlocked", "locked"]
"""`new`: no key was needed yet. `locked`: everything works but secrets."""


@dataclass(frozen=True, slots=True)
class KeyRingStatus:
    """The state of the keys when they were last checked.

    Attributes:
        state: `new`, `unlocked` or `locked`.
        reason: the error that secrets raise while locked, `KeyMissing`, `KeyMismatch` or `KeyUnavailable`;
            else empty.
        message: one or two sentences; when something is wrong, with what to do.
        complete: whether every data key can be unwrapped; False while locked, or if a master key is missing.
        kek_id: hex id of the master key that new data keys are wrapped under; None if none is registered.
        provider: name of the provider.
        where: where it looks for the key.
        data_keys: how many data keys are stored.
    """

    state: KeyState
    reason: str
    message: str
    complete: bool
    kek_id: str | None
    provider: str
    where: str
    data_keys: int
