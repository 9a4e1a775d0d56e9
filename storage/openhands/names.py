"""Names from a source that cannot be stored as they are: escaped, so that their content is kept all the same.

The rules they are made to fit are those of identifiers and of the file catalogue.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable
from typing import Final

from storage.files.paths import MAX_PATH_BYTES, MAX_SEGMENT_BYTES, is_stored_name

# What operating systems and synchronisers leave in any folder that they are shown; never part of the data.
FOREIGN_NAMES: Final = frozenset(
    (
        "$recycle.bin",
        ".directory",
        ".ds_store",
        ".fseventsd",
        ".localized",
        ".spotlight-v100",
        ".stfolder",
        ".trashes",
        "__macosx",
        "desktop.ini",
        "ehthumbs.db",
        "thumbs.db",
    )
)

# Files beside the conversations in which other releases and the command line keep keys in clear.
SECRET_FILES: Final = frozenset(("agent_settings.json", "auth.json", "config.toml", "mcp.json"))


def is_foreign(name: str) -> bool:
    """Whether the name is an operating system's own; `._x` is how macOS keeps attributes on foreign disks."""
    return name.lower() in FOREIGN_NAMES or name.startswith("._")


def storable_id(name: str) -> str:
    """The name as an identifier that may stand in a path: in NFC, and percent-escaped where needed."""
    return _segment(name, lambda char: char.isprintable() and is_path_character(char))


def storable_path(path: str) -> str:
    """The path as the catalogue takes it: in NFC, percent-escaped where needed, long parts cut."""
    return _fitting("/".join(_segment(part, is_path_character) for part in path.split("/")), MAX_PATH_BYTES)


def is_path_character(char: str) -> bool:
    """Whether the catalogue takes the character within a name."""
    return char == "." or is_stored_name(char)


def _segment(name: str, allowed: Callable[[str], bool]) -> str:
    if name.isascii() and name.isprintable() and "\\" not in name:
        fitting = name
    else:
        composed = unicodedata.normalize("NFC", name)
        fitting = "".join(char if allowed(char) else _percent(char) for char in composed)
    fitting = _fitting(fitting, MAX_SEGMENT_BYTES)
    if not is_stored_name(fitting):  # the form of a temporary file of ours
        fitting = fitting.replace(".", "%2E", 1)
    return fitting


def _percent(char: str) -> str:
    # Names that are not UTF-8 arrive with their odd bytes as lone surrogates.
    rule = "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass"
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", rule))


def _fitting(name: str, limit: int) -> str:
    """The name, cut to `limit` bytes of UTF-8 and made distinct by a hash when it is longer."""
    encoded = name.encode()
    if len(encoded) <= limit:
        return name
    mark = "~" + hashlib.sha256(encoded).hexdigest()[:16]
    return encoded[: limit - len(mark)].decode("utf-8", "ignore").rstrip("/") + mark
