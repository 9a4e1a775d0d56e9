"""UserSecrets as an object: what is accepted, and what is never shown."""

from __future__ import annotations

import copy
import pickle
from enum import Enum
from types import MappingProxyType
from typing import Any

import pytest
from pydantic import Field, SecretStr, ValidationError

from storage.providers import ProviderType
from storage.secrets.model import CustomSecret, ProviderToken, UserSecrets
from storage.testing.secrets import SEVERAL

MARKER = "MARKER-77de"


class MoreSecrets(UserSecrets):
    recovery_codes: list[SecretStr] = Field(default_factory=list)
    plain: str | None = None


def marked() -> MoreSecrets:
    """Secrets in every place that can hold one."""
    return MoreSecrets(
        provider_tokens={"github": {"token": MARKER, "host": "h", "user_id": "1"}, "own": ProviderToken(token=MARKER)},
        custom_secrets={"A": {"secret": MARKER}, "B": CustomSecret(secret=MARKER, description="d")},
        recovery_codes=[MARKER],
        plain="p",
        undeclared={"a": [MARKER]},
    )


def test_no_dump_and_no_repr_shows_a_secret() -> None:
    secrets = marked()
    shown = [
        repr(secrets),
        str(secrets),
        repr(secrets.provider_tokens),
        repr(secrets.custom_secrets["A"]),
        repr(secrets.model_extra),
        repr(secrets.model_dump()),
        repr(secrets.model_dump(mode="json")),
        secrets.model_dump_json(),
        repr(secrets.provider_tokens[ProviderType.GITHUB].model_dump()),
        repr(copy.deepcopy(secrets)),
    ]
    assert [text for text in shown if MARKER in text] == []


def test_secrets_are_shown_to_those_who_ask() -> None:
    exposed = marked().model_dump(mode="json", context={"expose_secrets": True})
    assert exposed == {
        "provider_tokens": {
            "github": {"token": MARKER, "host": "h", "user_id": "1"},
            "own": {"token": MARKER, "host": None, "user_id": None},
        },
        "custom_secrets": {
            "A": {"secret": MARKER, "description": ""},
            "B": {"secret": MARKER, "description": "d"},
        },
        "recovery_codes": [MARKER],
        "plain": "p",
        "undeclared": {"a": [MARKER]},
    }
    assert MoreSecrets(**exposed) == marked()
    assert UserSecrets().model_dump(context={"expose_secrets": True}) == {"provider_tokens": {}, "custom_secrets": {}}


def test_environment_variables_are_in_clear_and_descriptions_without_values() -> None:
    secrets = UserSecrets(**SEVERAL)
    assert secrets.get_env_vars() == {name: item["secret"] for name, item in SEVERAL["custom_secrets"].items()}
    descriptions = secrets.get_custom_secrets_descriptions()
    assert descriptions == {name: item["description"] for name, item in SEVERAL["custom_secrets"].items()}


@pytest.mark.parametrize("secret", [marked(), marked().provider_tokens[ProviderType.GITHUB], CustomSecret(secret="s")])
def test_what_holds_a_secret_is_not_pickled(secret: Any) -> None:
    with pytest.raises(TypeError, match="holds secrets"):
        pickle.dumps(secret)


def test_a_token_without_a_token_may_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(ProviderToken(host="h"))) == ProviderToken(host="h")


def test_providers_are_typed_where_they_are_known_and_kept_where_not() -> None:
    class OtherEnum(Enum):
        GITLAB = "gitlab"

    secrets = UserSecrets(provider_tokens={"github": {}, OtherEnum.GITLAB: {}, "own": {}})
    assert list(secrets.provider_tokens) == [ProviderType.GITHUB, ProviderType.GITLAB, "own"]
    assert isinstance(next(iter(secrets.provider_tokens)), ProviderType)
    assert "github" in secrets.provider_tokens


def test_secrets_cannot_be_changed_in_place() -> None:
    secrets = UserSecrets(**SEVERAL)
    with pytest.raises(ValidationError, match="frozen"):
        secrets.custom_secrets = {}  # type: ignore[misc]
    with pytest.raises(TypeError):
        secrets.custom_secrets["A"] = CustomSecret()  # type: ignore[index]
    with pytest.raises(ValidationError, match="frozen"):
        secrets.custom_secrets["EMPTY"].description = "d"  # type: ignore[misc]
    assert isinstance(secrets.provider_tokens, MappingProxyType)


def test_a_copy_with_changes_leaves_the_original() -> None:
    secrets = UserSecrets(**SEVERAL)
    changed = secrets.model_copy(update={"custom_secrets": {"A": CustomSecret(secret="a")}}, deep=True)
    assert secrets == UserSecrets(**SEVERAL)
    assert changed.get_env_vars() == {"A": "a"}
    assert copy.copy(secrets) == copy.deepcopy(secrets) == secrets


@pytest.mark.parametrize("empty", ["", " \n", None])
def test_an_empty_token_or_host_counts_as_none(empty: str | None) -> None:
    token = ProviderToken(token=empty, host=empty and "", user_id=empty and "")
    assert token == ProviderToken()


@pytest.mark.parametrize(
    "wrong",
    [
        {"provider_tokens": [MARKER]},
        {"provider_tokens": {"github": MARKER}},
        {"provider_tokens": {"": {"token": MARKER}}},
        {"provider_tokens": {"github": {"token": MARKER, "host": "a\0b"}}},
        {"custom_secrets": {"A\n": {"secret": MARKER}}},
        {"custom_secrets": {"A": {"secret": {"a": MARKER}}}},
        {"recovery_codes": {"a": MARKER}},
    ],
)
def test_an_error_of_validation_does_not_show_what_was_wrong(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        MoreSecrets(**wrong)
    assert MARKER not in str(caught.value)
