"""Content format 1: how a file's bytes are sealed so that any length streams, and a range opens without the rest.

One AES-GCM call over a whole file would have to be held in memory, and shows only at its end that it was altered. So
the content is cut into segments that are sealed each on its own, after the STREAM construction of Hoang, Reyhanitabar,
Rogaway and Vizár ("Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", CRYPTO 2015), which is what
Tink's AES-GCM-HKDF streaming follows too: the nonce says which segment it is and whether it is the last one, so that
none can be altered, left out, repeated, moved or cut off at a border.

Layout of a sealed content (all numbers in bytes)::

     0   1  format, 0xE2                 }
     1   1  suite, 0x01                  }  the header, 34 bytes
     2  32  commitment                   }
    34      segment 0 .. segment n-1

    plaintext of a segment: 65,536; of the last one 1 to 65,536, or 0 if the content is empty
    sealed segment:         its ciphertext, as long as the plaintext, and a tag of 16
    n:                      ceil(size / 65,536), but 1 for an empty content

Suite 1 is HKDF-Expand-SHA256 (RFC 5869, section 2.3) and AES-256-GCM (NIST SP 800-38D)::

    info      = b"agent-storage/content/1" || format || suite || field(user_id) || field(blob_key)
    field(s)  = length of s in UTF-8, 4 bytes big-endian || s in UTF-8
    okm       = HKDF-Expand(PRK = content key, info, L = 71)
    key       = okm[0:32]     commitment = okm[32:64]     prefix = okm[64:71]
    nonce(i)  = prefix || i, 4 bytes big-endian || 0x01 for the last segment, 0x00 for any other
    segment i = AES-256-GCM(key, nonce(i), plaintext of segment i), no associated data

Everything follows from the content key and the place. There is no salt, unlike in Tink, because a content key is for
one content only; so whoever has the key opens any range by one request for its segments, without the header. And the
place is part of what keys are derived from, so that a content that is moved to another user or another blob does not
open, not even with its own content key.

The header holds nothing that is not derived. Whoever opens a content from its beginning compares all of it, in constant
time, before the first segment: that refuses an altered header, and a content made to open under two keys.

Limits: 2**32 segments, 256 TiB. At that size 2**44 blocks are under one key, and the bound on telling them from random
bytes is 2**-41 (SP 800-38D counts no more than 2**32 calls of a key, which are these); at 5 TiB, the largest object of
S3, it is 2**-52.

Sizes are not hidden: `sealed_size` is a function of the content's. Changing any of this means a new format or suite
byte, because contents sealed by earlier releases are in people's buckets.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterable
from functools import cache
from hmac import compare_digest
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from storage.errors import FileTooLarge, InvalidInput, Tampered

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FORMAT: Final = 0xE2
"""First byte of every sealed content; another one than a sealed value's."""
SUITE: Final = 0x01

KEY_BYTES: Final = 32
"""Length of a content key: AES-256."""
COMMITMENT_BYTES: Final = 32
PREFIX_BYTES: Final = 7
TAG_BYTES: Final = 16

SEGMENT_BYTES: Final = 64 * 1024
"""Plaintext of a segment: a range reads at most so much too much at either end, and tags cost 0.02 %."""
SEALED_SEGMENT_BYTES: Final = SEGMENT_BYTES + TAG_BYTES
HEADER_BYTES: Final = 2 + COMMITMENT_BYTES

MOST_SEGMENTS: Final = 2**32
MOST_BYTES: Final = MOST_SEGMENTS * SEGMENT_BYTES
"""Longest content, 256 TiB: the counter in the nonce has 4 bytes."""

BATCH_SEGMENTS: Final = 16
BATCH_BYTES: Final = BATCH_SEGMENTS * SEGMENT_BYTES
"""Sealed or opened without a pause, about a millisecond; then others on the event loop have their turn."""

_INFO: Final = b"agent-storage/content/1"
_DERIVED_BYTES: Final = KEY_BYTES + COMMITMENT_BYTES + PREFIX_BYTES


class ContentPlace(NamedTuple):
    """Where a content belongs. It opens only in the place it was sealed for.

    Attributes:
        user_id: the owner, in stored form.
        blob_key: the key of its blob.
    """

    user_id: str
    blob_key: str


class ContentKey:
    """The key of one content: 32 random bytes that show up in no `repr`, pickle or copy.

    To be used for sealing once: a second content under the same key and place would repeat nonces.

    Raises:
        ValueError: key material that is not 32 bytes.
    """

    __slots__ = ("_material",)

    def __init__(self, material: bytes) -> None:
        if len(material) != KEY_BYTES:
            raise ValueError(f"a content key has {KEY_BYTES} bytes of material")
        self._material = bytes(material)

    @classmethod
    def generate(cls) -> ContentKey:
        """A new key from the operating system's random generator."""
        return cls(os.urandom(KEY_BYTES))

    def reveal(self) -> bytes:
        """The key material, for sealing it under a data key and for deriving from it; never to be kept."""
        return self._material

    def __repr__(self) -> str:
        return "ContentKey(hidden)"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a ContentKey is never pickled or copied: store it sealed under a data key")


