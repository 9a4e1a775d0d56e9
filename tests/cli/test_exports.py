"""`storage export openhands`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Shell


def test_what_came_in_goes_out_and_a_second_export_is_refused(fresh_shell: Shell, tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "openhands-home"
    assert fresh_shell("import", "openhands", example).code == 0
    told = fresh_shell("export", "openhands", tmp_path / "home")
    assert told.code == 0
    assert "in clear" in told.output
    metadata = list((tmp_path / "home" / "sessions").rglob("metadata.json"))
    assert metadata
    assert all("created_at" in json.loads(path.read_bytes()) for path in metadata)
    assert "is not empty" in fresh_shell.badly("export", "openhands", tmp_path / "home")


def test_json_tells_the_same(either_shell: Shell, tmp_path: Path) -> None:
    told = either_shell.well("export", "openhands", tmp_path / "home", "--json").json
    assert (told["conversations"], told["skipped"], told["users"]) == (0, [], [])
    assert told["folder"] == str(tmp_path / "home")


def test_a_misspelt_data_directory_makes_no_database(shell: Shell, tmp_path: Path) -> None:
    shell.badly("export", "openhands", tmp_path / "home", "--data-dir", tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    assert not (tmp_path / "home").exists()
