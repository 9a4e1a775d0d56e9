"""What the log says while the master key is not at hand: once for each reason, as a server asks with each request."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from storage.errors import EncryptionError
    from storage.storage import Storage

_told: Final[WeakKeyDictionary[Storage, set[str]]] = WeakKeyDictionary()


def tell_once(log: logging.Logger, storage: Storage, consequence: str, error: EncryptionError) -> None:
    """Log what happens and why, unless this storage's log has it already.

    Args:
        log: of the caller.
        storage: where it happened.
        consequence: what the user sees of it.
        error: names the key or the secret, and what to do; never a value.
    """
    text = f"{consequence}: {error}"
    told = _told.setdefault(storage, set())
    if text not in told:
        told.add(text)
        log.error("%s. `storage status` tells where the key is looked for", text)
