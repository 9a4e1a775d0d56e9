"""The interface of every place that keeps a user's secrets: all at once as the seed system does, and one by one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Final, Self, TypeAlias

from pydantic import SecretStr

from storage.errors import Conflict, InvalidInput, SecretNotFound, VersionConflict
from storage.masking.masker import Masker, Secrets, SecretValue, prepared
from storage.providers import ProviderType
from storage.secret_models import take_apart, validated
from storage.secrets.model import CustomSecret, ProviderToken, SecretInfo, UserSecrets

Listing: TypeAlias = list[SecretInfo]
"""By this name because `list` is a method below."""

_MOST_ATTEMPTS: Final = 16
"""Tries of the default verbs; each failed one means that another writer got further."""


class SecretsStore(ABC):
    """One user's secrets. A store for another user is another object.

    A store must implement `get_instance`, `load` and `store`; the rest is made of these, and overriding it makes it
    faster and independent of the other secrets.

    Where the master key is not at hand, `list` and the `delete_…` verbs work, and everything else that meets a secret
    raises KeyMissing, KeyMismatch or KeyUnavailable and changes nothing.
    """

    model: type[UserSecrets] = UserSecrets
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
    async def load(self) -> UserSecrets | None:
        """All secrets in clear; None if none was ever stored.

        Raises:
            KeyMissing, KeyMismatch, KeyUnavailable, Tampered: something cannot be opened; the message names all that
                cannot. `list` shows the states, `get_custom_secret` and `get_provider_token` give the others, and
                setting a secret again replaces one that cannot be opened.
        """

    @abstractmethod
    async def store(self, secrets: UserSecrets, expected_version: int | None = None) -> int:
        """Replace all secrets in one transaction, and return the new version of the set.

        What is not in `secrets` is deleted. A secret that has not changed keeps its ciphertext to the byte; storing
        what is stored already changes nothing.

        Args:
            secrets: all of them.
            expected_version: `version` of the secrets that the change is based on; 0 if there were none.

        Raises:
            VersionConflict: they have changed since; nothing was written.
            InvalidInput: a mask in place of a secret; a secret longer than 1 MiB; what cannot be stored.
            KeyMissing, KeyMismatch, KeyUnavailable: the key of these or of stored secrets is not at hand; nothing was
                written. The single verbs replace or delete one that is lost for good, by its name.
        """

    async def list(self) -> Listing:
        """What is stored, by kind and name, without the values and without decrypting any.

        A row that cannot be read is listed as `unreadable` and hides no other.
        """
        secrets = await self.load()
        if secrets is None:
            return []
        tokens = [
            SecretInfo(
                kind="provider_token",
                name=str(name),
                description="",
                host=token.host,
                provider_user_id=token.user_id,
                state="unset" if token.token is None else "set",
            )
            for name, token in secrets.provider_tokens.items()
        ]
        customs = [
            SecretInfo(kind="custom_secret", name=name, description=custom.description, state="set")
            for name, custom in secrets.custom_secrets.items()
        ]
        return sorted(tokens + customs, key=lambda info: (info.kind, info.name))

    async def set_provider_token(
        self,
        provider: ProviderType | str,
        token: SecretStr | str | None,
        host: str | None = None,
        user_id: str | None = None,
    ) -> None:
        """Store the token for a provider, and nothing else; a token that is there is replaced, its host and user too.

        Args:
            provider: one of ProviderType, or another name of at most 255 printable bytes.
            token: None keeps only the host and the account.
            host: the one host that the token is for, None for the provider's own.
            user_id: the account at the provider.

        Raises:
            InvalidInput: an empty token, or a value that does not fit.
            KeyMissing, KeyMismatch, KeyUnavailable: nothing was written.
        """
        name, new = checked_token(provider, token, host, user_id)

        def change(secrets: UserSecrets) -> UserSecrets:
            return secrets.model_copy(update={"provider_tokens": {**secrets.provider_tokens, name: new}})

        await self._change(change)

    async def get_provider_token(self, provider: ProviderType | str) -> ProviderToken:
        """One token; the others need not be readable.

        Raises:
            SecretNotFound: nothing is stored for this provider.
            KeyMissing, KeyMismatch, KeyUnavailable, Tampered: it cannot be opened.
        """
        secrets = await self.load()
        found = secrets.provider_tokens.get(provider) if secrets is not None else None
        if found is None:
            raise no_secret("provider token", provider)
        return found

    async def delete_provider_token(self, provider: ProviderType | str) -> bool:
        """Remove the token for a provider; whether there was one."""
        return await self._remove("provider_tokens", str(provider))

    async def set_custom_secret(self, name: str, value: SecretStr | str, description: str = "") -> None:
        """Store one secret of the user's own, and nothing else; one of that name is replaced, its description too.

        Args:
            name: 1 to 255 printable bytes of UTF-8.
            value: any text up to 1 MiB, also an empty one.
            description: what it is for; not secret.

        Raises:
            InvalidInput: a value that does not fit.
            KeyMissing, KeyMismatch, KeyUnavailable: nothing was written.
        """
        new = checked_custom(name, value, description)

        def change(secrets: UserSecrets) -> UserSecrets:
            return secrets.model_copy(update={"custom_secrets": {**secrets.custom_secrets, name: new}})

        await self._change(change)

    async def get_custom_secret(self, name: str) -> CustomSecret:
        """One secret of the user's own; the others need not be readable.

        Raises:
            SecretNotFound: none of this name is stored.
            KeyMissing, KeyMismatch, KeyUnavailable, Tampered: it cannot be opened.
        """
        secrets = await self.load()
        found = secrets.custom_secrets.get(name) if secrets is not None else None
        if found is None:
            raise no_secret("custom secret", name)
        return found

    async def delete_custom_secret(self, name: str) -> bool:
        """Remove one secret of the user's own; whether there was one."""
        return await self._remove("custom_secrets", name)

    async def discard_unreadable(self) -> tuple[str, ...]:
        """Delete, on purpose, every secret that cannot be opened; returns what they were called.

        For what is lost for good: afterwards `load` and `store` work again. A store that cannot tell which ones these
        are raises as `load` does.

        Raises:
            KeyMissing, KeyMismatch, KeyUnavailable: locked, or a key is out of reach for now; nothing was deleted.
        """
        await self.load()
        return ()

    async def masker(self) -> Masker:
        """What replaces every secret of this user in texts, containers and JSON: `masker.mask(value)`.

        This default knows what this store holds, as of its last `refresh()`. The one of our own store also knows the
        keys among the settings and all else that is sealed for the user, and is renewed when a secret changes.

        Raises:
            KeyMissing, KeyMismatch, KeyUnavailable, Tampered: something cannot be opened, so it could not be masked.
        """

        async def load() -> Secrets:
            return prepared(secret_values(await self.load()))

        return Masker(load, await load(), type(self).__name__)

    async def _remove(self, field: str, name: str) -> bool:
        removed = False

        def change(secrets: UserSecrets) -> UserSecrets:
            nonlocal removed
            entries: Mapping[str, Any] = getattr(secrets, field)
            removed = name in entries
            return secrets.model_copy(update={field: {key: entries[key] for key in entries if key != name}})

        await self._change(change)
        return removed

    async def _change(self, change: Callable[[UserSecrets], UserSecrets]) -> None:
        for _ in range(_MOST_ATTEMPTS):
            current = await self.load()
            changed = change(current or self.model())
            if changed == current or (current is None and changed == self.model()):
                return
            try:
                await self.store(changed, 0 if current is None else current.version)
            except VersionConflict:
                continue
            return
        raise Conflict("the secrets keep changing; try again")


