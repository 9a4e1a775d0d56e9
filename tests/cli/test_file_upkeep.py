"""`storage files usage`, `verify`, `collect`, `repack`, `export` and `migrate-backend`, as an operator runs them."""

from __future__ import annotations

import shutil
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from storage.clock import now
from tests.cli.conftest import Shell

if TYPE_CHECKING:
    from pathlib import Path

FILES = {"a.txt": b"small", "f/b.bin": bytes(5_000), "f/c": b""}


@pytest.fixture
def desk(either_shell: Shell) -> Shell:
    """Two users with the same three files, each written twice; once per dialect."""
    return filled(either_shell)


@pytest.fixture(scope="module")
def filled_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in SQLite only, to copy."""
    return filled(Shell(tmp_path_factory.mktemp("filled"))).folder


@pytest.fixture
def one_desk(filled_home: Path, tmp_path: Path) -> Shell:
    """A copy of it, for what does not depend on SQL."""
    return Shell(shutil.copytree(filled_home, tmp_path / "home"))


def filled(shell: Shell) -> Shell:
    assert shell("init").code == 0
    home = shell.folder / "home"
    for contents in (dict.fromkeys(FILES, b"before"), FILES):
        for path, content in contents.items():
            (home / path).parent.mkdir(parents=True, exist_ok=True)
            (home / path).write_bytes(content)
        for user in ("alice", "local"):
            shell.well("files", "put", "-r", home, ".", "--user", user, "--json")
    return shell


def blobs(shell: Shell, folder: str = "storage/files") -> list[Path]:
    return sorted(path for path in (shell.folder / folder / "blobs").rglob("*") if path.is_file())


def damage(shell: Shell) -> None:
    """Alter the contents of 5,000 bytes, and remove the empty ones."""
    for blob in blobs(shell):
        if blob.stat().st_size == 5_000:
            blob.write_bytes(b"x" * 5_000)
        elif blob.stat().st_size == 0:
            blob.unlink()


def reads(shell: Shell, **environment: str) -> bool:
    return all(
        shell("files", "cat", path, "--user", user, **environment).content == content
        for path, content in FILES.items()
        for user in ("alice", "local")
    )


# ---- usage


def test_usage_of_one_user_and_of_all(desk: Shell) -> None:
    assert desk.well("files", "usage").lines == ["local: 3 files, 5.0 kB"]
    assert desk.well("files", "usage", "--user", "alice", "--json").json == {
        "user_id": "alice",
        "files": 3,
        "bytes": 5_005,
    }
    row = {"files": 3, "bytes": 5_005, "bytes_in_database": 0}
    assert desk.well("files", "usage", "--all", "--json").json == [
        {"user_id": "alice", **row},
        {"user_id": "local", **row},
    ]
    lines = desk.well("files", "usage", "--all").lines
    assert lines[1].split() == ["alice", "3", "5.0", "kB", "0", "B"]
    assert lines[-1] == "6 files of 2 users, 10.0 kB"


def test_usage_of_nothing_is_no_error(shell: Shell) -> None:
    shell.well("init")
    assert shell.well("files", "usage").lines == ["local: 0 files, 0 B"]
    assert shell.well("files", "usage", "--all").lines == ["0 files of 0 users, 0 B"]
    assert "exclude each other" in shell.badly("files", "usage", "--all", "--user", "alice")


# ---- verify


def test_verify_finds_what_is_altered_and_what_is_missing(desk: Shell) -> None:
    well = desk.well("files", "verify", "--json").json
    assert well == {"checked": 6, "bytes": 10_010, "skipped_locked": 0, "flaws": []}
    damage(desk)
    outcome = desk("files", "verify", "--json")
    assert (outcome.code, outcome.errors) == (1, "")
    found = [(flaw["user_id"], flaw["path"], flaw["reason"]) for flaw in outcome.json["flaws"]]
    assert found == [
        (user, *each) for user in ("alice", "local") for each in (("f/b.bin", "altered"), ("f/c", "missing"))
    ]
    assert desk("files", "verify", "--user", "alice", "--json").json["checked"] == 3
    assert desk("files", "verify", "--sample", "2", "--json").json["checked"] == 2


def test_verify_names_the_files_and_ends_with_one(one_desk: Shell) -> None:
    well = one_desk("files", "verify")
    assert (well.code, well.lines) == (0, ["6 files compared, 10.0 kB; 0 flaws"])
    assert "verifying: 6 of 6 files" in well.errors
    damage(one_desk)
    outcome = one_desk("files", "verify")
    assert outcome.code == 1
    assert outcome.lines[0] == "6 files compared, 10.0 kB; 4 flaws"
    assert outcome.lines[3].split()[:3] == ["alice", "f/b.bin", "altered"]
    assert "error: 4 files not as written" in outcome.errors
    assert "sample" in one_desk.badly("files", "verify", "--sample", "0", "--json")


# ---- collect


def test_collect_keeps_what_is_young(desk: Shell) -> None:
    before = blobs(desk)
    assert len(before) == 12
    found = desk.well("files", "collect", "--json").json
    assert found == {
        "dry_run": False,
        "blobs": 0,
        "bytes": 0,
        "kept_young": 6,
        "kept_for_web_hooks": 0,
        "rows": 0,
        "foreign": 0,
    }
    assert blobs(desk) == before


def test_collect_removes_what_nothing_names_once_it_is_old(desk: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.files.maintenance.collector.now", lambda: now() + timedelta(days=2))
    would = desk.well("files", "collect", "--dry-run", "--json").json
    assert (would["dry_run"], would["blobs"], would["bytes"]) == (True, 6, 36)
    assert len(blobs(desk)) == 12
    assert desk("files", "collect", "--grace", "3d").lines[0].startswith("removed 0 blobs")
    assert desk("files", "collect").lines == [
        "removed 6 blobs and 0 contents in the database, 36 B",
        "kept 0 that are too young, 0 for web hooks",
    ]
    assert len(blobs(desk)) == 6
    assert reads(desk)


def test_collect_takes_a_duration_and_refuses_one_that_is_too_short(one_desk: Shell) -> None:
    assert one_desk("files", "collect", "--grace", "36h", "--dry-run").lines == [
        "would remove 0 blobs and 0 contents in the database, 0 B",
        "kept 6 that are too young, 0 for web hooks",
    ]
    assert "grace" in one_desk.badly("files", "collect", "--grace", "1s", "--json")
    assert one_desk("files", "collect", "--grace", "soon").code == 2


# ---- repack


def test_repack_moves_small_contents_in_and_out(desk: Shell) -> None:
    inside = desk.well("files", "repack", "--small-files-in-database", "100", "--json").json
    assert inside == {"to_rows": 4, "to_blobs": 0, "bytes": 10, "locked": 0, "left": 0}
    assert reads(desk)
    assert desk.well("files", "usage", "--all", "--json").json[0]["bytes_in_database"] == 5
    assert desk.well("files", "verify", "--json").json["checked"] == 6
    outside = desk("files", "repack")
    assert outside.lines == ["0 moved into the database, 4 out of it, 10 B"]
    assert reads(desk)
    assert "number of bytes" in desk.badly("files", "repack", "--small-files-in-database=-1")


def test_repack_leaves_what_is_damaged_and_says_so(one_desk: Shell) -> None:
    damage(one_desk)
    outcome = one_desk("files", "repack", "--small-files-in-database", "10000")
    assert (outcome.code, outcome.lines) == (1, ["2 moved into the database, 0 out of it, 10 B"])
    assert "error: 4 files left: damaged" in outcome.errors


# ---- export


def test_export_writes_the_tree_and_goes_on_where_it_stopped(one_desk: Shell) -> None:
    folder = one_desk.folder / "out"
    assert one_desk("files", "export", folder, "--user", "alice").lines == ["3 files, 5.0 kB; 0 there already"]
    assert {path: (folder / path).read_bytes() for path in FILES} == FILES
    (folder / "f" / "c").unlink()
    again = one_desk.well("files", "export", folder, "--user", "alice", "--json").json
    assert again == {"files": 1, "bytes": 0, "already": 2, "skipped": []}


def test_export_refuses_a_folder_with_other_contents(one_desk: Shell) -> None:
    folder = one_desk.folder / "out"
    folder.mkdir()
    (folder / "a.txt").write_text("mine")
    assert "a.txt" in one_desk.badly("files", "export", folder, "--json")
    assert [path.name for path in folder.iterdir()] == ["a.txt"]
    assert one_desk.well("files", "export", folder, "f", "--json").json["files"] == 2
    assert one_desk.well("files", "export", folder, "--overwrite", "--json").json["files"] == 1
    assert (folder / "a.txt").read_bytes() == b"small"
    assert "nope" in one_desk.badly("files", "export", folder, "nope", "--json")


def test_export_leaves_out_what_is_damaged_and_says_so(one_desk: Shell) -> None:
    damage(one_desk)
    outcome = one_desk("files", "export", one_desk.folder / "out", "--json")
    assert outcome.code == 1
    assert outcome.json["files"] == 1
    assert [left["path"] for left in outcome.json["skipped"]] == ["f/b.bin", "f/c"]
    outcome = one_desk("files", "export", one_desk.folder / "out")
    assert outcome.code == 1
    assert "left out: f/b.bin" in outcome.errors


# ---- migrate-backend


def test_migrate_backend_copies_everything_and_then_only_what_is_new(one_desk: Shell) -> None:
    there = one_desk.folder / "there"
    words = ["files", "migrate-backend", "--to", "local", "--to-path", str(there), "--json"]
    first = one_desk.well(*words).json
    assert first == {"target": str(there), "copied": 12, "already": 0, "bytes": 10_046, "missing": 0, "flaws": []}
    one_desk.well("files", "put", one_desk.folder / "home" / "a.txt", "new", "--json")
    again = one_desk.well(*words, "--sizes-only").json
    assert (again["copied"], again["already"]) == (1, 12)
    (one_desk.folder / "storage" / "files").rename(one_desk.folder / "gone")
    assert reads(one_desk, STORAGE_FILE_STORE_PATH=str(there))
    assert one_desk.well("files", "verify", "--json", STORAGE_FILE_STORE_PATH=str(there)).json["flaws"] == []


def test_migrate_backend_fails_if_the_new_place_lacks_something(one_desk: Shell) -> None:
    damage(one_desk)
    words = ["files", "migrate-backend", "--to", "local", "--to-path", str(one_desk.folder / "there")]
    outcome = one_desk(*words)
    assert outcome.code == 1
    assert "f/c" in outcome.output
    outcome = one_desk(*words, "--json")
    assert outcome.code == 1
    assert outcome.json["missing"] == 2


@pytest.mark.parametrize(
    ("to", "advice"),
    [
        (["local"], "already"),
        (["memory"], "lasts"),
        (["s4"], "s4"),
        (["s3"], "AWS_S3_BUCKET"),
        (["nowhere.Store", "--to-path", "x"], "nowhere"),
    ],
)
def test_migrate_backend_refuses_a_place_that_is_none(one_shell: Shell, to: list[str], advice: str) -> None:
    assert advice in one_shell.badly("files", "migrate-backend", "--json", "--to", *to)


@pytest.fixture(scope="module")
def one_shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    shell = Shell(tmp_path_factory.mktemp("one"))
    shell.well("init")
    return shell


def test_migrate_backend_refuses_a_folder_that_overlaps_the_present_one(one_desk: Shell) -> None:
    files = one_desk.folder / "storage" / "files"
    (one_desk.folder / "link").symlink_to(files)
    for place in (one_desk.folder / "link", files / "blobs", files.parent):
        said = one_desk.badly("files", "migrate-backend", "--to", "local", "--to-path", place)
        assert "one folder, or one is in the other" in said


def test_collect_refuses_a_grace_beyond_the_calendar(one_desk: Shell) -> None:
    assert "at most 36500 days" in one_desk.badly("files", "collect", "--grace", "99999999d")
