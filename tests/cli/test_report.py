"""`storage report` prints what storage.reporting adds up."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from tests.cli.terminal import typed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Shell

EXAMPLE_COST = 11.6316


def test_the_cost_report_adds_up_all_users(example: Shell) -> None:
    report = example.well("report", "cost", "--json").json
    assert report["total"]["conversations"] == 12
    assert report["total"]["cost"] == pytest.approx(EXAMPLE_COST)
    assert [line["name"] for line in report["by_month"]] == ["2025-03", "2025-09"]
    assert report["by_model"][0]["name"] == "anthropic/claude-sonnet-4-20250514"
    assert sum(line["cost"] for line in report["by_model"]) == pytest.approx(EXAMPLE_COST)
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


# ---- the summary


def test_a_summary_is_of_the_last_month_in_which_something_began(example: Shell) -> None:
    summary = example.well("report", "--json").json
    costs = example.well("report", "cost", "--json").json
    [september] = [line for line in costs["by_month"] if line["name"] == "2025-09"]
    assert (summary["month"], summary["so_far"]) == ("2025-09", False)
    assert summary["usage"]["cost_usd"] == pytest.approx(september["cost"])
    assert summary["usage"]["conversations"] == september["conversations"]
    assert len(summary["by_day"]) == 30
    assert sum(day["cost_usd"] for day in summary["by_day"]) == pytest.approx(september["cost"])
    assert sum(line["cost_usd"] for line in summary["by_model"]) == pytest.approx(september["cost"])
    usage = example.well("report", "usage", "--json").json
    assert summary["bytes"] == sum(user["bytes"] for user in usage["users"])


def test_a_summary_for_people_has_a_chart_by_day_and_bars_by_model(example: Shell) -> None:
    lines = example.well("report", "--month", "2025-09").lines
    assert lines[0] == "September 2025"
    assert lines[1].endswith("; the month before: $0.00")
    place = lines.index("Cost by day")
    chart = lines[place + 1 : place + 7]
    assert "█" in chart[-1]
    assert lines[place + 7].split() == ["1", "8", "15", "22", "29"]
    models = lines[lines.index("Cost by model") + 1 :]
    assert models[0].startswith("anthropic/claude-sonnet-4-20250514  $")
    assert models[0].endswith("█"), "the longest bar"
    assert all(len(line) <= 80 for line in lines)
    assert any(line.startswith("Stored: ") for line in lines)
    assert lines[-1].startswith("Web hooks: ")


def test_a_summary_of_one_user(example: Shell) -> None:
    summary = example.well("report", "--user", "alice", "--json").json
    assert summary["user_id"] == "alice"
    assert summary["usage"]["conversations"] <= 3


def test_a_month_that_is_none_is_refused(example: Shell) -> None:
    assert example.badly("report", "--month", "September") == "'September' is no month; write it as 2025-11"


def test_a_month_of_nothing_is_no_error(either_shell: Shell) -> None:
    either_shell.well("init")
    lines = either_shell.well("report", "--month", "2025-11").lines
    assert lines == [
        "November 2025",
        "$0.00 for 0 conversations, 0 tokens; the month before: $0.00",
        "",
        "Stored: 0 B in 0 files; first written in this month: 0 B in 0 files",
        "Web hooks: none",
    ]


@pytest.mark.parametrize("columns", ["40", "200"])
def test_a_terminal_of_any_width_is_filled_and_not_overrun(example: Shell, columns: str) -> None:
    seen = typed(example, "report", "--month", "2025-09", answers=[], COLUMNS=columns, NO_COLOR="1").output
    assert "\x1b" not in seen, "NO_COLOR"
    drawn = [line for line in seen.splitlines() if "█" in line]
    assert drawn
    assert all(len(line) <= int(columns) for line in drawn)


def test_a_terminal_with_colours_has_coloured_bars(example: Shell) -> None:
    seen = typed(example, "report", "--month", "2025-09", answers=[], COLUMNS="80").output
    assert "\x1b[34m" in seen


def test_an_output_without_blocks_gets_plain_bars(example: Shell) -> None:
    words = ("report", "--month", "2025-09")
    seen = typed(example, *words, answers=[], COLUMNS="80", PYTHONIOENCODING="ascii", NO_COLOR="1").output
    assert "#####" in seen
    assert "█" not in seen


# ---- the page


def test_a_page_is_written_whole_and_for_its_owner_only(example: Shell, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    outcome = example("report", "html", "-o", file)
    assert (outcome.code, outcome.output) == (0, "")
    assert outcome.errors.startswith(f"{file}: 12 conversations, ")
    page = file.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert page.endswith("</html>\n")
    assert "$11.63" in page
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file], "no half of a file is left"


def test_a_page_that_is_there_is_replaced_and_stays_as_readable_as_it_was(example: Shell, tmp_path: Path) -> None:
    file, link = tmp_path / "report.html", tmp_path / "latest.html"
    file.write_text("old")
    file.chmod(0o644)
    link.symlink_to(file)
    example("report", "html", "-o", link)
    assert link.is_symlink()
    assert file.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


def test_a_page_goes_into_a_pipe(example: Shell) -> None:
    assert example.well("report", "html", "-o", "-").output.startswith("<!doctype html>")


def test_a_page_of_some_days_and_one_user(example: Shell) -> None:
    options = ("--since", "2025-03-01", "--until", "2025-03-31", "--user", "alice")
    page = example.well("report", "html", "-o", "-", *options).output
    assert "<bdi>alice</bdi> · 1–31 Mar 2025" in page  # noqa: RUF001 - an en dash
    assert "bob" not in page


def test_a_page_that_cannot_be_written_leaves_nothing(example: Shell, tmp_path: Path) -> None:
    refused = example.badly("report", "html", "-o", tmp_path / "missing" / "report.html")
    assert "No such file or directory" in refused
    assert example("report", "html").code == 2, "it says where to"
    reversed_days = ("--since", "2025-03-02", "--until", "2025-03-01")
    assert "is after the last" in example.badly("report", "html", "-o", tmp_path / "a.html", *reversed_days)
    assert list(tmp_path.iterdir()) == []
