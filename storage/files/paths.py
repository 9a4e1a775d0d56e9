r"""The one path rule, for every backend and the catalogue alike.

A path that one backend reads as another file, or as a place outside its root, must be refused by all of them.
The rule:

- Unicode text, normalised to NFC (so `é` typed on a Mac and on Linux is one file); upper and lower case differ.
- Relative: one leading `/` or `./` is dropped, because callers of the seed system pass them.
- Segments are separated by `/`, are never empty (`a//b` is refused, not collapsed: on S3 it is another key than
  `a/b`), never `.` or `..`, and at most 255 bytes of UTF-8 long, which is what file systems take.
- At most 1,024 bytes of UTF-8 in all, which is what S3 and Google Cloud Storage take for a key.
- No NUL and no other control character, no lone surrogate, no Unicode noncharacter, and no backslash: that is a
  separator on Windows, so `a\..\b` would leave the folder there.
- Nothing is decoded or expanded: `%2e%2e`, `~`, `?` and `#` are plain characters.
- A trailing `/` names a folder: list, walk and delete take it, whatever needs a file refuses it.
- Names of the form `.storage-tmp-<32 hex digits>` are our own temporary files.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from storage.errors import PathRejected

MAX_PATH_BYTES: Final = 1024
"""Longest key that S3 and Google Cloud Storage accept, in bytes of UTF-8."""

MAX_SEGMENT_BYTES: Final = 255
"""NAME_MAX of the common file systems, in bytes of UTF-8."""

TEMPORARY_NAME: Final = re.compile(r"\.storage-tmp-[0-9a-f]{32}")
"""Names that stores give to files that are still being written."""

LAST_CHARACTER: Final = "\U0010ffff"
"""Sorts after every character a path may hold (it is a noncharacter, which the rule refuses)."""

_NONCHARACTERS = "\\ufdd0-\\ufdef" + "".join(rf"\U{plane:04x}fffe-\U{plane:04x}ffff" for plane in range(0x11))
_FORBIDDEN = re.compile(rf"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff{_NONCHARACTERS}]")
_SHOWN_CHARACTERS = 80
"""How much of a refused path an error message repeats."""


def file_path(path: str) -> str:
    """The normal form of a file's path.

    Raises:
        PathRejected: the path breaks the rule, is empty, or ends in `/`.
    """
    normal = _relative(path)
    if not normal:
        raise PathRejected(f"path {_shown(path)} is empty; name a file, for example 'sessions/c1/metadata.json'")
    if normal.endswith("/"):
        raise PathRejected(f"path {_shown(path)} ends in '/', so it names a folder; a file was expected")
    return _checked(normal, path)


def folder_path(path: str) -> str:
    """The normal form of a folder's path, without a trailing `/`; the root (`""`, `/`, `.`, `./`) is `""`.

    Raises:
        PathRejected: the path breaks the rule.
    """
    if path in ("", "/", ".", "./"):
        return ""
    normal = _relative(path).removesuffix("/")
    return _checked(normal, path)


def tree_path(path: str) -> str:
    """The normal form of what is to be deleted: a file, a folder, or both. A trailing `/` is dropped.

    Raises:
        PathRejected: the path breaks the rule or names the root; everything is never deleted by one path.
    """
    normal = folder_path(path)
    if not normal:
        raise PathRejected(f"path {_shown(path)} names the whole store; delete its folders one by one instead")
    return normal


def under(folder: str) -> tuple[str, str]:
    """The half-open range of paths below a folder in normal form, in byte order: `low <= path < high`.

    `0` is the character after `/`, so that `a/…` is inside and neither `a` nor `ab` is. Holds for comparisons by
    bytes of UTF-8 (SQLite's BINARY, PostgreSQL's "C") and by code points (Python), which order alike.
    """
    return (f"{folder}/", f"{folder}0") if folder else ("", LAST_CHARACTER)


def conversation_of(path: str) -> str | None:
    """The conversation that a file in normal form belongs to, by the places where the seed system keeps them.

    `sessions/<id>/…`, `conversations/<id>/…` and `users/<user>/conversations/<id>/…`; None elsewhere.
    """
    match path.split("/"):
        case ["sessions" | "conversations", conversation_id, _, *_]:
            return conversation_id
        case ["users", _, "conversations", conversation_id, _, *_]:
            return conversation_id
    return None


def is_stored_name(segment: str) -> bool:
    """Whether a name met in a backend is one that this library could have written there."""
    return (
        segment not in ("", ".", "..")
        and "/" not in segment
        and _FORBIDDEN.search(segment) is None
        and len(segment.encode()) <= MAX_SEGMENT_BYTES
        and TEMPORARY_NAME.fullmatch(segment) is None
    )


def is_stored_path(key: str) -> bool:
    """Whether a key met in a bucket is one that this library could have written there."""
    try:
        return file_path(key) == key
    except PathRejected:
        return False


def _relative(path: str) -> str:
    if not isinstance(path, str):
        raise PathRejected(f"a path must be a str, not {type(path).__name__}")
    forbidden = _FORBIDDEN.search(path)
    if forbidden is not None:
        raise PathRejected(
            f"path {_shown(path)} contains {_named(forbidden.group())} at character {forbidden.start()}; "
            "control characters, backslashes and characters that are not text are not allowed"
        )
    if path.startswith("/"):
        path = path[1:]
    elif path.startswith("./"):
        path = path[2:]
    return path if path.isascii() else unicodedata.normalize("NFC", path)


def _checked(normal: str, given: str) -> str:
    if len(normal) * 4 > MAX_PATH_BYTES:  # a character is at most four bytes, so shorter paths need no encoding
        size = len(normal.encode())
        if size > MAX_PATH_BYTES:
            raise PathRejected(
                f"path {_shown(given)} is {size} bytes of UTF-8 long; at most {MAX_PATH_BYTES} are allowed"
            )
    for segment in normal.split("/"):
        if not segment:
            raise PathRejected(f"path {_shown(given)} has an empty segment ('//'); name every folder")
        if segment in (".", ".."):
            raise PathRejected(f"path {_shown(given)} has a segment '{segment}'; paths are relative to the root")
        if len(segment) * 4 > MAX_SEGMENT_BYTES and len(segment.encode()) > MAX_SEGMENT_BYTES:
            raise PathRejected(
                f"path {_shown(given)} has a segment of {len(segment.encode())} bytes of UTF-8; "
                f"at most {MAX_SEGMENT_BYTES} are allowed"
            )
        if segment.startswith(".storage-tmp-") and TEMPORARY_NAME.fullmatch(segment):
            raise PathRejected(f"path {_shown(given)} has the form of a temporary file's name; choose another")
    return normal


def _named(character: str) -> str:
    if character == "\\":
        return "a backslash"
    return f"U+{ord(character):04X}"


def _shown(path: object) -> str:
    shown = ascii(path)
    return shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]}…"
