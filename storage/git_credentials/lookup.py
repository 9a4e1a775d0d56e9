"""From a request to a user's token and back: which one is given out, kept or forgotten. The host decides, always."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

from pydantic import SecretStr

from storage.errors import EncryptionError, InvalidInput, SecretNotFound
from storage.git_credentials.forges import Forge, forge_of, provider_at
from storage.git_credentials.hosts import Host, is_loopback
from storage.git_credentials.protocol import Credential, CredentialRequest
from storage.secrets.model import ProviderToken, SecretInfo
from storage.secrets.store import SecretsStore


@dataclass(frozen=True)
class TokenChange:
    """What is to be written for one provider; without `token` only the host and the account stay."""

    provider: str
    token: SecretStr | None
    host: str | None
    user_id: str | None

    async def apply(self, secrets: SecretsStore) -> None:
        """Write it.

        Raises:
            InvalidInput: the password cannot be a token.
            KeyMissing, KeyMismatch, KeyUnavailable: nothing was written.
        """
        if self.token is None and self.host is None and self.user_id is None:
            await secrets.delete_provider_token(self.provider)
        else:
            await secrets.set_provider_token(self.provider, self.token, host=self.host, user_id=self.user_id)


async def credential_for(
    secrets: SecretsStore, request: CredentialRequest, *, allow_http: bool = False
) -> Credential | None:
    """The credential for the request's host; None if no token is for it.

    Args:
        secrets: of the user who asks.
        request: its host is compared with the one that each token is sealed for.
        allow_http: also over http to a host that is not this machine, where everyone on the way can read the token.

    Raises:
        InvalidInput: there is a token, and it would go over http.
        KeyMissing, KeyMismatch, KeyUnavailable, Tampered: there is a token, and it cannot be opened.
    """
    failure: EncryptionError | None = None
    async for entry in _entries(secrets, request):
        if not _may_travel(request, entry.host, allow_http=allow_http):
            raise InvalidInput(
                f"the token for {entry.info.name} is not sent over http, which others can read; use https://"
            )
        try:
            token = await entry.opened(secrets)
        except EncryptionError as error:
            failure = failure or error
            continue
        # Read again with the value: it is this host that the token was opened for.
        if token is not None and entry.is_for(token, request):
            return entry.forge.credential(token)
    if failure is not None:
        raise failure
    return None


async def plan_store(
    secrets: SecretsStore, request: CredentialRequest, *, allow_http: bool = False
) -> TokenChange | None:
    """What to write after git has got in with a credential; None if nothing is new or it is not for us.

    A token's host does not change this way: it is a host that a token is for already, or a provider's own, of which
    nothing is stored yet. What expires is not kept, nor is a user name that HTTP cannot send (RFC 7617: no colon).
    """
    if not request.lasting or request.password is None or request.username is None or ":" in request.username:
        return None
    async for entry in _entries(secrets, request):
        if not _may_travel(request, entry.host, allow_http=allow_http):
            return None
        info, token = entry.info, None
        with suppress(EncryptionError):  # it is replaced; where the key is not at hand, writing says so
            token = await entry.opened(secrets)
        known = token or ProviderToken(host=info.host, user_id=info.provider_user_id)
        if not entry.is_for(known, request):
            continue
        if token is not None and _same(entry.forge.credential(token), request.password):
            return None
        value = entry.forge.stored_value(request.username, request.password, known.user_id)
        return TokenChange(info.name, value, known.host, known.user_id)
    return await _first_token(secrets, request, allow_http=allow_http)


async def plan_erase(
    secrets: SecretsStore, request: CredentialRequest, *, allow_http: bool = False
) -> TokenChange | None:
    """What to write after a host has refused a credential; None unless it is the very token that is stored.

    The host and the account stay, so that the next password that works is kept for them.

    Raises:
        KeyMissing, KeyMismatch, KeyUnavailable, Tampered: it cannot be compared.
    """
    if request.password is None:
        return None
    async for entry in _entries(secrets, request):
        if not _may_travel(request, entry.host, allow_http=allow_http):
            continue
        token = await entry.opened(secrets)
        if token is None or not entry.is_for(token, request):
            continue
        if _same(entry.forge.credential(token), request.password):
            return TokenChange(entry.info.name, None, token.host, token.user_id)
    return None


@dataclass(frozen=True)
class _Entry:
    """A provider of whom something is stored, for the host that is asked about."""

    info: SecretInfo
    forge: Forge
    host: Host

    async def opened(self, secrets: SecretsStore) -> ProviderToken | None:
        if self.info.state == "unset":
            return None
        try:
            return await secrets.get_provider_token(self.info.name)
        except SecretNotFound:
            return None  # it has just been deleted

    def is_for(self, token: ProviderToken, request: CredentialRequest) -> bool:
        host = self.forge.host_of(token.host)
        return host == self.host and self.forge.speaks_for(token, request.username)


async def _entries(secrets: SecretsStore, request: CredentialRequest) -> AsyncIterator[_Entry]:
    """What is stored for the request's host, by the provider's name, without decrypting anything."""
    if request.protocol not in {"https", "http"}:
        return
    for info in await secrets.list():
        forge = forge_of(info.name) if info.kind == "provider_token" else None
        host = None if forge is None else forge.host_of(info.host)
        if forge is not None and host is not None and host.is_that_of(request.host):
            yield _Entry(info, forge, host)


async def _first_token(secrets: SecretsStore, request: CredentialRequest, *, allow_http: bool) -> TokenChange | None:
    """A provider's own host, and its first token."""
    provider = provider_at(request.host) if request.protocol == "https" or allow_http else None
    forge = None if provider is None else forge_of(provider)
    if provider is None or forge is None or request.username is None or request.password is None:
        return None
    if any(info.kind == "provider_token" and info.name == provider for info in await secrets.list()):
        return None  # there is one token for each provider, and this one is for another host or account
    return TokenChange(provider, forge.stored_value(request.username, request.password, None), None, None)


def _may_travel(request: CredentialRequest, host: Host, *, allow_http: bool) -> bool:
    if request.protocol == "https":
        return True
    return not host.encrypted_only and (allow_http or is_loopback(request.host))


def _same(credential: Credential | None, password: SecretStr) -> bool:
    return credential is not None and hmac.compare_digest(
        credential.password.get_secret_value().encode(), password.get_secret_value().encode()
    )
