"""Models that hold secrets: masked in every dump, refused by pickle, and taken apart before they are stored.

Settings and UserSecrets are such models, and so are the subclasses that applications make of them: a field that they
declare as SecretStr gets the same care as ours.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    PrivateAttr,
    Secret,
    SecretBytes,
    SecretStr,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticSerializationError

from storage.errors import InvalidInput
from storage.secret_fields import exposed, field_value, holds_secret, secret_fields

M = TypeVar("M", bound=BaseModel)

MASK: Final = "**********"
"""What a secret is shown as; the same as pydantic's own. As the value of a secret it is refused, because it comes from
a masked dump that someone sends back, and would replace the key."""

MAX_SECRET_BYTES: Final = 1024 * 1024
"""Longest secret, in bytes of UTF-8: certificates and key stores fit, a file taken for a secret does not."""

EXPOSE: Final = "expose_secrets"
"""The key of a serialisation context that asks for secrets in clear: `model_dump(context={"expose_secrets": True})`."""


class SecretModel(BaseModel):
    """A pydantic model whose secrets are masked in `repr` and every dump, and that pickle refuses.

    `model_dump(context={"expose_secrets": True})` gives the secrets in clear. Validation errors do not show their
    input.
    """

    model_config = ConfigDict(validate_assignment=True, hide_input_in_errors=True)

    @model_serializer(mode="wrap")
    def _mask(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        shown: dict[str, Any] = handler(self)
        expose = isinstance(info.context, Mapping) and bool(info.context.get(EXPOSE))
        for name in secret_names(self):
            value = field_value(self, name)
            for key in _dumped_as(type(self), name) & shown.keys():
                if expose:
                    shown[key] = shown[key] if _shows_itself(value) else exposed(value)
                else:
                    shown[key] = value.masked() if hasattr(value, "masked") else _masked(shown[key])
        return shown

    def __getstate__(self) -> dict[Any, Any]:
        if any(field_value(self, name) is not None for name in secret_names(self)):
            raise TypeError(
                f"{type(self).__name__} holds secrets and is never pickled: pass the user's id and load it where it is "
                "needed, or pass model_dump(context={'expose_secrets': True}) if it may be seen"
            )
        return super().__getstate__()

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy, with the fields of `update` in place of its own.

        If a secret or undeclared field is among them, the copy is validated, which pydantic leaves out: it would show a
        key that was given as plain text.

        Raises:
            pydantic.ValidationError (a ValueError): a value does not fit.
        """
        harmless = type(self).model_fields.keys() - secret_fields(type(self))
        if not update or harmless >= update.keys():
            return super().model_copy(update=update, deep=deep)
        copied = super().model_copy(deep=deep)
        made = type(self).model_validate({**_values(copied), **update}, by_alias=False, by_name=True)
        put = object.__setattr__  # the class may be frozen
        put(made, "__pydantic_fields_set__", copied.model_fields_set | update.keys())
        put(made, "__pydantic_private__", copied.__pydantic_private__)
        return made


class StoredModel(SecretModel):
    """A SecretModel that a store keeps, unknown fields included.

    Two are equal if they say the same, whatever their versions.
    """

    model_config = ConfigDict(extra="allow")

    _version: int = PrivateAttr(default=0)
    _complete: bool = PrivateAttr(default=True)

    @property
    def version(self) -> int:
        """How often the stored values had been changed when this was read; 0 if it does not come from a store."""
        return self._version

    @property
    def is_complete(self) -> bool:
        """False if it was read without its secrets; a store refuses to save such an object over them."""
        return self._complete

    @classmethod
    def _hides(cls, name: str, value: Any) -> bool:  # noqa: ARG003 - a subclass may decide by it
        """Whether the undeclared field `name` is to be taken for a secret."""
        return holds_secret(value)

    @model_validator(mode="before")
    @classmethod
    def _hide_undeclared(cls, data: Any) -> Any:
        """Wrap undeclared secrets in `Secret`, so that they are masked and sealed like declared ones."""
        if not isinstance(data, Mapping):
            return data
        return {name: cls._hidden(name, value) for name, value in data.items()}

    @classmethod
    def _hidden(cls, name: str, value: Any) -> Any:
        return Secret(exposed(value)) if name not in _declared_names(cls) and cls._hides(name, value) else value

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value if name.startswith("_") else self._hidden(name, value))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, StoredModel)
            and type(self) is type(other)
            and self.__dict__ == other.__dict__
            and self.__pydantic_extra__ == other.__pydantic_extra__
        )

    # Stated, because a class that defines __eq__ loses it silently: these hold mappings.
    __hash__ = None  # type: ignore[assignment]


def secret_names(model: BaseModel) -> frozenset[str]:
    """Names of the fields of this object that hold secrets: those declared so, and undeclared ones that do."""
    undeclared = [name for name, value in (model.model_extra or {}).items() if holds_secret(value)]
    return secret_fields(type(model)).union(undeclared)


@cache
def _declared_names(model: type[BaseModel]) -> frozenset[str]:
    """Under which names declared fields may arrive."""
    names = set(model.model_fields)
    for field in model.model_fields.values():
        names.update(alias for alias in (field.alias, field.validation_alias) if isinstance(alias, str))
    return frozenset(names)


def _dumped_as(model: type[BaseModel], name: str) -> set[str]:
    field = model.model_fields.get(name)
    return {name, (field.serialization_alias if field is not None else None) or name}


def _shows_itself(value: Any) -> bool:
    """A SecretModel, or a mapping of them, has dumped itself by the same context already."""
    if isinstance(value, Mapping):
        return all(isinstance(item, SecretModel) for item in value.values())
    return isinstance(value, SecretModel)


