"""Third-party classes, by dotted path or by an installed package's entry point: loaded, checked, made when first used.

Checked means held against the interface that they claim to implement.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from storage.errors import ConfigurationError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

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
    return _checked(setting, dotted_path, found, interface)


def installed_names(group: str) -> list[str]:
    """The names that installed packages give to entry points of a group, sorted."""
    return sorted({entry.name for entry in _entry_points(group)})


def load_installed(setting: str, group: str, name: str, interface: type[C]) -> type[C]:
    """The class that an installed package registered under a name, as an entry point of a group.

    Args:
        setting: the setting's name, for the error.
        group: of the entry points.
        name: of the entry point.
        interface: what it must be a subclass of.

    Raises:
        ConfigurationError: as `load_class`; or no package, or more than one, registered the name.
    """
    registered = {entry.value: entry for entry in _entry_points(group) if entry.name == name}
    if not registered:
        raise ConfigurationError(f"{setting}: no installed package has an entry point {name!r} in the group {group!r}")
    if len(registered) > 1:
        raise ConfigurationError(
            f"{setting}: {name!r} is registered more than once: {', '.join(sorted(registered))};"
            " name the class that is meant by its dotted path"
        )
    [(value, entry)] = registered.items()
    try:
        found = entry.load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"{setting}: the entry point {name!r} ({value}) cannot be loaded: {error}") from error
    if not inspect.isclass(found):
        raise ConfigurationError(f"{setting}: the entry point {name!r} ({value}) is not a class")
    return _checked(setting, f"{name!r} ({value})", found, interface)


def _entry_points(group: str) -> Iterable[EntryPoint]:
    from importlib.metadata import entry_points

    return entry_points(group=group)


def _checked(setting: str, shown: str, found: type[Any], interface: type[C]) -> type[C]:
    wanted = f"{interface.__module__}.{interface.__qualname__}"
    if not issubclass(found, interface):
        raise ConfigurationError(f"{setting}: {shown} must be a subclass of {wanted}")
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise ConfigurationError(f"{setting}: {shown} does not implement {', '.join(missing)} of {wanted}")
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
