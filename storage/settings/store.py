"""The interface of every place that keeps a user's settings: load, store, and update of single fields.

`update` exists because saving everything to change one field is how settings get lost: two pages of a user interface
that each send the whole undo each other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Final, Self

from storage.encryption.keyset import SecretState
from storage.errors import Conflict, EncryptionError, InvalidInput, VersionConflict
from storage.secret_fields import secret_fields
from storage.secret_models import refuse_unknown, take_apart, together, validated
from storage.settings.model import Settings

_MOST_ATTEMPTS: Final = 16
"""Tries of the default `update`; each failed one means that another writer got further."""


class SettingsStore(ABC):
    """One user's settings. A store for another user is another object."""

    model: type[Settings] = Settings
    """The class of what `load` returns."""

    @classmethod
    @abstractmethod
    async def get_instance(cls, config: Any, user_id: str | None = None) -> Self:
        """A store for this configuration and user, as the seed system builds what its configuration names.

        Args:
            config: the StorageConfig that named this class.
            user_id: None is the local user.
        """

    @abstractmethod
    async def load(self) -> Settings | None:
        """The settings with their secrets; None if never stored.

        Raises:
            KeyMissing, KeyMismatch, KeyUnavailable: a secret is stored and the master key is not at hand. Use
                `load_without_secrets` for the rest.
            Tampered: a stored secret was altered or moved.
        """

    @abstractmethod
    async def store(self, settings: Settings, expected_version: int | None = None) -> int:
        """Replace the settings, and return their new version. Storing what is stored already changes nothing.

        Args:
            settings: all of them: a field that is None is unset afterwards.
            expected_version: `version` of the settings that the change is based on; 0 if there were none.

        Raises:
            VersionConflict: they have changed since; nothing was written.
            InvalidInput: read by `load_without_secrets`; a mask in place of a secret; what JSON cannot hold.
            KeyMissing, KeyMismatch, KeyUnavailable: secrets are, or would be, stored and their key is not at hand. Then
                nothing was written; `update` replaces or unsets, by its name, one that is lost for good.
        """

    async def update(self, **changes: Any) -> Settings:
        """Change the named fields and no other, and return the settings as they are then; see `Settings` for the rules.

        Settings that were never stored begin with the defaults. Where only fields that are not secret change, nothing
        secret is touched, and the master key is not needed; without it the result has no secrets (`is_complete` is
        False). Giving None unsets a field.

        Raises:
            InvalidInput: an unknown field (the message names the nearest), or a value that does not fit.
            KeyMissing, KeyMismatch, KeyUnavailable: a secret is to be written, or `llm_base_url` changes and with it
                what llm_api_key is sealed for, and the master key is not at hand.
        """
        refuse_unknown(self.model, changes)
        for _ in range(_MOST_ATTEMPTS):
            current = await self.load()
            values = {} if current is None else together(self.model, take_apart(current))
            changed = validated(self.model, {**values, **changes}, "settings")
            try:
                version = await self.store(changed, 0 if current is None else current.version)
            except VersionConflict:
                continue
            changed._version = version  # noqa: SLF001 - set by stores only
            return changed
        raise Conflict("the settings keep changing; try again")

    async def discard_unreadable(self) -> tuple[str, ...]:
        """Unset, on purpose, every secret that cannot be opened; returns the names of the fields.

        For what is lost for good: afterwards `load` and `store` work again. Fields that a subclass adds are sealed
        together, and go together, as `sealed_extra`. A store that cannot tell which ones these are raises as `load`
        does.

        Raises:
            KeyMissing, KeyMismatch, KeyUnavailable: locked, or a key is out of reach for now; nothing was unset.
        """
        await self.load()
        return ()

    async def load_without_secrets(self) -> Settings | None:
        """The settings with every secret None, whatever the state of the keys; None if never stored.

        The result cannot be stored (`is_complete` is False); use `update` to change something.

        Raises:
            EncryptionError: a subclass declares a secret without a default.
        """
        settings = await self.load()
        return None if settings is None else without_secrets(settings)

    async def secret_states(self) -> dict[str, SecretState]:
        """For each secret field whether it is set, unset or unreadable. Nothing is decrypted."""
        try:
            settings = await self.load()
        except EncryptionError:
            return dict.fromkeys(sorted(secret_fields(self.model)), "unreadable")
        held = take_apart(settings).secret if settings is not None else {}
        names = sorted(secret_fields(self.model) | held.keys())
        return {name: "set" if name in held else "unset" for name in names}


def without_secrets(settings: Settings) -> Settings:
    """A copy with every secret None, marked as incomplete.

    Raises:
        InvalidInput: the model declares a secret without a default.
    """
    copy = validated(type(settings), take_apart(settings).plain, "settings without secrets")
    return mark_incomplete(copy, settings.version)


def mark_incomplete(settings: Settings, version: int) -> Settings:
    """Note that the object lacks its secrets, so that it is never stored over them."""
    settings._version = version  # noqa: SLF001 - set by stores only
    settings._complete = False  # noqa: SLF001 - as above
    return settings


def refuse_incomplete(settings: Settings) -> None:
    """Pass if the object has its secrets.

    Raises:
        InvalidInput: it was read without them.
    """
    if not isinstance(settings, Settings):
        raise InvalidInput(f"settings must be a Settings object, not {type(settings).__name__}")
    if not settings.is_complete:
        raise InvalidInput(
            "these settings were read without their secrets; storing them would remove the stored ones. Use "
            "update(field=value) to change single fields"
        )
