"""`storage import` reports what it did, changes nothing the second time, and never the source."""

from __future__ import annotations

import asyncio
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import EXAMPLE, WRONG_KEY
from tests.openhands.installation import SECRET, early, installation, twice

if TYPE_CHECKING:
    from tests.cli.conftest import Shell

# Where the real state directory is that this project is developed against; it is not part of the project.
SAMPLE = Path(__file__).parents[3] / "shared" / "samples" / "openhands-home.tar.xz"


def test_an_import_ends_with_a_report_and_a_line_for_each_flaw(either_shell: Shell) -> None:
    outcome = either_shell("import", "openhands", EXAMPLE)
    assert outcome.code == 0
    assert "conversations: 12 found, 12 imported" in outcome.output
    for code in ("masked-secret", "metadata-missing", "naive-time"):
        assert sum(f"[{code}]" in line for line in outcome.lines) == 1
    assert "12 of 12 conversations" in outcome.errors.splitlines()[-1]


def test_a_second_import_changes_nothing_and_says_so(either_shell: Shell) -> None:
    first = either_shell("import", "openhands", EXAMPLE, "--json").json
    before = either_shell.well("status", "--json").json
    second = either_shell("import", "openhands", EXAMPLE, "--json").json
    assert (first["changed"], second["changed"]) == (True, False)
    assert second["total"]["conversations"] == {**first["total"]["conversations"], "imported": 0, "unchanged": 12}
    assert either_shell.well("status", "--json").json["counts"] == before["counts"]
    assert "nothing to do" in either_shell("import", "openhands", EXAMPLE).output


def test_a_dry_run_reports_the_same_and_writes_nothing(either_shell: Shell) -> None:
    dry = either_shell("import", "openhands", EXAMPLE, "--dry-run", "--json").json
    assert set(either_shell.well("status", "--json").json["counts"].values()) == {0}
    wet = either_shell("import", "openhands", EXAMPLE, "--json").json
    assert dry == {**wet, "dry_run": True}


def test_an_archive_imports_like_the_folder_and_for_another_user(shell: Shell) -> None:
    archive = shell.folder / "home.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(EXAMPLE, "home")
    report = shell("import", "openhands", archive, "--user", "carol", "--json").json
    assert report["total"]["conversations"]["imported"] == 12
    assert set(report["users"]) == {"carol", "alice", "bob"}
    assert shell.well("conversations", "count", "--user", "carol").output == "6\n"


def test_overwriting_lets_the_source_win(shell: Shell) -> None:
    home = shell.folder / "home"
    event = home / "sessions/c1/events/0.json"
    event.parent.mkdir(parents=True)
    event.write_text('{"id": 0}')
    shell("import", "openhands", home)
    event.write_text('{"id": 0, "changed": true}')
    kept = shell("import", "openhands", home)
    assert "[path-taken]" in kept.output
    assert shell.well("files", "cat", "sessions/c1/events/0.json").output == '{"id": 0}'
    shell("import", "openhands", home, "--overwrite")
    assert shell.well("files", "cat", "sessions/c1/events/0.json").content == event.read_bytes()


def test_a_source_that_is_none_is_refused_before_anything_is_imported(shell: Shell) -> None:
    assert "nowhere" in shell.badly("import", "openhands", shell.folder / "nowhere")
    (shell.folder / "empty").mkdir()
    assert "empty" in shell.badly("import", "openhands", shell.folder / "empty")


def test_a_source_that_is_none_leaves_no_empty_storage_behind(shell: Shell) -> None:
    shell.badly("import", "openhands", shell.folder / "nowhere")
    shell.badly("import", "openhands", EXAMPLE, "--user", "")
    assert not (shell.folder / "storage").exists()


def test_a_dry_run_needs_no_storage_and_makes_none(shell: Shell) -> None:
    dry = shell("import", "openhands", EXAMPLE, "--dry-run", "--json")
    assert dry.code == 0
    assert list(shell.folder.iterdir()) == []
    assert dry.json == {**shell("import", "openhands", EXAMPLE, "--json").json, "dry_run": True}


