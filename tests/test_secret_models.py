"""Models taken apart for storing and put together again."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, Secret, SecretStr, computed_field

from storage.errors import InvalidInput
from storage.secret_models import (
    MASK,
    MAX_SECRET_BYTES,
    StoredModel,
    check_secrets,
    refuse_unknown,
    secret_bytes,
    take_apart,
    together,
    validated,
)


class Inner(BaseModel):
    name: str
    key: SecretStr


class Outer(StoredModel):
    day: date = date(2026, 1, 2)
    key: SecretStr | None = Field(default=None, alias="theKey")
    inner: Inner | None = None
    inners: list[Inner] = Field(default_factory=list)
    hidden: str = Field(default="h", exclude=True)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def tomorrow(self) -> str:
        return "never"


def test_secrets_are_taken_apart_from_the_rest_and_put_together_again() -> None:
    model = Outer(theKey="k1", inner={"name": "a", "key": "k2"}, inners=[{"name": "b", "key": "k3"}], more=Secret([1]))
    parts = take_apart(model)
    assert parts.plain == {"day": "2026-01-02"}
    assert parts.secret == {
        "key": "k1",
        "inner": {"name": "a", "key": "k2"},
        "inners": [{"name": "b", "key": "k3"}],
        "more": [1],
    }
    assert "k1" not in repr(parts)
    assert validated(Outer, together(Outer, parts), "outer") == model


def test_a_secret_that_is_none_needs_no_sealing() -> None:
    assert take_apart(Outer()).plain["key"] is None
    assert "key" not in take_apart(Outer()).secret


def test_fields_to_leave_out_are_left_out() -> None:
    assert take_apart(Outer(theKey="k", a=1), without=("key", "a", "inners", "inner")).secret == {}


def test_what_json_does_not_have_is_refused_by_the_models_name() -> None:
    with pytest.raises(InvalidInput, match="Outer"):
        take_apart(Outer(strange=object()))


@pytest.mark.parametrize("value", [MASK, {"a": [MASK]}, [MASK]])
def test_the_mask_is_refused_wherever_it_is(value: Any) -> None:
    with pytest.raises(InvalidInput, match="expose_secrets"):
        secret_bytes("key", value)


@pytest.mark.parametrize("value", ["\ud800", {"a": "\ud800"}, {"a": float("nan")}, [float("inf")]])
def test_what_cannot_be_encoded_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput, match="key contains"):
        secret_bytes("key", value)


def test_a_secret_is_as_long_as_its_utf8() -> None:
    assert secret_bytes("key", "é" * (MAX_SECRET_BYTES // 2)) == "é".encode() * (MAX_SECRET_BYTES // 2)
    with pytest.raises(InvalidInput, match=f"{MAX_SECRET_BYTES + 1} bytes"):
        secret_bytes("key", "x" * (MAX_SECRET_BYTES + 1))


def test_all_secrets_of_a_model_are_checked() -> None:
    check_secrets(Outer(theKey="k"))
    with pytest.raises(InvalidInput, match="inners"):
        check_secrets(Outer(inners=[{"name": "b", "key": MASK}]))


def test_a_name_that_is_no_field_is_refused_with_the_nearest() -> None:
    refuse_unknown(Outer, ["day", "inner"])
    with pytest.raises(InvalidInput, match=r"Outer has no field 'iner'; did you mean 'inner'\?"):
        refuse_unknown(Outer, ["iner"])
    with pytest.raises(InvalidInput, match=r"'xyzzy'$"):
        refuse_unknown(Outer, ["xyzzy"])


def test_problems_are_told_by_field_without_their_values() -> None:
    with pytest.raises(InvalidInput, match=r"^outer: day: .*; inner\.key: ") as caught:
        validated(Outer, {"day": "SECRET", "inner": {"name": "a", "key": ["SECRET"]}}, "outer")
    assert "SECRET" not in f"{caught.value} {caught.value.__context__!r} {caught.value.__cause__!r}"


def test_a_subclass_that_forbids_other_fields_stays_so() -> None:
    class Strict(StoredModel):
        model_config = ConfigDict(extra="forbid")

    with pytest.raises(InvalidInput, match="more"):
        validated(Strict, {"more": 1}, "strict")
