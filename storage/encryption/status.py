"""What people are told about the keys and the work on them: small records, nothing in them secret."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

Progress: TypeAlias = Callable[[int, int], None]
"""Told how many of how many are done, now and then, on the event loop's thread; what it raises ends the work."""

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
        complete: whether every master key that data keys depend on is held; False while locked. Those that were given
            up (see KeyRotation.abandon) are not counted.
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


MasterKeyState: TypeAlias = Literal["active", "available", "missing", "retired"]
"""`active`: new data keys are wrapped under it. `available`: the provider holds it. `missing`: it does not."""


@dataclass(frozen=True, slots=True)
class MasterKeyInfo:
    """A master key that the database knows.

    Attributes:
        kek_id: hex of its id.
        state: what it is used for, and whether the provider holds it.
        data_keys: how many data keys are wrapped under it.
        created_at: when the database first used it.
        retired_at: since when nothing may be wrapped under it; None if it is not retired.
    """

    kek_id: str
    state: MasterKeyState
    data_keys: int
    created_at: datetime
    retired_at: datetime | None


@dataclass(frozen=True, slots=True)
class KeysStatus:
    """The master keys and what depends on them.

    Attributes:
        ring: the state of the ring, checked just now.
        master_keys: all that the database knows, the oldest first.
        unfinished: data keys that a re-encryption has still to replace; those that were given up are not counted.
    """

    ring: KeyRingStatus
    master_keys: tuple[MasterKeyInfo, ...]
    unfinished: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A sealed value or a data key that cannot be opened, by its place.

    Attributes:
        table: `data_key` for a data key.
        column: the sealed column; `wrapped` for a data key.
        user_id: the owner; empty for what belongs to no user.
        row_id: the id that the value is bound to; the data key's id for a data key.
        name: what the user calls it, empty if it has no name.
        reason: name of the error: `KeyMissing`, `KeyUnavailable` or `Tampered`.
    """

    table: str
    column: str
    user_id: str
    row_id: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """What a rewrap did.

    Attributes:
        kek_id: hex id of the master key that all data keys are to be under.
        moved: data keys that are under it now and were not before.
        already: data keys that were under it when the run began.
        failed: data keys that could not be unwrapped; they are as they were.
    """

    kek_id: str
    moved: int
    already: int
    failed: tuple[Unreadable, ...]


@dataclass(frozen=True, slots=True)
class Reencrypted:
    """What a re-encryption did.

    Attributes:
        users: users whose values were looked at.
        resealed: values that were sealed again.
        resumed: whether the run finished an interrupted one, and began none of its own.
        unreadable: values that could not be opened and data keys that could not be unwrapped; they are as they were.
    """

    users: int
    resealed: int
    resumed: bool
    unreadable: tuple[Unreadable, ...]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the doctor found.

    Attributes:
        master_keys: all that the database knows.
        data_keys: how many data keys are stored.
        sealed: how many values are stored, by `table.column`; all sealed columns are listed.
        unreadable: values and data keys that cannot be opened.
        problems: what else is wrong, a sentence each; empty if nothing is.
    """

    master_keys: tuple[MasterKeyInfo, ...]
    data_keys: int
    sealed: dict[str, int]
    unreadable: tuple[Unreadable, ...]
    problems: tuple[str, ...]
