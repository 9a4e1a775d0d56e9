"""git's side of the conversation, in a few words, and a secrets store that keeps nothing but what it is given."""

from __future__ import annotations

from pydantic import SecretStr

from storage.git_credentials.lookup import credential_for, plan_erase, plan_store
from storage.git_credentials.protocol import CredentialRequest
from storage.secrets.model import UserSecrets
from storage.secrets.store import SecretsStore

TOKEN = "canary-7f3a9c51e0"
OTHER = "canary-of-another"


def asks(host: str, protocol: str = "https", username: str | None = None) -> CredentialRequest:
    return CredentialRequest(protocol, host, username)


def tried(host: str, username: str, password: str, protocol: str = "https", lasting: bool = True) -> CredentialRequest:
    return CredentialRequest(protocol, host, username, SecretStr(password), lasting)


async def given_to(secrets: SecretsStore, request: CredentialRequest) -> tuple[str, str] | None:
    credential = await credential_for(secrets, request)
    return None if credential is None else (credential.username, credential.password.get_secret_value())


async def kept(secrets: SecretsStore, request: CredentialRequest) -> bool:
    change = await plan_store(secrets, request)
    if change is not None:
        await change.apply(secrets)
    return change is not None


async def forgotten(secrets: SecretsStore, request: CredentialRequest) -> bool:
    change = await plan_erase(secrets, request)
    if change is not None:
        await change.apply(secrets)
    return change is not None


class InMemory(SecretsStore):
    """A store of somebody else's, with only what an interface asks of it."""

    def __init__(self, held: UserSecrets | None = None) -> None:
        self.held: UserSecrets | None = held

    @classmethod
    async def get_instance(cls, config: object, user_id: str | None = None) -> InMemory:  # noqa: ARG003
        return cls()

    async def load(self) -> UserSecrets | None:
        return self.held

    async def store(self, secrets: UserSecrets, expected_version: int | None = None) -> int:
        self.held = secrets
        return 1
