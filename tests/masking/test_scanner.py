"""Scanner: many texts in one pass, overlaps, base64 in lines, and streams cut anywhere."""

from __future__ import annotations

import base64
import copy
import json
import pickle
from collections.abc import AsyncIterator, Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.masking import scanner as scanner_module
from storage.masking.scanner import HIDDEN, LONGEST_IN_AUTOMATON, Scanner

KEY = "-----BEGIN KEY-----\n" + "\n".join(f"line {number} of the key+/{number * 7919:020d}" for number in range(9))


async def pieces(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def streamed(scanner: Scanner, chunks: Iterable[bytes]) -> bytes:
    return b"".join([chunk async for chunk in scanner.stream(pieces(chunks))])


def test_each_occurrence_of_each_text_is_replaced() -> None:
    scanner = Scanner(["first-secret", "second-secret"], 8)
    assert (
        scanner.replaced(b"first-secret, second-secret and first-secret")
        == b", ".join([HIDDEN] * 2) + b" and " + HIDDEN
    )
    assert scanner.replaced(b"First-Secret first-secre") == b"First-Secret first-secre"


def test_texts_that_overlap_become_one_replacement() -> None:
    scanner = Scanner(["abcdefgh", "efghijkl", "fghi-long-one", "cdef"], 4)
    assert scanner.replaced(b"[abcdefghijkl]") == b"[" + HIDDEN + b"]"
    assert scanner.replaced(b"abcdefghi-long-one.") == HIDDEN + b"."
    assert scanner.replaced(b"abcdefghabcdefgh") == HIDDEN * 2
    assert Scanner(["aaaaaaaa"], 8).replaced(b"a" * 100) == HIDDEN


def test_bits_of_a_secret_in_the_neighbours_of_its_base64_go_too() -> None:
    secret = b"0123456789"
    for before in (b"", b"u", b"us", b"usr"):
        for after in (b"", b"\n", b"xy", b"xyz"):
            encoded = base64.b64encode(before + secret + after)
            hidden = Scanner([secret.decode()], 8).replaced(b"<" + encoded + b">")
            first = len(before) * 8 // 6
            end = -(-len(before + secret) * 8 // 6)
            assert hidden == b"<" + encoded[:first] + HIDDEN + (encoded[end:] if after else b"") + b">"


@pytest.mark.parametrize("line_break", [b"\n", b"\r\n", b"\\n", b"\\r\\n", b"\\\\n"])
@pytest.mark.parametrize("width", [64, 76])
@pytest.mark.parametrize("before", [b"", b"x", b"something quite long to stand before the secret, and some more of it"])
def test_base64_in_lines_is_found(line_break: bytes, width: int, before: bytes) -> None:
    secret = "s3cr3t-" + "0123456789abcdef" * 4
    encoded = base64.b64encode(before + secret.encode() + b" after it comes a text that is of no interest to anyone")
    text = line_break.join(encoded[start : start + width] for start in range(0, len(encoded), width))
    hidden = Scanner([secret], 8).replaced(b"output: " + text + line_break)
    assert HIDDEN in hidden
    joined = hidden.replace(line_break, b"")
    for start in range(0, len(secret) - 12, 3):
        for alignment in range(3):
            known = base64.b64encode(bytes(alignment) + secret.encode()[start : start + 12])[4:12]
            assert known not in joined


def test_a_text_too_long_for_the_automaton_is_found() -> None:
    secret = "".join(chr(33 + number * 7919 % 90) for number in range(LONGEST_IN_AUTOMATON + 1))
    scanner = Scanner([secret, "another-secret"], 8)
    text = f"{secret} and {base64.b64encode(secret.encode()).decode()} and {json.dumps(secret)}, another-secret"
    assert secret[:100] not in scanner.replaced(text.encode()).decode()
    assert scanner.replaced(text.encode()).count(HIDDEN) == 4
    assert scanner.replaced(secret.encode() * 2) == HIDDEN * 2


def test_a_secret_across_two_windows_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanner_module, "WINDOW_BYTES", 5)
    scanner = Scanner(["first-secret", "secret-and-more", "aaaaaaaa"], 8)
    for before in range(12):
        data = b"x" * before + b"first-secret-and-more, first-secret" + b"a" * 30 + b"first-secret"
        assert scanner.replaced(data) == b"x" * before + HIDDEN + b", " + HIDDEN * 3


@pytest.mark.parametrize("text", ["a" * 5000, "ab" * 2500, "x" + "a" * 5000 + "x"])
def test_a_very_long_text_that_overlaps_itself_is_masked_whole(text: str) -> None:
    scanner = Scanner([text], 8)
    assert scanner.replaced(f"<{text}>".encode()) == b"<" + HIDDEN + b">"
    overlapping = (text + text[len(text) // 2 :] if text[0] != "x" else text + text[1:]).encode()
    assert scanner.replaced(b"<" + overlapping + b">") == b"<" + HIDDEN + b">"


def test_nothing_to_find_finds_nothing() -> None:
    assert not Scanner([], 8)
    assert Scanner([], 8).replaced(b"text") == b"text"


async def test_a_stream_of_single_bytes_is_masked_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanner_module, "STREAM_BYTES", 0)
    scanner = Scanner(["stream-secret-1", "secret-1-and-more", KEY], 8)
    data = b"start stream-secret-1-and-more " + base64.b64encode(b"u:stream-secret-1") + KEY.encode() * 2 + b" end"
    chunks = [data[index : index + 1] for index in range(len(data))]
    assert await streamed(scanner, chunks) == scanner.replaced(data)
    assert HIDDEN in scanner.replaced(data)


_TEXTS = st.lists(st.text("ab+/", min_size=4, max_size=9), min_size=1, max_size=4)


@settings(deadline=None)
@given(_TEXTS, st.text("ab+/QUJh=", max_size=200), st.lists(st.integers(0, 200), max_size=8))
async def test_a_stream_cut_anywhere_gives_what_the_whole_gives(texts: list[str], text: str, cuts: list[int]) -> None:
    data = text.encode()
    scanner = Scanner(texts, 4)
    borders = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    chunks = [data[start:end] for start, end in pairwise(borders)]
    before = scanner_module.STREAM_BYTES
    scanner_module.STREAM_BYTES = 0  # type: ignore[misc]
    try:
        assert await streamed(scanner, chunks) == scanner.replaced(data)
    finally:
        scanner_module.STREAM_BYTES = before  # type: ignore[misc]


async def test_a_stream_is_held_in_part_only() -> None:
    scanner = Scanner(["stream-secret-1"], 8)
    taken = given_out = most = 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal taken, most
        for _ in range(100):
            taken += 65536
            most = max(most, taken - given_out)
            yield b"x" * 65536

    async for chunk in scanner.stream(source()):
        given_out += len(chunk)
    assert given_out == taken
    assert most <= scanner_module.STREAM_BYTES + 2 * 65536


def test_a_scanner_shows_nothing_and_is_neither_pickled_nor_copied() -> None:
    scanner = Scanner(["hidden-secret"], 8)
    assert "hidden-secret" not in repr(scanner)
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="never pickled"):
            attempt(scanner)
