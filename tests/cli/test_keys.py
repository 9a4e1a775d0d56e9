"""`storage keys` shows, replaces and gives up master keys; nothing is lost on the way, and no key is shown."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from storage.storage import Storage
from tests.cli.conftest import WRONG_KEY
from tests.cli.keeper import Keeper, kept
from tests.cli.standard_input import CANARY, Piped, revealed
from tests.cli.terminal import typed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.conftest import Shell

ENTRY = ["kek_id", "state", "data_keys", "created_at", "retired_at"]
UNREADABLE = ["table", "column", "user_id", "row_id", "name", "reason"]


@pytest.fixture
def keeper(tmp_path: Path, database_url: str) -> Iterator[Keeper]:
    """Once per dialect."""
    yield from kept(Keeper(tmp_path, database_url))


@pytest.fixture
def one_keeper(tmp_path: Path) -> Iterator[Keeper]:
    """In SQLite only, for what does not depend on SQL."""
    yield from kept(Keeper(tmp_path))


def execute(keeper: Keeper, statement: str) -> None:
    """Change the database behind the library's back."""

    async def change() -> None:
        url = keeper.database_url or f"sqlite:///{keeper.folder}/storage/storage.db"
        async with Storage.open(url, master_key_file=keeper.key_file) as storage, storage.session() as session:
            await (await session.connection()).execute(text(statement))
            await session.commit()

    asyncio.run(change())


# ---- status


def test_status_shows_the_master_key_and_what_depends_on_it(keeper: Keeper) -> None:
    status = keeper.well("keys", "status", "--json").json
    (key,) = status["master_keys"]
    assert list(key) == ENTRY
    assert (key["state"], key["data_keys"], key["retired_at"]) == ("active", 2, None)
    assert (status["ring"]["state"], status["ring"]["provider"], status["ring"]["complete"]) == (
        "unlocked",
        "key-file",
        True,
    )
    assert (status["unfinished"], status["problems"]) == (0, [])
    lines = keeper.well("keys", "status").lines
    assert [key["kek_id"], "active", "2"] in [line.split()[:3] for line in lines]
    assert lines[-1].startswith("all is well")


def test_status_of_a_storage_without_secrets_is_well(either_shell: Shell) -> None:
    either_shell.well("init")
    assert either_shell.well("keys", "status", "--json").json["ring"]["state"] == "new"
    assert "all is well" in either_shell.well("keys", "status").lines[-1]


def test_a_remedy_is_one_that_works_with_the_provider(one_keeper: Keeper) -> None:
    def remedy(**environment: str) -> str:
        outcome = one_keeper("keys", "status", "--json", **environment)
        assert outcome.code == 1
        return str(outcome.json["problems"][0]["remedy"])

    active = one_keeper.active()
    assert "storage keys import" not in remedy(STORAGE_MASTER_KEY=WRONG_KEY)
    assert "back into STORAGE_MASTER_KEY" in remedy(STORAGE_MASTER_KEY=WRONG_KEY)
    one_keeper.key_file.unlink()
    assert "storage keys import" in remedy()
    given_up = one_keeper.well("keys", "abandon", active, "--yes", STORAGE_MASTER_KEY=WRONG_KEY)
    assert "storage keys new" not in given_up.output
    assert "next: a new master key in STORAGE_MASTER_KEY" in given_up.output


@pytest.mark.parametrize("required", ["false", "true"])
def test_with_a_wrong_key_status_names_the_right_one_and_the_remedy(keeper: Keeper, required: str) -> None:
    active = keeper.active()
    locked = {"STORAGE_MASTER_KEY": WRONG_KEY, "STORAGE_REQUIRE_MASTER_KEY": required}
    outcome = keeper("keys", "status", "--json", **locked)
    assert outcome.code == 1
    assert (outcome.json["ring"]["state"], outcome.json["ring"]["reason"]) == ("locked", "KeyMismatch")
    assert keeper.status(**locked)[active]["state"] == "missing"
    (problem,) = outcome.json["problems"]
    assert f"`storage keys abandon {active}`" in problem["remedy"]
    people = keeper("keys", "status", **locked)
    assert people.code == 1
    assert active in people.output
    assert "remedy: " in people.output


# ---- rotation