def test_a_dry_run_does_not_migrate(fresh_shell: Shell) -> None:
    if fresh_shell.database_url and fresh_shell.database_url.startswith("postgresql"):
        assert "storage migrate" in fresh_shell.badly("import", "openhands", EXAMPLE, "--dry-run")
    else:
        assert fresh_shell("import", "openhands", EXAMPLE, "--dry-run").code == 0
    assert fresh_shell("migrate", "--check").code == 1


def test_a_source_of_which_nothing_can_be_read_is_not_called_done(shell: Shell) -> None:
    home = shell.folder / "home"
    home.mkdir()
    (home / "settings.json").write_text("[1]")
    outcome = shell("import", "openhands", home)
    assert "nothing to import" in outcome.output
    assert "nothing to do" not in outcome.output
    assert "[settings-broken]" in outcome.output


def test_without_the_key_all_but_the_secrets_is_imported_and_it_fails(either_shell: Shell) -> None:
    secret = either_shell.folder / "first"
    secret.mkdir()
    (secret / "secrets.json").write_text('{"custom_secrets": {"A": {"secret": "x"}}}')
    assert either_shell("import", "openhands", secret).code == 0
    outcome = either_shell("import", "openhands", EXAMPLE, "--json", STORAGE_MASTER_KEY=WRONG_KEY)
    assert outcome.code == 1
    assert "storage status" in outcome.errors.splitlines()[-1]
    assert outcome.json["total"]["conversations"]["imported"] == 12
    assert outcome.json["total"]["secrets"]["imported"] == 0
    second = either_shell("import", "openhands", EXAMPLE, "--json")
    assert (second.code, second.json["total"]["secrets"]["imported"]) == (0, 4)


def test_names_in_the_source_cannot_steer_a_terminal(shell: Shell) -> None:
    home = shell.folder / "home"
    session = home / "sessions/c1"
    session.mkdir(parents=True)
    metadata = '{"conversation_id": "c1", "title": "a\\u001b[2Jb\\nc\\u202ed", "created_at": "2025-01-01T00:00:00Z"}'
    (session / "metadata.json").write_text(metadata)
    (session / "x\x1b[2Jy.json").write_text("{}")
    outputs = [
        shell("import", "openhands", home).output,
        shell.well("conversations", "list").output,
        shell.well("conversations", "show", "c1").output,
        shell.well("files", "ls", "-r").output,
        shell.well("files", "ls", "-rl").output,
    ]
    assert not any(sign in output for output in outputs for sign in ("\x1b", "\u202e"))
    assert "a\\x1b[2Jb c\\u202ed" in outputs[1]


@pytest.mark.skipif(not SAMPLE.exists(), reason="the sample is not on this machine")
def test_the_sample_is_imported_and_every_flaw_named(either_shell: Shell) -> None:
    outcome = either_shell("import", "openhands", SAMPLE, "--json")
    assert outcome.code == 0
    report = outcome.json
    found = report["total"]["conversations"]
    assert found["imported"] == found["found"] - found["skipped"]
    assert either_shell.well("status", "--json").json["counts"]["conversations"] == found["imported"]
    assert sum(report["flaw_counts"].values()) == len(report["flaws"])
    assert either_shell("import", "openhands", SAMPLE, "--json").json["changed"] is False


# ---- values that OpenHands encrypted


@pytest.fixture
def server(shell: Shell) -> str:
    """The database of an enterprise server, with encrypted and plain secrets."""
    url = f"sqlite:///{shell.folder / 'server.db'}"
    asyncio.run(_fill(url))
    return url


async def _fill(url: str) -> None:
    async with installation(url, early()) as made:
        await made.settings("alice", language="en", llm_api_key=twice("llm-not-real"))
        await made.secret("alice", "A", twice("a-not-real"), "words")
        await made.secret("bob", "B", "b-not-real")


def secret_file(shell: Shell, text: str = SECRET) -> Path:
    file = shell.folder / "jwt"
    file.write_text(text + "\n")
    return file


