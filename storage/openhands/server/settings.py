"""A user's settings as OpenHands' server asks for them."""

from __future__ import annotations

import logging
from typing import Any, Final

from openhands.storage.data_models.settings import Settings
from openhands.storage.settings.settings_store import SettingsStore
from pydantic import Secret, ValidationError

from storage.errors import EncryptionError, VersionConflict
from storage.openhands.locked import tell_once
from storage.openhands.process_storage import ProcessStorage, process_storage
from storage.openhands.snapshots import changes
from storage.secret_fields import exposed, secret_fields
from storage.secret_models import take_apart, together, validated
from storage.settings.model import Settings as Row

log = logging.getLogger(__name__)

_SECRETS: Final = secret_fields(Settings)
"""Of the installed release. One that has no column here would not be taken for a secret by its name."""

_SECRETS_STORE: Final = "secrets_store"
"""A field of OpenHands' model that its own store empties as well: tokens are kept by the secrets store."""

_ATTEMPTS: Final = 5


class SQLSettingsStore(SettingsStore):  # type: ignore[misc]
    """One user's settings in the storage of this process.

    The server makes a store for each request, loads, changes and stores. Storing therefore writes only what differs
    from what this store has loaded, so that two requests at once each keep the other's change.
    """

    def __init__(self, place: ProcessStorage, user_id: str | None) -> None:
        self._place = place
        self._user = place.storage.user(user_id)
        self._loaded: dict[str, Any] | None = None

    async def load(self) -> Settings | None:
        """The settings with their keys; None if never stored.

        Without the master key they come without the keys, which stay stored, and the log says what is wrong.
        """
        row = await self._place.portal.await_(self._load)
        if row is None:
            self._loaded = None
            return None
        settings = _to_openhands(row)
        self._loaded = _values(settings)
        return settings

    async def store(self, settings: Settings) -> None:
        """Store what was changed since `load`; all of it where there are none.

        Raises:
            InvalidInput: (a ValueError) a value does not fit.
            KeyMissing, KeyMismatch, KeyUnavailable: a key is to be stored, and the master key is not at hand.
        """
        wanted = _values(settings)
        await self._place.portal.await_(self._store, wanted, self._loaded)
        self._loaded = wanted

    @classmethod
    async def get_instance(cls, config: Any, user_id: str | None) -> SQLSettingsStore:  # noqa: ARG003 - the interface has it
        """The store of one user; None is the local user. OpenHands' configuration is not asked."""
        return cls(process_storage(), user_id)

    async def _load(self) -> Row | None:
        try:
            return await self._user.settings.load()
        except EncryptionError as error:
            tell_once(log, self._place.storage, "settings are shown without their keys", error)
            return await self._user.settings.load_without_secrets()

    async def _store(self, wanted: dict[str, Any], loaded: dict[str, Any] | None) -> None:
        if loaded is None:
            current = await self._load()
            loaded = {} if current is None else _values(_to_openhands(current))
        changed = changes(loaded, wanted)
        if changed.keys() <= Row.model_fields.keys():
            if changed:
                await self._user.settings.update(**changed)
            return
        values = {name: _hidden(name, value) for name, value in changed.items()}
        for _ in range(_ATTEMPTS):
            stored = await self._user.settings.load()
            there = {} if stored is None else together(type(stored), take_apart(stored))
            version = 0 if stored is None else stored.version
            try:
                await self._user.settings.store(validated(Row, {**there, **values}, "settings"), version)
            except VersionConflict:
                continue
            return
        raise VersionConflict("the settings kept changing while they were stored; try again")


def _hidden(name: str, value: Any) -> Any:
    return Secret(value) if name in _SECRETS and name not in Row.model_fields and value is not None else value


def _to_openhands(row: Row) -> Settings:
    """A row as the installed release holds it, without what it has no field for or does not accept."""
    dumped = {**exposed(row), **exposed(row.model_extra or {})}
    values = {name: dumped[name] for name in Settings.model_fields if name in dumped and name != _SECRETS_STORE}
    while True:
        try:
            settings = Settings(**values)
        except ValidationError as error:
            problems = error.errors(include_input=False, include_url=False, include_context=False)
            names = {str(problem["loc"][0]) for problem in problems if problem["loc"]} & values.keys()
            if not names:
                raise
            for name in names:
                del values[name]
        else:
            if "v1_enabled" in Settings.model_fields:
                settings.v1_enabled = True  # as the server's own store has it
            return settings


def _values(settings: Settings) -> dict[str, Any]:
    """The settings as plain values, keys in clear; None for an empty key."""
    values = {}
    for name in type(settings).model_fields:
        if name == _SECRETS_STORE:
            continue
        value = getattr(settings, name)
        plain = exposed(value)
        # An empty key is none; told by the type, since an empty text of another kind is a value.
        values[name] = None if hasattr(value, "get_secret_value") and not str(plain).strip() else plain
    return values
