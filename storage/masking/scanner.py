"""The search for many secrets at once, and their replacement in bytes of any length, also in ones that come in pieces.

Aho-Corasick in Rust, because a file of events is searched for a few hundred patterns at every write: for 20 secrets
(120 patterns) it takes 1/20 of the time of a regular expression, for 500 secrets 1/500, and a half to three quarters of
pyahocorasick's; 2 KB take 11 microseconds and 1 MB takes 5 ms, whatever their number.
"""

from __future__ import annotations

import asyncio
import re
from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

from storage.masking.forms import Form, forms

if TYPE_CHECKING:
    from ahocorasick_rs import BytesAhoCorasick

REPLACEMENT: Final = "<secret_hidden>"
"""What stands in place of a secret; as in the seed system."""

HIDDEN: Final = REPLACEMENT.encode()

LONGEST_IN_AUTOMATON: Final = 4096
"""Longest pattern in the automaton, in bytes, which takes many bytes of memory for each of a pattern's. Longer ones
(key stores, certificates) are looked for one by one, in texts that are long enough to hold them."""

STREAM_BYTES: Final = 256 * 1024
"""How much of a stream is collected before it is searched, beside what a secret across the border needs."""

IN_THREAD_BYTES: Final = 16 * 1024
"""From here on masking may take longer than a thread hop by far, and would hold up the event loop."""

WINDOW_BYTES: Final = 32 * 1024
"""How much is searched at once: the automaton keeps other threads waiting meanwhile, and has a match for each character
where a secret overlaps itself."""

_WEIGHT: Final = 15  # bytes of memory for each of a pattern's in an automaton of many, as measured

_PADDING: Final = 2  # characters of base64's

Span: TypeAlias = tuple[int, int]

_IN_A_NUMBER: Final = re.compile(r"[0-9.eE+-]+")

_BASE64: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_")

# base64(1) breaks lines after 76 characters, PEM after 64. A break may itself have been escaped, in JSON for example.
# (Each alternative begins with one character, so that re looks for these first.)
_BREAK: Final = re.compile(rb"\\\\{0,7}(?:r\\{1,8})?n|\r\n|\n")
# The quick question whether there is such a line: every character of base64 as an A, and sixty of them.
_AS_A: Final = bytes(ord("A") if byte in _BASE64 else byte if byte == ord("=") else ord(".") for byte in range(256))
_SIXTY: Final = b"A" * 60


