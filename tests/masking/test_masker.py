"""Masker: no secret remains in any container or encoding, JSON stays JSON, and what holds none stays as it is."""

from __future__ import annotations

import base64
import copy
import json
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from storage.errors import InvalidInput
from storage.masking.masker import REPLACEMENT, SHORTEST, Masker, Secrets, SecretValue, Skipped, prepared

SECRET = "s3cr3t-value-1"


def masker(*secrets: str, shortest: int = SHORTEST) -> Masker:
    ready = prepared([SecretValue(f"secret {number}", text) for number, text in enumerate(secrets)], shortest)

    async def load() -> Secrets:
        return ready

    return Masker(load, ready, "alice")


MASKER = masker(SECRET, "another-secret")


class Frozen(BaseModel, frozen=True):
    text: str


class Pair(NamedTuple):
    left: str
    right: Any


class Event(BaseModel):
    text: str
    items: list[str]


@pytest.mark.parametrize(
    ("value", "masked"),
    [
        (f"a {SECRET} b", f"a {REPLACEMENT} b"),
        (f"a {SECRET} b".encode(), f"a {REPLACEMENT} b".encode()),
        (bytearray(SECRET.encode()), REPLACEMENT.encode()),
        (memoryview(SECRET.encode()), REPLACEMENT.encode()),
        (b"\xff\xfe" + SECRET.encode() + b"\x80", b"\xff\xfe" + REPLACEMENT.encode() + b"\x80"),
        (
            {"k": SECRET, "n": {"l": [SECRET, 1, None, True]}},
            {"k": REPLACEMENT, "n": {"l": [REPLACEMENT, 1, None, True]}},
        ),
        ({SECRET: 1}, {REPLACEMENT: 1}),
        ({SECRET: 1, "another-secret": 2}, {REPLACEMENT: 1, f"{REPLACEMENT} (2)": 2}),
        ([[[SECRET]]], [[[REPLACEMENT]]]),
        ((SECRET, 1), (REPLACEMENT, 1)),
        (Pair(SECRET, [SECRET]), Pair(REPLACEMENT, [REPLACEMENT])),
        ({SECRET, "x"}, {REPLACEMENT, "x"}),
        (frozenset([SECRET]), frozenset([REPLACEMENT])),
        (OrderedDict(a=SECRET), {"a": REPLACEMENT}),
        (MappingProxyType({"a": SECRET}), {"a": REPLACEMENT}),
        (Event(text=SECRET, items=[SECRET]), {"text": REPLACEMENT, "items": [REPLACEMENT]}),
        ({Frozen(text=SECRET)}, [{"text": REPLACEMENT}]),
        (12345, 12345),
        (None, None),
        (1.5, 1.5),
        ("", ""),
        ("lone \ud800 surrogate", "lone \ud800 surrogate"),
        (f"lone \ud800 {SECRET}", f"lone \ud800 {REPLACEMENT}"),
    ],
)
def test_a_secret_is_replaced_in_any_container(value: Any, masked: Any) -> None:
    found = MASKER.mask(value)
    assert found == masked
    assert type(found) is type(masked)


def test_the_input_is_not_changed() -> None:
    value = {"a": [SECRET, {"b": SECRET}], "c": bytearray(SECRET.encode())}
    before = copy.deepcopy(value)
    MASKER.mask(value)
    assert value == before


def test_other_objects_are_passed_through() -> None:
    hidden = SecretStr(SECRET)
    thing = object()
    assert MASKER.mask([hidden, thing]) == [hidden, thing]


def test_what_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(InvalidInput, match="contains itself"):
        MASKER.mask(value)


# ---- JSON


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f'{{"a":"{SECRET}" , "b" :[1.0,-0e5 ]}}\n', f'{{"a":"{REPLACEMENT}" , "b" :[1.0,-0e5 ]}}\n'),
        (f'{{"{SECRET}": null}}', f'{{"{REPLACEMENT}": null}}'),
        ('["\\u0073\\u0033cr3t-value-1"]', f'["{REPLACEMENT}"]'),
        (f'["\u00e9 {SECRET}"]', f'["\u00e9 {REPLACEMENT}"]'),
        (f'["\\u00e9 {SECRET}"]', f'["\\u00e9 {REPLACEMENT}"]'),
        (f'["\\ud800 \u00e9 {SECRET}"]', f'["\\ud800 \\u00e9 {REPLACEMENT}"]'),
        (f'{{"a": "{SECRET}"}}\n{{"b": "{SECRET}"}}\n', f'{{"a": "{REPLACEMENT}"}}\n{{"b": "{REPLACEMENT}"}}\n'),
        (f'{{"cut off": "{SECRET}', f'{{"cut off": "{REPLACEMENT}'),
    ],
)
def test_json_keeps_everything_but_the_secret(text: str, masked: str) -> None:
    assert MASKER.mask(text) == masked
    assert MASKER.mask(text.encode()) == masked.encode()


