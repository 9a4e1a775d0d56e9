"""Which token a request gets: the one that is sealed for exactly that host, of exactly that user, or none."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.database.database import Database
from storage.encryption.keyring import KeyRing
from storage.errors import InvalidInput, KeyMismatch
from storage.git_credentials.lookup import credential_for
from storage.providers import ProviderType
from storage.secrets.model import UserSecrets
from storage.secrets.sql import SQLSecretsStore
from storage.secrets.store import SecretsStore
from tests.git_credentials.asking import OTHER, TOKEN, InMemory, asks, forgotten, given_to, kept, tried


@pytest.mark.parametrize(
    ("provider", "host", "user_id", "token", "asked", "expected"),
    [
        ("github", None, None, TOKEN, "github.com", ("x-access-token", TOKEN)),
        ("github", None, "12345", TOKEN, "GitHub.com", ("x-access-token", TOKEN)),
        ("github", "github.com", None, TOKEN, "github.com", ("x-access-token", TOKEN)),
        ("github", "ghe.example.com", None, TOKEN, "ghe.example.com", ("x-access-token", TOKEN)),
        ("github", "https://ghe.example.com/api/v3", None, TOKEN, "ghe.example.com", ("x-access-token", TOKEN)),
        ("gitlab", None, None, TOKEN, "gitlab.com", ("oauth2", TOKEN)),
        ("gitlab", "git.example.com:8443", "7", TOKEN, "git.example.com:8443", ("oauth2", TOKEN)),
        ("bitbucket", None, None, TOKEN, "bitbucket.org", ("x-token-auth", TOKEN)),
        ("bitbucket", None, "alice", TOKEN, "bitbucket.org", ("alice", TOKEN)),
        ("bitbucket", None, None, f"alice:{TOKEN}", "bitbucket.org", ("alice", TOKEN)),
        ("bitbucket", None, "alice", f"me@example.com:{TOKEN}", "bitbucket.org", ("me@example.com", TOKEN)),
        ("bitbucket_data_center", "bb.example.com", None, TOKEN, "bb.example.com", ("x-token-auth", TOKEN)),
        ("bitbucket_data_center", "bb.example.com", None, f"a:{TOKEN}:b", "bb.example.com", ("a", f"{TOKEN}:b")),
        ("forgejo", None, None, TOKEN, "codeberg.org", ("x-access-token", TOKEN)),
        ("forgejo", "müller.example", None, TOKEN, "müller.example", ("x-access-token", TOKEN)),
        ("azure_devops", None, None, TOKEN, "dev.azure.com", ("git", TOKEN)),
        ("azure_devops", "contoso", None, TOKEN, "dev.azure.com", ("git", TOKEN)),
        ("azure_devops", "dev.azure.com/contoso/project", None, TOKEN, "dev.azure.com", ("git", TOKEN)),
        ("azure_devops", "https://tfs.example.com/tfs", None, TOKEN, "tfs.example.com", ("git", TOKEN)),
        ("gitea", "gitea.example.com", "alice", TOKEN, "gitea.example.com", ("alice", TOKEN)),
        ("gitea", "gitea.example.com", None, TOKEN, "gitea.example.com", ("git", TOKEN)),
    ],
)
async def test_each_provider_gets_its_token_under_the_name_that_it_takes(
    *,
    secrets: SecretsStore,
    provider: str,
    host: str | None,
    user_id: str | None,
    token: str,
    asked: str,
    expected: tuple[str, str],
) -> None:
    await secrets.set_provider_token(provider, token, host=host, user_id=user_id)
    assert await given_to(secrets, asks(asked)) == expected


STRANGERS = [
    "evil.example",
    "github.com.evil.example",
    "evil-github.com",
    "xgithub.com",
    "github.co",
    "api.github.com",
    "gist.github.com",
    "www.github.com",
    "github.com.",
    "github.com:443",
    "github.com:80",
    "github.com:8443",
    "github.com:",
    "github.com@evil.example",
    "evil.example@github.com",
    "x-access-token:pw@github.com",
    "github.com/evil.example",
    "github.com\\evil.example",
    "github.com\\@evil.example",
    "github.com#evil.example",
    "github.com?evil.example",
    "github.com%2eevil.example",
    "github%2ecom",
    "github.com%00",
    "https://github.com",
    "//github.com",
    " github.com",
    "github.com ",
    "github.com\t",
    "[github.com]",
    "140.82.121.3",
    # Letters and dots that look like Latin ones, or that IDNA turns into them.
    "github\u3002com",
    "\u0261ithub.com",
    "g\u0456thub.com",
    "githu\u0184.com",
    "xn--gthub-n4a.com",
    "xn--github-.com",
    "GITHUB\u2024COM",
    "\uff47\uff49\uff54\uff48\uff55\uff42.com",
    "*.github.com",
    "*",
    "local",
    "",
]
"""Hosts that are not github.com, some of which a hasty reader, a browser or a resolver takes for it."""


@pytest.mark.parametrize("stranger", STRANGERS)
@pytest.mark.parametrize("stored", [None, "github.com"])
async def test_a_token_goes_to_no_other_host(secrets: SecretsStore, stored: str | None, stranger: str) -> None:
    await secrets.set_provider_token("github", TOKEN, host=stored)
    for username in (None, "x-access-token", "github.com"):
        assert await given_to(secrets, asks(stranger, username=username)) is None
    assert not await kept(secrets, tried(stranger, "x-access-token", OTHER))
    assert not await forgotten(secrets, tried(stranger, "x-access-token", TOKEN))
    assert await given_to(secrets, asks("github.com")) == ("x-access-token", TOKEN)


async def test_letters_of_other_alphabets_are_no_latin_ones(secrets: SecretsStore) -> None:
    kelvin = "bitbuc\u212aet.org"
    assert kelvin.lower() == "bitbucket.org"
    await secrets.set_provider_token("bitbucket", TOKEN)
    assert await given_to(secrets, asks(kelvin)) is None
    await secrets.set_provider_token("forgejo", OTHER, host="müller.example")
    for stranger in ("xn--mller-kva.example", "mu\u0308ller.example", "MÜLLER.example", "muller.example"):
        assert await given_to(secrets, asks(stranger)) is None


@given(host=st.text(max_size=30) | st.sampled_from(STRANGERS), username=st.none() | st.text(min_size=1, max_size=9))
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_host_but_the_stored_one_gets_the_token(host: str, username: str | None) -> None:
    secrets = InMemory(UserSecrets(provider_tokens={"gitlab": {"token": TOKEN, "host": "git.example.com:8443"}}))
    found = await given_to(secrets, asks(host, username=username))
    assert found is None or host.lower() == "git.example.com:8443"


async def test_a_host_of_ones_own_is_not_the_providers(secrets: SecretsStore) -> None:
    await secrets.set_provider_token("gitlab", TOKEN, host="git.example.com:8443")
    for stranger in ("gitlab.com", "git.example.com", "git.example.com:443", "git.example.com:84430", "example.com"):
        assert await given_to(secrets, asks(stranger)) is None
    assert await given_to(secrets, asks("git.example.com:8443")) == ("oauth2", TOKEN)


@pytest.mark.parametrize("stored", ["me@github.com", "github.com:x", "a b", "ssh://github.com"])
async def test_a_stored_host_that_is_none_gets_nothing(secrets: SecretsStore, stored: str) -> None:
    await secrets.set_provider_token("github", TOKEN, host=stored)
    for host in ("github.com", stored):
        assert await given_to(secrets, asks(host)) is None


async def test_a_token_for_single_sign_on_opens_no_repository(secrets: SecretsStore) -> None:
    await secrets.set_provider_token(ProviderType.ENTERPRISE_SSO, TOKEN, host="sso.example.com")
    assert await given_to(secrets, asks("sso.example.com")) is None
    assert not await kept(secrets, tried("sso.example.com", "me", OTHER))
    assert not await forgotten(secrets, tried("sso.example.com", "me", TOKEN))


async def test_a_custom_secret_is_no_token(secrets: SecretsStore) -> None:
    await secrets.set_custom_secret("github", TOKEN)
    assert await given_to(secrets, asks("github.com")) is None


@pytest.mark.parametrize("protocol", ["ssh", "git", "ftp", "cert", "smtp", "HTTPS", "https "])
async def test_other_protocols_get_nothing(secrets: SecretsStore, protocol: str) -> None:
    await secrets.set_provider_token("github", TOKEN)
    assert await given_to(secrets, asks("github.com", protocol)) is None
    assert not await kept(secrets, tried("github.com", "me", OTHER, protocol))
    assert not await forgotten(secrets, tried("github.com", "me", TOKEN, protocol))


async def test_a_token_is_not_sent_where_others_can_read_it(secrets: SecretsStore) -> None:
    await secrets.set_provider_token("github", TOKEN)
    with pytest.raises(InvalidInput, match="https://") as refused:
        await credential_for(secrets, asks("github.com", "http"))
    assert TOKEN not in str(refused.value)
    assert await given_to(secrets, asks("elsewhere.example", "http")) is None
    assert await credential_for(secrets, asks("github.com", "http"), allow_http=True) is not None
    assert not await kept(secrets, tried("github.com", "me", OTHER, "http"))
    assert not await kept(secrets, tried("gitlab.com", "me", OTHER, "http"))
    assert not await forgotten(secrets, tried("github.com", "me", TOKEN, "http"))


async def test_http_on_this_machine_needs_no_word_unless_the_stored_host_says_https(secrets: SecretsStore) -> None:
    await secrets.set_provider_token("gitlab", TOKEN, host="127.0.0.1:3000")
    await secrets.set_provider_token("forgejo", OTHER, host="https://localhost:3000")
    assert await given_to(secrets, asks("127.0.0.1:3000", "http")) == ("oauth2", TOKEN)
    with pytest.raises(InvalidInput):
        await credential_for(secrets, asks("localhost:3000", "http"), allow_http=True)
    assert await given_to(secrets, asks("localhost:3000")) == ("x-access-token", OTHER)


@pytest.mark.parametrize(
    ("provider", "user_id", "token", "username", "expected"),
    [
        ("github", None, TOKEN, "alice", True),
        ("github", "alice", TOKEN, "alice", True),
        ("github", "alice", TOKEN, "x-access-token", True),
        ("github", "alice", TOKEN, "bob", False),
        ("github", "583231", TOKEN, "bob", True),
        ("bitbucket", None, f"alice:{TOKEN}", "alice", True),
        ("bitbucket", None, f"alice:{TOKEN}", "bob", False),
        ("bitbucket", None, TOKEN, "alice", True),
        ("azure_devops", "alice", TOKEN, "contoso", True),
    ],
)
async def test_a_user_name_in_the_address_that_is_another_accounts_gets_nothing(
    *, secrets: SecretsStore, provider: str, user_id: str | None, token: str, username: str, expected: bool
) -> None:
    await secrets.set_provider_token(provider, token, user_id=user_id)
    own = {"github": "github.com", "bitbucket": "bitbucket.org", "azure_devops": "dev.azure.com"}[provider]
    assert (await given_to(secrets, asks(own, username=username)) is not None) is expected


async def test_of_two_tokens_for_one_host_the_account_decides(secrets: SecretsStore) -> None:
    await secrets.set_provider_token("gitea", OTHER, host="git.example.com", user_id="bob")
    await secrets.set_provider_token("forgejo", TOKEN, host="git.example.com", user_id="alice")
    assert await given_to(secrets, asks("git.example.com", username="bob")) == ("bob", OTHER)
    assert await given_to(secrets, asks("git.example.com", username="alice")) == ("x-access-token", TOKEN)
    assert await given_to(secrets, asks("git.example.com")) == ("x-access-token", TOKEN)


async def test_each_user_has_tokens_of_their_own(database: Database, keyring: KeyRing, user_id: str) -> None:
    alice, bob = (SQLSecretsStore(database, f"{name}-{user_id}", keyring) for name in ("alice", "bob"))
    await alice.set_provider_token("github", TOKEN)
    assert await given_to(bob, asks("github.com")) is None
    assert not await forgotten(bob, tried("github.com", "x-access-token", TOKEN))
    assert await kept(bob, tried("github.com", "bob", OTHER))
    assert await given_to(alice, asks("github.com")) == ("x-access-token", TOKEN)
    assert await given_to(bob, asks("github.com")) == ("x-access-token", OTHER)


async def test_without_the_key_a_host_of_ours_is_an_error_and_others_are_not(
    database: Database, secrets: SecretsStore, user_id: str, locked_keyring: KeyRing
) -> None:
    await secrets.set_provider_token("github", TOKEN)
    locked = SQLSecretsStore(database, user_id, locked_keyring)
    with pytest.raises(KeyMismatch):
        await credential_for(locked, asks("github.com"))
    assert await given_to(locked, asks("evil.example")) is None
    with pytest.raises(KeyMismatch):
        await kept(locked, tried("github.com", "me", OTHER))
    with pytest.raises(KeyMismatch):
        await forgotten(locked, tried("github.com", "me", TOKEN))
    assert await given_to(secrets, asks("github.com")) == ("x-access-token", TOKEN)


async def test_a_provider_without_a_token_has_none_to_give(secrets: SecretsStore) -> None:
    await secrets.set_provider_token("gitlab", None, host="git.example.com")
    assert await given_to(secrets, asks("git.example.com")) is None
    assert not await forgotten(secrets, tried("git.example.com", "oauth2", TOKEN))


async def test_a_host_that_changes_between_the_look_and_the_opening_gets_nothing() -> None:
    class Moving(InMemory):
        hosts = iter(("a.example", "b.example"))

        async def load(self) -> UserSecrets | None:
            return UserSecrets(provider_tokens={"github": {"token": TOKEN, "host": next(self.hosts)}})

    assert await given_to(Moving(), asks("a.example")) is None
