"""Every column type comes back as it went in, on both databases, and refuses what one of them cannot hold."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Uuid,
    bindparam,
    insert,
    select,
    text,
)
from sqlalchemy.schema import CreateTable

from storage.database import Database, Statement, execute, parse_url
from storage.database.statement import DIALECTS
from storage.database.types import (
    JSONValue,
    PlainText,
    Sealed,
    UTCDateTime,
    dump_json,
    from_microseconds,
    load_json,
    to_microseconds,
)
from storage.errors import InvalidInput, UnsealedValue
from storage.tables import CustomSecretTable

SAMPLE = Table(
    "sample",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("time", UTCDateTime),
    Column("text", PlainText),
    Column("json", JSONValue),
    Column("sealed", Sealed),
    Column("uuid", Uuid),
    Column("number", Double),
    Column("big", BigInteger),
    Column("flag", Boolean),
    Column("blob", LargeBinary),
)
COLUMNS = [column.name for column in SAMPLE.c]
PUT = Statement("test.put", insert(SAMPLE).values({name: bindparam(name) for name in COLUMNS}).inline(), register=False)
GET = Statement("test.get", select(SAMPLE).where(SAMPLE.c.id == bindparam("id")), register=False)

VALUES: dict[str, list[Any]] = {
    "time": [
        datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999999, UTC),
        datetime(2025, 6, 1, 23, 30, tzinfo=timezone(timedelta(hours=-7))),
        datetime(1, 1, 2, tzinfo=UTC),
        datetime(9999, 12, 30, tzinfo=UTC),
        None,
    ],
    "text": ["", "plain", "naïve 修復 🚀", "quote ' and \" and \\", "line\nbreak\ttab", None],
    "json": [
        {},
        [],
        {"a": [1, 2.5, None, True, "x"]},
        {"big": 2**80, "negative": -(2**70)},
        ["\\u0000 is only text"],
        {"unicode": "キャッシュ"},
        None,
    ],
    "sealed": [b"\xe1\x01" + bytes(range(256)), None],
    "uuid": [uuid.UUID("01a204de-c6d6-74fd-b360-462655fb4479"), None],
    "number": [0.0, -1.5, 0.1 + 0.2, 1e300, None],
    "big": [0, 2**63 - 1, -(2**63), None],
    "flag": [True, False, None],
    "blob": [b"", bytes(range(256)), None],
}


async def opened(url: str) -> Database:
    database = Database(parse_url(url))
    dialect = DIALECTS[database.dialect]
    create = Statement("test.create", text(str(CreateTable(SAMPLE).compile(dialect=dialect))), register=False)
    await database.run(lambda: execute(create))
    return database


async def put(database: Database, row: dict[str, Any]) -> None:
    await database.run(lambda: execute(PUT, **row))


async def test_every_column_type_comes_back_equal(database_url: str) -> None:
    database = await opened(database_url)
    number = 0
    for name, values in VALUES.items():
        for value in values:
            number += 1
            row = {**dict.fromkeys(COLUMNS), "id": number, name: value}
            await put(database, row)
            ((*found,),) = await database.read(GET, {"id": number})
            assert dict(zip(COLUMNS, found, strict=True)) == row
    await database.close()


async def test_times_come_back_aware_and_in_utc(database_url: str) -> None:
    database = await opened(database_url)
    for number, value in enumerate(VALUES["time"][:-1]):
        row = {**dict.fromkeys(COLUMNS), "id": number, "time": value}
        await put(database, row)
        ((_, found, *_),) = await database.read(GET, {"id": number})
        assert found == value
        assert found.utcoffset() == timedelta(0)
    await database.close()


@pytest.mark.parametrize(
    ("column", "value", "error"),
    [
        ("time", datetime(2026, 1, 1), InvalidInput),  # noqa: DTZ001 - a naive time is what is refused
        ("text", "nul \0", InvalidInput),
        ("text", "lone \ud800", InvalidInput),
        ("json", {"x": float("nan")}, InvalidInput),
        ("json", {"x": float("inf")}, InvalidInput),
        ("json", ["nul \0"], InvalidInput),
        ("json", {"nul \0": 1}, InvalidInput),
        ("json", ["lone \ud800"], InvalidInput),
        ("json", {"x": object()}, InvalidInput),
        ("sealed", b"plaintext", UnsealedValue),
        ("sealed", "plaintext", UnsealedValue),
    ],
)
async def test_what_one_database_cannot_hold_is_refused_by_both(
    database_url: str, column: str, value: Any, error: type[Exception]
) -> None:
    database = await opened(database_url)
    row = {**dict.fromkeys(COLUMNS), "id": 1, column: value}
    with pytest.raises(error):
        await put(database, row)
    assert await database.read(GET, {"id": 1}) == []
    await database.close()


def test_plaintext_is_refused_already_when_it_is_assigned_to_a_sealed_attribute() -> None:
    row = CustomSecretTable(user_id="u", name="n", description="", value=b"\xe1\x01...")  # type: ignore[call-arg]
    with pytest.raises(UnsealedValue, match="seal the value first"):
        row.value = b"plaintext"
    assert row.value == b"\xe1\x01..."


@given(st.datetimes(timezones=st.timezones()))
def test_microseconds_are_exact(value: datetime) -> None:
    try:
        microseconds = to_microseconds(value)
    except OverflowError:
        return
    if from_microseconds(0) <= value:
        assert from_microseconds(microseconds) == value.astimezone(UTC)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
)


@given(JSON)
def test_json_survives_or_is_refused_with_a_reason(value: Any) -> None:
    try:
        text = dump_json(value)
    except InvalidInput:
        return
    assert load_json(text) == value
    text.encode("utf-8")
