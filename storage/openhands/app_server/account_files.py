"""settings.json and secrets.json as the app server's stores read and write them, over a user's rows.

Those stores turn such a file into their models and back, with rules of their own that change from release to release.
Given this in the place of a file store, they do so here too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from pydantic import Secret

from storage.errors import FileNotFound, VersionConflict
from storage.openhands.process_storage import ProcessStorage
from storage.openhands.snapshots import changes
from storage.secret_fields import exposed
from storage.secrets.model import UserSecrets
from storage.settings.model import Settings

SETTINGS: Final = "settings.json"
SECRETS: Final = "secrets.json"

_ATTEMPTS: Final = 8
_KEPT_ELSEWHERE: Final = ("secrets_store", "secret_store")


class AccountFiles:
    """One user's two files. Blocking, as file stores are; to be used for one load and one store, as requests do.

    Writing changes what differs from what was read here, so that two requests at once each keep the other's change.
    Settings that this library has no column for are sealed if they hold anything but a plain value.
    """

    def __init__(self, place: ProcessStorage, user_id: str | None) -> None:
        self._place = place
        self._user = place.storage.user(user_id)
        self._read: dict[str, dict[str, Any]] = {}

    def read(self, path: str) -> str:
        """The file as text.

        Raises:
            FileNotFound: (a FileNotFoundError) nothing was ever stored, or it is neither of the two.
            KeyMissing, KeyMismatch, KeyUnavailable, Tampered: something sealed cannot be opened.
        """
        found = self._place.portal.call({SETTINGS: self._settings, SECRETS: self._secrets}.get(path, _nothing))
        if found is None:
            raise FileNotFound(f"there is no {path} yet")
        self._read[path] = found
        return json.dumps(found)

    def write(self, path: str, contents: str | bytes) -> None:
        """Store what was changed since `read`, or everything if nothing was read.

        Raises:
            InvalidInput: (a ValueError) a value does not fit.
            VersionConflict: somebody else kept changing it; try again.
            KeyMissing, KeyMismatch, KeyUnavailable: the master key is not at hand; nothing was written.
        """
        wanted = json.loads(contents)
        write = {SETTINGS: self._write_settings, SECRETS: self._write_secrets}[path]
        self._place.portal.call(write, wanted, self._read.get(path))
        self._read[path] = wanted

    # ---- on the portal's loop

    async def _settings(self) -> dict[str, Any] | None:
        row = await self._user.settings.load()
        return None if row is None else {**exposed(row), **exposed(row.model_extra or {})}

    async def _write_settings(self, wanted: dict[str, Any], read: dict[str, Any] | None) -> None:
        for _ in range(_ATTEMPTS):
            row = await self._user.settings.load()
            there = {} if row is None else {**exposed(row), **exposed(row.model_extra or {})}
            merged = {**there, **changes(read or {}, wanted)} if read is not None else {**there, **wanted}
            fields = {name: _sealed(name, value) for name, value in merged.items() if name not in _KEPT_ELSEWHERE}
            try:
                await self._user.settings.store(Settings.model_validate(fields), 0 if row is None else row.version)
            except VersionConflict:
                continue
            return
        raise VersionConflict("the settings kept changing while they were stored; try again")

    async def _secrets(self) -> dict[str, Any] | None:
        stored = await self._user.secrets.load()
        return None if stored is None else exposed_secrets(stored)

    async def _write_secrets(self, wanted: dict[str, Any], read: dict[str, Any] | None) -> None:
        for _ in range(_ATTEMPTS):
            stored = await self._user.secrets.load()
            there = {} if stored is None else exposed_secrets(stored)
            merged = {kind: _merged(there, read, wanted, kind) for kind in ("provider_tokens", "custom_secrets")}
            try:
                version = 0 if stored is None else stored.version
                await self._user.secrets.store(UserSecrets.model_validate({**there, **merged}), version)
            except VersionConflict:
                continue
            return
        raise VersionConflict("the secrets kept changing while they were stored; try again")


async def _nothing() -> None:
    return None


def exposed_secrets(stored: UserSecrets) -> dict[str, Any]:
    """Everything in clear, as secrets.json has it."""
    values: dict[str, Any] = exposed(stored.model_extra or {})
    values["provider_tokens"] = {
        str(provider): {"token": exposed(token.token), "host": token.host, "user_id": token.user_id}
        for provider, token in stored.provider_tokens.items()
    }
    values["custom_secrets"] = {
        name: {"secret": exposed(custom.secret), "description": custom.description}
        for name, custom in stored.custom_secrets.items()
    }
    return values


def _merged(
    there: Mapping[str, Any], read: Mapping[str, Any] | None, wanted: Mapping[str, Any], kind: str
) -> dict[str, Any]:
    """What is there with the caller's changes; all that the caller has if nothing was read."""
    new = wanted.get(kind) or {}
    if read is None:
        return dict(new)
    old = read.get(kind) or {}
    kept = {name: value for name, value in (there.get(kind) or {}).items() if name in new or name not in old}
    return {**kept, **changes(old, new)}


def _sealed(name: str, value: Any) -> Any:
    """Nested values of unknown fields hold models' keys and servers' tokens, at places that only OpenHands knows."""
    return Secret(value) if name not in Settings.model_fields and isinstance(value, dict | list) and value else value
