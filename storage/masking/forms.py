r"""How a secret looks in text that passed through other programs: escaped, quoted, encoded.

An agent prints a secret through a shell, a JSON encoder and a URL; masking only the plain value would leave the others.
The forms of a text, each in UTF-8:

- plain;
- as part of a JSON string, also of one inside another: with and without non-ASCII characters escaped, hexadecimal
  digits in either case, `/` as `\/` (PHP), and `<`, `>`, `&` escaped (Go);
- as Python's `repr()` and `ascii()` show a str, and `repr()` its bytes, with either quote around it;
- URL-encoded, as a path, a component and a form field, and as browsers and Python's requests do it, hexadecimal digits
  in either case;
- base64 (RFC 4648, both alphabets) at each of the three alignments that what stands before it may cause, also of the
  JSON forms, and also URL-encoded or with `\/`.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, quote_plus

_SAFE: Final = (
    "",  # RFC 3986: all but the unreserved characters
    "/",  # Python's quote()
    "!'()*",  # JavaScript's encodeURIComponent
    "!'()*;/?:@&=+$,#",  # JavaScript's encodeURI
    "!#$%&'()*+,/:;=?@[]",  # requests
    "!$%&()*+,/:;=?@[\\]^`{|}",  # the URL standard (browsers, Node, Rust), in a query
    "!$%&'()*+,/:;=?@[\\]^`{|}",  # and in one of another scheme than http
    "!$%&'()*+,/:;=@[\\]^|",  # in a path
    "!$%&'()*+,/:;=@[\\]|",  # in a path, as of late
    "!$%&'()*+,",  # as a user or password
)
"""Characters, beyond the unreserved ones, that URL encoders leave alone."""

_ESCAPE: Final = re.compile(r"\\(?:u[0-9a-f]{4}|.)")
_PERCENT: Final = re.compile(r"%[0-9A-F]{2}")
_URL_SAFE: Final = str.maketrans("+/", "-_")

_SIX_BITS: Final = 6

LONGEST_IN_ALL_FORMS: Final = 16 * 1024
"""Characters from which on the rarer forms are left out: a form of a megabyte takes its time to make and to find."""


@dataclass(frozen=True, slots=True)
class Form:
    """Bytes to look for, and how many characters of base64 beside them hold bits of the secret too.

    Attributes:
        data: the bytes that are the same whatever stands before and after.
        before: 0 or 1.
        after: 0 or 1; padding may follow.
    """

    data: bytes = field(repr=False)
    before: int = 0
    after: int = 0


def forms(text: str) -> set[Form]:
    """Every form of a text that is not empty; of one longer than LONGEST_IN_ALL_FORMS the common ones."""
    in_json = {text, *_json_plainly(text)}
    if len(text) > LONGEST_IN_ALL_FORMS:
        return {Form(_utf8(each)) for each in (*in_json, quote(text))} | set(_in_base64(_utf8(text)))
    once = {text, *_escaped_once(text)}
    texts = {*once, *_escaped_again(once)}
    for each in in_json:
        texts |= _in_urls(each)
    encoded = {form for each in in_json for form in _in_base64(_utf8(each))}
    return {Form(_utf8(each)) for each in texts} | encoded


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


# ---- escapes


def _json_plainly(text: str) -> set[str]:
    return {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}


def _in_json(text: str) -> set[str]:
    found = _json_plainly(text)
    found |= {each.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026") for each in found}
    found |= {_ESCAPE.sub(_upper_hex, each) for each in found}
    return found | {each.replace("/", r"\/") for each in found}


def _upper_hex(escape: re.Match[str]) -> str:
    shown = escape.group()
    return rf"\u{shown[2:].upper()}" if shown.startswith(r"\u") else shown


def _escaped_once(text: str) -> set[str]:
    shown = {repr(text)[1:-1], ascii(text)[1:-1], repr(_utf8(text))[2:-1]}
    if '"' not in text:  # then `'` is escaped if there is a `"` somewhere else in what is shown
        shown |= {each.replace("'", r"\'") for each in shown}
    return {*_in_json(text), *shown}


def _escaped_again(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from _in_json(text)


# ---- URLs


def _in_urls(text: str) -> set[str]:
    if quote(text, safe="", errors="surrogatepass") == text:
        return {text}
    form_field = quote_plus(text, safe="*", errors="surrogatepass")
    found = {quote(text, safe=safe, errors="surrogatepass") for safe in _SAFE}
    found |= {form_field, form_field.replace("~", "%7E"), quote_plus(text, errors="surrogatepass")}
    return found | {_PERCENT.sub(lambda code: code.group().lower(), each) for each in found}


# ---- base64


def _in_base64(data: bytes) -> Iterator[Form]:
    for alignment in range(3):
        encoded = base64.b64encode(bytes(alignment) + data).rstrip(b"=").decode()
        # A character is known if all of its six bits are the secret's.
        first = -(-alignment * 8 // _SIX_BITS)
        end = (alignment + len(data)) * 8 // _SIX_BITS
        before = 1 if alignment else 0
        after = len(encoded) - end
        known = encoded[first:end]
        for each in {known, known.translate(_URL_SAFE)}:
            yield Form(each.encode(), before, after)
            for other in {quote(each, safe=""), each.replace("/", r"\/")} - {each}:
                yield Form(other.encode(), before, after)
                yield Form(_PERCENT.sub(lambda code: code.group().lower(), other).encode(), before, after)