@pytest.mark.parametrize("levels", range(6))
@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_json_inside_json_is_masked_at_any_depth(levels: int, ensure_ascii: bool) -> None:
    secret = 'p\u00e4ss"w\\rd/\n1'
    text = f"say {secret}!"
    for level in range(levels):
        text = json.dumps({"level": level, "content": [text]}, ensure_ascii=ensure_ascii)
    masked: Any = masker(secret).mask(text)
    for _ in range(levels):
        masked = json.loads(masked)["content"][0]
    assert masked == f"say {REPLACEMENT}!"


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        ("abc</b/cdefg", '["abc<\\/b/cdefg"]'),
        ("s\u00e4cr\u00fct-value", '["s\\u00e4cr\u00fct-value"]'),
        ("abc\bdefghi", '["abc\\u0008defghi"]'),
        ("s\u00e4cret\u2028value", '["s\u00e4cret\\u2028value"]'),
        ('q"x\\secret', json.dumps({"id": json.dumps(json.dumps('q"x\\secret'))})),
        (
            'q"x\\secret',
            f"[{'9' * 5000}, {json.dumps(json.dumps(json.dumps(chr(113) + chr(34) + 'x' + chr(92) + 'secret')))}]",
        ),
    ],
)
def test_json_is_read_however_it_was_escaped(secret: str, text: str) -> None:
    json.loads(text, parse_int=str)
    hidden = masker(secret).mask(text)
    assert REPLACEMENT in hidden
    assert not any(part in hidden.replace(REPLACEMENT, "") for part in ("secret", "value", "defg"))


def test_a_byte_order_mark_stays_and_what_follows_is_json() -> None:
    text = '\ufeff{"n": 123456789, "t": "123456789"}'
    assert masker("123456789").mask(text) == f'\ufeff{{"n": "{REPLACEMENT}", "t": "{REPLACEMENT}"}}'


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32-be"])
def test_json_in_another_encoding_is_taken_for_plain_bytes(encoding: str) -> None:
    data = '["\u5c5c\u5c5c", "x"]'.encode(encoding)
    assert MASKER.mask(data) == data
    assert MASKER.mask(data + SECRET.encode()) == data + REPLACEMENT.encode()


@pytest.mark.parametrize("secret", ["[1]\n[2]\n[3]", '"}\n{"b": "', '"a"}\n{"b"'])
def test_a_secret_that_spans_lines_of_json_is_masked(secret: str) -> None:
    text = '[1]\n[2]\n[3]\n{"c": "a"}\n{"b": "a"}\n'
    hidden = masker(secret).mask(text)
    assert secret not in json.loads(hidden)
    assert REPLACEMENT in hidden


def test_numbers_of_any_form_and_length_are_masked() -> None:
    assert masker("12345e78").mask('{"a": 912345e78, "b": "x"}') == f'{{"a": "{REPLACEMENT}", "b": "x"}}'
    digits = masker("123456789")
    huge: list[Any] = [10**5000, 10**5000 + 123456789]
    assert digits.mask(huge) == [huge[0], REPLACEMENT]


def test_an_escape_is_not_taken_for_the_secret_that_it_looks_like() -> None:
    text = '{"a": "line\\nabcdefgh", "b": "nabcdefgh"}'
    assert masker("nabcdefgh").mask(text) == f'{{"a": "line\\nabcdefgh", "b": "{REPLACEMENT}"}}'


def test_a_number_that_contains_a_secret_becomes_a_text() -> None:
    digits = masker("123456789")
    assert digits.mask([123456789, 51234567890, -123456789, 1.0, True]) == [REPLACEMENT] * 3 + [1.0, True]
    assert digits.mask('{"a": 123456789, "b":-0.1234567890e1, "c": 12345678}') == (
        f'{{"a": "{REPLACEMENT}", "b":"{REPLACEMENT}", "c": 12345678}}'
    )
    assert json.loads(digits.mask(b"[123456789]")) == [REPLACEMENT]


