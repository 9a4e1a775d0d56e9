"""Models that hold secrets: masked in every dump, refused by pickle, and split into what may be stored as it is and what
must be sealed.

Settings and UserSecrets are such models, and so are the subclasses that applications make of them: a field that they
declare as SecretStr gets the same care as ours.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    PrivateAttr,
    Secret,
    SecretBytes,
    SecretStr,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticSerializationError, to_jsonable_python

from storage.errors import InvalidInput

M = TypeVar("M", bound=BaseModel)

MASK: Final = "**********"
"""What a secret is shown as; the same as pydantic's own. As the value of a secret it is refused, because it comes from
a masked dump that someone sends back, and would replace the key."""

MAX_SECRET_BYTES: Final = 1024 * 1024
"""Longest secret, in bytes of UTF-8: certificates and key stores fit, a file taken for a secret does not."""

EXPOSE: Final = "expose_secrets"
"""The key of a serialisation context that asks for secrets in clear: `model_dump(context={"expose_secrets": True})`."""

_SECRET_TYPES: Final = (SecretStr, SecretBytes, Secret)
_ANYTHING: Final[TypeAdapter[Any]] = TypeAdapter(Any)


class SecretModel(BaseModel):
    """A pydantic model whose secrets are masked in `repr` and every dump, and that pickle refuses.

    `model_dump(context={"expose_secrets": True})` gives the secrets in clear. Validation errors do not show their
    input.
    """

    model_config = ConfigDict(validate_assignment=True, hide_input_in_errors=True)

    @classmethod
    def _hides(cls, name: str, value: Any) -> bool:
        """Whether the undeclared field `name` is to be taken for a secret."""
        return contains_secret(value)

    @model_validator(mode="before")
    @classmethod
    def _hide_undeclared(cls, data: Any) -> Any:
        if cls.model_config.get("extra") != "allow" or not isinstance(data, Mapping):
            return data
        declared = _declared_names(cls)
        return {
            name: Secret(reveal(value)) if name not in declared and cls._hides(name, value) else value
            for name, value in data.items()
        }

    @model_serializer(mode="wrap")
    def _mask(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        shown: dict[str, Any] = handler(self)
        show = reveal if _exposes(info.context) else conceal
        for name in secret_names(self):
            value = getattr(self, name)
            for key in _dumped_as(type(self), name):
                if key in shown and not _masks_itself(value):
                    plain = show(value)
                    shown[key] = to_jsonable_python(plain) if info.mode == "json" else plain
        return shown

    def __getstate__(self) -> dict[Any, Any]:
        if any(getattr(self, name) is not None for name in secret_names(self)):
            raise TypeError(
                f"{type(self).__name__} holds secrets and is never pickled: pass the user's id and load it where it is "
                "needed, or pass model_dump(context={'expose_secrets': True}) if it may be seen"
            )
        return super().__getstate__()


class StoredModel(SecretModel):
    """A SecretModel that the stores keep, unknown fields included.

    Two are equal if they say the same, whatever their versions.
    """

    model_config = ConfigDict(extra="allow")

    _version: int = PrivateAttr(default=0)
    _complete: bool = PrivateAttr(default=True)

    @property
    def version(self) -> int:
        """How often the stored values had changed when this was read; 0 if it does not come from a store."""
        return self._version

    @property
    def is_complete(self) -> bool:
        """False if it was read without its secrets; a store refuses to save such an object over them."""
        return self._complete

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, StoredModel)
            and type(self) is type(other)
            and self.__dict__ == other.__dict__
            and self.__pydantic_extra__ == other.__pydantic_extra__
        )

    # Stated, because __eq__ alone would take it away from a frozen subclass silently.
    __hash__ = None  # type: ignore[assignment]


# ---- which fields are secret


@cache
def declared_secrets(model: type[BaseModel]) -> frozenset[str]:
    """Names of the declared fields whose annotation mentions SecretStr, SecretBytes or Secret, at whatever depth."""
    return frozenset(name for name, field in model.model_fields.items() if _mentions_secret(field.annotation, set()))


def secret_names(model: BaseModel) -> frozenset[str]:
    """Names of the fields of this object that hold secrets: the declared ones, and undeclared ones that do."""
    undeclared = {name for name, value in (model.model_extra or {}).items() if contains_secret(value)}
    return declared_secrets(type(model)) | undeclared if undeclared else declared_secrets(type(model))


def contains_secret(value: Any) -> bool:
    """Whether a SecretStr, SecretBytes or Secret is the value or inside it."""
    if isinstance(value, _SECRET_TYPES):
        return True
    if isinstance(value, Mapping):
        return any(contains_secret(item) for item in value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return any(contains_secret(item) for item in value)
    return isinstance(value, BaseModel) and bool(secret_names(value))


def _mentions_secret(annotation: Any, seen: set[Any]) -> bool:
    """Walks type arguments, models, dataclasses and typed dicts; `seen` ends recursive types."""
    annotation = getattr(annotation, "__value__", annotation)  # what a `type X = …` statement stands for
    origin = typing.get_origin(annotation)
    if origin is not None:
        return _is_secret_type(origin) or any(_mentions_secret(part, seen) for part in typing.get_args(annotation))
    if not isinstance(annotation, type) or annotation in seen:
        return False
    if _is_secret_type(annotation):
        return True
    seen.add(annotation)
    if issubclass(annotation, BaseModel):
        return any(_mentions_secret(field.annotation, seen) for field in annotation.model_fields.values())
    if dataclasses.is_dataclass(annotation) or typing.is_typeddict(annotation):
        return any(_mentions_secret(hint, seen) for hint in typing.get_type_hints(annotation).values())
    return False


def _is_secret_type(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, _SECRET_TYPES)


@cache
def _declared_names(model: type[BaseModel]) -> frozenset[str]:
    """Under which names declared fields may arrive."""
    names = set(model.model_fields)
    for field in model.model_fields.values():
        names.update(alias for alias in (field.alias, field.validation_alias) if isinstance(alias, str))
    return frozenset(names)


def _dumped_as(model: type[BaseModel], name: str) -> set[str]:
    field = model.model_fields.get(name)
    return {name, field.serialization_alias or name} if field is not None else {name}


def _masks_itself(value: Any) -> bool:
    """Models of ours inside a mapping have masked or exposed themselves, by the same context."""
    if isinstance(value, SecretModel):
        return True
    return isinstance(value, Mapping) and bool(value) and all(isinstance(item, SecretModel) for item in value.values())


def _exposes(context: Any) -> bool:
    return isinstance(context, Mapping) and bool(context.get(EXPOSE))


# ---- showing and revealing


def reveal(value: Any) -> Any:
    """The value with the secrets inside it in clear; models become dicts."""
    return _walk(_ANYTHING.dump_python(value, context={EXPOSE: True}), clear=True)


def conceal(value: Any) -> Any:
    """The value with the secrets inside it masked; models become dicts."""
    return _walk(_ANYTHING.dump_python(value), clear=False)


def _walk(value: Any, *, clear: bool) -> Any:
    if isinstance(value, _SECRET_TYPES):
        if clear:
            return _walk(value.get_secret_value(), clear=True)
        masked = getattr(value, "masked", None)
        return masked() if masked is not None else MASK if value.get_secret_value() else ""
    if isinstance(value, Mapping):
        return {key: _walk(item, clear=clear) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_walk(item, clear=clear) for item in value]
    return value


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


def take_apart(model: BaseModel) -> Parts:
    """The fields of a model as JSON values, secret ones apart. Fields excluded from dumps and computed ones are left
    out.

    Raises:
        InvalidInput: a value that JSON does not have; the mask in place of a secret; a secret that is too long.
    """
    secrets = secret_names(model)
    problem = ""
    try:
        plain = model.model_dump(mode="json", by_alias=False, exclude=set(secrets), round_trip=True, warnings="error")
        values = {name: to_jsonable_python(reveal(getattr(model, name))) for name in sorted(secrets)}
    except PydanticSerializationError as error:
        problem = str(error).splitlines()[0]
        plain, values = {}, {}
    if problem:
        # Raised out here, so that the error which may hold a value is not kept as its context.
        raise InvalidInput(f"{type(model).__name__} cannot be stored as JSON: {problem}")
    for name, value in values.items():
        check_secret(name, value)
    plain.update({name: None for name, value in values.items() if value is None})
    return Parts(plain, {name: value for name, value in values.items() if value is not None})


def check_secret(name: str, value: Any) -> None:
    """Pass if the value, a JSON value in clear, can be kept as a secret. The messages do not show it.

    Raises:
        InvalidInput: the mask is the value or inside it, or it is longer than MAX_SECRET_BYTES.
    """
    if _holds_mask(value):
        raise InvalidInput(
            f"{name} holds {MASK!r}, which is how a hidden secret is shown. Storing it would replace the secret: leave "
            "the field out, or dump with context={'expose_secrets': True}"
        )
    size = len(secret_bytes(name, value))
    if size > MAX_SECRET_BYTES:
        raise InvalidInput(f"{name} is {size} bytes long; at most {MAX_SECRET_BYTES} are allowed")


def secret_bytes(name: str, value: Any) -> bytes:
    """What is sealed: text as UTF-8, any other JSON value as compact JSON.

    Raises:
        InvalidInput: a lone surrogate, NaN or infinity; the message does not show the value.
    """
    try:
        text = value if isinstance(value, str) else _dump(value)
        return text.encode()
    except ValueError:
        pass
    # Raised out here: a UnicodeEncodeError holds the whole text, and would be kept as the context.
    raise InvalidInput(f"{name} contains a lone surrogate, NaN or infinity, which cannot be stored; remove it")


def secret_json(value: bytes) -> Any:
    """The JSON value that `secret_bytes` was given."""
    return json.loads(value)


def validated(model: type[M], data: Mapping[str, Any], what: str) -> M:
    """`data` as a model.

    Raises:
        InvalidInput: names each field and the rule, and shows no value.
    """
    try:
        return model.model_validate(data, by_alias=True, by_name=True)
    except ValidationError as error:
        problems = explain(error)
    raise InvalidInput(f"{what}: {problems}")


def explain(error: ValidationError) -> str:
    """The problems as `field: rule; field: rule`, without the values."""
    return "; ".join(
        f"{'.'.join(str(part) for part in item['loc']) or 'all fields'}: {item['msg']}"
        for item in error.errors(include_input=False, include_url=False, include_context=False)
    )


def refuse_unknown(model: type[BaseModel], names: Iterable[str]) -> None:
    """Pass if the model declares every name.

    Raises:
        InvalidInput: names the first that it does not, and the nearest that it does.
    """
    import difflib

    for name in names:
        if name not in model.model_fields:
            nearest = difflib.get_close_matches(name, model.model_fields, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise InvalidInput(f"{model.__name__} has no field {name!r}{hint}")


def _holds_mask(value: Any) -> bool:
    if isinstance(value, str):
        return value == MASK
    if isinstance(value, dict):
        return any(_holds_mask(item) for item in value.values())
    return isinstance(value, list) and any(_holds_mask(item) for item in value)


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