def test_a_servers_users_are_imported_with_the_jwt_secret_of_a_file(shell: Shell, server: str) -> None:
    outcome = shell.well("import", "openhands-enterprise", server, "--jwt-secret-file", secret_file(shell), "--json")
    assert list(outcome.json["users"]) == ["alice", "bob"]
    assert (outcome.json["source"], outcome.json["total"]["secrets"]["imported"]) == (server, 2)
    assert shell.well("secrets", "show", "A", "--user", "alice", "--reveal").output == "a-not-real\n"
    assert shell.well("secrets", "show", "B", "--user", "bob", "--reveal").output == "b-not-real\n"
    again = shell.well("import", "openhands-enterprise", server, JWT_SECRET=SECRET)
    assert "nothing to do" in again.output
    assert not any(value in outcome.output + again.output for value in ("not-real", SECRET))


def test_a_server_without_the_right_jwt_secret_is_imported_but_for_what_needs_it_and_fails(
    shell: Shell, server: str
) -> None:
    for words in ((), ("--jwt-secret-file", secret_file(shell, "wrong"))):
        outcome = shell("import", "openhands-enterprise", server, *words)
        assert outcome.code == 1
        assert "--jwt-secret-file" in outcome.errors.splitlines()[-1]
        assert sum("[encrypted-secret]" in line for line in outcome.lines) == 2
    assert shell.well("secrets", "show", "B", "--user", "bob", "--reveal").output == "b-not-real\n"
    assert "A" not in shell.well("secrets", "list", "--user", "alice").output.split()


def test_one_user_of_a_server_is_tried_without_making_a_storage(shell: Shell, server: str) -> None:
    dry = shell.well("import", "openhands-enterprise", server, "--user", "bob", "--dry-run", "--json")
    assert list(dry.json["users"]) == ["bob"]
    assert not (shell.folder / "storage").exists()
    assert "nobody" in shell.badly("import", "openhands-enterprise", server, "--user", "nobody")


def test_a_server_that_is_none_leaves_no_empty_storage_behind(shell: Shell) -> None:
    assert "nowhere.db" in shell.badly("import", "openhands-enterprise", f"sqlite:///{shell.folder}/nowhere.db")
    assert (
        "no such file"
        in shell.badly(
            "import", "openhands-enterprise", "sqlite:///x.db", "--jwt-secret-file", shell.folder / "gone"
        ).lower()
    )
    assert not (shell.folder / "storage").exists()


def test_a_server_without_our_master_key_gives_all_but_its_secrets_and_fails(shell: Shell, server: str) -> None:
    first = shell.folder / "first"
    first.mkdir()
    (first / "secrets.json").write_text('{"custom_secrets": {"A": {"secret": "x"}}}')
    shell.well("import", "openhands", first, "--json")
    outcome = shell("import", "openhands-enterprise", server, JWT_SECRET=SECRET, STORAGE_MASTER_KEY=WRONG_KEY)
    assert outcome.code == 1
    assert "storage status" in outcome.errors.splitlines()[-1]
    assert '"en"' in shell.well("settings", "show", "--user", "alice", "--json").output
    later = shell.well("import", "openhands-enterprise", server, JWT_SECRET=SECRET)
    assert "settings: 1 found, 1 imported" in later.output
    assert "secrets: 2 found, 2 imported" in later.output


def test_a_directory_with_encrypted_values_needs_the_secret(shell: Shell) -> None:
    home = shell.folder / "home"
    home.mkdir()
    (home / "secrets.json").write_text(f'{{"custom_secrets": {{"A": {{"secret": "{twice("a-not-real")}"}}}}}}')
    outcome = shell("import", "openhands", home)
    assert outcome.code == 1
    assert "secrets: 1 found, 0 imported, 1 skipped" in outcome.output
    shell.well("import", "openhands", home, "--jwt-secret-file", secret_file(shell), "--json")
    assert shell.well("secrets", "show", "A", "--reveal").output == "a-not-real\n"
