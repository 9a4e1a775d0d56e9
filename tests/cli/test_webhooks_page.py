"""The runbooks of docs/webhooks.md, run as they stand: with the id of an endpoint, and a port that is free."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from storage.webhooks.sending.signature import new_secret
from tests.cli.conftest import Shell
from tests.cli.listener import listening
from tests.cli.runbooks import Runbooks

RUNBOOKS = Runbooks("webhooks.md")
ITS_ID = "01930a6c-4d2b-7c3e-9f10-2a3b4c5d6e7f"
"""The id of an endpoint on the page."""

LOCAL: dict[str, Any] = {"STORAGE_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8"}


@pytest.fixture
def desk(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.chdir(shell.folder)
    assert shell("init").code == 0
    Path("notes.txt").write_text("hello")
    return shell


def follow(desk: Shell, title: str, its: str) -> list[str]:
    """Run a runbook for an endpoint; returns what each command printed."""
    printed = []
    for command in RUNBOOKS.commands(title):
        outcome = desk(*(its if word == ITS_ID else word for word in command), **LOCAL)
        assert outcome.code == 0, (command, outcome.output, outcome.errors)
        printed.append(outcome.output)
    return printed


def endpoint(desk: Shell, url: str = "https://receiver.example.com/hook") -> str:
    its: str = desk.well("webhooks", "add", url, "--json", **LOCAL).json["id"]
    return its


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


def test_every_runbook_is_tested() -> None:
    assert RUNBOOKS.untested(__file__) == []


def test_both_ends_are_tried_out(desk: Shell) -> None:
    port = free_port()
    commands = [[word.replace("8787", port) for word in words] for words in RUNBOOKS.commands("Try both ends")]
    add, listen, put, deliver = commands
    assert desk(*add, **LOCAL).code == 0
    assert listen[:2] == ["webhooks", "listen"]
    with listening(desk, *listen[2:], "--requests", "1", "--json") as listener:
        for command in (put, deliver):
            outcome = desk(*command, **LOCAL)
            assert outcome.code == 0, outcome.errors
        (event,) = map(json.loads, listener.ended())
    assert event["signed"] is True
    assert json.loads(event["body"])["type"] == "file.written"
    assert json.loads(event["body"])["data"]["path"] == "notes.txt"


def test_a_receiver_that_answers_is_seen(desk: Shell) -> None:
    with listening(desk, "--requests", "1") as listener:
        its = endpoint(desk, listener.url)
        listed, tested = follow(desk, "See whether a receiver answers", its)
        listener.ended()
    assert its in listed
    assert tested == "accepted with 204\n"


def test_what_waits_is_seen_and_old_events_go(desk: Shell) -> None:
    its = endpoint(desk)
    desk.well("files", "put", "notes.txt", "notes.txt", **LOCAL)
    (seen,) = follow(desk, "See what waits", its)
    assert its in seen
    (pruned,) = follow(desk, "Remove old events now", its)
    assert pruned == "0 events removed\n"


def test_dead_letters_are_seen_and_replayed(desk: Shell) -> None:
    Path("other.secret").write_text(new_secret())
    with listening(desk, "--secret-from", "other.secret") as listener:
        its = endpoint(desk, listener.url)
        desk.well("files", "put", "notes.txt", "notes.txt", **LOCAL)
        assert desk("webhooks", "deliver", "--until-empty", **LOCAL).code == 0
    dead, replayed, again = follow(desk, "Replay what was given up", its)
    assert "file.written" in dead
    assert "401" in dead
    assert (replayed, again) == ("1 event to be delivered again\n", "0 events to be delivered again\n")


def test_a_secret_is_replaced(desk: Shell) -> None:
    its = endpoint(desk)
    follow(desk, "Replace a secret", its)
    follow(desk, "Replace a secret that somebody knows", its)
    assert Path("new.secret").read_text() != Path("newer.secret").read_text()


def test_an_endpoint_rests(desk: Shell) -> None:
    its = endpoint(desk)
    paused, resumed = follow(desk, "Stop for a while", its)
    assert (paused, resumed) == (f"endpoint {its}: paused\n", f"endpoint {its}: active\n")


def test_an_endpoint_moves_and_goes(desk: Shell) -> None:
    its = endpoint(desk)
    _, now = follow(desk, "Move a receiver", its)
    assert "https://receiver.example.com/new" in now
    follow(desk, "Give an endpoint up", its)
    assert desk.well("webhooks", "list", "--json").json == []
