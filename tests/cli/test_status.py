"""`storage status` tells what is there, and ends with 1 and a remedy when something is wrong."""

from __future__ import annotations

from tests.cli.conftest import EXAMPLE, WRONG_KEY, Shell


def test_status_counts_what_was_imported(example: Shell) -> None:
    status = example.well("status", "--json").json
    assert status["dialect"] == ("sqlite" if example.database_url is None else "postgresql")
    assert status["schema"]["state"] == "current"
    assert status["counts"]["conversations"] == 12
    assert status["counts"]["provider_tokens"] == 2
    assert status["counts"]["custom_secrets"] == 2
    assert status["counts"]["settings"] == 1
    assert status["counts"]["files"] >= 69
    assert status["file_bytes"] > 0
    assert status["database_bytes"] > 0
    assert status["keys"]["state"] == "unlocked"
    assert status["problems"] == []


def test_status_for_people_ends_with_a_verdict(example: Shell) -> None:
    lines = example.well("status").lines
    assert lines[-1] == "all is well"
    assert any(line.split() == ["conversations", "12"] for line in lines)


def test_a_wrong_master_key_is_a_problem_with_a_remedy(either_shell: Shell) -> None:
    either_shell("import", "openhands", EXAMPLE)
    outcome = either_shell("status", STORAGE_MASTER_KEY=WRONG_KEY)
    assert outcome.code == 1
    assert "remedy: put the right master key into" in outcome.output
    as_json = either_shell("status", "--json", STORAGE_MASTER_KEY=WRONG_KEY)
    assert as_json.code == 1
    assert as_json.json["keys"]["reason"] == "KeyMismatch"
    assert [problem["code"] for problem in as_json.json["problems"]] == ["keys"]
    assert WRONG_KEY not in outcome.output + as_json.output
    assert either_shell("status").code == 0


def test_a_lost_key_file_is_a_problem_and_is_not_replaced(shell: Shell) -> None:
    shell("import", "openhands", EXAMPLE)
    key = shell.folder / "config/master.key"
    key.unlink()
    assert shell("status").code == 1
    assert shell("conversations", "list").code == 0
    assert not key.exists()


def test_status_makes_no_database(shell: Shell) -> None:
    assert "storage init" in shell.badly("status")
    assert not (shell.folder / "storage").exists()


def test_status_of_a_database_that_was_never_migrated_says_what_to_run(shell: Shell, empty_postgres_url: str) -> None:
    assert "storage migrate" in shell.badly("status", "--database", empty_postgres_url)
