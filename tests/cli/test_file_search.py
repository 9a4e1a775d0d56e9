"""`storage files search` finds by path, type, size and time, page by page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Shell

EVENTS = "sessions/1b7e90d3c5f24a68b0917d5e2c84aa02/events/"


def found(shell: Shell, *words: str) -> list[dict[str, Any]]:
    answer = shell.well("files", "search", *words, "--limit", "1000", "--json").json
    assert answer["next_cursor"] is None
    results: list[dict[str, Any]] = answer["results"]
    return results


def paths(shell: Shell, *words: str) -> list[str]:
    return [stat["path"] for stat in found(shell, *words)]


@pytest.fixture(scope="module")
def everything(example: Shell) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = example.well("files", "ls", "-r", "--json").json
    return listed


def test_without_a_filter_it_finds_every_file(example: Shell, everything: list[dict[str, Any]]) -> None:
    assert found(example) == everything


def test_a_pattern_a_prefix_a_type_and_sizes_narrow_it(example: Shell, everything: list[dict[str, Any]]) -> None:
    every = [stat["path"] for stat in everything]
    assert paths(example, "sessions/*/events/*.json") == [path for path in every if "/events/" in path]
    assert paths(example, "**/metadata.json") == [path for path in every if path.endswith("/metadata.json")]
    assert paths(example, "--prefix", EVENTS[:-3]) == [path for path in every if path.startswith(EVENTS)]
    json_files = [stat["path"] for stat in everything if stat["media_type"] == "application/json"]
    assert paths(example, "--media-type", "application/json") == json_files
    middle = [stat["path"] for stat in everything if 300 <= stat["size"] <= 1000]
    assert paths(example, "--min-size", "300", "--max-size", "1kB") == middle
    assert 0 < len(middle) < len(every)
    assert paths(example, "--max-size", "1KiB") == paths(example, "--max-size", "1024 B")


def test_times_are_in_utc_unless_they_name_a_zone(example: Shell, everything: list[dict[str, Any]]) -> None:
    latest = max(stat["updated_at"] for stat in everything)
    assert paths(example, "--updated-after", latest.removesuffix("Z")) == paths(example, "--updated-after", latest)
    assert paths(example, "--updated-after", latest)
    assert paths(example, "--updated-before", "2020-01-01") == []


def test_pages_follow_one_another_in_the_order_asked_for(example: Shell, everything: list[dict[str, Any]]) -> None:
    words = ["files", "search", "--sort", "size", "--limit", "7"]
    first = example.well(*words, "--json").json
    second = example.well(*words, "--page", first["next_cursor"], "--json").json
    largest = sorted(everything, key=lambda stat: (stat["size"], stat["path"]), reverse=True)
    assert [*first["results"], *second["results"]] == largest[:14]
    lines = example.well(*words).lines
    assert lines[0].split() == ["Size", "Updated", "(UTC)", "SHA-256", "Path"]
    assert lines[-1] == f"more: the same command with --page {first['next_cursor']}"
    smallest = example.well(*words, "--order", "asc", "--json").json["results"]
    assert smallest == sorted(everything, key=lambda stat: (stat["size"], stat["path"]))[:7]


def test_nothing_found_is_no_error(example: Shell) -> None:
    assert example.well("files", "search", "*.nothing").output == "no files\n"
    assert example.well("files", "search", "--user", "nobody", "--json").json == {"results": [], "next_cursor": None}


def test_what_cannot_be_used_is_refused_with_advice(example: Shell) -> None:
    assert "'a/**'" in example.badly("files", "search", "a/")
    assert "None to start over" in example.badly("files", "search", "--page", "x")
    assert "1 to 1000" in example.badly("files", "search", "--limit", "0")
    wrong = example("files", "search", "--min-size", "large")
    assert wrong.code == 2
    assert "5MiB" in wrong.errors
