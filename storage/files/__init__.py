"""A user's files: backends that keep bytes at paths, and the catalogue that makes them part of a transaction.

Names are loaded when first used, so that who names one backend does not pay for the libraries of the others.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from storage.files.backends.cached import CachedFileStore
    from storage.files.backends.google_cloud import GoogleCloudFileStore
    from storage.files.backends.local import LocalFileStore
    from storage.files.backends.memory import MemoryFileStore
    from storage.files.backends.s3 import S3FileStore
    from storage.files.catalog import FileCatalog
    from storage.files.store import FileStat, FileStore

_HOMES: Final = {
    "CachedFileStore": "storage.files.backends.cached",
    "FileCatalog": "storage.files.catalog",
    "FileStat": "storage.files.store",
    "FileStore": "storage.files.store",
    "GoogleCloudFileStore": "storage.files.backends.google_cloud",
    "LocalFileStore": "storage.files.backends.local",
    "MemoryFileStore": "storage.files.backends.memory",
    "S3FileStore": "storage.files.backends.s3",
}

__all__ = [
    "CachedFileStore",
    "FileCatalog",
    "FileStat",
    "FileStore",
    "GoogleCloudFileStore",
    "LocalFileStore",
    "MemoryFileStore",
    "S3FileStore",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'storage.files' has no attribute {name!r}")
    found = getattr(importlib.import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
