"""What the doctor looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storage.config import StorageConfig
    from storage.database.database import Database
    from storage.encryption.keyring import KeyRing
    from storage.encryption.rotation.verbs import KeyRotation
    from storage.files.disk_guard import DiskGuard
    from storage.files.maintenance.verbs import FileMaintenance
    from storage.files.store import FileStore
    from storage.webhooks.verbs import Webhooks


@dataclass(frozen=True, slots=True)
class OpenParts:
    """The parts of an open storage."""

    keyring: KeyRing
    blobs: FileStore
    guard: DiskGuard
    keys: KeyRotation
    files: FileMaintenance
    webhooks: Webhooks


@dataclass(frozen=True, slots=True)
class Patient:
    """A storage that may be too ill to be opened.

    Attributes:
        config: where it is.
        database: its database, whatever its schema is; None if it cannot be opened at all.
        opened: the rest; None if the storage cannot be opened.
    """

    config: StorageConfig
    database: Database | None
    opened: OpenParts | None = None
