"""The runbooks of docs/security.md, run as they stand: each on a storage that has secrets, in the order shown."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from storage import Storage
from storage.config import StorageConfig
from tests.cli.conftest import WRONG_KEY, Shell
from tests.cli.runbooks import Runbooks

RUNBOOKS = Runbooks("security.md")
PASSPHRASE = "correct horse battery staple"


@pytest.fixture
def desk(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A storage with a secret of two users, and the files that the runbooks name."""
    monkeypatch.chdir(shell.folder)
    assert shell("init").code == 0
    Path("value").write_text("postgresql://staging\n")
    Path("passphrase").write_text(f"{PASSPHRASE}\n")
    for user in ("local", "alice"):
        assert shell("secrets", "set", "DATABASE_URL", "--from-file", "value", "--user", user).code == 0
    return shell


def ids(desk: Shell) -> list[str]:
    """The master keys that the database knows, the oldest first."""
    return [key["kek_id"] for key in desk("keys", "status", "--json").json["master_keys"]]


def follow(desk: Shell, title: str, *, fails: Sequence[str] = ()) -> list[str]:
    """Run a runbook; OLD and NEW are the first and the last master key. Returns all that was printed, by command."""
    printed = []
    for words in RUNBOOKS.commands(title):
        known = {"OLD": ids(desk)[0], "NEW": ids(desk)[-1]}
        outcome = desk(*[known.get(word, word) for word in words])
        assert outcome.code == (1 if words == list(fails) else 0), (words, outcome.output, outcome.errors)
        printed.append(outcome.output)
    return printed


def keys_in(file: Path) -> list[str]:
    """The keys of a key file, in their order."""
    return [line for line in file.read_text().splitlines() if line and not line.startswith("#")]


def value(desk: Shell, user: str = "local") -> str:
    outcome = desk("secrets", "show", "DATABASE_URL", "--user", user, "--reveal", "--json")
    assert outcome.code == 0, outcome.errors
    return str(outcome.json["value"])


def damage(desk: Shell) -> None:
    """Alter a sealed value on disk, as a failing disk or an intruder might."""

    async def alter() -> None:
        async with Storage.open(database(desk)) as storage, storage.session() as session:
            connection = await session.connection()
            await connection.exec_driver_sql(
                "UPDATE custom_secret SET value = substr(value, 1, 90) || x'00000000' || substr(value, 95)"
                " WHERE user_id = 'local'"
            )
            await session.commit()

    asyncio.run(alter())


def database(desk: Shell) -> StorageConfig:
    return StorageConfig.load(
        data_dir=desk.environment["STORAGE_DATA_DIR"], master_key_file=desk.environment["STORAGE_MASTER_KEY_FILE"]
    )


def test_every_runbook_is_tested() -> None:
    assert RUNBOOKS.untested(__file__) == []


@pytest.mark.parametrize("title", ["Change the master key", "After a compromise"])
def test_after_a_rotation_the_old_key_is_needed_no_more(desk: Shell, title: str) -> None:
    (old,) = ids(desk)
    follow(desk, title)
    states = {key["kek_id"]: key["state"] for key in desk("keys", "status", "--json").json["master_keys"]}
    assert states.pop(old) == "retired"
    assert list(states.values()) == ["active"]
    file = Path(desk.environment["STORAGE_MASTER_KEY_FILE"])
    file.write_text(f"{keys_in(file)[0]}\n")  # only the new one
    assert value(desk) == value(desk, "alice") == "postgresql://staging"


def test_a_key_moves_to_a_new_machine_in_a_bundle(desk: Shell) -> None:
    export, import_, status = RUNBOOKS.commands("Move to a new machine")
    assert desk(*export).code == 0
    assert Path("keys.bundle").stat().st_mode & 0o777 == 0o600
    Path(desk.environment["STORAGE_MASTER_KEY_FILE"]).unlink()  # as on a machine that never had it
    assert desk(*status).code == 1
    assert desk(*import_).code == 0
    assert desk(*status).code == 0
    assert value(desk) == "postgresql://staging"


def test_the_right_key_mends_everything_that_a_wrong_one_locked(desk: Shell) -> None:
    assert desk("keys", "export", "keys.bundle", "--passphrase-file", "passphrase").code == 0
    file = Path(desk.environment["STORAGE_MASTER_KEY_FILE"])
    before = ids(desk)
    file.write_text(f"{WRONG_KEY}\n")
    assert desk("secrets", "set", "OTHER", "--from-file", "value").code == 1
    printed = follow(desk, "The key is wrong or missing", fails=["keys", "status"])
    assert before[0] in printed[0]
    assert value(desk) == "postgresql://staging"


def test_a_lost_key_is_given_up_and_secrets_are_set_again(desk: Shell) -> None:
    file = Path(desk.environment["STORAGE_MASTER_KEY_FILE"])
    kept = shutil.copy(file, "found-later")
    file.unlink()
    listing = follow(desk, "The key is lost for good")[2]
    assert "unreadable" in listing
    assert value(desk) == "postgresql://staging"
    assert desk("secrets", "show", "DATABASE_URL", "--user", "alice", "--reveal").code == 1
    with file.open("a") as keys:
        keys.write(f"{keys_in(Path(kept))[0]}\n")
    assert value(desk, "alice") == "postgresql://staging"


def test_a_secret_that_cannot_be_read_is_set_again(desk: Shell) -> None:
    damage(desk)
    before = desk("keys", "doctor", "--json")
    assert before.code == 1
    assert [(row["table"], row["user_id"], row["name"], row["reason"]) for row in before.json["unreadable"]] == [
        ("custom_secret", "local", "DATABASE_URL", "Tampered")
    ]
    follow(desk, "One secret cannot be read")
    assert value(desk) == "postgresql://staging"


def test_a_deleted_user_is_gone(desk: Shell) -> None:
    listing = follow(desk, "Delete a user")[-1]
    assert "alice" not in listing
    assert "local" in listing
    assert desk("keys", "doctor").code == 0
