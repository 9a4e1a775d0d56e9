r"""Masking inside text that may be JSON: strings are looked at as what they stand for, and JSON stays JSON.

Replacing in the text as it is would be wrong both ways: in `"\nabcdefgh"` there is no `nabcdefgh`, and a number that
contains a secret cannot become `<secret_hidden>` without quotes. What holds no secret keeps its bytes.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from itertools import accumulate
from typing import Final

from storage.masking.scanner import HIDDEN, Scanner, Span, replaced

_TOKEN: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|-?[0-9][0-9.eE+-]*', re.DOTALL)
_BEGINNINGS: Final = (b"{", b"[", b'"')
_MARK: Final = b"\xef\xbb\xbf"  # UTF-8's byte order mark

# Where the forms of a secret may not match, and only decoding finds it: characters escaped by number, which may or may
# not be escaped so and some in a text but not others; slashes likewise; and JSON inside JSON inside JSON.
_DECODED: Final = (rb"\u", rb"\/", b"\\" * 4)

# Integers of any length are JSON; int() refuses those of more than 4,300 digits.
_DECODER: Final = json.JSONDecoder(parse_int=len, parse_float=len)

_QUOTED: Final = b'"' + HIDDEN + b'"'


def masked(scanner: Scanner, data: bytes) -> bytes:
    """The text, in UTF-8 or not, with every secret replaced; JSON, and lines of JSON, stay that."""
    spans = scanner.spans(data)
    if not spans and not _must_be_decoded(data):
        return data
    if _is_json(data):
        return _in_json(scanner, data, spans)
    lines = data.splitlines(keepends=True)
    if len(lines) > 1 and all(_is_json(line) for line in lines if line.strip()):
        return _in_lines(scanner, lines)
    return replaced(data, spans)


def _must_be_decoded(data: bytes) -> bool:
    return b"\\" in data and any(each in data for each in _DECODED)


def _is_json(data: bytes) -> bool:
    """Whether it is a whole JSON document, in UTF-8, of the kinds that have strings."""
    if not data.removeprefix(_MARK).lstrip()[:1].startswith(_BEGINNINGS):
        return False
    try:
        _DECODER.decode(data.removeprefix(_MARK).decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return False
    return True


def _in_json(scanner: Scanner, data: bytes, spans: list[Span]) -> bytes:
    starts = [start for start, _ in spans]

    def token(match: re.Match[bytes]) -> bytes:
        literal = match.group()
        nearest = bisect_right(starts, match.end() - 1) - 1
        touched = nearest >= 0 and spans[nearest][1] > match.start()
        if not literal.startswith(b'"'):
            return _QUOTED if touched and scanner.finds_numbers and scanner.spans(literal) else literal
        return _string(scanner, literal) if touched or _must_be_decoded(literal) else literal

    result = _TOKEN.sub(token, data)
    across = _across(result, scanner.spans(result))
    if not across:
        return result
    for replacement in (_QUOTED, HIDDEN):
        tried = replaced(result, across, replacement)
        if _is_json(tried):
            return tried
    return _as_one_text(replaced(result, across))


def _in_lines(scanner: Scanner, lines: list[bytes]) -> bytes:
    found = [_in_json(scanner, line, scanner.spans(line)) for line in lines]
    result = b"".join(found)
    ends = list(accumulate(map(len, found)))
    across = [(start, end) for start, end in scanner.spans(result) if end > ends[bisect_right(ends, start)]]
    return _as_one_text(replaced(result, across)) if across else result


def _as_one_text(data: bytes) -> bytes:
    """Where a secret is a piece of a document's structure, the rest of it is kept as one text."""
    return json.dumps(data.decode("utf-8", "replace")).encode()


def _string(scanner: Scanner, literal: bytes) -> bytes:
    """A JSON string, looked at as the text that it stands for, which may be JSON again."""
    plain = _DECODER.decode(literal.decode("utf-8", "surrogatepass")).encode("utf-8", "surrogatepass")
    hidden = masked(scanner, plain)
    if hidden == plain:
        return literal
    text = hidden.decode("utf-8", "surrogatepass")
    try:
        return json.dumps(text, ensure_ascii=literal.isascii()).encode()
    except UnicodeEncodeError:  # a lone surrogate, which was escaped
        return json.dumps(text).encode()


def _across(data: bytes, spans: list[Span]) -> list[Span]:
    """The spans that are not inside of one string: what is inside was looked at as text, and is none."""
    if not spans:
        return []
    strings = [match.span() for match in _TOKEN.finditer(data) if match.group().startswith(b'"')]
    starts = [start for start, _ in strings]

    def inside(span: Span) -> bool:
        nearest = bisect_right(starts, span[0] - 1) - 1
        return nearest >= 0 and span[1] < strings[nearest][1]

    return [span for span in spans if not inside(span)]
