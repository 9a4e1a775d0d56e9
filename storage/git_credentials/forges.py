"""What is particular to each git host: its own address, and the user name that goes with a token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pydantic import SecretStr

from storage.git_credentials.hosts import Host
from storage.git_credentials.protocol import Credential
from storage.providers import ProviderType
from storage.secrets.model import ProviderToken


@dataclass(frozen=True)
class Forge:
    """A kind of git host.

    Attributes:
        username: what is sent beside a token where the account does not matter, or is not known.
        host: its own; None if there is only that of an installation.
        by_account: a password belongs to an account, whose name has to be sent. A stored token may then be
            `account:password`, as OpenHands keeps app passwords.
        tenants: what stands before the host in its clone addresses is an organisation and no account; a stored host
            without a dot is one too.
    """

    username: str
    host: str | None = None
    by_account: bool = False
    tenants: bool = False

    def host_of(self, stored: str | None) -> Host | None:
        """The host that a token of this forge is for."""
        if stored is None:
            return None if self.host is None else Host(self.host)
        found = Host.stored(stored)
        if self.tenants and found is not None and "." not in found.name and ":" not in found.name:
            return None if self.host is None else Host(self.host)
        return found

    def credential(self, token: ProviderToken) -> Credential | None:
        """What to send for a token; None if there is none."""
        if token.token is None:
            return None
        secret = token.token.get_secret_value()
        if self.by_account and ":" in secret:
            name, _, password = secret.partition(":")
            return Credential(name or self.username, SecretStr(password)) if password else None
        account = _account(token.user_id) if self.by_account else None
        return Credential(account or self.username, token.token)

    def speaks_for(self, token: ProviderToken, username: str | None) -> bool:
        """Whether the token may be used where an address asks for this user name.

        A name that is known to be another account's is left to other helpers. Where the account is not known, the
        token is taken for the one that is meant.
        """
        if username is None or self.tenants or username == self.username:
            return True
        credential = self.credential(token)
        known = {_account(token.user_id), None if credential is None else credential.username}
        known -= {None, self.username}
        return not known or username in known

    def stored_value(self, username: str, password: SecretStr, user_id: str | None) -> SecretStr:
        """How a password that git has tried is kept, so that `credential` makes the same of it."""
        secret = password.get_secret_value()
        alone = username in {self.username, _account(user_id)} and ":" not in secret
        return password if alone or not self.by_account else SecretStr(f"{username}:{secret}")


def forge_of(provider: str) -> Forge | None:
    """The forge of a provider's name; None where a token opens no repository."""
    return None if provider == ProviderType.ENTERPRISE_SSO else _FORGES.get(provider, _UNKNOWN)


def provider_at(host: str) -> str | None:
    """The provider whose own host this is."""
    return next(
        (name for name, forge in _FORGES.items() if forge.host is not None and Host(forge.host).is_that_of(host)), None
    )


_FORGES: Final = {
    ProviderType.GITHUB.value: Forge("x-access-token", "github.com"),
    ProviderType.GITLAB.value: Forge("oauth2", "gitlab.com"),
    ProviderType.BITBUCKET.value: Forge("x-token-auth", "bitbucket.org", by_account=True),
    ProviderType.BITBUCKET_DATA_CENTER.value: Forge("x-token-auth", by_account=True),
    ProviderType.FORGEJO.value: Forge("x-access-token", "codeberg.org"),
    ProviderType.AZURE_DEVOPS.value: Forge("git", "dev.azure.com", tenants=True),
}
_UNKNOWN: Final = Forge("git", by_account=True)
"""A provider that this release does not know has a token for the host that is stored with it."""


def _account(user_id: str | None) -> str | None:
    """The name of an account; providers also give numbers, which are no names."""
    return None if user_id is None or user_id.isdigit() else user_id