def checked_token(
    provider: ProviderType | str, token: SecretStr | str | None, host: str | None, user_id: str | None
) -> tuple[str, ProviderToken]:
    """The provider and its token as the model has them.

    Raises:
        InvalidInput: an empty token, or a value that does not fit.
    """
    text = token.get_secret_value() if isinstance(token, SecretStr) else token
    if text is not None and not text.strip():
        raise InvalidInput("the token is empty; delete_provider_token removes a token, None keeps only the host")
    values = {"token": token, "host": host, "user_id": user_id}
    made = validated(UserSecrets, {"provider_tokens": {provider: values}}, "the token")
    return next(iter(made.provider_tokens.items()))


def checked_custom(name: str, value: SecretStr | str, description: str) -> CustomSecret:
    """The secret as the model has it.

    Raises:
        InvalidInput: a value that does not fit.
    """
    values = {"secret": value, "description": description}
    made = validated(UserSecrets, {"custom_secrets": {name: values}}, "the secret")
    return made.custom_secrets[name]


def secret_values(secrets: UserSecrets | None) -> list[SecretValue]:
    """Every secret in the set, as a masker takes it."""
    if secrets is None:
        return []
    tokens = [
        SecretValue(f"provider_token {str(name)!r}", token.token.get_secret_value())
        for name, token in secrets.provider_tokens.items()
        if token.token is not None
    ]
    customs = [
        SecretValue(f"custom_secret {name!r}", custom.secret.get_secret_value())
        for name, custom in secrets.custom_secrets.items()
    ]
    others = take_apart(secrets, without=("provider_tokens", "custom_secrets")).secret
    return tokens + customs + [SecretValue(name, {name: value}, declared=True) for name, value in others.items()]


def no_secret(kind: str, name: str) -> SecretNotFound:
    """The error for a name under which nothing is stored."""
    return SecretNotFound(f"no {kind} named {str(name)!r} is stored; list() names those that are")
