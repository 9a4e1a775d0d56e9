"""State directories whose settings.json and secrets.json hold values encrypted under a JWT secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from storage.openhands.importer import import_home
from storage.secrets.model import UserSecrets
from storage.settings.model import Settings
from storage.storage import Storage
from tests.openhands.installation import SECRET, once, twice
from tests.openhands.test_legacy_values import GOLDEN_TWICE, GOLDEN_VALUE

if TYPE_CHECKING:
    from storage.openhands.report import ImportReport
    from tests.openhands.conftest import StateDirectory

JWT = [SecretStr(SECRET)]


@pytest.fixture
def encrypted(state: StateDirectory) -> StateDirectory:
    state.write(
        "settings.json",
        {
            "language": "en",
            "llm_api_key": GOLDEN_TWICE,
            "search_api_key": "plain-not-real",
            "mcp_config": {"sse_servers": [{"url": "https://mcp.example.com", "api_key": twice("mcp-not-real")}]},
        },
    )
    state.write(
        "secrets.json",
        {
            "provider_tokens": {"github": {"token": twice("token-not-real"), "host": "github.example.com"}},
            "custom_secrets": {
                "A": {"secret": twice("a-not-real"), "description": twice("words")},
                "B": {"secret": "b-not-real"},
            },
        },
    )
    state.write("users/alice/secrets.json", {"custom_secrets": {"C": {"secret": twice("c-not-real")}}})
    return state


def codes(report: ImportReport) -> list[str]:
    return sorted(flaw.code for flaw in report.flaws)


async def loaded(storage: Storage, user: str | None = None) -> tuple[Settings, UserSecrets]:
    stores = storage.user(user)
    return await stores.settings.load() or Settings(), await stores.secrets.load() or UserSecrets()


def plain(value: Any) -> Any:
    return None if value is None else value.get_secret_value()


async def has_everything(storage: Storage) -> bool:
    settings, secrets = await loaded(storage)
    assert plain(settings.llm_api_key) == GOLDEN_VALUE
    assert plain(settings.search_api_key) == "plain-not-real"
    assert plain(settings.mcp_config)["sse_servers"][0]["api_key"] == "mcp-not-real"
    assert secrets.get_env_vars() == {"A": "a-not-real", "B": "b-not-real"}
    assert secrets.get_custom_secrets_descriptions() == {"A": "words", "B": ""}
    (token,) = secrets.provider_tokens.values()
    assert (plain(token.token), token.host) == ("token-not-real", "github.example.com")
    assert (await loaded(storage, "alice"))[1].get_env_vars() == {"C": "c-not-real"}
    return True


async def test_with_the_jwt_secret_every_value_is_opened(storage: Storage, encrypted: StateDirectory) -> None:
    report = await import_home(storage, encrypted.root, jwt_secrets=JWT)
    assert await has_everything(storage)
    assert codes(report) == []
    assert not (await import_home(storage, encrypted.root, jwt_secrets=JWT)).changed


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (".jwt_secret", SECRET),
        (".jwt_secret", f"{SECRET}\n"),
        (".keys", json.dumps([{"id": "a", "key": "another"}, {"id": "b", "key": SECRET}])),
    ],
)
async def test_the_directorys_own_secret_is_tried(
    storage: Storage, encrypted: StateDirectory, name: str, content: str
) -> None:
    encrypted.write(name, content)
    report = await import_home(storage, encrypted.root)
    assert await has_everything(storage)
    assert codes(report) == ["hidden-file"]


async def test_without_it_the_values_are_left_out_and_come_with_a_later_import(
    storage: Storage, encrypted: StateDirectory
) -> None:
    report = await import_home(storage, encrypted.root)
    settings, secrets = await loaded(storage)
    assert (settings.language, settings.llm_api_key) == ("en", None)
    assert plain(settings.search_api_key) == "plain-not-real"
    assert plain(settings.mcp_config) == {"sse_servers": [{"url": "https://mcp.example.com"}]}
    assert (secrets.get_env_vars(), dict(secrets.provider_tokens)) == ({"B": "b-not-real"}, {})
    assert codes(report) == ["encrypted-secret"] * 5
    assert {flaw.path for flaw in report.flaws} == {"settings.json", "secrets.json", "users/alice/secrets.json"}
    assert all("needs --jwt-secret-file" in flaw.message for flaw in report.flaws)
    total = report.total("secrets")
    assert (total.imported, total.skipped) == (1, 3)

    encrypted.write(
        "settings.json", {"language": "en", "llm_api_key": GOLDEN_TWICE, "search_api_key": "plain-not-real"}
    )
    await storage.user().settings.store(Settings(language="en", search_api_key=SecretStr("plain-not-real")))
    later = await import_home(storage, encrypted.root, jwt_secrets=JWT)
    settings, secrets = await loaded(storage)
    assert plain(settings.llm_api_key) == GOLDEN_VALUE
    assert secrets.get_env_vars() == {"A": "a-not-real", "B": "b-not-real"}
    assert (later.total("settings").imported, later.total("secrets").imported) == (1, 3)


async def test_a_wrong_secret_stores_no_garbage(storage: Storage, encrypted: StateDirectory) -> None:
    encrypted.write(".jwt_secret", "wrong")
    report = await import_home(storage, encrypted.root, jwt_secrets=[SecretStr("also wrong")])
    settings, secrets = await loaded(storage)
    assert settings.llm_api_key is None
    assert secrets.get_env_vars() == {"B": "b-not-real"}
    assert codes(report).count("encrypted-secret") == 5
    shown = "\n".join(report.lines())
    assert "not with the JWT secret at hand" in shown
    assert not any(value in shown for value in (GOLDEN_TWICE, "not-real", "wrong"))


async def test_a_users_own_token_of_another_system_is_a_plain_secret(storage: Storage, state: StateDirectory) -> None:
    token = once("of another system", "another secret")
    state.write("secrets.json", {"custom_secrets": {"FERNET": {"secret": token}}})
    report = await import_home(storage, state.root, jwt_secrets=JWT)
    assert (await loaded(storage))[1].get_env_vars() == {"FERNET": token}
    assert codes(report) == []


async def test_an_opened_value_that_no_database_stores_is_mended(storage: Storage, state: StateDirectory) -> None:
    state.write("settings.json", {"llm_model": twice("a\0b")})
    report = await import_home(storage, state.root, jwt_secrets=JWT)
    assert (await loaded(storage))[0].llm_model == "a\N{REPLACEMENT CHARACTER}b"
    assert codes(report) == ["bad-character"]


async def test_a_key_file_that_is_a_link_is_not_followed(
    storage: Storage, encrypted: StateDirectory, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").write_text(SECRET)
    (encrypted.root / ".jwt_secret").symlink_to(tmp_path / "elsewhere")
    report = await import_home(storage, encrypted.root)
    assert codes(report).count("encrypted-secret") == 5