class Scanner:
    """Finds the forms of some texts.

    Args:
        texts: what to find; none of them empty.
        shortest: in bytes; forms that are shorter (the known part of base64 may be) are not looked for.
    """

    __slots__ = ("_automaton", "_forms", "_long", "_longest", "_reach", "finds_numbers")

    def __init__(self, texts: Iterable[str], shortest: int) -> None:
        texts = set(texts)
        found = {form for text in texts for form in forms(text) if len(form.data) >= shortest}
        self._forms = sorted(
            (form for form in found if len(form.data) <= LONGEST_IN_AUTOMATON), key=lambda form: form.data
        )
        self._long = tuple(form for form in found if len(form.data) > LONGEST_IN_AUTOMATON)
        self._automaton: BytesAhoCorasick | None = None
        if self._forms:
            from ahocorasick_rs import BytesAhoCorasick, Implementation

            # Of the automata it is the one whose memory stays proportional to the patterns.
            kind = Implementation.ContiguousNFA
            self._automaton = BytesAhoCorasick([form.data for form in self._forms], implementation=kind)
        self._longest = max((len(form.data) for form in self._forms), default=0)
        self._reach = max((len(form.data) for form in found), default=0) + 1 + 1 + _PADDING
        self.finds_numbers = any(map(_IN_A_NUMBER.fullmatch, texts))

    @property
    def weight(self) -> int:
        """Roughly the bytes of memory that it takes."""
        short = sum(len(form.data) for form in self._forms)
        return _WEIGHT * short + sum(len(form.data) for form in self._long)

    def __bool__(self) -> bool:
        """Whether there is anything to find."""
        return bool(self._forms or self._long)

    def spans(self, data: bytes) -> list[Span]:
        """Where the texts are, as half-open ranges in order; those that overlap are one."""
        found = self._found(data)
        if len(data) > len(_SIXTY) and _SIXTY in data.translate(_AS_A):
            found += self._wrapped(data)
        return _merged(found)

    def replaced(self, data: bytes) -> bytes:
        """The bytes with REPLACEMENT for each span."""
        return replaced(data, self.spans(data))

    async def stream(self, chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
        """The bytes of a stream with each secret replaced, wherever the pieces begin.

        Holds a piece, STREAM_BYTES and twice the longest form at most. What base64 breaks into lines is not found here.
        """
        held, hidden = b"", 0
        enough = STREAM_BYTES + 2 * self._reach
        parts: list[bytes] = []
        size = 0
        async with aclosing(_closable(chunks)) as pieces:
            async for piece in pieces:
                parts.append(piece)
                size += len(piece)
                if len(held) + size >= enough:
                    data = b"".join((held, *parts))
                    parts, size = [], 0
                    out, held, hidden = await self._advanced(data, hidden, len(data) - self._reach)
                    if out:
                        yield out
        data = b"".join((held, *parts))
        out, _, _ = await self._advanced(data, hidden, len(data))
        if out:
            yield out

    async def _advanced(self, data: bytes, hidden: int, cut: int) -> tuple[bytes, bytes, int]:
        if len(data) < IN_THREAD_BYTES:
            return self._advance(data, hidden, cut)
        return await asyncio.to_thread(self._advance, data, hidden, cut)

    def _advance(self, data: bytes, hidden: int, cut: int) -> tuple[bytes, bytes, int]:
        """The bytes before `cut` with replacements, the others, and how many of these belong to a secret so replaced.

        Args:
            data: the next bytes of the stream.
            hidden: how many of them belong to a secret replaced already.
            cut: up to where nothing can be found that is not all here.
        """
        begun: list[Span] = [(0, hidden)] if hidden else []
        out, position = [], 0
        for start, end in _merged(begun + self._found(data)):
            if start >= cut:
                break
            if not (hidden and start == 0):
                out += [data[position:start], HIDDEN]
            position = end
        if position < cut:
            out.append(data[position:cut])
        return b"".join(out), data[cut:], max(0, position - cut)

    def _found(self, data: bytes) -> list[Span]:
        found: list[Span] = []
        if self._automaton is not None:
            for index, start, end in self._matches(self._automaton, data):
                form = self._forms[index]
                if form.before or form.after:
                    found.append(_widened(data, form, start, end))
                elif found and found[-1][0] <= start < found[-1][1]:  # a text that overlaps itself a million times
                    found[-1] = (found[-1][0], max(end, found[-1][1]))
                else:
                    found.append((start, end))
        for form in self._long:
            start = data.find(form.data)
            while start >= 0:
                # Of those that overlap this one, the last covers the others.
                last = data.rfind(form.data, start, start + 2 * len(form.data) - 1)
                found.append(_widened(data, form, start, last + len(form.data)))
                start = data.find(form.data, max(last, start + 1))
        return found

    def _matches(self, automaton: BytesAhoCorasick, data: bytes) -> Iterator[tuple[int, int, int]]:
        """(number of the form, start, end) of every match."""
        for offset in range(0, len(data), WINDOW_BYTES):
            window = data[offset : offset + WINDOW_BYTES + self._longest - 1]
            for index, start, end in automaton.find_matches_as_indexes(window, overlapping=True):
                if start < WINDOW_BYTES:  # otherwise it is in the next window, too
                    yield index, offset + start, offset + end

    def _wrapped(self, data: bytes) -> list[Span]:
        """Spans across the line breaks of base64."""
        kept: list[bytes] = []
        # Of each piece that is kept: where it is when they are joined, and how much was taken out before it.
        starts, gaps = [0], [0]
        position = removed = 0
        like = data.translate(_AS_A)
        for match in _BREAK.finditer(data):
            start, end = match.span()
            if like[start - len(_SIXTY) : start] == _SIXTY and like[end : end + 1] in (b"A", b"="):
                kept.append(data[position:start])
                position = end
                removed += end - start
                starts.append(position - removed)
                gaps.append(removed)
        if not kept:
            return []
        kept.append(data[position:])
        spans = []
        for start, end in self._found(b"".join(kept)):
            first, last = bisect_right(starts, start) - 1, bisect_right(starts, end - 1) - 1
            if first != last:
                spans.append((start + gaps[first], end + gaps[last]))
        return spans

    def __repr__(self) -> str:
        return f"<Scanner for {len(self._forms) + len(self._long)} forms>"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a Scanner holds secrets and is never pickled or copied")


def replaced(data: bytes, spans: Iterable[Span], replacement: bytes = HIDDEN) -> bytes:
    """The bytes with a replacement for each span; spans are in order and do not overlap."""
    parts, position = [], 0
    for start, end in spans:
        parts += [data[position:start], replacement]
        position = end
    return b"".join((*parts, data[position:])) if position else data


def _widened(data: bytes, form: Form, start: int, end: int) -> Span:
    """With the characters of base64 that hold some bits of the secret, and the padding."""
    if form.before and start and data[start - 1] in _BASE64:
        start -= 1
    if form.after:
        if end < len(data) and data[end] in _BASE64:
            end += 1
        for _ in range(_PADDING):
            if data[end : end + 1] == b"=":
                end += 1
    return start, end


def _merged(spans: list[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


async def _closable(chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    async for chunk in chunks:
        yield chunk
