"""What a caller was given, kept to tell later what they have changed: two who change different things lose nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_MISSING: Final = object()


def changes(loaded: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What `wanted` says and `loaded` did not."""
    return {name: value for name, value in wanted.items() if loaded.get(name, _MISSING) != value}