def seal_bytes(key: ContentKey, place: ContentPlace, content: bytes) -> bytes:
    """`content` sealed. Takes about a millisecond a MiB: long ones belong into a thread.

    Args:
        key: a new one.
        place: where it will be.
        content: in clear.

    Raises:
        InvalidInput: a place that UTF-8 cannot encode.
    """
    cipher = _Cipher(key, place)
    last = segments_of(len(content)) - 1
    view = memoryview(content)
    sealed = [cipher.header]
    for index in range(last + 1):
        offset = index * SEGMENT_BYTES
        sealed.append(cipher.seal(index, view[offset : offset + SEGMENT_BYTES], last=index == last))
    return b"".join(sealed)


def open_bytes(key: ContentKey, place: ContentPlace, sealed: bytes) -> bytes:
    """The content in clear. Takes as long as sealing it.

    Raises:
        Tampered: altered, truncated or extended, sealed under another key or for another place, or not a content of
            format 1. Which of these it was is not told.
        InvalidInput: a place that UTF-8 cannot encode.
    """
    cipher = _Cipher(key, place)
    view = memoryview(sealed)
    cipher.check(view[:HEADER_BYTES])
    body = view[HEADER_BYTES:]
    last = -(-len(body) // SEALED_SEGMENT_BYTES) - 1
    if last < 0 or last >= MOST_SEGMENTS:
        raise cipher.tampered()
    opened = []
    for index in range(last + 1):
        offset = index * SEALED_SEGMENT_BYTES
        opened.append(cipher.open(index, body[offset : offset + SEALED_SEGMENT_BYTES], last=index == last))
    return b"".join(opened)


async def seal_stream(
    key: ContentKey, place: ContentPlace, content: AsyncIterable[bytes]
) -> AsyncGenerator[bytes, None]:
    """What `seal_bytes` makes of the same bytes, in pieces of about BATCH_BYTES, in bounded memory.

    Args:
        key: a new one.
        place: where it will be.
        content: in clear, in pieces of any size. Whoever closes this generator closes that one.

    Raises:
        FileTooLarge: the content is longer than MOST_BYTES.
        InvalidInput: a place that UTF-8 cannot encode.
    """
    cipher = _Cipher(key, place)
    index, waiting, sealed = 0, bytearray(), [cipher.header]
    async for piece in content:
        for offset in range(0, len(piece), BATCH_BYTES):
            waiting += memoryview(piece)[offset : offset + BATCH_BYTES]
            while len(waiting) > SEGMENT_BYTES:  # a full one may be the last, and the last one is sealed otherwise
                sealed.append(cipher.seal(index, waiting[:SEGMENT_BYTES], last=False))
                del waiting[:SEGMENT_BYTES]
                index += 1
                if index % BATCH_SEGMENTS == 0:
                    yield b"".join(sealed)
                    sealed = []
                    await asyncio.sleep(0)
    sealed.append(cipher.seal(index, waiting, last=True))
    yield b"".join(sealed)


def sealed_size(plain_size: int) -> int:
    """How many bytes a content of `plain_size` bytes has when it is sealed."""
    return HEADER_BYTES + plain_size + TAG_BYTES * segments_of(plain_size)


def segments_of(plain_size: int) -> int:
    """How many segments a content of `plain_size` bytes has.

    Raises:
        FileTooLarge: it is longer than MOST_BYTES.
    """
    if plain_size > MOST_BYTES:
        raise _too_large()
    return max(1, -(-plain_size // SEGMENT_BYTES))


def sealed_range(start: int, end: int, plain_size: int) -> tuple[int, int]:
    """Which bytes of the sealed content to fetch for the bytes `start <= offset < end` of the content in clear.

    One range, cut at the end of the content: whole segments, and the header with the first one. It is empty where the
    wanted one is, but for that of an empty content, which has a segment to be verified, too.

    Args:
        start: first byte wanted, from 0.
        end: the byte behind the last one.
        plain_size: of the whole content in clear, as it was recorded at the write.

    Returns:
        The first byte to fetch and the byte behind the last one.
    """
    segments = segments_of(plain_size)
    end = min(end, plain_size)
    if start >= end and (plain_size or start):
        return 0, 0
    first, behind = start // SEGMENT_BYTES, max(1, -(-end // SEGMENT_BYTES))
    low = HEADER_BYTES + first * SEALED_SEGMENT_BYTES if first else 0
    high = sealed_size(plain_size) if behind == segments else HEADER_BYTES + behind * SEALED_SEGMENT_BYTES
    return low, high


async def open_range(
    key: ContentKey, place: ContentPlace, sealed: AsyncIterable[bytes], start: int, end: int, *, plain_size: int
) -> AsyncGenerator[bytes, None]:
    """The bytes `start <= offset < end` of a content in clear, in pieces of at most BATCH_BYTES, in bounded memory.

    Each piece is verified before it is given. The whole content is the range from 0 to `plain_size`; that it ends
    where it should is known when this ends.

    Args:
        key: the content's.
        place: where it was found.
        sealed: the bytes that `sealed_range` names for the same arguments, in pieces of any size. Whoever closes this
            generator closes that one.
        start: first byte wanted, from 0.
        end: the byte behind the last one; what is beyond the content is cut off.
        plain_size: of the whole content, as it was recorded at the write.

    Raises:
        Tampered: as `open_bytes`; or there are more or fewer bytes than there should be, or `plain_size` is not the
            content's.
        InvalidInput: a place that UTF-8 cannot encode.
    """
    low, high = sealed_range(start, end, plain_size)
    if low == high:
        return
    cipher = _Cipher(key, place)
    last = segments_of(plain_size) - 1
    index = start // SEGMENT_BYTES
    left, waiting, header_due = high - low, bytearray(), low == 0
    async for piece in sealed:
        for offset in range(0, len(piece), BATCH_BYTES):
            waiting += memoryview(piece)[offset : offset + BATCH_BYTES]
            if len(waiting) > left:
                raise cipher.tampered()
            if header_due and len(waiting) >= HEADER_BYTES:
                cipher.check(waiting[:HEADER_BYTES])
                del waiting[:HEADER_BYTES]
                left -= HEADER_BYTES
                header_due = False
            opened = []
            while not header_due and left and len(waiting) >= (size := min(SEALED_SEGMENT_BYTES, left)):
                plain = cipher.open(index, waiting[:size], last=index == last)
                del waiting[:size]
                left -= size
                before = index * SEGMENT_BYTES
                opened.append(plain[max(0, start - before) : end - before])
                index += 1
            if opened:
                yield b"".join(opened)
                await asyncio.sleep(0)
    if left:
        raise cipher.tampered()


# ---- below: suite 1


class _Cipher:
    """Seals and opens the segments of one content."""

    def __init__(self, key: ContentKey, place: ContentPlace) -> None:
        expand, aead, self._invalid = _primitives()
        self._place = place
        derived = expand(_info(place)).derive(key.reveal())
        self._aead = aead(derived[:KEY_BYTES])
        self._prefix: bytes = derived[-PREFIX_BYTES:]
        self.header: Final[bytes] = bytes((FORMAT, SUITE)) + derived[KEY_BYTES:-PREFIX_BYTES]

    def check(self, header: bytes | bytearray | memoryview) -> None:
        """Pass if the header is this content's; else Tampered."""
        if not compare_digest(self.header, header):
            raise self.tampered()

    def seal(self, index: int, plaintext: bytes | bytearray | memoryview, *, last: bool) -> bytes:
        """One segment."""
        if index >= MOST_SEGMENTS:
            raise _too_large()
        return self._aead.encrypt(self._nonce(index, last=last), plaintext, None)

    def open(self, index: int, segment: bytes | bytearray | memoryview, *, last: bool) -> bytes:
        """The plaintext of one segment; raises Tampered."""
        try:
            return self._aead.decrypt(self._nonce(index, last=last), segment, None)
        except self._invalid:
            raise self.tampered() from None

    def _nonce(self, index: int, *, last: bool) -> bytes:
        return self._prefix + index.to_bytes(4, "big") + (b"\x01" if last else b"\x00")

    def tampered(self) -> Tampered:
        """The error for whatever does not open."""
        return Tampered(
            f"the sealed content {self._place.blob_key!r} of {self._place.user_id!r} cannot be opened: it was altered "
            "or truncated, belongs to another place, or was sealed under another key. Restore the blob from a backup, "
            "or write the file again"
        )


def _info(place: ContentPlace) -> bytes:
    parts = [_INFO, bytes((FORMAT, SUITE))]
    try:
        for text in place:
            encoded = text.encode()
            parts.append(len(encoded).to_bytes(4, "big"))
            parts.append(encoded)
    except UnicodeEncodeError:
        raise InvalidInput("the place of a content contains a lone surrogate, which UTF-8 cannot encode") from None
    return b"".join(parts)


def _too_large() -> FileTooLarge:
    return FileTooLarge(f"a sealed content has at most {MOST_BYTES} bytes; store it in parts")


@cache
def _primitives() -> tuple[Callable[[bytes], Any], type[AESGCM], type[Exception]]:
    """HKDF-Expand, AES-GCM and what it raises; imported at the first content, not at `import storage`."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

    sha256 = SHA256()
    return lambda info: HKDFExpand(sha256, _DERIVED_BYTES, info), AESGCM, InvalidTag
