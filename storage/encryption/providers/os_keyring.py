"""Master keys in the operating system's keyring: Keychain, Credential Manager, GNOME Keyring, KWallet.

They are unlocked with the login and lie in no file that a backup picks up. A machine without such a keyring gets
an error and no weaker place: a key that silently went into a plain file would be believed to be safe.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from storage.encryption.providers.file_lock import exclusive
from storage.encryption.providers.local_keys import MasterKey, parse_master_keys
from storage.encryption.providers.provider import ProviderHealth
from storage.encryption.providers.stored_keys import StoredKeys
from storage.errors import ConfigurationError, KeyMissing, KeyUnavailable
from storage.private_folder import make_private_folder

if TYPE_CHECKING:
    from storage.config import StorageConfig

T = TypeVar("T")

ACCOUNT: Final = "master-key"
"""The user name of our entry; the service is configured."""

_REFUSED_MODULES: Final = ("keyring.backends.fail", "keyring.backends.null", "keyrings.alt")
"""No keyring; one that forgets everything; and plain files, or such as ask for a password on a terminal."""

_RECOMMENDED_PRIORITY: Final = 1
"""What the keyring package calls recommended; the others are "suitable" at best."""

_REMEDY: Final = (
    "Log in to a desktop session whose keyring is unlocked, or choose another provider: key_provider = 'key-file', or "
    "STORAGE_MASTER_KEY on a server"
)


class OSKeyring(StoredKeys):
    """One entry of the keyring, which holds the keys in base64, separated by commas, the first one active.

    Keyrings have no compare-and-set. Processes that share the lock file take turns, and each reads back what it
    wrote; programs of other users, or with another lock file, that write the same entry at the same moment can
    overwrite each other.

    Args:
        service: the service under which the entry lies.
        lock_file: an empty file that writers take turns by; its folder is made if need be.
        backend: a keyring of the package `keyring`; the one that it finds if None.
    """

    name = "keyring"

    def __init__(self, service: str, lock_file: Path, backend: Any = None) -> None:
        super().__init__()
        self._service = service
        self._lock_file = lock_file
        self._backend = backend
        # One thread of its own: a keyring may wait for a person to unlock it, and must not hold up anything else.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="storage-keyring")

    @classmethod
    async def get_instance(cls, config: StorageConfig) -> Self:
        made = cls(config.keyring_service, config.master_key_file.expanduser().with_name("keyring.lock"))
        await made._run(_import_keyring)
        return made

    @property
    def where(self) -> str:
        return f"the keyring of the operating system (service {self._service!r}, user {ACCOUNT!r})"

    async def health(self) -> ProviderHealth:
        text = await self._run(self._read)
        if text is None:
            self.use(())
            return ProviderHealth(has_key=False, detail=f"{self.where} has no such entry")
        self.use(parse_master_keys(text, self.where))
        return ProviderHealth(has_key=True, detail=f"{len(self._keys)} key(s) in {self.where}")

    async def create(self, keys: Sequence[MasterKey]) -> bool:
        def first(present: tuple[MasterKey, ...] | None) -> Sequence[MasterKey]:
            return keys if present is None else present

        return await self._run(lambda: self._change(first)) is None

    async def append(self, keys: Sequence[MasterKey]) -> None:
        await self._run(lambda: self._change(lambda present: (*self._required(present), *keys)))

    async def put_first(self, key: MasterKey) -> None:
        def reordered(present: tuple[MasterKey, ...] | None) -> Sequence[MasterKey]:
            if key not in self._required(present):
                raise KeyMissing(f"that master key was taken out of {self.where} meanwhile")
            return (key, *self._required(present))

        await self._run(lambda: self._change(reordered))

    async def close(self) -> None:
        self._thread.shutdown(wait=False)

    # ---- below: on the thread

    def _change(
        self, change: Callable[[tuple[MasterKey, ...] | None], Sequence[MasterKey]]
    ) -> tuple[MasterKey, ...] | None:
        """Replace the entry by `change` of it, without repetitions; returns what was there before."""
        try:
            make_private_folder(self._lock_file.parent)
            with exclusive(self._lock_file, create=True):
                text = self._read()
                before = None if text is None else parse_master_keys(text, self.where)
                after = tuple(dict.fromkeys(change(before)))
                if after != before:
                    written = ",".join(key.encoded() for key in after)
                    self._call("write", lambda keyring: keyring.set_password(self._service, ACCOUNT, written))
                    if self._read() != written:
                        raise KeyUnavailable(
                            f"{self.where} does not give back what was just written to it, so it is no place for a key"
                        )
                return before
        except OSError as error:
            raise KeyUnavailable(f"the lock file {self._lock_file} cannot be used: {error.strerror}") from error

    def _read(self) -> str | None:
        text: str | None = self._call("read", lambda keyring: keyring.get_password(self._service, ACCOUNT))
        return text

    def _required(self, present: tuple[MasterKey, ...] | None) -> tuple[MasterKey, ...]:
        if present is None:
            raise KeyMissing(f"there is no master key in {self.where}")
        return present

    def _call(self, verb: str, call: Callable[[Any], Any]) -> Any:
        """A call to the keyring, whose backends raise all sorts of errors."""
        try:
            if self._backend is None:
                self._backend = _import_keyring().get_keyring()
            return call(_secure(self._backend))
        except (KeyUnavailable, ConfigurationError):
            raise
        except Exception as error:  # noqa: BLE001 - plug-ins of any origin
            # Only the kind of error is told: a message of somebody else's might quote what was to be stored.
            raise KeyUnavailable(
                f"cannot {verb} the keyring of the operating system ({type(error).__name__}). {_REMEDY}"
            ) from None

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def _import_keyring() -> Any:
    try:
        import keyring
    except ImportError:
        raise ConfigurationError(
            "key_provider 'keyring' needs the package keyring; install it: pip install 'agent-storage[keyring]'"
        ) from None
    return keyring


def _secure(backend: Any) -> Any:
    """The keyring to use of what was found; of a chain, its best one, for all calls.

    Raises:
        KeyUnavailable: there is none, or only such as keep secrets in the clear.
    """
    candidates = getattr(backend, "backends", None) if _module(backend) == "keyring.backends.chainer" else [backend]
    refused = []
    for candidate in candidates or ():
        if _module(candidate).startswith(_REFUSED_MODULES) or candidate.priority < _RECOMMENDED_PRIORITY:
            refused.append(f"{_module(candidate)}.{type(candidate).__name__}")
        else:
            return candidate
    found = f"found only {', '.join(refused)}" if refused else "found none"
    raise KeyUnavailable(f"this machine has no keyring that keeps secrets safe ({found}). {_REMEDY}")


def _module(backend: Any) -> str:
    return type(backend).__module__
