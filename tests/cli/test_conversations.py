"""`storage conversations` finds, pages, counts and shows, on both databases alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Shell

ORDERS = "1b7e90d3c5f24a68b0917d5e2c84aa02"
RECOVERED = "4f6b3ca1e8d94f22b5e7198dac203f05"


def ids(shell: Shell, *words: str) -> list[str]:
    page = shell.well("conversations", *words, "--json").json
    return [found["conversation_id"] for found in page["results"]]


def test_a_list_has_the_users_own_conversations_newest_first(example: Shell) -> None:
    page = example.well("conversations", "list", "--json").json
    assert page["next_page_id"] is None
    created = [found["created_at"] for found in page["results"]]
    assert created == sorted(created, reverse=True)
    assert len(created) == 6
    assert all(time.endswith("Z") for time in created)
    assert len(ids(example, "list", "--user", "alice")) == 3
    assert ids(example, "list", "--user", "nobody") == []


def test_a_piped_table_is_whole_and_has_no_colours_or_frames(example: Shell) -> None:
    output = example.well("conversations", "list", COLUMNS="20").output
    assert "Add CSV export to the orders page" in output
    assert "Räume die CI-Konfiguration auf 🧹" in output
    assert "anthropic/claude-sonnet-4-20250514" in output
    assert "\x1b" not in output
    assert not set(output) & set("│─╭…")
    assert all(line == line.rstrip() for line in output.splitlines())


def test_search_finds_by_title_whatever_the_case(example: Shell) -> None:
    assert ids(example, "search", "EXPORT") == [ORDERS]
    assert ids(example, "search", "%") == []
    assert "no conversations" in example.well("conversations", "search", "nothing like it").output


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--repository", "acme/shop"), 2),
        (("--branch", "feature/orders-csv"), 1),
        (("--git-provider", "gitlab"), 1),
        (("--trigger", "suggested_task"), 1),
        (("--model", "openai/gpt-4.1"), 2),
        (("--created-after", "2025-09-02"), 4),
        (("--created-before", "2025-09-02T13:30:40"), 2),
        (("--created-before", "2025-09-02T15:30:41+02:00"), 3),
        (("--tag", "recovered"), 1),
        (("--tag", "recovered", "--tag", "other"), 0),
        (("--parent", ORDERS), 0),
        (("--sandbox-id", "none"), 0),
        (("--include-sub-conversations",), 6),
    ],
)
def test_filters_mean_the_same_to_list_and_count(example: Shell, words: tuple[str, ...], expected: int) -> None:
    found = ids(example, "list", *words)
    assert example.well("conversations", "count", *words, "--json").json == {"count": len(found)}
    assert example.well("conversations", "count", *words).output == f"{len(found)}\n"
    assert len(found) == expected


def test_titles_ascend_and_costs_descend_unless_told_otherwise(example: Shell) -> None:
    def column(name: str, *words: str) -> list[Any]:
        return [found[name] for found in example.well("conversations", "list", *words, "--json").json["results"]]

    titles, costs = column("title", "--sort", "title"), column("accumulated_cost", "--sort", "cost")
    assert titles == sorted(titles, key=str.encode)
    assert costs == sorted(costs, reverse=True)
    assert column("title", "--sort", "title", "--order", "desc") == titles[::-1]
    assert column("accumulated_cost", "--sort", "cost", "--order", "asc") == costs[::-1]


def test_pages_follow_each_other_without_a_gap(example: Shell) -> None:
    seen: list[str] = []
    words: list[str] = []
    while True:
        page = example.well("conversations", "list", "--sort", "cost", "--limit", "4", *words, "--json").json
        seen += [found["conversation_id"] for found in page["results"]]
        if page["next_page_id"] is None:
            break
        words = ["--page", page["next_page_id"]]
    assert seen == ids(example, "list", "--sort", "cost")
    assert "--page " in example.well("conversations", "list", "--limit", "4").lines[-1]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--limit", "0"), "limit must be a whole number from 1 to 1000"),
        (("--limit", "1001"), "limit must be a whole number from 1 to 1000"),
        (("--page", "gibberish"), "page_id cannot be used"),
        (("--user", ""), "user_id"),
    ],
)
def test_what_the_store_refuses_is_said_in_one_line(example: Shell, words: tuple[str, ...], complaint: str) -> None:
    assert complaint in example.badly("conversations", "list", *words)


def test_a_page_of_another_order_is_refused(example: Shell) -> None:
    page = example.well("conversations", "list", "--limit", "2", "--json").json["next_page_id"]
    assert "belongs to another order" in example.badly("conversations", "list", "--sort", "cost", "--page", page)


def test_show_tells_everything_of_one_conversation(example: Shell) -> None:
    shown = example.well("conversations", "show", ORDERS, "--json").json
    assert shown["conversation"]["title"] == "Add CSV export to the orders page"
    assert shown["conversation"]["pr_number"] == [421]
    assert shown["sub_conversations"] == []
    assert shown["files"]["count"] >= 9
    lines = example.well("conversations", "show", ORDERS).lines
    assert any(line.split(maxsplit=1) == ["title", "Add CSV export to the orders page"] for line in lines)
    assert any(line.split() == ["accumulated_cost", "2.4471"] for line in lines)


def test_a_recovered_conversation_says_so(example: Shell) -> None:
    assert "recovered" in example.well("conversations", "show", RECOVERED, "--json").json["conversation"]["tags"]


def test_a_conversation_that_is_not_there_or_not_mine_is_not_found(example: Shell) -> None:
    assert "nope" in example.badly("conversations", "show", "nope")
    mine = example.badly("conversations", "show", ORDERS, "--user", "alice")
    assert mine == example.badly("conversations", "show", ORDERS, "--user", "nobody")
