"""What a command tells on stderr of a long run, where there is no bar."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage.cli.output import progress

if TYPE_CHECKING:
    import pytest


def told(capsys: pytest.CaptureFixture[str], things: str, steps: list[tuple[int, int | None]]) -> list[str]:
    with progress("doing", things) as move:
        assert move is not None
        for done, total in steps:
            move(done, total)
    return capsys.readouterr().err.splitlines()


def test_a_run_whose_end_is_known_is_told_in_tenths(capsys: pytest.CaptureFixture[str]) -> None:
    lines = told(capsys, "files", [(done, 1000) for done in range(1, 1001)])
    assert lines == [f"doing: {done:,} of 1,000 files" for done in range(100, 1001, 100)]


def test_a_run_whose_end_is_not_known_is_told_at_powers_of_ten(capsys: pytest.CaptureFixture[str]) -> None:
    lines = told(capsys, "files", [(done, None) for done in range(1, 200_000)])
    assert lines == ["doing: 1,000 files", "doing: 10,000 files", "doing: 100,000 files"]


def test_bytes_are_told_in_units(capsys: pytest.CaptureFixture[str]) -> None:
    megabyte = 10**6
    assert told(capsys, "bytes", [(megabyte, 2 * megabyte)]) == ["doing: 1.0 MB of 2.0 MB"]
    lines = told(capsys, "bytes", [(number * megabyte, None) for number in range(1, 150)])
    assert lines == ["doing: 10.0 MB", "doing: 100.0 MB"]


def test_who_wants_quiet_gets_no_one_to_tell() -> None:
    with progress("doing", "files", quiet=True) as move:
        assert move is None
