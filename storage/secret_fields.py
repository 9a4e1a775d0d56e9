"""Which fields of a pydantic model hold secrets, and those fields' values in plain, for sealing and for explicit dumps.

A secret is whatever is declared as one: SecretStr, SecretBytes or Secret[T], also inside a container or another model.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any, Final, get_args

from pydantic import BaseModel, Secret, SecretBytes, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError, to_jsonable_python

from storage.errors import InvalidInput

_SECRET_TYPES: Final = (SecretStr, SecretBytes, Secret)


@lru_cache(maxsize=256)
def secret_fields(model: type[BaseModel]) -> frozenset[str]:
    """Names of the declared fields that hold a secret somewhere."""
    return frozenset(name for name, field in model.model_fields.items() if _declares_secret(field.annotation, set()))


def exposed(value: Any) -> Any:
    """`value` as JSON with every secret in plain. Keep it no longer than needed.

    Raises:
        InvalidInput: something inside cannot be written as JSON; it is named by type only.
    """
    if isinstance(value, _SECRET_TYPES):
        return exposed(value.get_secret_value())
    if isinstance(value, BaseModel):
        plain = value.model_dump(mode="json", exclude=set(secret_fields(type(value))))
        for name in secret_fields(type(value)):
            plain[_input_name(name, type(value).model_fields[name])] = exposed(getattr(value, name))
        return plain
    if isinstance(value, dict):
        return {str(to_jsonable_python(key)): exposed(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [exposed(item) for item in value]
    try:
        return to_jsonable_python(value)
    except (PydanticSerializationError, ValueError):
        problem = f"a secret of type {type(value).__name__} cannot be stored: it has no JSON form"
    # Raised out here: the original may quote the value, and would be kept as the context.
    raise InvalidInput(problem)


def field_value(model: BaseModel, name: str) -> Any:
    """The value of a field, declared or not. `getattr` takes an undeclared `copy` or `version` for the method."""
    undeclared = model.model_extra
    return undeclared[name] if undeclared and name in undeclared else getattr(model, name)


def holds_secret(value: Any) -> bool:
    """Whether a value, whatever it was declared as, holds a secret."""
    if isinstance(value, _SECRET_TYPES):
        return True
    if isinstance(value, BaseModel):
        return bool(secret_fields(type(value))) or holds_secret(value.model_extra or {})
    if isinstance(value, dict):
        return any(map(holds_secret, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(holds_secret, value))
    if is_dataclass(value) and not isinstance(value, type):
        return any(holds_secret(getattr(value, field.name, None)) for field in fields(value))
    return False


def _declares_secret(annotation: Any, seen: set[int]) -> bool:
    if id(annotation) in seen:
        return False  # a model may contain itself
    seen.add(id(annotation))
    if isinstance(annotation, type):
        if issubclass(annotation, _SECRET_TYPES):
            return True
        if issubclass(annotation, BaseModel):
            return any(_declares_secret(field.annotation, seen) for field in annotation.model_fields.values())
    if (origin := getattr(annotation, "__origin__", None)) is not None and _declares_secret(origin, seen):
        return True
    if (aliased := getattr(annotation, "__value__", None)) is not None and _declares_secret(aliased, seen):
        return True
    return any(_declares_secret(argument, seen) for argument in get_args(annotation))


def _input_name(name: str, field: FieldInfo) -> str:
    """The name under which the model takes the field back."""
    return field.validation_alias if isinstance(field.validation_alias, str) else field.alias or name
