"""A user's tokens and custom secrets as OpenHands' stores handle them: loaded as a whole, changed and given back.

What is written back is compared with what was given out, so that two requests at once each keep the other's secret,
and nothing is deleted that its caller was never shown.
"""

from __future__ import annotations

import logging
from typing import Any, Final, TypeAlias

from storage.errors import EncryptionError
from storage.openhands.locked import tell_once
from storage.openhands.process_storage import ProcessStorage
from storage.openhands.snapshots import changes
from storage.secrets.model import UserSecrets
from storage.secrets.store import SecretsStore

log = logging.getLogger(__name__)

TOKENS: Final = "provider_tokens"
CUSTOM: Final = "custom_secrets"

Entries: TypeAlias = dict[str, dict[str, Any]]
"""Both kinds as in secrets.json, in clear: {TOKENS: {provider: {token, host, user_id}}, CUSTOM: {name: {secret,
description}}}."""


def no_entries() -> Entries:
    """Neither tokens nor secrets."""
    return {TOKENS: {}, CUSTOM: {}}


class SecretRows:
    """One user's rows. Its methods run on the portal's loop.

    Args:
        place: the open storage.
        user_id: None is the local user.
    """

    def __init__(self, place: ProcessStorage, user_id: str | None) -> None:
        self._storage = place.storage
        self._user = place.storage.user(user_id)

    async def load(self) -> Entries | None:
        """Everything that can be opened, None if nothing was ever stored; the log says once what is missing and why.

        Without tokens of which only the host or the account is known.
        """
        try:
            stored = await self._user.secrets.load()
        except EncryptionError as error:
            tell_once(log, self._storage, "secrets are missing that cannot be opened", error)
            stored = await _readable(self._user.secrets)
        return None if stored is None else _entries(stored)

    async def store(self, wanted: Entries, given: Entries) -> None:
        """Write what differs in `wanted`, and delete what only `given` has, in one transaction.

        Raises:
            InvalidInput: (a ValueError) a value does not fit.
            KeyMissing, KeyMismatch, KeyUnavailable: the master key is not at hand; nothing was written.
        """
        tokens, custom = changes(given[TOKENS], wanted[TOKENS]), changes(given[CUSTOM], wanted[CUSTOM])
        gone_tokens, gone_custom = given[TOKENS].keys() - wanted[TOKENS], given[CUSTOM].keys() - wanted[CUSTOM]
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


async def _readable(store: SecretsStore) -> UserSecrets:
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


def _entries(stored: UserSecrets) -> Entries:
    return {
        TOKENS: {
            str(provider): {"token": token.token.get_secret_value(), "host": token.host, "user_id": token.user_id}
            for provider, token in stored.provider_tokens.items()
            if token.token is not None
        },
        CUSTOM: {
            name: {"secret": custom.secret.get_secret_value(), "description": custom.description}
            for name, custom in stored.custom_secrets.items()
        },
    }