@pytest.mark.parametrize("secret", ['", "b": "', '{"a": 1}', '"quoted-secret"', 'x", "y": 1, "', "[1, 2, 3]"])
def test_json_stays_json_where_a_secret_is_a_piece_of_its_structure(secret: str) -> None:
    text = '{"k": {"a": 1}, "a": "x", "b": "x", "y": 1, "z": "quoted-secret", "l": [1, 2, 3]}'
    hidden = masker(secret, shortest=4).mask(text)
    assert secret not in hidden
    json.loads(hidden)


# ---- what is masked


def test_short_secrets_are_left_alone_and_named() -> None:
    mask = masker("1234567", "12345678", "  abc     ", "", "<secret_hidden>", "secret_hidden")
    assert mask.mask("1234567 abc secret_hidden") == "1234567 abc secret_hidden"
    assert mask.mask("12345678") == REPLACEMENT
    assert mask.skipped == tuple(Skipped(f"secret {number}", "short") for number in (0, 2, 3, 4, 5))
    assert masker("1234", shortest=4).mask("1234") == REPLACEMENT
    assert masker("\u00e9\u00e9\u00e9\u00e9").mask("\u00e9\u00e9\u00e9\u00e9") == "\u00e9\u00e9\u00e9\u00e9"


def test_the_longer_of_two_secrets_that_begin_alike_is_masked_whole() -> None:
    assert masker("abcdefgh", "abcdefgh-and-more").mask("abcdefgh-and-more abcdefgh") == f"{REPLACEMENT} {REPLACEMENT}"


def test_a_private_key_is_masked_line_by_line_too() -> None:
    lines = [base64.b64encode(bytes([number]) * 48).decode() for number in range(1, 5)]
    key = "\n".join(["-----BEGIN PRIVATE KEY-----", *lines, "-----END PRIVATE KEY-----", ""])
    mask = masker(key)
    assert mask.mask(key.strip()) == REPLACEMENT
    assert mask.mask(f"2: {lines[1]}\n3: {lines[2]}") == f"2: {REPLACEMENT}\n3: {REPLACEMENT}"
    assert mask.mask("-----BEGIN PRIVATE KEY-----") == "-----BEGIN PRIVATE KEY-----"
    assert mask.mask(repr(key)) == f"'{REPLACEMENT}'"
    assert mask.mask(json.dumps({"key": base64.encodebytes(key.encode()).decode()})).count("\\n") == 1


def test_a_masker_shows_nothing_and_is_neither_pickled_nor_copied() -> None:
    assert SECRET not in f"{MASKER!r} {MASKER} {MASKER.skipped!r} {SecretValue('name', SECRET)!r} {prepared([])!r}"
    assert SECRET not in repr(prepared([SecretValue("name", SECRET)]))
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="never pickled"):
            attempt(MASKER)
    assert not hasattr(MASKER, "__dict__")


# ---- any secret, anywhere

_CHARACTERS = st.characters(exclude_categories=["Cs"])
_SECRETS = st.text(_CHARACTERS, min_size=8, max_size=40).filter(
    lambda text: len(text.strip()) >= SHORTEST and text.strip() not in REPLACEMENT
)
_NASTY_SECRETS = st.text("\"'\\/\n\t\u00e9\U0001f511aB1+ %&=<", min_size=8, max_size=20).filter(
    lambda text: len(text.strip()) >= SHORTEST
)
_SURROUNDINGS = st.text('xyz \n"{}[]:,\\\u00e9', max_size=20)

_ENCODINGS: list[Callable[[str], str]] = [
    lambda text: text,
    lambda text: json.dumps(text)[1:-1],
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    lambda text: json.dumps(json.dumps(text))[3:-3],
    lambda text: json.dumps(json.dumps(text, ensure_ascii=False))[3:-3],
    lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    lambda text: repr(text)[1:-1],
    lambda text: ascii(text)[1:-1],
    quote,
    quote_plus,
    lambda text: quote(text, safe=""),
    lambda text: base64.b64encode(text.encode()).decode().rstrip("="),
    lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
    lambda text: quote_plus(base64.b64encode(text.encode()).decode().rstrip("=")),
]


