"""`storage keys new`, `export` and `import` hand keys to people and machines; no file is overwritten, no key shown."""

from __future__ import annotations

import base64
import stat
from typing import TYPE_CHECKING

import pytest

from tests.cli.keeper import PASSPHRASE, Keeper, filled, kept
from tests.cli.standard_input import CANARY, Piped
from tests.cli.terminal import typed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.conftest import Shell


@pytest.fixture
def keeper(tmp_path: Path, database_url: str) -> Iterator[Keeper]:
    """Once per dialect."""
    yield from kept(Keeper(tmp_path, database_url))


@pytest.fixture
def one_keeper(tmp_path: Path) -> Iterator[Keeper]:
    """In SQLite only, for what does not depend on SQL."""
    yield from kept(Keeper(tmp_path))


def test_a_new_key_is_written_to_a_file_of_its_owners_alone_and_used_by_nothing(one_keeper: Keeper) -> None:
    before = one_keeper.key_file.read_bytes()
    output = one_keeper.folder / "new.key"
    outcome = one_keeper("keys", "new", "--output", output)
    assert outcome.code == 0
    assert "STORAGE_MASTER_KEY=old,new" in outcome.errors
    key = output.read_text()
    assert len(base64.b64decode(key, validate=False)) == 32
    assert key.strip() not in outcome.output + outcome.errors
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    assert one_keeper.key_file.read_bytes() == before
    assert "not overwritten" in one_keeper.badly("keys", "new", "--output", output)
    assert output.read_text() == key


def test_a_new_key_is_printed_only_if_asked_for_and_allowed(one_keeper: Keeper) -> None:
    first, second = (one_keeper("keys", "new", "--reveal").output for _ in range(2))
    assert len(base64.b64decode(first)) == 32
    assert first != second
    made = one_keeper("keys", "new", "--reveal", "--json").json
    assert (made["kek_id"], made["output"], len(base64.b64decode(made["key"]))) == (None, None, 32)
    assert "allow_reveal" in one_keeper.badly("keys", "new", "--reveal", STORAGE_ALLOW_REVEAL="false")
    assert "give one of them" in one_keeper.badly("keys", "new", "--reveal", "--output", "x")


def test_keys_in_the_environment_are_changed_by_people(shell: Shell, tmp_path: Path) -> None:
    old, new = (shell("keys", "new", "--reveal").output.strip() for _ in range(2))
    piped = Piped(tmp_path).into(CANARY.encode())
    piped.well("init", STORAGE_MASTER_KEY=old)
    piped.well("secrets", "set", "API_KEY", STORAGE_MASTER_KEY=old)
    assert "--output FILE" in piped.badly("keys", "new", STORAGE_MASTER_KEY=old)
    (first,) = piped.well("keys", "status", "--json", STORAGE_MASTER_KEY=old).json["master_keys"]
    for keys in (f"{old},{new}", f"{new},{old}"):
        assert piped.well("secrets", "show", "API_KEY", "--reveal", STORAGE_MASTER_KEY=keys).output == f"{CANARY}\n"
    turned = f"{new},{old}"
    told = piped.badly("keys", "promote", first["kek_id"], STORAGE_MASTER_KEY=turned)
    assert "first in STORAGE_MASTER_KEY" in told
    assert piped("keys", "rewrap", "--json", STORAGE_MASTER_KEY=turned).json["moved"] == 1
    piped.well("keys", "retire", first["kek_id"], STORAGE_MASTER_KEY=turned)
    piped.well("keys", "status", STORAGE_MASTER_KEY=new)
    assert piped.well("secrets", "show", "API_KEY", "--reveal", STORAGE_MASTER_KEY=new).output == f"{CANARY}\n"


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.write_text(f"{PASSPHRASE}\n")
    return path


def test_keys_move_to_a_machine_that_has_none(keeper: Keeper, passphrase: Path, tmp_path: Path) -> None:
    keeper.rotated()
    bundle = keeper.folder / "keys.bundle"
    keeper.well("keys", "export", bundle, "--passphrase-file", passphrase)
    assert stat.S_IMODE(bundle.stat().st_mode) == 0o600
    assert not any(key.encode() in bundle.read_bytes() for key in keeper.keys())
    elsewhere = {"STORAGE_MASTER_KEY_FILE": str(tmp_path / "elsewhere/master.key")}
    assert keeper("keys", "status", **elsewhere).code == 1
    imported = keeper("keys", "import", bundle, "--passphrase-file", passphrase, "--json", **elsewhere)
    assert imported.code == 0
    assert len(imported.json["imported"]) == 2
    assert imported.json["database"]["complete"] is True
    assert keeper.well("secrets", "show", "API_KEY", "--reveal", **elsewhere).output == f"{CANARY}\n"
    again = keeper("keys", "import", bundle, "--passphrase-file", passphrase, **elsewhere)
    assert (again.code, "already" in again.output) == (0, True)