def test_a_master_key_is_replaced_in_the_order_of_the_runbook(keeper: Keeper) -> None:
    old = keeper.active()
    new = keeper.well("keys", "new", "--json").json["kek_id"]
    assert {kek_id: key["state"] for kek_id, key in keeper.status().items()} == {old: "active", new: "available"}
    assert keeper.well("keys", "promote", new[:6]).lines == [
        f"the master key {new} is the active one; next: storage keys rewrap"
    ]
    rewrapped = keeper("keys", "rewrap", "--json")
    assert rewrapped.code == 0
    assert rewrapped.json == {"kek_id": new, "moved": 2, "already": 0, "failed": []}
    assert keeper.well("keys", "retire", old[:8].upper(), "--json").json == {"kek_id": old}
    status = keeper.status()
    assert {kek_id: (key["state"], key["data_keys"]) for kek_id, key in status.items()} == {
        old: ("retired", 0),
        new: ("active", 2),
    }
    assert keeper.well("keys", "doctor", "--json").json["unreadable"] == []
    assert keeper.both_open()


def test_rewrapping_again_moves_nothing(keeper: Keeper) -> None:
    keeper.rotated()
    assert keeper("keys", "rewrap", "--json").json["already"] == 2
    assert "0 data keys moved" in keeper("keys", "rewrap").output


def test_a_key_in_use_is_not_retired(keeper: Keeper) -> None:
    active = keeper.active()
    new = keeper.well("keys", "new", "--json").json["kek_id"]
    assert keeper.badly("keys", "retire", active)
    keeper.well("keys", "promote", new)
    assert keeper.badly("keys", "retire", active)
    assert keeper.status()[active]["retired_at"] is None


def test_every_value_is_sealed_again_under_new_data_keys(keeper: Keeper) -> None:
    outcome = keeper("keys", "reencrypt", "--json")
    assert outcome.code == 0
    assert outcome.json == {"users": 2, "resealed": 2, "resumed": False, "unreadable": []}
    assert keeper.both_open()
    assert "2 values of 2 users" in keeper("keys", "reencrypt").output
    status = keeper.well("keys", "status", "--json").json
    assert (status["unfinished"], status["ring"]["data_keys"]) == (0, 2)


@pytest.mark.parametrize("verb", ["promote", "retire", "abandon"])
def test_an_id_that_names_no_key_is_refused_with_those_that_are_known(one_keeper: Keeper, verb: str) -> None:
    for kek in ("abcde", "nothex!", ""):
        assert "6 or more hex digits" in one_keeper.badly("keys", verb, kek)
    assert f"known are: {one_keeper.active()}" in one_keeper.badly("keys", verb, "0" * 33)


# ---- doctor


def test_doctor_counts_what_it_opened(keeper: Keeper) -> None:
    found = keeper.well("keys", "doctor", "--json").json
    assert found["data_keys"] == 2
    assert found["sealed"]["custom_secret.value"] == found["sealed"]["provider_token.token"] == 1
    assert (found["unreadable"], found["problems"]) == ([], [])
    outcome = keeper("keys", "doctor")
    assert outcome.code == 0
    assert outcome.lines[-1] == "all is well: 2 sealed values opened"


def test_doctor_names_a_row_that_does_not_open_and_never_what_was_in_it(keeper: Keeper) -> None:
    execute(keeper, "UPDATE custom_secret SET name = 'MOVED'")
    outcome = keeper("keys", "doctor", "--json")
    assert outcome.code == 1
    (row,) = outcome.json["unreadable"]
    assert list(row) == UNREADABLE
    assert (row["table"], row["column"], row["user_id"], row["name"], row["reason"]) == (
        "custom_secret",
        "value",
        "local",
        "MOVED",
        "Tampered",
    )
    people = keeper("keys", "doctor")
    assert people.code == 1
    assert any("MOVED" in line and "Tampered" in line for line in people.lines)
    assert CANARY not in outcome.output + people.output
    keeper.well("secrets", "set", "MOVED")
    assert keeper("keys", "doctor").code == 0


def test_doctor_without_the_key_finds_that_nothing_opens(keeper: Keeper) -> None:
    outcome = keeper("keys", "doctor", "--json", STORAGE_MASTER_KEY=WRONG_KEY)
    assert outcome.code == 1
    assert outcome.json["unreadable"] or outcome.json["problems"]


# ---- giving up


def test_a_key_that_is_there_is_not_given_up(keeper: Keeper) -> None:
    assert keeper.badly("keys", "abandon", keeper.active(), "--yes")
    assert keeper.both_open()


