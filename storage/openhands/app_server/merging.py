"""What two who change the same settings at once have each changed, brought together.

Objects are compared member by member only where their members have nothing to do with each other. A model, its key and
its URL are one value: half of one and half of another would send a key to where it does not belong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_MISSING: Final = object()

_APART: Final = frozenset({"profiles", "mcp_config", "mcpServers"})
"""Objects below a setting whose members are apart, too: models and servers, by their names."""

_KIND: Final = "agent_kind"
"""Settings of one kind of agent are none of another's."""


def differing(given: Mapping[str, Any], wanted: Mapping[str, Any]) -> set[str]:
    """Names of what `wanted` says otherwise than `given`, or in addition to it."""
    return {name for name, value in wanted.items() if given.get(name, _MISSING) != value}


def merged(there: Any, given: Any, wanted: Any) -> Any:
    """One setting as it is stored, with what a caller has changed of it.

    Args:
        there: what is stored now.
        given: what the caller was given.
        wanted: what the caller has made of it.
    """
    if not all(isinstance(each, Mapping) for each in (there, given, wanted)):
        return wanted
    if not there.get(_KIND) == given.get(_KIND) == wanted.get(_KIND):
        return wanted
    result = {name: value for name, value in there.items() if name in wanted or name not in given}
    for name in wanted:
        if name not in given or given[name] != wanted[name]:
            apart = name in _APART
            result[name] = merged(there.get(name), given.get(name), wanted[name]) if apart else wanted[name]
    return result
