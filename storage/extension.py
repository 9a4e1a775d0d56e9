"""Third-party classes named by dotted path: loaded, held against the interface they claim, and made when first used."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from storage.errors import ConfigurationError

C = TypeVar("C")


def load_class(setting: str, dotted_path: str, interface: type[C]) -> type[C]:
    """The class that a setting names.

    Args:
        setting: the setting's name, for the error.
        dotted_path: `package.module.Class`.
        interface: what it must be a subclass of.

    Raises:
        ConfigurationError: it cannot be imported, is not a class, does not derive from the interface, or leaves
            abstract methods of it open. The message says which.
    """
    module_name, _, class_name = dotted_path.rpartition(".")
    if not module_name:
        raise ConfigurationError(f"{setting}: {dotted_path!r} is not a dotted path such as 'package.module.Class'")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigurationError(f"{setting}: cannot import {module_name!r}: {error}") from error
    found = getattr(module, class_name, None)
    if not inspect.isclass(found):
        raise ConfigurationError(f"{setting}: module {module_name!r} has no class {class_name!r}")
    wanted = f"{interface.__module__}.{interface.__qualname__}"
    if not issubclass(found, interface):
        raise ConfigurationError(f"{setting}: {dotted_path} must be a subclass of {wanted}")
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise ConfigurationError(f"{setting}: {dotted_path} does not implement {', '.join(missing)} of {wanted}")
    return found


class DeferredStore:
    """A third-party store whose async `get_instance` has not been awaited yet.

    `storage.user(…)` is not async, `get_instance` is; so each method waits for the one instance before it is called.
    """

    def __init__(self, store_class: type[Any], make: Callable[[], Awaitable[Any]]) -> None:
        self._class = store_class
        self._make = make
        self._store: Any = None
        self._making = asyncio.Lock()

    async def _instance(self) -> Any:
        async with self._making:
            if self._store is None:
                self._store = await self._make()
        return self._store

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._class, name)
        if inspect.isasyncgenfunction(method):

            async def iterate(*arguments: Any, **options: Any) -> AsyncIterator[Any]:
                async for item in getattr(await self._instance(), name)(*arguments, **options):
                    yield item

            return iterate

        async def call(*arguments: Any, **options: Any) -> Any:
            return await getattr(await self._instance(), name)(*arguments, **options)

        return call

    def __repr__(self) -> str:
        return f"<{self._class.__qualname__}>"


def open_storage_parts(store: type[Any], config: Any) -> tuple[Any, Any]:
    """Executor and key ring of an open storage, for the `get_instance` of our own stores.

    Raises:
        ConfigurationError: `config` is not an open Storage (nothing with `database` and `keyring`). Our stores are the
            default and need no naming in a configuration.
    """
    database, keyring = getattr(config, "database", None), getattr(config, "keyring", None)
    if database is None or keyring is None:
        raise ConfigurationError(
            f"{store.__name__}.get_instance needs an open Storage, not {type(config).__name__};"
            " `(await Storage.open(…)).user(user_id)` has the store already"
        )
    return database, keyring
