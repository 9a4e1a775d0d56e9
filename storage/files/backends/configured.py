"""The file store that a configuration names, and the cache in front of it: the one place that knows every backend.

A name that is none is refused, and never taken for another store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from storage.config import FILE_STORE_GROUP, FILE_STORES
from storage.errors import ConfigurationError
from storage.extension import load_class, load_installed
from storage.files.store import FileStore

if TYPE_CHECKING:
    from storage.config import StorageConfig


async def open_backend(config: StorageConfig) -> FileStore:
    """The configured store, for blobs: with `file_cache_bytes` behind a cache that takes what it holds for unchanging.

    Args:
        config: of it `file_store`, `file_store_path`, `file_cache_bytes` and `file_cache_path`; and what a third
            party's store reads in its own get_instance.

    Raises:
        ConfigurationError: there is no store of that name, its class cannot be loaded or is no FileStore, or a setting
            that it needs is missing.
    """
    store = await _open(config)
    if config.file_cache_bytes == 0:
        return store
    from storage.files.backends.cached import CachedFileStore

    # The catalogue never writes a blob's key twice.
    return CachedFileStore(store, config.file_cache_bytes, config.file_cache_path, immutable=True)


async def _open(config: StorageConfig) -> FileStore:
    kind = config.file_store
    if kind == "local":
        from storage.files.backends.local import LocalFileStore

        return LocalFileStore(config.file_store_path or config.files_default())
    if kind == "memory":
        from storage.files.backends.memory import MemoryFileStore

        return MemoryFileStore()
    if kind == "s3":
        from storage.files.backends.s3 import S3FileStore

        return await S3FileStore.get_instance(config)
    if kind == "google_cloud":
        from storage.files.backends.google_cloud import GoogleCloudFileStore

        return await GoogleCloudFileStore.get_instance(config)
    # Any: an abstract class may not be passed where a class is expected (mypy), and FileStore is only the measure here.
    interface: Any = FileStore
    store_class: type[FileStore] = (
        load_class("file_store", kind, interface)
        if "." in kind
        else load_installed("file_store", FILE_STORE_GROUP, kind, interface)
    )
    made = await store_class.get_instance(config, None)
    if not isinstance(made, FileStore):
        raise ConfigurationError(
            f"file_store: get_instance of {kind!r} gave {type(made).__name__}, not a FileStore;"
            f" mend that class, or use one of {', '.join(FILE_STORES)}"
        )
    return made
