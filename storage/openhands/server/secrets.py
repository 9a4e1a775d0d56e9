"""A user's provider tokens and custom secrets as OpenHands' server asks for them."""

from __future__ import annotations

from typing import Any

from openhands.storage.data_models.secrets import Secrets
from openhands.storage.secrets.secrets_store import SecretsStore

from storage.openhands.process_storage import ProcessStorage, process_storage
from storage.openhands.secret_rows import CUSTOM, TOKENS, Entries, SecretRows, no_entries


class SQLSecretsStore(SecretsStore):  # type: ignore[misc]
    """One user's secrets in the storage of this process.

    Storing writes what was added or changed since this store has loaded, and deletes what was taken out of it. So two
    requests at once each keep the other's secret, and one that could not be opened is never deleted unseen.
    """

    def __init__(self, place: ProcessStorage, user_id: str | None) -> None:
        self._portal = place.portal
        self._rows = SecretRows(place, user_id)
        self._given: Entries | None = None

    async def load(self) -> Secrets | None:
        """All secrets that can be opened, None if none was ever stored; the log names the others."""
        found = await self._portal.await_(self._rows.load)
        secrets = None if found is None else Secrets(**found)
        self._given = _entries(secrets)
        return secrets

    async def store(self, secrets: Secrets) -> None:
        """Store what was changed since `load`, in one transaction; all of it if nothing was loaded.

        Raises:
            InvalidInput: (a ValueError) a value does not fit.
            KeyMissing, KeyMismatch, KeyUnavailable: the master key is not at hand; nothing was written.
        """
        if self._given is None:
            await self.load()
        wanted = _entries(secrets)
        await self._portal.await_(self._rows.store, wanted, self._given or no_entries())
        self._given = wanted

    @classmethod
    async def get_instance(cls, config: Any, user_id: str | None) -> SQLSecretsStore:  # noqa: ARG003 - the interface has it
        """The store of one user; None is the local user. OpenHands' configuration is not asked."""
        return cls(process_storage(), user_id)


def _entries(secrets: Secrets | None) -> Entries:
    """The values in clear, by the providers that the installed release knows: others are not its callers' to delete."""
    entries = no_entries()
    if secrets is None:
        return entries
    for provider, token in secrets.provider_tokens.items():
        value = token.token.get_secret_value() if token and token.token else ""
        if value.strip():
            name = str(getattr(provider, "value", provider))
            entries[TOKENS][name] = {"token": value, "host": token.host or None, "user_id": token.user_id or None}
    for name, secret in secrets.custom_secrets.items():
        entries[CUSTOM][name] = {"secret": secret.secret.get_secret_value(), "description": secret.description or ""}
    return entries
