"""Settings as an object: what is accepted, and what is never shown."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from pydantic import BaseModel, Field, Secret, SecretBytes, SecretStr, ValidationError

from storage.settings.model import MCPConfig, SandboxGroupingStrategy, Settings
from storage.settings.table import SettingsTable
from storage.testing.settings import EVERY_FIELD

MARKER = "MARKER-5f0c"


class Account(BaseModel):
    name: str
    password: SecretStr


class MoreSettings(Settings):
    token: SecretStr | None = None
    certificate: SecretBytes | None = None
    accounts: dict[str, Account] = Field(default_factory=dict)
    pin: Secret[int] | None = Field(default=None, serialization_alias="personalNumber")
    anything: Any = None


def marked() -> MoreSettings:
    """Settings with a secret in every place that can hold one."""
    return MoreSettings(
        llm_api_key=MARKER,
        search_api_key=SecretStr(MARKER),
        sandbox_api_key=MARKER,
        mcp_config={
            "stdio_servers": [{"name": "files", "command": "npx", "args": ["--key", MARKER], "env": {"A": MARKER}}],
            "shttp_servers": [{"url": f"https://u:{MARKER}@mcp.example.com:8443/{MARKER}?k={MARKER}", "n": 7}],
            "mcpServers": {"x": {"headers": {"Authorization": MARKER}, "deep": [[{"y": MARKER}]]}},
        },
        token=MARKER,
        certificate=MARKER,
        accounts={"a": {"name": "ada", "password": MARKER}},
        undeclared=SecretStr(MARKER),
        other_api_key=MARKER,
        agent_settings={"llm": {"model": "m", "apiKey": MARKER}},
    )


def test_every_field_has_its_column_and_every_column_its_field() -> None:
    columns = set(SettingsTable.__table__.columns.keys())  # type: ignore[attr-defined]
    own = {"user_id", "version", "extra", "sealed_extra", "created_at", "updated_at"}
    assert set(Settings.model_fields) == columns - own
    assert set(EVERY_FIELD) == set(Settings.model_fields)


def test_no_dump_and_no_repr_shows_a_secret() -> None:
    settings = marked()
    shown = [
        repr(settings),
        str(settings),
        repr(settings.model_extra),
        str(settings.mcp_config),
        repr(settings.model_dump()),
        repr(settings.model_dump(mode="json", by_alias=True)),
        repr(settings.model_dump(context={"expose_secrets": False})),
        settings.model_dump_json(),
        repr(copy.deepcopy(settings)),
        repr(settings.model_copy(update={"language": "de"})),
    ]
    assert [text for text in shown if MARKER in text] == []


def test_a_masked_dump_holds_no_secret_objects_either() -> None:
    dumped = marked().model_dump()
    assert dumped["llm_api_key"] == dumped["token"] == dumped["undeclared"] == "**********"
    assert dumped["accounts"] == {"a": {"name": "ada", "password": "**********"}}


def test_secrets_are_shown_to_those_who_ask() -> None:
    settings = marked()
    exposed = settings.model_dump(mode="json", context={"expose_secrets": True})
    assert exposed["llm_api_key"] == exposed["token"] == exposed["certificate"] == exposed["undeclared"] == MARKER
    assert exposed["accounts"] == {"a": {"name": "ada", "password": MARKER}}
    assert exposed["mcp_config"]["mcpServers"]["x"]["headers"] == {"Authorization": MARKER}
    assert exposed["agent_settings"] == {"llm": {"model": "m", "apiKey": MARKER}}
    assert MoreSettings(**exposed).model_dump(context={"expose_secrets": True}) == exposed


def test_the_structure_of_the_mcp_configuration_is_shown() -> None:
    config = marked().model_dump()["mcp_config"]
    assert config["stdio_servers"] == [
        {"name": "files", "command": "npx", "args": ["**********"] * 2, "env": {"A": "**********"}}
    ]
    assert config["shttp_servers"] == [{"url": "https://mcp.example.com:8443/**********", "n": "**********"}]
    assert Settings(mcp_config=MCPConfig({"url": "http://[broken"})).model_dump()["mcp_config"] == {"url": "**********"}


def test_aliased_secrets_are_masked_and_exposed_under_their_alias() -> None:
    settings = MoreSettings(pin=123456)
    assert settings.model_dump(by_alias=True)["personalNumber"] == "**********"
    assert settings.model_dump(by_alias=True, context={"expose_secrets": True})["personalNumber"] == 123456
    assert "123456" not in repr(settings)


@pytest.mark.parametrize(
    "changes", [{"llm_api_key": MARKER}, {"mcp_config": {"env": {"name": MARKER}}}, {"my_token": MARKER}], ids=repr
)
def test_a_copy_with_a_secret_in_plain_text_hides_it(changes: dict[str, Any]) -> None:
    settings = Settings(language="de")
    copied = settings.model_copy(update=changes)
    assert MARKER not in f"{copied!r} {copied.model_dump()} {copied.model_dump_json()}"
    assert copied.model_dump(context={"expose_secrets": True}) == {
        **settings.model_dump(context={"expose_secrets": True}),
        **changes,
    }
    assert copied.model_fields_set == {"language", *changes}


def test_a_copy_with_a_secret_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValidationError, match="search_api_key"):
        Settings().model_copy(update={"search_api_key": 5})


def test_whatever_is_in_the_environment_or_headers_of_a_server_is_masked() -> None:
    places = {"env": {"name": MARKER, "type": MARKER}, "headers": {"description": MARKER, "url": [f"https://{MARKER}"]}}
    settings = Settings(mcp_config={"stdio_servers": [places]})
    assert MARKER not in f"{settings!r} {settings.model_dump()} {settings.model_dump_json()}"


def test_settings_with_secrets_are_not_pickled() -> None:
    with pytest.raises(TypeError, match="holds secrets"):
        pickle.dumps(marked())
    settings = Settings(language="de")
    assert pickle.loads(pickle.dumps(settings)) == settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"llm_api_key": [MARKER]},
        {"mcp_config": [MARKER]},
        {"mcp_config": MARKER},
        {"token": {"a": MARKER}},
        {"accounts": {"a": {"nam": "ada", "password": MARKER}}},
        {"secrets_store": {"provider_tokens": {"github": {"token": MARKER}}}},
    ],
)
def test_an_error_of_validation_does_not_show_what_was_wrong(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        MoreSettings(**wrong)
    assert MARKER not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "limit"),
    [
        ("condenser_max_size", 19, "20"),
        ("max_iterations", 0, "1"),
        ("remote_runtime_resource_factor", 0, "1"),
        ("max_budget_per_task", -0.01, "0"),
        ("max_budget_per_task", float("inf"), "finite"),
        ("user_version", 2**31, "2147483647"),
        ("llm_model", "a\0b", "NUL"),
        ("disabled_skills", ["a\0b"], "NUL"),
    ],
)
def test_a_value_outside_its_limits_is_refused_by_name(field: str, value: Any, limit: str) -> None:
    with pytest.raises(ValidationError, match=f"(?s){field}.*{limit}"):
        Settings(**{field: value})
    settings = Settings()
    with pytest.raises(ValidationError):
        setattr(settings, field, value)
    assert settings == Settings()


@pytest.mark.parametrize("empty", ["", "  \n", SecretStr("")])
def test_an_empty_key_counts_as_none(empty: Any) -> None:
    settings = Settings(llm_api_key=empty, search_api_key=empty, sandbox_api_key=empty)
    assert settings == Settings()


def test_an_unknown_grouping_strategy_is_kept_and_a_known_one_typed() -> None:
    assert Settings(sandbox_grouping_strategy="ONE_A_DAY").sandbox_grouping_strategy == "ONE_A_DAY"
    assert Settings().sandbox_grouping_strategy is SandboxGroupingStrategy.NO_GROUPING
    known = Settings(sandbox_grouping_strategy="LEAST_RECENTLY_USED").sandbox_grouping_strategy
    assert known is SandboxGroupingStrategy.LEAST_RECENTLY_USED


def test_an_empty_legacy_store_of_secrets_is_no_field() -> None:
    settings = Settings(language="de", secrets_store={"provider_tokens": {}})
    assert settings == Settings(language="de")


@pytest.mark.parametrize("name", ["api_key", "KEY", "GITHUB_TOKEN", "githubToken", "db-password", "apiKey"])
def test_undeclared_fields_named_like_a_secret_are_taken_for_one(name: str) -> None:
    settings = Settings(**{name: MARKER})
    assert MARKER not in repr(settings)
    settings = Settings()
    setattr(settings, name, MARKER)
    assert MARKER not in repr(settings)


@pytest.mark.parametrize(
    "field",
    [
        {"llm_api_key_for_byor": MARKER},
        {"api_keys": {"openai": MARKER}},
        {"credentials": {"user": "ada", "value": [MARKER]}},
        {"auth_tokens": [MARKER]},
        {"OLD_PASSWORDS": [MARKER]},
    ],
    ids=str,
)
def test_secrets_below_a_name_that_says_so_are_taken_for_such(field: dict[str, Any]) -> None:
    assert MARKER not in repr(Settings(**field))


@pytest.mark.parametrize("name", ["monkey", "tokens_per_minute", "keyboard", "secretary", "shortcut_keys"])
def test_other_undeclared_fields_stay_as_they_are(name: str) -> None:
    assert getattr(Settings(**{name: "plain"}), name) == "plain"


def test_versions_do_not_make_settings_differ() -> None:
    settings, same = Settings(language="de"), Settings(language="de")
    same._version = 7
    assert settings == same
    assert settings != Settings(language="en")
    assert settings != Settings(language="de", extra_field=1)
    assert settings != MoreSettings(language="de")
    assert "version" not in settings.model_dump()
