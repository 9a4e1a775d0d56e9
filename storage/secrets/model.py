"""What callers hold of a user's secrets: tokens for git providers and secrets of their own, never shown unasked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    SerializationInfo,
    field_serializer,
    field_validator,
)

from storage.database.types import checked_text
from storage.encryption.keyset import SecretState
from storage.identity import checked_id
from storage.providers import ProviderType
from storage.secret_models import SecretModel, StoredModel

SecretKind: TypeAlias = Literal["provider_token", "custom_secret"]


def _provider(value: Any) -> Any:
    return checked_id("a provider's name", getattr(value, "value", value))


def _name(value: str) -> str:
    return checked_id("a secret's name", value)


Text = Annotated[str, AfterValidator(checked_text)]
"""Text without NUL."""
Provider = Annotated[
    ProviderType | str,
    Field(union_mode="left_to_right"),
    # Also another library's enum of the same values.
    BeforeValidator(_provider),
]
SecretName = Annotated[str, AfterValidator(_name)]
"""1 to 255 bytes of UTF-8, printable."""


class ProviderToken(SecretModel):
    """A token for a git provider.

    Attributes:
        token: None if only the host or the account is known. An empty token counts as none.
        host: the one host that the token is for, None for the provider's own; the token is sealed for it.
        user_id: the account at the provider.
    """

    model_config = ConfigDict(frozen=True)

    token: SecretStr | None = None
    host: Text | None = None
    user_id: Text | None = None

    @field_validator("token")
    @classmethod
    def _empty_is_unset(cls, value: SecretStr | None) -> SecretStr | None:
        return value if value is not None and value.get_secret_value().strip() else None

    @field_validator("host", "user_id")
    @classmethod
    def _empty_is_none(cls, value: str | None) -> str | None:
        return value or None


class CustomSecret(SecretModel):
    """A secret of the user's own: any text up to 1 MiB, also an empty one, with a description that is not secret."""

    model_config = ConfigDict(frozen=True)

    secret: SecretStr = Field(default_factory=lambda: SecretStr(""))
    description: Text = ""


class UserSecrets(StoredModel):
    """All secrets of a user. Unchangeable: `model_copy`, or the single verbs of a SecretsStore, make a change.

    Secrets are masked in every dump unless the context says so: `model_dump(context={"expose_secrets": True})`.
    Providers that this release does not know are kept by their name. Unknown fields are accepted, taken for secrets
    and stored; a subclass may declare further fields, which come back typed.

    Attributes:
        provider_tokens: by provider; values may be given as `{"token": …, "host": …, "user_id": …}`.
        custom_secrets: by name; values may be given as `{"secret": …, "description": …}`.
        version: how often the stored secrets had changed when this was read; 0 if it does not come from a store.

    Raises:
        pydantic.ValidationError (a ValueError): a value does not fit; names field and rule, shows no input.
    """

    model_config = ConfigDict(frozen=True)

    provider_tokens: Mapping[Provider, ProviderToken] = Field(default_factory=lambda: MappingProxyType({}))
    custom_secrets: Mapping[SecretName, CustomSecret] = Field(default_factory=lambda: MappingProxyType({}))

    @field_validator("provider_tokens", "custom_secrets")
    @classmethod
    def _unchangeable(cls, value: Mapping[Any, Any]) -> Mapping[Any, Any]:
        return MappingProxyType(dict(value))

    @field_serializer("provider_tokens", "custom_secrets")
    def _by_name(self, value: Mapping[str, SecretModel], info: SerializationInfo) -> dict[str, dict[str, Any]]:
        return {str(name): item.model_dump(mode=info.mode, context=info.context) for name, item in value.items()}

    @classmethod
    def _hides(cls, name: str, value: Any) -> bool:  # noqa: ARG003 - whatever its name
        return value is not None

    def get_env_vars(self) -> dict[str, str]:
        """The custom secrets in clear, by name, for the environment of a sandbox."""
        return {name: custom.secret.get_secret_value() for name, custom in self.custom_secrets.items()}

    def get_custom_secrets_descriptions(self) -> dict[str, str]:
        """What each custom secret is for, by name; nothing secret."""
        return {name: custom.description for name, custom in self.custom_secrets.items()}

    # Copies are shallow: everything inside is unchangeable, and a mappingproxy cannot be copied.

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy, with the fields of `update` in place of its own. See SecretModel."""
        return super().model_copy(update=update)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self.__copy__()


@dataclass(frozen=True, slots=True)
class SecretInfo:
    """One line of a listing; nothing in it is secret.

    Attributes:
        kind: what the name names.
        name: the provider, or the custom secret's name.
        description: of a custom secret; empty for a token.
        host: that a token is for; None for the provider's own, and for custom secrets.
        provider_user_id: the account that a token belongs to.
        state: found out without decrypting. `set` says that the key is at hand; an altered value is only found when it
            is opened.
        created_at: aware, UTC; None where the store does not record it.
        updated_at: of the last change; as created_at.
    """

    kind: SecretKind
    name: str
    description: str
    state: SecretState
    host: str | None = None
    provider_user_id: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
