"""A user's provider tokens and custom secrets as OpenHands' server asks for them."""

from __future__ import annotations

import logging
from typing import Any, Final

from openhands.storage.data_models.secrets import Secrets
from openhands.storage.secrets.secrets_store import SecretsStore

from storage.errors import EncryptionError
from storage.openhands.process_storage import ProcessStorage, process_storage
from storage.openhands.snapshots import changes
from storage.secrets.model import UserSecrets
from storage.secrets.store import SecretsStore as Stored

log = logging.getLogger(__name__)

_TOKENS: Final = "provider_tokens"
_CUSTOM: Final = "custom_secrets"


class SQLSecretsStore(SecretsStore):  # type: ignore[misc]
    """One user's secrets in the storage of this process.

    Storing writes what was added or changed since this store has loaded, and deletes what was taken out of it. So two
    requests at once each keep the other's secret, and one that could not be opened is never deleted unseen.
    """

    def __init__(self, place: ProcessStorage, user_id: str | None) -> None:
        self._place = place
        self._user = place.storage.user(user_id)
        self._loaded: dict[str, dict[str, Any]] | None = None

    async def load(self) -> Secrets | None:
        """All secrets that can be opened, None if none was ever stored; the log names the others."""
        found = await self._place.portal.await_(self._load)
        self._loaded = _Loaded() if found is None else found
        return None if found is None else Secrets(**found)

    async def store(self, secrets: Secrets) -> None:
        """Store what was changed since `load`, in one transaction.

        Raises:
            InvalidInput: (a ValueError) a value does not fit.
            KeyMissing, KeyMismatch, KeyUnavailable: the master key is not at hand; nothing was written.
        """
        wanted = _values(secrets)
        await self._place.portal.await_(self._store, wanted, self._loaded)
        self._loaded = wanted

    @classmethod
    async def get_instance(cls, config: Any, user_id: str | None) -> SQLSecretsStore:  # noqa: ARG003 - the interface has it
        """The store of one user; None is the local user. OpenHands' configuration is not asked."""
        return cls(process_storage(), user_id)

    async def _load(self) -> dict[str, dict[str, Any]] | None:
        try:
            stored = await self._user.secrets.load()
        except EncryptionError as error:
            log.error("not all secrets can be opened: %s", error)  # noqa: TRY400 - the traceback says no more
            stored = await _readable(self._user.secrets)
        return None if stored is None else _plain(stored)

    async def _store(self, wanted: dict[str, dict[str, Any]], loaded: dict[str, dict[str, Any]] | None) -> None:
        if loaded is None:
            loaded = await self._load() or _Loaded()
        tokens, custom = changes(loaded[_TOKENS], wanted[_TOKENS]), changes(loaded[_CUSTOM], wanted[_CUSTOM])
        gone_tokens = loaded[_TOKENS].keys() - wanted[_TOKENS].keys()
        gone_custom = loaded[_CUSTOM].keys() - wanted[_CUSTOM].keys()
        if not (tokens or custom or gone_tokens or gone_custom):
            return
        async with self._user.transaction() as tx:
            # In one order, so that two of these never wait for each other.
            for provider, token in sorted(tokens.items()):
                await tx.secrets.set_provider_token(provider, token["token"], token["host"], token["user_id"])
            for provider in sorted(gone_tokens):
                await tx.secrets.delete_provider_token(provider)
            for name, secret in sorted(custom.items()):
                await tx.secrets.set_custom_secret(name, secret["secret"], secret["description"])
            for name in sorted(gone_custom):
                await tx.secrets.delete_custom_secret(name)


def _Loaded() -> dict[str, dict[str, Any]]:  # noqa: N802 - of nothing
    return {_TOKENS: {}, _CUSTOM: {}}


async def _readable(store: Stored) -> UserSecrets:
    """What can be opened, each secret by itself."""
    tokens, custom = {}, {}
    for info in await store.list():
        try:
            if info.kind == "provider_token":
                tokens[info.name] = await store.get_provider_token(info.name)
            elif info.kind == "custom_secret":
                custom[info.name] = await store.get_custom_secret(info.name)
        except EncryptionError:
            continue  # the error that led here has named it
    return UserSecrets(provider_tokens=tokens, custom_secrets=custom)


def _plain(stored: UserSecrets) -> dict[str, dict[str, Any]]:
    """The values in clear, as _values gives them. Without tokens of which only the host or the account is known."""
    return {
        _TOKENS: {
            str(provider): {"token": token.token.get_secret_value(), "host": token.host, "user_id": token.user_id}
            for provider, token in stored.provider_tokens.items()
            if token.token is not None
        },
        _CUSTOM: {
            name: {"secret": custom.secret.get_secret_value(), "description": custom.description}
            for name, custom in stored.custom_secrets.items()
        },
    }


def _values(secrets: Secrets) -> dict[str, dict[str, Any]]:
    tokens = {}
    for provider, token in secrets.provider_tokens.items():
        value = token.token.get_secret_value() if token and token.token else ""
        if value.strip():
            name = str(getattr(provider, "value", provider))
            tokens[name] = {"token": value, "host": token.host or None, "user_id": token.user_id or None}
    custom = {
        name: {"secret": secret.secret.get_secret_value(), "description": secret.description or ""}
        for name, secret in secrets.custom_secrets.items()
    }
    return {_TOKENS: tokens, _CUSTOM: custom}
