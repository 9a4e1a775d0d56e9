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


def test_status_tells_where_files_are_and_that_memory_keeps_none(shell: Shell) -> None:
    shell.well("init")
    local = shell.well("status", "--json").json
    assert local["file_store"] == {"kind": "local", "place": str(shell.folder / "storage" / "files")}
    assert local["file_cache"] is None
    assert f"{shell.folder}/storage/files" in shell.well("status").output
    assert "memory: this process, gone when it ends" in shell.well("status", STORAGE_FILE_STORE="memory").output


def test_status_tells_what_the_cache_of_files_holds(shell: Shell) -> None:
    cache = {"STORAGE_FILE_CACHE_BYTES": "1000000"}
    folder = {**cache, "STORAGE_FILE_CACHE_PATH": str(shell.folder / "cache")}
    event = shell.folder / "home/sessions/c1/events/0.json"
    event.parent.mkdir(parents=True)
    event.write_text('{"id": 0}')
    shell("import", "openhands", shell.folder / "home")
    shell.well("files", "cat", "sessions/c1/events/0.json", **folder)
    held = shell.well("status", "--json", **folder).json["file_cache"]
    assert (held["held_files"], held["folder"], held["limit_bytes"]) == (1, str(shell.folder / "cache"), 1_000_000)
    lines = shell.well("status", **folder).lines
    assert any("1 file" in line and str(shell.folder / "cache") in line for line in lines)
    assert "in the memory of each process" in shell.well("status", **cache).output


def test_a_disk_that_is_low_is_a_warning_and_one_that_is_full_a_problem(shell: Shell) -> None:
    shell.well("init")
    low = shell("status", STORAGE_DISK_WARN_BYTES=str(2**62))
    assert low.code == 0
    assert "warning: " in low.output
    full = shell("status", "--json", STORAGE_DISK_REFUSE_BYTES=str(2**62))
    assert full.code == 1
    assert [(problem["code"], problem["severity"]) for problem in full.json["problems"]] == [("disk", "error")]
    assert [disk["state"] for disk in full.json["disks"]] == ["full"]
    shown = shell("status", STORAGE_DISK_REFUSE_BYTES=str(2**62))
    assert "remedy: make room on that disk" in shown.output


def test_status_counts_web_hooks(either_shell: Shell) -> None:
    either_shell.well("init")
    assert any("no endpoints" in line for line in either_shell.well("status").lines)
    either_shell("webhooks", "add", "https://hooks.example.com/canary")
    either_shell("import", "openhands", EXAMPLE)
    hooks = either_shell.well("status", "--json").json["webhooks"]
    assert hooks["endpoints"] == {"active": 1}
    assert hooks["to_fan_out"] > 1
    shown = either_shell.well("status").output
    assert "1 endpoint, 0 pending, 0 dead" in shown
    assert "canary" not in shown


def test_metrics_are_printed_whatever_is_wrong(example: Shell) -> None:
    found = example.well("status", "--metrics")
    assert 'agent_storage_rows{kind="conversations"} 12' in found.lines
    assert 'agent_storage_problem{code="keys",severity="error"} 0' in found.lines
    wrong = example("status", "--metrics", STORAGE_MASTER_KEY=WRONG_KEY)
    assert wrong.code == 0
    assert 'agent_storage_problem{code="keys",severity="error"} 1' in wrong.lines
    assert "exclude each other" in example.badly("status", "--metrics", "--json")
