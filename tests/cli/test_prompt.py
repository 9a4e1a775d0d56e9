"""Values are read to the byte from files and pipes, and typed without being seen; what is none is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.standard_input import CANARY, Piped, revealed
from tests.cli.terminal import typed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Shell

PEM = b"-----BEGIN KEY-----\nx\n-----END KEY-----"
LONGEST = b"x" * 1024 * 1024
WRITTEN_AND_KEPT = [
    (b"a", b"a"),
    (b"a\n", b"a"),
    (b"a\r\n", b"a"),
    (b"a\n\n", b"a\n"),
    (b" a b\t\n", b" a b\t"),
    (b"a\rb", b"a\rb"),
    ("ключ 🔑".encode(), "ключ 🔑".encode()),
    (PEM + b"\n", PEM),
    (LONGEST + b"\n", LONGEST),
]


@pytest.fixture
def piped(tmp_path: Path) -> Piped:
    shell = Piped(tmp_path).into(b"")
    shell.well("init")
    return shell


@pytest.mark.parametrize("option", [(), ("--from-file", "-"), ("--from-file", "value")], ids=" ".join)
def test_a_value_is_kept_to_the_byte_but_one_newline_at_its_end(
    piped: Piped, monkeypatch: pytest.MonkeyPatch, option: tuple[str, ...]
) -> None:
    monkeypatch.chdir(piped.folder)
    for written, kept in WRITTEN_AND_KEPT:
        (piped.folder / "value").write_bytes(written)
        piped.into(b"" if "value" in option else written).well("secrets", "set", "A", *option)
        assert revealed(piped, "A") == kept + b"\n"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "empty"),
        (b"\n", "empty"),
        (b"\xff\xfe" + CANARY.encode(), "UTF-8"),
        (CANARY.encode() * 70_000, "1048576"),
        (b"x" * 1024 * 1024 + b"y", "1048576"),
    ],
    ids=["empty", "newline", "bytes", "huge", "one too many"],
)
def test_what_cannot_be_a_value_is_refused_without_being_shown(piped: Piped, content: bytes, complaint: str) -> None:
    told = piped.into(content).badly("secrets", "set", "A")
    assert complaint in told
    assert CANARY not in told
    assert piped.well("secrets", "list", "--json").json == []


def test_a_value_is_typed_without_being_seen(shell: Shell) -> None:
    shell.well("init")
    outcome = typed(shell, "secrets", "set", "API_KEY", "--user", "alice", answers=[f"{CANARY}\n"])
    assert outcome.code == 0
    assert outcome.output == "value of API_KEY: \ncustom secret API_KEY of alice: stored\n"
    assert revealed(shell, "API_KEY", "--user", "alice") == f"{CANARY}\n".encode()


@pytest.mark.parametrize(
    ("answer", "code", "complaint"),
    [
        ("\n", 1, "nothing was entered"),
        ("\x04", 1, "nothing was entered"),
        ("\x03", 130, "interrupted"),
        ("-----BEGIN PRIVATE KEY-----\n", 1, "by a file"),
        (f"{CANARY}{'x' * 5000}\n", 1, "by a file"),
    ],
    ids=["nothing", "end", "interrupt", "several lines", "long"],
)
def test_what_cannot_be_typed_is_refused(shell: Shell, answer: str, code: int, complaint: str) -> None:
    shell.well("init")
    outcome = typed(shell, "secrets", "set", "API_KEY", answers=[answer])
    assert outcome.code == code
    assert complaint in outcome.lines[-1]
    assert CANARY not in outcome.output
    assert shell.well("secrets", "list", "--json").json == []
