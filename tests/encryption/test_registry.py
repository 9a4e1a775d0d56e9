"""The registry knows every sealed column, and where each value belongs."""

from __future__ import annotations

import uuid

import pytest
from sqlalchemy import Column, MetaData, Table, Text

from storage.database.types import Sealed
from storage.encryption import registry
from storage.encryption.envelope import SealContext
from storage.encryption.registry import SealedColumn, register, sealed_columns, unregistered

TOKEN = SealedColumn("token", "value", "token.value/1", name="provider", destination="host")


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})


def tables(*sealed: str) -> MetaData:
    metadata = MetaData()
    plain = [Column(name, Text) for name in ("user_id", "id", "provider", "host")]
    Table("token", metadata, *plain, *(Column(name, Sealed) for name in sealed))
    return metadata


def test_a_sealed_column_that_nobody_registered_is_found() -> None:
    assert unregistered(tables("value")) == ["token.value is not registered"]
    register(TOKEN)
    assert unregistered(tables("value")) == []
    assert unregistered(tables("value", "other")) == ["token.other is not registered"]


def test_a_registered_column_that_is_not_sealed_is_found() -> None:
    register(TOKEN)
    assert unregistered(tables()) == ["token.value is not a Sealed column"]


def test_a_context_from_a_column_that_does_not_exist_is_found() -> None:
    register(SealedColumn("token", "value", "token.value/1", name="label"))
    assert unregistered(tables("value")) == ["token.value takes its context from label, which the table does not have"]


def test_registering_twice_is_harmless_and_otherwise_refused() -> None:
    assert register(TOKEN) is TOKEN
    register(TOKEN)
    assert sealed_columns() == (TOKEN,)
    with pytest.raises(ValueError, match="registered already"):
        register(SealedColumn("token", "value", "token.value/2"))
    with pytest.raises(ValueError, match=r"belongs to token\.value"):
        register(SealedColumn("other", "value", "token.value/1"))


def test_a_column_that_repeats_another_has_its_label_whichever_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    repeating = SealedColumn("event", "value", TOKEN.label, repeats="token.value")
    for order in ((TOKEN, repeating), (repeating, TOKEN)):
        monkeypatch.setattr(registry, "_registered", {})
        assert [register(column) for column in order] == list(order)
        with pytest.raises(ValueError, match="belongs to"):
            register(SealedColumn("third", "value", TOKEN.label, repeats="other.value"))


def test_the_context_comes_from_the_row() -> None:
    row_id = uuid.uuid4()
    row = {"user_id": "alice", "id": row_id, "provider": "github", "host": None}
    assert TOKEN.context_columns == ("user_id", "id", "provider", "host")
    assert TOKEN.context(row) == SealContext("token.value/1", "alice", str(row_id), "github", "")


def test_a_row_of_no_user_belongs_to_everyone() -> None:
    column = SealedColumn("webhook_endpoint", "secret", "webhook_endpoint.secret/1")
    assert column.context({"user_id": None, "id": 7}) == SealContext("webhook_endpoint.secret/1", "", "7")


def test_a_table_whose_user_is_its_key_names_the_column_twice() -> None:
    column = SealedColumn("settings", "llm_api_key", "settings.llm_api_key/1", row_id="user_id")
    assert column.context_columns == ("user_id",)
    assert column.context({"user_id": "bob"}) == SealContext("settings.llm_api_key/1", "bob", "bob")