@settings(deadline=None)
@given(_SECRETS | _NASTY_SECRETS, st.sampled_from(_ENCODINGS), _SURROUNDINGS, _SURROUNDINGS)
def test_no_secret_remains_in_text(secret: str, encode: Callable[[str], str], before: str, after: str) -> None:
    encoded = encode(secret)
    hidden = masker(secret).mask(before + encoded + after)
    assert encoded not in hidden
    assert REPLACEMENT in hidden


@settings(deadline=None)
@given(_SECRETS | _NASTY_SECRETS, st.binary(max_size=4), st.binary(max_size=4))
def test_no_secret_remains_in_base64(secret: str, before: bytes, after: bytes) -> None:
    data = secret.encode()
    encoded = base64.b64encode(before + data + after).decode()
    hidden = masker(secret).mask(f"token {encoded}.")
    assert REPLACEMENT in hidden
    middle = base64.b64encode(b"\0" * (len(before) % 3) + data).decode().rstrip("=")[4:-2]
    assert not middle or middle not in hidden


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(_CHARACTERS, max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(_CHARACTERS, max_size=8), inner, max_size=4),
    max_leaves=12,
)


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)


@settings(deadline=None)
@given(_JSON, _SECRETS | _NASTY_SECRETS, st.data())
def test_no_secret_remains_in_a_document_which_stays_one(value: Any, secret: str, data: st.DataObject) -> None:
    placed = [value, {"in": [f"a{secret}b", {secret: secret}]}, json.dumps({"again": [secret]})]
    mask = masker(secret)
    for masked in (
        mask.mask(placed),
        json.loads(mask.mask(json.dumps(placed))),
        json.loads(mask.mask(json.dumps(placed, ensure_ascii=False, indent=1).encode())),
    ):
        assert not any(secret in text for text in texts(masked))
        assert json.loads(masked[2])


def escaped(text: str, ways: list[int]) -> str:
    """A JSON string in which each character is escaped in a way of its own."""
    shown = []
    for number, character in enumerate(text):
        way = ways[number % len(ways)]
        by_number = f"\\u{ord(character):04x}" if ord(character) <= 0xFFFF else json.dumps(character)[1:-1]
        if character == "/" and way == 1:
            shown.append("\\/")
        else:
            shown.append([json.dumps(character, ensure_ascii=False)[1:-1], by_number, by_number.upper()][way % 3])
    return '"' + "".join(shown).replace("\\U", "\\u") + '"'


@settings(deadline=None)
@given(_NASTY_SECRETS, st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=3))
def test_no_secret_remains_however_each_character_was_escaped(secret: str, levels: list[list[int]]) -> None:
    text = secret
    for ways in levels:
        text = f'{{"at": [{escaped(text, ways)}]}}'
    assert json.loads(text)
    hidden: Any = masker(secret).mask(text)
    for _ in levels:
        hidden = json.loads(hidden)["at"][0]
    assert hidden == REPLACEMENT


@settings(deadline=None)
@given(_JSON, st.lists(_SECRETS, max_size=3))
def test_what_holds_no_secret_stays_as_it_is(value: Any, secrets: list[str]) -> None:
    mask = masker(*secrets)
    text = json.dumps(value, indent=1)
    assume(not any(secret.strip() in found for secret in secrets for found in [*texts(value), text]))
    assume(not any(line.strip() in text for secret in secrets for line in secret.splitlines() if line.strip()))
    assert mask.mask(value) == value
    assert mask.mask(text) == text
    assert mask.mask(text.encode()) == text.encode()


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_text_are_masked_as_well(data: bytes) -> None:
    assert SECRET.encode() not in MASKER.mask(data + SECRET.encode() + data)


async def test_a_refresh_takes_what_the_secrets_are_now_or_keeps_to_what_it_knows() -> None:
    answers = [prepared([SecretValue("new", "new-secret-1")]), prepared([], unreadable=["x"], failure=OSError("down"))]

    async def load() -> Secrets:
        return answers.pop(0)

    mask = Masker(load, prepared([SecretValue("old", "old-secret-1")]), "alice")
    assert mask.mask("old-secret-1 new-secret-1") == f"{REPLACEMENT} new-secret-1"
    await mask.refresh()
    assert mask.mask("old-secret-1 new-secret-1") == f"old-secret-1 {REPLACEMENT}"
    with pytest.raises(OSError, match="down"):
        await mask.refresh()
    assert mask.mask("new-secret-1") == REPLACEMENT
