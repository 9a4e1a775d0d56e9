"""Which fields hold secrets, found by declaration and by value, and what is inside of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Optional

import pytest
from pydantic import BaseModel, Field, Secret, SecretBytes, SecretStr
from typing_extensions import TypeAliasType

from storage.errors import InvalidInput
from storage.secret_fields import exposed, field_value, holds_secret, secret_fields

Named = TypeAliasType("Named", dict[str, SecretStr])


class Own(SecretStr):
    """A secret of an application's own kind."""


class Login(BaseModel):
    name: str
    password: SecretStr = Field(alias="pass-word")


class Node(BaseModel):
    parent: Optional[Node] = None  # noqa: UP045 - the older spelling counts too
    value: int = 0


class Holder(BaseModel):
    plain: str = ""
    listed: list[str] = Field(default_factory=list)
    node: Node | None = None
    direct: SecretStr = SecretStr("")
    own: Own | None = None
    optional: SecretBytes | None = None
    generic: Secret[int] | None = None
    annotated: Annotated[list[SecretStr], Field(max_length=3)] = Field(default_factory=list)
    nested: dict[str, Login] = Field(default_factory=dict)
    aliased: Named = Field(default_factory=dict)


def test_a_declaration_is_found_wherever_the_secret_sits() -> None:
    assert secret_fields(Holder) == {"direct", "own", "optional", "generic", "annotated", "nested", "aliased"}
    assert secret_fields(Node) == frozenset()


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (SecretStr("s"), "s"),
        (SecretBytes(b"\xc3\xa9"), "é"),
        (Secret(42), 42),
        (Secret({"a": [SecretStr("s")]}), {"a": ["s"]}),
        ((SecretStr("s"), None), ["s", None]),
        ({1: SecretStr("s")}, {"1": "s"}),
        (Login.model_validate({"name": "ann", "pass-word": "s"}), {"name": "ann", "pass-word": "s"}),
    ],
    ids=repr,
)
def test_what_is_inside_comes_out_as_json(value: Any, plain: Any) -> None:
    assert holds_secret(value)
    assert exposed(value) == plain


def test_a_model_takes_back_what_was_exposed_of_it() -> None:
    login = Login.model_validate({"name": "ann", "pass-word": "s"})
    assert Login.model_validate(exposed(login)) == login


def test_what_has_no_json_form_is_refused_without_showing_it() -> None:
    class Opaque:
        def __repr__(self) -> str:
            return "t0p"

    for value in (Secret(Opaque()), SecretBytes(b"t0p\xff")):
        with pytest.raises(InvalidInput) as refusal:
            exposed(value)
        assert "t0p" not in str(refusal.value)
        assert refusal.value.__context__ is None


@pytest.mark.parametrize("value", ["text", None, 5, ["a"], {"a": {"b": 1}}, Node()], ids=repr)
def test_what_holds_no_secret_is_told_apart(value: Any) -> None:
    assert not holds_secret(value)


def test_a_secret_inside_a_dataclass_is_found_by_value() -> None:
    @dataclass
    class Account:
        name: str
        key: Any

    assert holds_secret([Account("ada", SecretStr("s"))])
    assert not holds_secret(Account("ada", "s"))
    assert not holds_secret(Account)


def test_an_undeclared_field_is_read_also_if_it_is_named_like_a_method() -> None:
    class Open(BaseModel, extra="allow"):
        declared: int = 1

    model = Open.model_validate({"copy": 2, "declared": 3})
    assert [field_value(model, name) for name in ("copy", "declared")] == [2, 3]
