"""settings.json and secrets.json as the app server's stores read and write them, over a user's rows.

Those stores turn such a file into their models and back, with rules of their own that change from release to release.
Given this in the place of a file store, they do so here too.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from typing import Any, Final

from pydantic import Secret

from storage.errors import EncryptionError, FileNotFound, VersionConflict
from storage.openhands.app_server.merging import differing, merged
from storage.openhands.locked import tell_once
from storage.openhands.process_storage import ProcessStorage
from storage.openhands.secret_rows import Entries, SecretRows, no_entries
from storage.secret_models import Parts, take_apart, together, validated
from storage.settings.model import Settings

log = logging.getLogger(__name__)

SETTINGS: Final = "settings.json"
SECRETS: Final = "secrets.json"

_ATTEMPTS: Final = 8
_KEPT_ELSEWHERE: Final = ("secrets_store", "secret_store")


class AccountFiles:
    """One user's two files. Blocking, as file stores are; to be used for one load and one store, as requests do.

    Writing changes what differs from what was given to the caller, so that two requests at once each keep the other's
    change, and what the caller was not shown stays.
    """

    def __init__(self, place: ProcessStorage, user_id: str | None) -> None:
        self._place = place
        self._user = place.storage.user(user_id)
        self._secrets = SecretRows(place, user_id)
        self._given: dict[str, dict[str, Any]] = {}
        self._left_out: set[str] = set()

    def read(self, path: str) -> str:
        """The file as text. Without the master key it comes without what is sealed, and the log says so.

        Raises:
            FileNotFound: (a FileNotFoundError) nothing was ever stored, or it is neither of the two.
        """
        found = self._place.portal.call({SETTINGS: self._settings, SECRETS: self._secrets.load}.get(path, _no_file))
        if found is None:
            raise FileNotFound(f"there is no {path} yet")
        self._given[path] = found
        return json.dumps(found)

    def given(self, path: str, content: Mapping[str, Any]) -> None:
        """Note what has become of the text that was read: a model leaves out what it does not know, and adds to it."""
        self._given[path] = dict(content)

    def leave_out(self, names: Collection[str]) -> bool:
        """Read without these settings from now on, which the model refuses; False if that was so before."""
        new = set(names) - self._left_out
        self._left_out |= new
        return bool(new)

    def write(self, path: str, contents: str | bytes, secret: Collection[str] | None = None) -> None:
        """Store what differs from what was given; all of it if nothing was.

        Args:
            path: SETTINGS or SECRETS.
            contents: the whole file.
            secret: the settings that hold a secret somewhere; if None, every one that this library has no column for
                and that is more than one plain value. Those whose name says so are sealed in any case.

        Raises:
            InvalidInput: (a ValueError) a value does not fit.
            VersionConflict: somebody else kept changing it; try again.
            KeyMissing, KeyMismatch, KeyUnavailable: the master key is not at hand; nothing was written.
        """
        wanted = json.loads(contents)
        given = self._given.get(path)
        if path == SETTINGS:
            self._place.portal.call(self._write_settings, wanted, given, secret)
        else:
            self._place.portal.call(self._write_secrets, wanted, given)
        self._given[path] = wanted

    # ---- on the portal's loop

    async def _settings(self) -> dict[str, Any] | None:
        try:
            row = await self._user.settings.load()
        except EncryptionError as error:
            tell_once(log, self._place.storage, "settings are shown without their keys", error)
            row = await self._user.settings.load_without_secrets()
        if row is None:
            return None
        found = _with_agent(_plain(take_apart(row)))
        return {name: value for name, value in found.items() if name not in self._left_out}

    async def _write_settings(
        self, wanted: dict[str, Any], given: dict[str, Any] | None, secret: Collection[str] | None
    ) -> None:
        fields = {name: value for name, value in wanted.items() if name not in _KEPT_ELSEWHERE}
        changed = differing(given or {}, fields)
        if not changed and given is not None:
            return
        if changed <= Settings.model_fields.keys():
            await self._user.settings.update(**{name: fields[name] for name in changed})
            return
        for _ in range(_ATTEMPTS):
            row = await self._user.settings.load()
            parts = Parts({}, {}) if row is None else take_apart(row)
            there = _plain(parts)
            new = {name: merged(there.get(name), (given or {}).get(name), fields[name]) for name in changed}
            values = {name: _sealed(name, value, parts, secret) for name, value in new.items()}
            try:
                await self._user.settings.store(
                    validated(Settings, {**together(Settings, parts), **values}, "settings"),
                    0 if row is None else row.version,
                )
            except VersionConflict:
                continue
            return
        raise VersionConflict("the settings kept changing while they were stored; try again")

    async def _write_secrets(self, wanted: dict[str, Any], given: dict[str, Any] | None) -> None:
        before = given if given is not None else await self._secrets.load()
        await self._secrets.store(_both(wanted), _both(before or {}))


def _both(entries: Mapping[str, Any]) -> Entries:
    return {kind: entries.get(kind) or {} for kind in no_entries()}


async def _no_file() -> None:
    return None


def _plain(parts: Parts) -> dict[str, Any]:
    return {**parts.plain, **parts.secret}


def _with_agent(settings: dict[str, Any]) -> dict[str, Any]:
    """With what releases up to 1.6 had as fields of their own, where newer ones look for it.

    Their own stores leave it behind, and the user without a model.
    """
    if "agent_settings" in settings or not settings.get("llm_model"):
        return settings
    llm = {name: settings.get(f"llm_{name}") for name in ("model", "api_key", "base_url")}
    conversation = {name: settings.get(name) for name in ("max_iterations", "confirmation_mode")}
    return {
        "conversation_settings": {name: value for name, value in conversation.items() if value is not None},
        **settings,
        "agent_settings": {"llm": {name: value for name, value in llm.items() if value is not None}},
    }


def _sealed(name: str, value: Any, stored: Parts, secret: Collection[str] | None) -> Any:
    """The value wrapped if it is to be sealed: models' keys and servers' tokens lie deep in it."""
    if name in Settings.model_fields or value is None:
        return value
    if secret is None:
        hold = isinstance(value, dict | list) and bool(value)
    else:
        hold = name in secret or (isinstance(value, dict) and bool(value))
    return Secret(value) if hold or name in stored.secret else value
