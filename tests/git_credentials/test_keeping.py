"""What git says after it has tried: a password that got in is kept where a token may be, a refused one is forgotten."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from storage.git_credentials.lookup import plan_store
from storage.git_credentials.protocol import CredentialRequest
from storage.secrets.store import SecretsStore
from tests.git_credentials.asking import OTHER, TOKEN, InMemory, asks, forgotten, given_to, kept, tried

# ---- store


async def test_what_got_in_is_kept_for_a_host_that_is_known(secrets: SecretsStore) -> None:
    await secrets.set_provider_token("gitlab", OTHER, host="https://git.example.com/api/v4", user_id="7")
    assert await kept(secrets, tried("git.example.com", "oauth2", TOKEN))
    token = await secrets.get_provider_token("gitlab")
    assert token.token == SecretStr(TOKEN)
    assert (token.host, token.user_id) == ("https://git.example.com/api/v4", "7")


async def test_what_is_stored_already_is_not_written_again(secrets: SecretsStore) -> None:
    await secrets.set_provider_token("github", TOKEN)
    assert await plan_store(secrets, tried("github.com", "x-access-token", TOKEN)) is None


@pytest.mark.parametrize(
    ("host", "username", "provider", "expected"),
    [
        ("github.com", "me", "github", ("x-access-token", TOKEN)),
        ("GITHUB.com", "me", "github", ("x-access-token", TOKEN)),
        ("codeberg.org", "me", "forgejo", ("x-access-token", TOKEN)),
        ("bitbucket.org", "me", "bitbucket", ("me", TOKEN)),
        ("bitbucket.org", "x-token-auth", "bitbucket", ("x-token-auth", TOKEN)),
        ("dev.azure.com", "contoso", "azure_devops", ("git", TOKEN)),
    ],
)
async def test_the_first_token_for_a_providers_own_host_is_kept(
    secrets: SecretsStore, host: str, username: str, provider: str, expected: tuple[str, str]
) -> None:
    assert await kept(secrets, tried(host, username, TOKEN))
    stored = await secrets.get_provider_token(provider)
    assert (stored.host, stored.user_id) == (None, None)
    assert await given_to(secrets, asks(host)) == expected


@pytest.mark.parametrize("password", ["a:b", ":", "a:"])
@pytest.mark.parametrize("username", ["x-token-auth", "me"])
async def test_a_password_with_a_colon_comes_back_as_it_is(secrets: SecretsStore, username: str, password: str) -> None:
    assert await kept(secrets, tried("bitbucket.org", username, password))
    assert await given_to(secrets, asks("bitbucket.org")) == (username, password)
    assert await plan_store(secrets, tried("bitbucket.org", username, password)) is None
    assert await forgotten(secrets, tried("bitbucket.org", username, password))


async def test_nothing_is_kept_for_a_host_that_nobody_knows(secrets: SecretsStore) -> None:
    for host in ("git.example.com", "evil.example", "github.com.evil.example", "github.com:8443"):
        assert not await kept(secrets, tried(host, "me", TOKEN))
    assert await secrets.load() is None


async def test_a_providers_own_host_does_not_take_the_place_of_an_installations(secrets: SecretsStore) -> None:
    await secrets.set_provider_token("gitlab", OTHER, host="git.example.com")
    assert not await kept(secrets, tried("gitlab.com", "me", TOKEN))
    assert await given_to(secrets, asks("git.example.com")) == ("oauth2", OTHER)


async def test_another_accounts_password_does_not_take_the_place_of_ones_own(secrets: SecretsStore) -> None:
    await secrets.set_provider_token("github", TOKEN, user_id="alice")
    assert not await kept(secrets, tried("github.com", "bob", OTHER))
    assert await given_to(secrets, asks("github.com")) == ("x-access-token", TOKEN)


@pytest.mark.parametrize(
    "request_",
    [
        CredentialRequest("https", "github.com", "me", None),
        CredentialRequest("https", "github.com", None, SecretStr(TOKEN)),
        tried("github.com", "me", TOKEN, lasting=False),
        tried("github.com", "a:b", TOKEN),
    ],
)
async def test_what_is_not_whole_or_does_not_last_is_not_kept(
    secrets: SecretsStore, request_: CredentialRequest
) -> None:
    assert not await kept(secrets, request_)


# ---- erase


async def test_a_refused_token_is_forgotten_and_its_host_is_not(secrets: SecretsStore) -> None:
    await secrets.set_provider_token("gitlab", TOKEN, host="git.example.com", user_id="7")
    assert await forgotten(secrets, tried("git.example.com", "oauth2", TOKEN))
    left = await secrets.get_provider_token("gitlab")
    assert (left.token, left.host, left.user_id) == (None, "git.example.com", "7")
    assert await kept(secrets, tried("git.example.com", "oauth2", OTHER))
    assert await given_to(secrets, asks("git.example.com")) == ("oauth2", OTHER)


async def test_with_nothing_but_a_token_nothing_is_left(secrets: SecretsStore) -> None:
    await secrets.set_provider_token("github", TOKEN)
    assert await forgotten(secrets, tried("github.com", "x-access-token", TOKEN))
    assert await secrets.list() == []


@pytest.mark.parametrize(
    "request_",
    [
        tried("github.com", "x-access-token", OTHER),
        tried("github.com", "x-access-token", TOKEN + "x"),
        tried("github.com", "x-access-token", TOKEN.upper()),
        CredentialRequest("https", "github.com", "x-access-token", None),
        CredentialRequest("https", "github.com"),
    ],
)
async def test_a_token_that_was_not_the_refused_one_stays(secrets: SecretsStore, request_: CredentialRequest) -> None:
    await secrets.set_provider_token("github", TOKEN)
    assert not await forgotten(secrets, request_)
    assert await given_to(secrets, asks("github.com")) == ("x-access-token", TOKEN)


async def test_any_secrets_store_will_do() -> None:
    secrets = InMemory()
    assert await kept(secrets, tried("github.com", "me", TOKEN))
    assert await given_to(secrets, asks("github.com")) == ("x-access-token", TOKEN)
    assert await forgotten(secrets, tried("github.com", "x-access-token", TOKEN))
    assert await given_to(secrets, asks("github.com")) is None
