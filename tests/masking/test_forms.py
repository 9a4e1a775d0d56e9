"""The forms of a text: every encoding of it that an agent's tools print contains one of them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.masking.forms import LONGEST_IN_ALL_FORMS, Form, forms

AWKWARD = 'p\u00e4ss/w\u00f6rd+"\U0001f511"\\<&>\t=~*'


def found_in(text: str, encoded: str) -> bool:
    data = encoded.encode("utf-8", "surrogatepass")
    return any(form.data in data for form in forms(text))


ENCODERS: dict[str, Callable[[str], str]] = {
    "plain": lambda text: text,
    "json": json.dumps,
    "json in UTF-8": lambda text: json.dumps(text, ensure_ascii=False),
    "json in json": lambda text: json.dumps(json.dumps(text)),
    "json in UTF-8 in json": lambda text: json.dumps(json.dumps([text], ensure_ascii=False)),
    "json with escaped slashes": lambda text: json.dumps(text).replace("/", "\\/"),
    "json of Go": lambda text: (
        json.dumps(text, ensure_ascii=False).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    ),
    "json with upper-case digits": lambda text: (
        json.dumps(text)
        .replace("\\u00e4", "\\u00E4")
        .replace("\\u00f6", "\\u00F6")
        .replace("\\ud83d\\udd11", "\\uD83D\\uDD11")
    ),
    "repr": repr,
    "ascii": ascii,
    "repr with the other quote": lambda text: repr(f"'{text}\""),
    "repr of bytes with the other quote": lambda text: repr(f"'{text}\"".encode()),
    "URL standard, query": lambda text: quote(text, safe="!$%&()*+,/:;=?@[\\]^`{|}"),
    "URL standard, user": lambda text: quote(text, safe="!$%&'()*+,"),
    "requests": lambda text: quote(text, safe="!#$%&'()*+,/:;=?@[]"),
    "repr of a list": lambda text: repr([text]),
    "repr of bytes": lambda text: repr(text.encode()),
    "quote": quote,
    "quote all": lambda text: quote(text, safe=""),
    "quote_plus": quote_plus,
    "encodeURIComponent": lambda text: quote(text, safe="!'()*"),
    "encodeURI": lambda text: quote(text, safe="!'()*;/?:@&=+$,#"),
    "json in a URL": lambda text: quote(json.dumps({"k": text}), safe=""),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
    "basic auth": lambda text: base64.b64encode(f"user:{text}".encode()).decode(),
    "basic auth of another user": lambda text: base64.b64encode(f"us:{text}\n".encode()).decode(),
    "base64 of json": lambda text: base64.b64encode(json.dumps({"key": text}).encode()).decode(),
    "base64 in a URL": lambda text: quote(base64.b64encode(text.encode()).decode(), safe=""),
    "base64 with escaped slashes": lambda text: base64.b64encode(text.encode()).decode().replace("/", "\\/"),
}


@pytest.mark.parametrize("encode", ENCODERS.values(), ids=ENCODERS.keys())
@pytest.mark.parametrize(
    "text", [AWKWARD, "p'ss w{}rd[1]^|", "ghp_16C7e42F292c6912E7710c838347Ae178B4a", "a?>b?>c?>d?>"]
)
def test_what_a_tool_makes_of_a_text_contains_a_form_of_it(encode: Callable[[str], str], text: str) -> None:
    assert found_in(text, encode(text))


def test_hexadecimal_digits_of_a_url_may_be_lower_case() -> None:
    assert b"a%2fb%2bc" in {form.data for form in forms("a/b+c")}
    assert b"a%2Fb%2Bc" in {form.data for form in forms("a/b+c")}


@settings(deadline=None)
@given(st.binary(max_size=5), st.text(min_size=3, max_size=30).filter(str.strip), st.binary(max_size=5))
def test_base64_is_known_whatever_stands_before_and_after(before: bytes, text: str, after: bytes) -> None:
    data = text.encode("utf-8", "replace")
    if data.decode() != text:
        return
    encoded = base64.b64encode(before + data + after)
    assert any(form.data in encoded for form in forms(text))


@settings(deadline=None)
@given(st.text(min_size=1, max_size=20).filter(lambda text: json.dumps(text)[1:-1] == text))
def test_every_form_of_base64_is_only_what_the_text_decides(text: str) -> None:
    known = [form for form in forms(text) if form.before or form.after]
    data = text.encode()
    for filler in (b"\x00", b"\xff"):
        encoded = {
            kind(filler * alignment + data + filler * 3)
            for alignment in range(3)
            for kind in (base64.b64encode, base64.urlsafe_b64encode)
        }
        standing = [form for form in known if b"%" not in form.data and b"\\" not in form.data]
        assert all(any(form.data in each for each in encoded) for form in standing)


def test_a_plain_text_has_few_forms() -> None:
    assert len(forms("sk-live-0123456789abcdef")) <= 8
    assert Form(b"sk-live-0123456789abcdef") in forms("sk-live-0123456789abcdef")


def test_a_very_long_text_has_the_common_forms() -> None:
    text = '/"' * LONGEST_IN_ALL_FORMS
    for name in ("plain", "json", "quote", "base64"):
        assert found_in(text, ENCODERS[name](text))
    assert len(forms(text)) < 12
