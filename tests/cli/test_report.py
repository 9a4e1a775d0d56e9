"""`storage report` prints what storage.reporting adds up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Shell


def test_the_cost_report_adds_up_all_users(example: Shell) -> None:
    report = example.well("report", "cost", "--json").json
    assert report["total"]["conversations"] == 12
    assert report["total"]["cost"] == pytest.approx(11.6316)
    assert [line["name"] for line in report["by_month"]] == ["2025-03", "2025-09"]
    assert report["by_model"][0]["name"] == "anthropic/claude-sonnet-4-20250514"
    assert sum(line["cost"] for line in report["by_model"]) == pytest.approx(11.6316)
    assert report["top_repositories"][0]["name"] == "acme/billing"


def test_the_cost_report_of_one_user(example: Shell) -> None:
    report = example.well("report", "cost", "--user", "alice", "--json").json
    assert report["total"]["conversations"] == 3
    assert report["total"]["cost"] == pytest.approx(3.9058 + 1.512 + 0.0583)


def test_the_usage_report_measures_each_user(example: Shell) -> None:
    report = example.well("report", "usage", "--json").json
    assert [(user["user_id"], user["conversations"]) for user in report["users"]] == [
        ("alice", 3),
        ("bob", 3),
        ("local", 6),
    ]
    assert len(report["largest_conversations"]) == 10


def test_without_a_question_both_are_answered(example: Shell) -> None:
    both = example.well("report", "--json").json
    assert both["cost"] == example.well("report", "cost", "--json").json
    assert both["usage"] == example.well("report", "usage", "--json").json
    lines = example.well("report").lines
    assert lines[0].startswith("Cost: $11.63 in 12 conversations")
    assert any(line.startswith("Stored: ") for line in lines)


def test_a_report_of_nothing_is_no_error(either_shell: Shell) -> None:
    either_shell.well("init")
    assert either_shell.well("report").lines[0] == "Cost: $0.00 in 0 conversations, 0 tokens"
