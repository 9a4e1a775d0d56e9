"""`storage retention` shows what would go before anything does, and asks."""

from __future__ import annotations

import pytest

from tests.cli.conftest import EXAMPLE, Shell

RULE = ("--conversations-older-than", "1d")


def test_a_plan_changes_nothing_and_tells_who_loses_what(example: Shell) -> None:
    found = example.well("retention", "plan", "--json", *RULE).json
    assert found["conversations"] == {"age": 12 - found["sub_conversations"]}
    assert found["policy"]["conversation_age"] == 86400
    assert found["policy"]["event_age"] == 30 * 86400
    assert found["files"] > 0
    lines = example.well("retention", "plan", *RULE).lines
    assert lines[0].split() == ["conversations", "older", "than", "1", "day"]
    assert any("would go" in line for line in lines)
    assert example.well("status", "--json").json["counts"]["conversations"] == 12


def test_a_run_removes_what_was_planned(either_shell: Shell) -> None:
    either_shell("import", "openhands", EXAMPLE)
    planned = either_shell.well("retention", "plan", "--json", *RULE).json
    assert "--yes" in either_shell.badly("retention", "run", "--json", *RULE)
    assert either_shell.well("status", "--json").json["counts"]["conversations"] == 12
    done = either_shell.well("retention", "run", "--yes", "--json", "--collect", *RULE).json
    assert (done["conversations"], done["files"]) == (12, planned["files"])
    assert done["collected"]["blobs"] == 0, "they are younger than a day"
    assert either_shell.well("status", "--json").json["counts"]["conversations"] == 0
    lines = either_shell.well("retention", "run", "--yes", *RULE).lines
    assert lines == ["removed 0 conversations, 0 files and 0 events"]


def test_the_rules_come_from_the_configuration(shell: Shell) -> None:
    shell("import", "openhands", EXAMPLE)
    settings = {"STORAGE_CONVERSATIONS_PER_USER": "1", "STORAGE_EVENT_RETENTION_DAYS": "inf"}
    found = shell.well("retention", "plan", "--json", **settings).json
    assert (found["policy"]["conversations_per_user"], found["policy"]["event_age"]) == (1, None)
    assert set(found["conversations"]) == {"cap"}
    refusal = shell.badly("retention", "plan", STORAGE_EVENT_RETENTION_DAYS="inf")
    assert "--conversations-idle-for 365d" in refusal


@pytest.mark.parametrize(
    "rule",
    [("--conversations-older-than", "0d"), ("--conversations-per-user", "0"), ("--events-older-than", "400000d")],
)
def test_a_rule_that_is_none_is_refused(shell: Shell, rule: tuple[str, ...]) -> None:
    shell.well("init")
    assert "must be" in shell.badly("retention", "plan", *rule)