def test_keys_are_imported_before_there_is_a_database(one_keeper: Keeper, passphrase: Path, tmp_path: Path) -> None:
    bundle = one_keeper.folder / "keys.bundle"
    one_keeper.well("keys", "export", bundle, "--passphrase-file", passphrase)
    fresh = {"STORAGE_DATA_DIR": str(tmp_path / "new"), "STORAGE_MASTER_KEY_FILE": str(tmp_path / "new/master.key")}
    outcome = one_keeper.well("keys", "import", bundle, "--passphrase-file", passphrase, **fresh)
    assert outcome.lines[-1] == "there is no database yet"
    assert not (tmp_path / "new/storage.db").exists()


def test_an_import_says_when_the_key_is_not_that_of_the_database(
    one_keeper: Keeper, passphrase: Path, tmp_path: Path
) -> None:
    other = filled(Keeper(tmp_path / "other"))
    other.well("keys", "export", tmp_path / "other.bundle", "--passphrase-file", passphrase)
    one_keeper.key_file.unlink()
    outcome = one_keeper("keys", "import", tmp_path / "other.bundle", "--passphrase-file", passphrase)
    assert outcome.code == 1
    assert "not the one that this database's secrets" in outcome.lines[-1]


def test_a_bundle_is_never_written_over_a_file(one_keeper: Keeper, passphrase: Path) -> None:
    bundle = one_keeper.folder / "keys.bundle"
    bundle.write_text("precious")
    assert "not overwritten" in one_keeper.badly("keys", "export", bundle, "--passphrase-file", passphrase)
    assert bundle.read_text() == "precious"


def test_a_wrong_passphrase_a_short_one_and_no_bundle_are_refused(one_keeper: Keeper, passphrase: Path) -> None:
    bundle, wrong = one_keeper.folder / "keys.bundle", one_keeper.folder / "wrong"
    one_keeper.well("keys", "export", bundle, "--passphrase-file", passphrase)
    before = one_keeper.key_file.read_bytes()
    wrong.write_text("another passphrase\n")
    assert one_keeper.badly("keys", "import", bundle, "--passphrase-file", wrong)
    assert one_keeper.badly("keys", "import", passphrase, "--passphrase-file", passphrase)
    assert "nowhere" in one_keeper.badly("keys", "import", "nowhere", "--passphrase-file", passphrase)
    assert "--passphrase-file" in one_keeper.badly("keys", "import", bundle)
    assert one_keeper.key_file.read_bytes() == before
    wrong.write_text("short\n")
    assert one_keeper.badly("keys", "export", one_keeper.folder / "b", "--passphrase-file", wrong)
    assert not (one_keeper.folder / "b").exists()


def test_a_passphrase_is_typed_twice_without_being_seen(one_keeper: Keeper) -> None:
    bundle = one_keeper.folder / "keys.bundle"
    mistyped = typed(one_keeper, "keys", "export", bundle, answers=[f"{PASSPHRASE}\n", f"{PASSPHRASE}!\n"])
    assert (mistyped.code, "not the same" in mistyped.lines[-1]) == (1, True)
    assert not bundle.exists()
    exported = typed(one_keeper, "keys", "export", bundle, answers=[f"{PASSPHRASE}\n"] * 2)
    imported = typed(one_keeper, "keys", "import", bundle, answers=[f"{PASSPHRASE}\n"])
    assert (exported.code, imported.code) == (0, 0)
    assert PASSPHRASE not in mistyped.output + exported.output + imported.output


def test_what_was_imported_is_told_also_if_the_database_cannot_be_asked(
    one_keeper: Keeper, passphrase: Path, tmp_path: Path
) -> None:
    bundle = one_keeper.folder / "keys.bundle"
    one_keeper.well("keys", "export", bundle, "--passphrase-file", passphrase)
    elsewhere = {"STORAGE_MASTER_KEY_FILE": str(tmp_path / "elsewhere/master.key")}
    words = ("keys", "import", bundle, "--passphrase-file", passphrase, "--database", "postgresql://127.0.0.1:1/x")
    outcome = one_keeper(*words, **elsewhere)
    assert outcome.code == 1
    assert outcome.output.startswith("1 master key imported into the key file")
    assert outcome.errors.startswith("error: ")
    assert (tmp_path / "elsewhere/master.key").exists()


def test_the_first_key_can_be_made_before_the_first_secret(shell: Shell) -> None:
    shell.well("init")
    made = shell.well("keys", "new", "--json").json
    (key,) = shell.well("keys", "status", "--json").json["master_keys"]
    assert (key["kek_id"], key["state"]) == (made["kek_id"], "active")
