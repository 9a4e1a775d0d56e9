"""docs/configuration.md: every setting, from the fields of StorageConfig and what is written below each."""

from __future__ import annotations

import ast
import inspect
import itertools
import types
import typing
from pathlib import Path
from typing import Any, Final, cast

from annotated_types import Ge, Gt, Le, Lt
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from storage.config import _CORE, _SECURITY, _SERVER, StorageConfig

_INTRODUCTION: Final = """# Configuration

A setting is an argument of `Storage.open`, or an environment variable, or a line of the configuration file, or its
default: the first of these that there is. The file is TOML: `config.toml` in the user's configuration folder, or what
`STORAGE_CONFIG` or `--config` names. A name that is not below is refused, with the one that was probably meant.
"""

_KINDS: Final[dict[Any, str]] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "`true` or `false`",
    Path: "a path",
    SecretStr: "a secret text",
}
_BOUNDS: Final = {Ge: ("ge", "at least"), Gt: ("gt", "more than"), Le: ("le", "at most"), Lt: ("lt", "less than")}


def page() -> str:
    """The whole page."""
    meanings = _meanings()
    sections = [_section(name, field, meanings[name]) for name, field in StorageConfig.model_fields.items()]
    return "\n\n".join([_INTRODUCTION.strip(), *sections])


def _meanings() -> dict[str, str]:
    """What is written below each field, in the class itself."""
    body = cast("ast.ClassDef", ast.parse(inspect.getsource(StorageConfig)).body[0]).body
    found: dict[str, str] = {}
    for field, below in itertools.pairwise(body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = inspect.cleandoc(text)
    return found


def _section(name: str, field: FieldInfo, meaning: str) -> str:
    facts = f"`STORAGE_{name.upper()}`; in the file in `[{_table(name)}]`; {_kind(field)}; {_default(field)}."
    return f"## `{name}`\n\n{facts}\n\n{meaning}"


def _table(name: str) -> str:
    tables = {"core": _CORE, "server": _SERVER, "security": _SECURITY}
    return next((table for table, names in tables.items() if name in names), "storage")


def _kind(field: FieldInfo) -> str:
    kinds = [kind for kind in _members(field.annotation) if kind is not type(None)]
    text = " or ".join(dict.fromkeys(_named(kind) for kind in kinds))
    bounds = [
        f"{word} {getattr(bound, attribute):g}"
        for bound in [*field.metadata, *_inner_metadata(field.annotation)]
        for kind, (attribute, word) in _BOUNDS.items()
        if isinstance(bound, kind)
    ]
    return ", ".join([text, *dict.fromkeys(bounds)])


def _members(annotation: Any) -> list[Any]:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [member for each in typing.get_args(annotation) for member in _members(each)]
    return [annotation]


def _inner_metadata(annotation: Any) -> list[Any]:
    """Of `Annotated[int, Field(ge=0)] | None`, where pydantic leaves it inside."""
    found: list[Any] = []
    for member in typing.get_args(annotation):
        for more in getattr(member, "__metadata__", ()):
            found += getattr(more, "metadata", [more])
    return found


def _named(kind: Any) -> str:
    if kind in _KINDS:
        return _KINDS[kind]
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(f"`{value}`" for value in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return "texts, a list in the file, separated by commas in the environment"
    return "a table of texts" if typing.get_origin(kind) is dict else str(kind)


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "depends on the system by default"
    match field.default:
        case None:
            return "nothing by default"
        case bool(value):
            return f"`{str(value).lower()}` by default"
        case tuple(values):
            return f"{', '.join(f'`{value}`' for value in values) or 'empty'} by default"
        case int(value):
            return f"{value:,} by default"
        case value:
            return f"`{value}` by default"
