"""Content format 1 is frozen, opens only whole and in its place, and a range of it by the range's own segments."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import hmac
import pickle
from collections.abc import AsyncGenerator

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import example, given, settings
from hypothesis import strategies as st

from storage.errors import FileTooLarge, InvalidInput, Tampered
from storage.files import sealed_content
from storage.files.sealed_content import (
    BATCH_BYTES,
    HEADER_BYTES,
    MOST_BYTES,
    SEALED_SEGMENT_BYTES,
    SEGMENT_BYTES,
    TAG_BYTES,
    ContentKey,
    ContentPlace,
    open_bytes,
    open_range,
    seal_bytes,
    seal_stream,
    sealed_range,
    sealed_size,
)

MATERIAL = bytes(range(32))
PLACE = ContentPlace("alice", "blobs/3f/018f2a9c-0000-7000-8000-00000000003f")

# Frozen: contents like these are in people's buckets. A change here is a new format. The header, and the sha256 of the
# whole, of contents whose byte i is i % 251.
GOLDEN_HEADER = "e20131ebae9dfba1aba5d68524d1dafcc42880bf2e2abce3fdcb9024c9ac6faf88a9"
GOLDEN = {
    0: "292ebf5f04eaf13492592a007d07bb7f5f72224f13e73c96055e9fd542b2c151",
    5: "302f0d14889019c166f841c2abe1a622625027a67f829e3ee7cb6360eab6ae57",
    SEGMENT_BYTES: "328685fa883117af10fa16971f58ce8498c649b5d5bd0c971c8663c845f0679e",
    2 * SEGMENT_BYTES + 7: "f11d090fb6b102ca2939a642ce159d8d5fb4ae8a11b6a53942ecdf9fcb03a37c",
}
SMALL = "e20131ebae9dfba1aba5d68524d1dafcc42880bf2e2abce3fdcb9024c9ac6faf88a9be593547f007aaf2ad0550c05eebad8d8911651795"
"""The content of 5 bytes, whole."""


def plaintext(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


@pytest.fixture
def key() -> ContentKey:
    return ContentKey(MATERIAL)


def reference(material: bytes, place: tuple[str, str], content: bytes) -> bytes:
    """Suite 1 again, by its description: HKDF from the standard library, segments sealed one by one."""
    info = b"agent-storage/content/1\xe2\x01"
    for text in place:
        info += len(text.encode()).to_bytes(4, "big") + text.encode()
    okm, block = b"", b""
    for counter in (1, 2, 3):
        block = hmac.new(material, block + info + bytes([counter]), hashlib.sha256).digest()
        okm += block
    cipher, commitment, prefix = AESGCM(okm[:32]), okm[32:64], okm[64:71]
    segments = [content[offset : offset + 65536] for offset in range(0, len(content), 65536)] or [b""]
    sealed = b"\xe2\x01" + commitment
    for index, segment in enumerate(segments):
        nonce = prefix + index.to_bytes(4, "big") + (b"\x01" if index == len(segments) - 1 else b"\x00")
        sealed += cipher.encrypt(nonce, segment, None)
    return sealed


async def in_pieces(content: bytes, size: int) -> AsyncGenerator[bytes, None]:
    for offset in range(0, len(content), size):
        yield content[offset : offset + size]


async def sealed_in_pieces(key: ContentKey, content: bytes, size: int) -> list[bytes]:
    return [piece async for piece in seal_stream(key, PLACE, in_pieces(content, size))]


async def opened(key: ContentKey, fetched: bytes, start: int, end: int, size: int, *, piece: int = 70_001) -> bytes:
    pieces = open_range(key, PLACE, in_pieces(fetched, piece), start, end, plain_size=size)
    return b"".join([piece async for piece in pieces])


# ---- the format


@pytest.mark.parametrize("size", GOLDEN)
def test_what_earlier_releases_sealed_is_sealed_and_opened_alike(key: ContentKey, size: int) -> None:
    sealed = seal_bytes(key, PLACE, plaintext(size))
    assert sealed[:HEADER_BYTES].hex() == GOLDEN_HEADER
    assert hashlib.sha256(sealed).hexdigest() == GOLDEN[size]
    assert open_bytes(key, PLACE, sealed) == plaintext(size)
    assert open_bytes(key, PLACE, bytes.fromhex(SMALL)) == plaintext(5)


@pytest.mark.parametrize("size", [0, 1, 5, 65535, 65536, 65537, 131072, 131079])
def test_the_format_is_what_its_description_says(key: ContentKey, size: int) -> None:
    sealed = reference(MATERIAL, PLACE, plaintext(size))
    assert seal_bytes(key, PLACE, plaintext(size)) == sealed
    assert open_bytes(key, PLACE, sealed) == plaintext(size)
    assert len(sealed) == sealed_size(size)


def test_every_content_has_keys_of_its_own() -> None:
    content = plaintext(100)
    keys = [ContentKey.generate() for _ in range(20)]
    assert len({key.reveal() for key in keys}) == 20
    sealed = {seal_bytes(key, PLACE, content) for key in keys}
    sealed |= {seal_bytes(keys[0], ContentPlace("alice", f"blobs/00/{number}"), content) for number in range(20)}
    assert len({value[2:HEADER_BYTES] for value in sealed}) == len({value[HEADER_BYTES:] for value in sealed}) == 40


def test_no_two_places_share_their_fields_by_where_one_ends(key: ContentKey) -> None:
    assert seal_bytes(key, ContentPlace("ab", "c"), b"") != seal_bytes(key, ContentPlace("a", "bc"), b"")


# ---- whole contents

SIZES = st.one_of(
    st.integers(0, 300),
    st.sampled_from([n * SEGMENT_BYTES + by for n in (1, 2, 3) for by in (-17, -16, -1, 0, 1, 16, 17)]),
    st.integers(0, 3 * SEGMENT_BYTES),
)
PIECES = st.one_of(
    st.sampled_from([997, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, SEALED_SEGMENT_BYTES, BATCH_BYTES]),
    st.integers(500, 4 * SEGMENT_BYTES),
)


@settings(max_examples=60, deadline=None)
@given(size=SIZES, there=PIECES, back=PIECES)
@example(size=0, there=1, back=1)
@example(size=40, there=1, back=1)
@example(size=BATCH_BYTES + SEGMENT_BYTES, there=2 * BATCH_BYTES, back=2 * BATCH_BYTES)
def test_a_stream_is_sealed_as_its_bytes_are_and_comes_back_however_it_is_cut(size: int, there: int, back: int) -> None:
    key, content = ContentKey.generate(), plaintext(size)

    async def there_and_back() -> None:
        sealed = b"".join(await sealed_in_pieces(key, content, there))
        assert sealed == seal_bytes(key, PLACE, content)
        assert len(sealed) == sealed_size(size)
        assert sealed_range(0, size, size) == (0, len(sealed))
        assert await opened(key, sealed, 0, size, size, piece=back) == content
        assert open_bytes(key, PLACE, sealed) == content

    asyncio.run(there_and_back())


async def test_no_piece_of_a_stream_is_longer_than_a_batch_however_long_those_are_that_come(key: ContentKey) -> None:
    content = plaintext(5 * BATCH_BYTES + 3)
    pieces = await sealed_in_pieces(key, content, len(content))
    assert max(map(len, pieces)) <= sealed_size(BATCH_BYTES)
    assert len(pieces) == 6
    sealed = b"".join(pieces)
    back = open_range(key, PLACE, in_pieces(sealed, len(sealed)), 0, len(content), plain_size=len(content))
    assert max([len(piece) async for piece in back]) <= BATCH_BYTES


async def test_pieces_without_bytes_change_nothing(key: ContentKey) -> None:
    async def with_empty_ones(content: bytes) -> AsyncGenerator[bytes, None]:
        yield b""
        yield content
        yield b""

    sealed = b"".join([piece async for piece in seal_stream(key, PLACE, with_empty_ones(b"abc"))])
    assert sealed == seal_bytes(key, PLACE, b"abc")
    pieces = open_range(key, PLACE, with_empty_ones(sealed), 0, 3, plain_size=3)
    assert b"".join([piece async for piece in pieces]) == b"abc"


async def test_sealing_and_opening_let_others_run(key: ContentKey) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    sealed = b"".join(await sealed_in_pieces(key, plaintext(4 * BATCH_BYTES), 100_000))
    after_sealing = turns
    await opened(key, sealed, 0, 4 * BATCH_BYTES, 4 * BATCH_BYTES)
    counting.cancel()
    assert after_sealing >= 3
    assert turns - after_sealing >= 3


# ---- ranges


@settings(max_examples=60, deadline=None)
@given(data=st.data(), size=SIZES, piece=PIECES)
def test_any_range_opens_from_the_one_range_of_sealed_bytes_that_is_named_for_it(
    data: st.DataObject, size: int, piece: int
) -> None:
    border = st.sampled_from([n * SEGMENT_BYTES + by for n in range(4) for by in (-1, 0, 1) if n or by >= 0])
    start = data.draw(border | st.integers(0, size + 10))
    end = data.draw((border | st.integers(0, size + 10)).filter(lambda end: end >= start))
    content, key = plaintext(size), ContentKey(MATERIAL)
    low, high = sealed_range(start, end, size)
    sealed = seal_bytes(key, PLACE, content)
    assert 0 <= low <= high <= len(sealed)
    assert high - low <= sealed_size(max(0, min(end, size) - start)) + 2 * SEALED_SEGMENT_BYTES
    assert asyncio.run(opened(key, sealed[low:high], start, end, size, piece=piece)) == content[start:end]


def test_a_range_behind_the_first_segment_is_fetched_without_the_header() -> None:
    size = 3 * SEGMENT_BYTES
    one = HEADER_BYTES + SEALED_SEGMENT_BYTES
    assert sealed_range(SEGMENT_BYTES, SEGMENT_BYTES + 1, size) == (one, one + SEALED_SEGMENT_BYTES)
    assert sealed_range(5, 6, size) == (0, one)
    assert sealed_range(7, 7, size) == sealed_range(size, size + 9, size) == (0, 0)


async def test_an_empty_range_asks_for_nothing_but_that_of_an_empty_content_is_verified(key: ContentKey) -> None:
    nothing = in_pieces(b"", 1)
    assert [piece async for piece in open_range(key, PLACE, nothing, 3, 3, plain_size=10)] == []
    sealed = seal_bytes(key, PLACE, b"")
    assert sealed_range(0, 0, 0) == (0, len(sealed)) == (0, HEADER_BYTES + TAG_BYTES)
    assert await opened(key, sealed, 0, 0, 0) == b""
    with pytest.raises(Tampered):
        await opened(key, sealed[:-1] + bytes([sealed[-1] ^ 1]), 0, 0, 0)


# ---- what does not open

THREE = plaintext(2 * SEGMENT_BYTES + 1000)
LENGTH = sealed_size(len(THREE))
SECOND = HEADER_BYTES + SEALED_SEGMENT_BYTES
THIRD = SECOND + SEALED_SEGMENT_BYTES


async def refused(key: ContentKey, sealed: bytes, place: ContentPlace = PLACE) -> None:
    """Neither whole nor as a stream, and a stream gives no byte that was not in the content."""
    with pytest.raises(Tampered, match=r"of 'alice' cannot be opened|of 'bob' cannot be opened"):
        open_bytes(key, place, sealed)
    given = bytearray()
    with pytest.raises(Tampered):
        async for piece in open_range(key, place, in_pieces(sealed, 50_000), 0, len(THREE), plain_size=len(THREE)):
            given += piece
    assert THREE.startswith(bytes(given))


BORDERS = (0, 1, 2, HEADER_BYTES, SECOND - TAG_BYTES, SECOND, THIRD - TAG_BYTES, THIRD, LENGTH - TAG_BYTES, LENGTH)


@pytest.mark.parametrize("at", sorted({at + by for at in BORDERS for by in (-1, 0) if 0 <= at + by < LENGTH}))
async def test_a_flipped_bit_anywhere_is_found(key: ContentKey, at: int) -> None:
    sealed = bytearray(seal_bytes(key, PLACE, THREE))
    sealed[at] ^= 0x10
    await refused(key, bytes(sealed))


@pytest.mark.parametrize(
    "length", [0, 1, 2, HEADER_BYTES, HEADER_BYTES + 15, HEADER_BYTES + 16, SECOND - 1, SECOND, THIRD, LENGTH - 1]
)
async def test_what_is_cut_off_is_missed_also_at_a_segments_border(key: ContentKey, length: int) -> None:
    await refused(key, seal_bytes(key, PLACE, THREE)[:length])


def parts(sealed: bytes) -> dict[str, bytes]:
    """The header and the three segments, each by a letter."""
    return {
        "h": sealed[:HEADER_BYTES],
        "1": sealed[HEADER_BYTES:SECOND],
        "2": sealed[SECOND:THIRD],
        "3": sealed[THIRD:],
        "x": b"x",
    }


@pytest.mark.parametrize(
    "arranged", ["h213", "h321", "h1123", "h1223", "h1233", "h13", "h23", "h3", "h12", "123", "hh123", "h123x", "xh123"]
)
async def test_segments_in_another_order_or_number_are_refused(key: ContentKey, arranged: str) -> None:
    part = parts(seal_bytes(key, PLACE, THREE))
    assert open_bytes(key, PLACE, b"".join(part[letter] for letter in "h123")) == THREE
    await refused(key, b"".join(part[letter] for letter in arranged))


async def test_segments_of_another_content_are_refused(key: ContentKey) -> None:
    part, others = parts(seal_bytes(key, PLACE, THREE)), parts(seal_bytes(ContentKey.generate(), PLACE, THREE))
    await refused(key, part["h"] + part["1"] + others["2"] + part["3"])


@pytest.mark.parametrize("place", [PLACE._replace(user_id="bob"), PLACE._replace(blob_key="blobs/00/another")])
async def test_a_content_moved_to_another_user_or_blob_does_not_open_with_its_own_key(
    key: ContentKey, place: ContentPlace
) -> None:
    await refused(key, seal_bytes(key, PLACE, THREE), place)


async def test_another_content_key_opens_nothing(key: ContentKey) -> None:
    await refused(ContentKey.generate(), seal_bytes(key, PLACE, THREE))


async def test_a_range_is_refused_where_its_own_segments_were_altered_or_it_has_more_or_fewer_bytes(
    key: ContentKey,
) -> None:
    sealed, size = seal_bytes(key, PLACE, THREE), len(THREE)
    start, end = SEGMENT_BYTES + 5, SEGMENT_BYTES + 10
    low, high = sealed_range(start, end, size)
    altered = sealed[: low + 9] + bytes([sealed[low + 9] ^ 1]) + sealed[low + 10 :]
    for fetched in (
        altered[low:high],
        sealed[low : high - 1],
        sealed[low : high + 1],
        sealed[: high - low],
        sealed,
        b"",
    ):
        with pytest.raises(Tampered):
            await opened(key, fetched, start, end, size)
    assert await opened(key, altered[:low], 0, 10, size) == THREE[:10], "what was not fetched is not judged"


@pytest.mark.parametrize("recorded", [len(THREE) - 1, len(THREE) + 1, 2 * SEGMENT_BYTES, SEGMENT_BYTES, 0])
async def test_a_recorded_size_that_is_not_the_contents_is_found_at_its_end(key: ContentKey, recorded: int) -> None:
    sealed = seal_bytes(key, PLACE, THREE)
    low, high = sealed_range(0, recorded, recorded)
    with pytest.raises(Tampered):
        await opened(key, sealed[low:high], 0, recorded, recorded)


@pytest.mark.parametrize("content", [b"", b"plain text", b"\xe2\x01", plaintext(200), plaintext(SEGMENT_BYTES)])
async def test_what_was_never_sealed_does_not_open(key: ContentKey, content: bytes) -> None:
    await refused(key, content)


# ---- limits and keys


def test_a_content_is_at_most_as_long_as_the_counter_allows(key: ContentKey, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sealed_size(MOST_BYTES) == MOST_BYTES + HEADER_BYTES + 2**32 * TAG_BYTES
    with pytest.raises(FileTooLarge):
        sealed_size(MOST_BYTES + 1)
    three = seal_bytes(key, PLACE, THREE)
    monkeypatch.setattr(sealed_content, "MOST_SEGMENTS", 2)
    assert len(seal_bytes(key, PLACE, plaintext(2 * SEGMENT_BYTES))) == sealed_size(2 * SEGMENT_BYTES)
    with pytest.raises(FileTooLarge):
        seal_bytes(key, PLACE, plaintext(2 * SEGMENT_BYTES + 1))
    with pytest.raises(FileTooLarge):
        asyncio.run(sealed_in_pieces(key, plaintext(2 * SEGMENT_BYTES + 1), 10_000))
    with pytest.raises(Tampered):
        open_bytes(key, PLACE, three)


def test_a_place_that_utf8_cannot_encode_is_refused(key: ContentKey) -> None:
    with pytest.raises(InvalidInput, match="lone surrogate"):
        seal_bytes(key, ContentPlace("\ud800", "blobs/00/x"), b"")


def test_a_content_key_shows_up_nowhere() -> None:
    key = ContentKey.generate()
    assert key.reveal().hex() not in f"{key!r} {key!s}"
    assert repr(key) == "ContentKey(hidden)"
    assert not hasattr(key, "__dict__")
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="never pickled or copied"):
            attempt(key)


@pytest.mark.parametrize("length", [0, 16, 31, 33, 64])
def test_key_material_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes") as refusal:
        ContentKey(b"\x7f" * length)
    assert "7f" not in str(refusal.value)


def test_no_error_and_no_frame_of_one_shows_the_key(key: ContentKey) -> None:
    with pytest.raises(Tampered) as refusal:
        open_bytes(key, PLACE, bytes(100))
    assert MATERIAL.hex() not in str(refusal.value)
    assert refusal.value.__cause__ is None