def _masked(dumped: Any) -> Any:
    """What a python-mode dump gives for secrets, with the mask in their place; a JSON-mode dump is masked already."""
    if isinstance(dumped, SecretStr | SecretBytes | Secret):
        return MASK if dumped.get_secret_value() else ""
    if isinstance(dumped, Mapping):
        return {key: _masked(item) for key, item in dumped.items()}
    if isinstance(dumped, list | tuple | set | frozenset):
        return [_masked(item) for item in dumped]
    return dumped


# ---- storing


@dataclass(frozen=True, slots=True, repr=False)
class Parts:
    """A model taken apart, by field name.

    Attributes:
        plain: JSON values that may be stored as they are. A secret that is None is among them.
        secret: JSON values, in clear, that must be sealed.
    """

    plain: dict[str, Any]
    secret: dict[str, Any]


def together(model: type[BaseModel], parts: Parts) -> dict[str, Any]:
    """The input from which `validated` makes the model again. Undeclared secrets stay wrapped."""
    secrets = {name: value if name in model.model_fields else Secret(value) for name, value in parts.secret.items()}
    return {**parts.plain, **secrets}


def take_apart(model: BaseModel, without: Iterable[str] = ()) -> Parts:
    """The fields of a model as JSON values, secret ones apart, without computed fields and those excluded from dumps.

    Args:
        model: the object.
        without: fields to leave out too.

    Raises:
        InvalidInput: a value that JSON does not have, or a secret in a field that is not declared as one.
    """
    left_out = set(without)
    secrets = secret_names(model) - left_out
    for name in type(model).model_fields.keys() - secrets - left_out:
        if holds_secret(getattr(model, name)):
            raise InvalidInput(
                f"the field {name!r} of {type(model).__name__} holds a secret, and its declaration does not say so; "
                "declare it SecretStr, Secret[…], or a pydantic model that has such fields"
            )
    problem = ""
    plain: dict[str, Any] = {}
    try:
        plain = model.model_dump(
            mode="json", by_alias=False, exclude=left_out | secrets, round_trip=True, warnings="error"
        )
    except PydanticSerializationError as error:
        problem = str(error).splitlines()[0]
    if problem:
        # Raised out here, so that the error, which may hold the value, is not kept as its context.
        raise InvalidInput(f"{type(model).__name__} cannot be stored as JSON: {problem}")
    values = {name: exposed(field_value(model, name)) for name in sorted(secrets)}
    plain.update({name: None for name, value in values.items() if value is None})
    return Parts(plain, {name: value for name, value in values.items() if value is not None})


def secret_bytes(name: str, value: Any) -> bytes:
    """What is sealed of a secret, a JSON value in clear: text as UTF-8, anything else as compact JSON.

    Raises:
        InvalidInput: it is or contains the mask, is longer than MAX_SECRET_BYTES, or contains a lone surrogate, NaN or
            infinity. The message does not show it.
    """
    if _holds_mask(value):
        raise InvalidInput(
            f"{name} holds {MASK!r}, which is how a hidden secret is shown. Storing it would replace the secret: leave "
            "the field out, or dump with context={'expose_secrets': True}"
        )
    data = _encoded(value)
    if data is None:
        # Raised out here: the encoder's error holds the whole text, and would be kept as the context.
        raise InvalidInput(f"{name} contains a lone surrogate, NaN or infinity, which cannot be stored; remove it")
    if len(data) > MAX_SECRET_BYTES:
        raise InvalidInput(f"{name} is {len(data)} bytes long; at most {MAX_SECRET_BYTES} are allowed")
    return data


def check_secrets(model: BaseModel) -> None:
    """Pass if every secret of the model can be stored; for stores that keep models as a whole.

    Raises:
        InvalidInput: see secret_bytes.
    """
    for name in sorted(secret_names(model)):
        value = field_value(model, name)
        if _shows_itself(value):
            for item in value.values() if isinstance(value, Mapping) else [value]:
                check_secrets(item)
        elif value is not None:
            secret_bytes(name, exposed(value))


def validated(model: type[M], data: Mapping[str, Any], what: str) -> M:
    """`data`, by field name, as a model.

    Raises:
        InvalidInput: names each field and the rule, and shows no value.
    """
    try:
        return model.model_validate(data, by_alias=True, by_name=True)
    except ValidationError as error:
        problems = _explained(error)
    # Raised out here: the original keeps the values, and would be kept as the context.
    raise InvalidInput(f"{what}: {problems}")


def revalidated(model: M, what: str) -> M:
    """The model validated once more: lists are edited in place, and what `model_construct` makes never was.

    Raises:
        InvalidInput: see validated.
    """
    return validated(type(model), _values(model), what)


def refuse_unknown(model: type[BaseModel], names: Iterable[str]) -> None:
    """Pass if the model declares every name.

    Raises:
        InvalidInput: names the first that it does not, and the nearest that it does.
    """
    for name in names:
        if name not in model.model_fields:
            nearest = difflib.get_close_matches(name, model.model_fields, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise InvalidInput(f"{model.__name__} has no field {name!r}{hint}")


def _values(model: BaseModel) -> dict[str, Any]:
    return {**model.__dict__, **(model.model_extra or {})}


def _explained(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(str(part) for part in item['loc']) or 'all fields'}: {item['msg']}"
        for item in error.errors(include_input=False, include_url=False, include_context=False)
    )


def _holds_mask(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_holds_mask(item) for item in value.values())
    if isinstance(value, list):
        return any(_holds_mask(item) for item in value)
    return bool(value == MASK)


def _encoded(value: Any) -> bytes | None:
    try:
        text = value
        if not isinstance(value, str):
            text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode() if isinstance(text, str) else None
    except ValueError:
        return None
