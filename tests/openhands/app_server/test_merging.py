"""What is told apart within one setting, and what is one value."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from storage.openhands.app_server.merging import merged

AGENT: dict[str, Any] = {
    "agent_kind": "openhands",
    "llm": {"model": "m", "api_key": "k", "base_url": "https://m.example.com"},
    "condenser": {"enabled": True},
    "mcp_config": {"mcpServers": {"a": {"url": "https://a.example.com"}, "b": {"command": "b"}}},
}
PROFILES: dict[str, Any] = {"profiles": {"A": {"model": "a", "api_key": "ka"}, "B": {"model": "b"}}, "active": "A"}


def test_members_that_two_have_changed_are_both_kept() -> None:
    there, wanted = deepcopy(AGENT), deepcopy(AGENT)
    there["condenser"]["enabled"] = False
    wanted["llm"]["model"] = "new"
    assert merged(there, AGENT, wanted) == {**AGENT, "condenser": {"enabled": False}, "llm": wanted["llm"]}


def test_a_model_comes_with_its_own_key_and_url() -> None:
    there, wanted = deepcopy(AGENT), deepcopy(AGENT)
    there["llm"] = {"model": "n", "api_key": "kn", "base_url": "https://n.example.com"}
    wanted["llm"]["base_url"] = "https://other.example.com"
    assert merged(there, AGENT, wanted)["llm"] == wanted["llm"]


def test_profiles_and_servers_are_told_apart_by_their_names() -> None:
    there, wanted = deepcopy(PROFILES), deepcopy(PROFILES)
    there["profiles"]["C"] = {"model": "c"}
    del wanted["profiles"]["B"]
    wanted["active"] = None
    assert merged(there, PROFILES, wanted) == {
        "profiles": {"A": PROFILES["profiles"]["A"], "C": {"model": "c"}},
        "active": None,
    }
    there, wanted = deepcopy(AGENT), deepcopy(AGENT)
    there["mcp_config"]["mcpServers"]["c"] = {"command": "c"}
    wanted["mcp_config"]["mcpServers"]["b"] = {"command": "new"}
    servers = merged(there, AGENT, wanted)["mcp_config"]["mcpServers"]
    assert servers == {"a": {"url": "https://a.example.com"}, "b": {"command": "new"}, "c": {"command": "c"}}


@pytest.mark.parametrize("there", [None, [], {"agent_kind": "acp", "acp_command": ["x"]}])
def test_what_is_of_another_kind_by_now_is_replaced(there: Any) -> None:
    wanted = {**AGENT, "condenser": {"enabled": False}}
    assert merged(there, AGENT, wanted) == wanted