def test_a_lost_key_is_given_up_and_secrets_are_set_again(keeper: Keeper) -> None:
    lost = keeper.active()
    kept = keeper.key_file.read_text()
    keeper.key_file.unlink()
    assert keeper("keys", "status").code == 1
    assert not keeper.key_file.exists()
    refused = keeper("keys", "abandon", lost)
    assert (refused.code, refused.output) == (1, "")
    assert "--yes" in refused.errors
    assert keeper.status()[lost]["state"] == "missing"
    assert keeper("keys", "abandon", lost, "--yes", "--json").json == {"kek_id": lost, "data_keys": 2}
    assert keeper.status()[lost]["state"] == "retired"
    keeper("keys", "new")
    assert [info["state"] for info in keeper("secrets", "list", "--json").json] == ["unreadable"]
    outcome = keeper.into(CANARY.encode())("secrets", "set", "API_KEY")
    assert outcome.output == "custom secret API_KEY of local: replaced; the value before could not be read\n"
    assert revealed(Piped(keeper.folder, keeper.database_url), "API_KEY") == f"{CANARY}\n".encode()
    # Found again: what was not set meanwhile opens.
    with keeper.key_file.open("a") as file:
        file.write("\n".join(line for line in kept.splitlines() if not line.startswith("#")) + "\n")
    assert keeper.both_open()


def test_once_every_secret_is_set_again_nothing_is_left_of_a_lost_key(keeper: Keeper) -> None:
    lost = keeper.active()
    keeper.key_file.unlink()
    assert keeper("keys", "abandon", lost, "--yes").code == 0
    keeper.well("keys", "new")
    keeper.well("secrets", "set", "API_KEY")
    assert keeper("keys", "doctor").code == 1
    keeper.well("secrets", "set", "github", "--provider", "--user", "alice")
    assert keeper("keys", "reencrypt", "--json").json["unreadable"] == []
    assert keeper("keys", "doctor").code == 0
    assert keeper.status()[lost]["data_keys"] == 0
    assert keeper.both_open()


def test_the_whole_id_has_to_be_typed_to_give_a_key_up(one_keeper: Keeper) -> None:
    lost = one_keeper.active()
    one_keeper.key_file.unlink()
    for answer in ("yes\n", "\x04", f"{lost[:8]}\n"):
        outcome = typed(one_keeper, "keys", "abandon", lost[:8], answers=[answer])
        assert outcome.code == 1
        assert "2 data keys" in outcome.output
        assert "nothing was changed" in outcome.lines[-1]
    assert one_keeper.status()[lost]["state"] == "missing"


def test_who_types_the_whole_id_gives_the_key_up(one_keeper: Keeper) -> None:
    lost = one_keeper.active()
    one_keeper.key_file.unlink()
    outcome = typed(one_keeper, "keys", "abandon", lost[:8], answers=[f"{lost}\n"])
    assert outcome.code == 0
    assert one_keeper.status()[lost]["state"] == "retired"


# ---- long runs


def test_an_interrupted_run_says_what_continues_it(one_keeper: Keeper) -> None:
    for number in range(20):
        one_keeper.well("secrets", "set", "A", "--user", f"user-{number}")
    one_keeper.well("keys", "promote", one_keeper.well("keys", "new", "--json").json["kek_id"])
    outcome = typed(
        one_keeper,
        "keys",
        "rewrap",
        answers=["\x03"],
        after=b"rewrapping",
        STORAGE_KEY_PROVIDER="tests.cli.slow_keys.SlowKeyFile",
    )
    assert outcome.code == 130
    assert "`storage keys rewrap` continues" in outcome.output
    assert one_keeper.both_open()
    done = one_keeper("keys", "rewrap", "--json").json
    assert done["moved"] + done["already"] == 22
    assert done["failed"] == []
    assert one_keeper("keys", "doctor").code == 0


def test_progress_is_a_bar_on_a_terminal_and_a_few_lines_in_a_pipe(one_keeper: Keeper) -> None:
    shown = typed(one_keeper, "keys", "doctor", answers=[])
    assert shown.code == 0
    assert "\x1b[" in shown.output
    piped = one_keeper("keys", "reencrypt")
    assert piped.errors.splitlines()[-1] == "re-encrypting: 2 of 2 users"
    assert one_keeper("keys", "reencrypt", "--json").errors == ""
    assert json.loads(one_keeper("keys", "reencrypt", "--json").output)
