"""`storage doctor` on the command line: also where nothing can be opened, and with an exit code for scripts."""

from __future__ import annotations

from tests.cli.conftest import WRONG_KEY, Shell


def test_a_storage_that_is_well_ends_with_a_verdict(example: Shell) -> None:
    outcome = example.well("doctor")
    assert outcome.lines[-1] == "all is well"
    report = example.well("doctor", "--json").json
    assert report["well"] is True
    assert [check["skipped"] for check in report["checks"]] == [""] * len(report["checks"])
    assert [check["name"] for check in report["checks"]][:3] == ["permissions", "disk", "schema"]


def test_a_wrong_key_is_found_with_its_remedy(either_shell: Shell) -> None:
    either_shell("secrets", "set", "TOKEN", "--from-file", _value(either_shell))
    outcome = either_shell("doctor", STORAGE_MASTER_KEY=WRONG_KEY)
    assert outcome.code == 1
    assert "problem: secrets are locked" in outcome.output
    assert outcome.lines[-1] == "not all is well"
    assert WRONG_KEY not in outcome.output
    assert "canary-value" not in outcome.output
    report = either_shell("doctor", "--json", STORAGE_MASTER_KEY=WRONG_KEY)
    assert (report.code, report.json["well"]) == (1, False)


def _value(shell: Shell) -> str:
    file = shell.folder / "value"
    file.write_text("canary-value")
    return str(file)


def test_a_database_that_was_never_migrated_is_told_what_to_run(fresh_shell: Shell) -> None:
    if fresh_shell.database_url is not None and fresh_shell.database_url.startswith("sqlite"):
        assert "storage init" in fresh_shell.badly("doctor")
        return
    outcome = fresh_shell("doctor")
    assert outcome.code == 1
    assert "remedy: `storage migrate`" in outcome.output
    assert "secrets" in outcome.output
    assert "not looked at" in outcome.output


def test_a_file_that_is_no_database_is_a_finding(shell: Shell) -> None:
    file = shell.folder / "storage" / "storage.db"
    file.parent.mkdir(mode=0o700)
    file.write_bytes(b"this is no database" * 100)
    file.chmod(0o600)
    outcome = shell("doctor", "--json")
    assert outcome.code == 1
    assert any("backup" in finding["remedy"] for check in outcome.json["checks"] for finding in check["findings"])


def test_one_check_can_be_asked_for_and_mended(shell: Shell) -> None:
    shell.well("init")
    shell("secrets", "set", "TOKEN", "--from-file", _value(shell))
    key = shell.folder / "config" / "master.key"
    key.chmod(0o644)
    outcome = shell("doctor", "--only", "permissions")
    assert outcome.code == 1
    assert outcome.lines[-1] == "not all is well; `storage doctor --fix` mends some of it"
    assert "others may use the key file" in outcome.output
    assert key.stat().st_mode & 0o777 == 0o644
    mended = shell.well("doctor", "--only", "permissions", "--fix")
    assert "mended: others may use the key file" in mended.output
    assert key.stat().st_mode & 0o777 == 0o600
    assert "'permissions'" in shell.badly("doctor", "--only", "permission")
