"""`storage webhooks deliver`, `status`, `dead`, `replay`, `prune`: what waits is sent, what was refused seen to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from storage.webhooks.sending.signature import new_secret
from tests.cli.conftest import REPOSITORY, Shell
from tests.cli.listener import listening

LOCAL: dict[str, Any] = {"STORAGE_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8"}
SECONDS = 20.0


@pytest.fixture
def desk(either_shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.chdir(either_shell.folder)
    assert either_shell("init").code == 0
    Path("notes.txt").write_text("hello")
    Path("other.secret").write_text(new_secret())
    return either_shell


def add(desk: Shell, url: str, *words: str) -> str:
    its: str = desk.well("webhooks", "add", url, *words, "--json", **LOCAL).json["id"]
    return its


def put(desk: Shell, *paths: str) -> None:
    for path in paths:
        desk.well("files", "put", "notes.txt", path)


def test_what_is_refused_is_seen_and_replayed_by_id_by_time_and_all(desk: Shell) -> None:
    with listening(desk, "--secret-from", "other.secret") as refusing:
        its = add(desk, refusing.url)
        put(desk, "a", "b", "c")
        assert desk.well("webhooks", "deliver", "--until-empty", **LOCAL).output == ""
        dead = desk.well("webhooks", "dead", its, "--json").json
        assert [(letter["key"], letter["status"], letter["attempts"]) for letter in dead] == [
            (key, 401, 1) for key in "abc"
        ]
        page = desk.well("webhooks", "dead", its, "--after", str(dead[0]["seq"]), "--limit", "1", "--json").json
        assert page == dead[1:2]
        status = desk.well("webhooks", "status", "--json").json
        (endpoint,) = status["endpoints"]
        assert status["answers"] == {"4xx": 3}
        assert desk.well("webhooks", "status").lines[-1] == "last answers: 3 4xx"
        assert desk.well("webhooks", "status", "--user", "bob", "--json").json["answers"] == {}
        assert (endpoint["dead"], endpoint["pending"], endpoint["breaker"]) == (3, 0, "closed")
        replay = ("webhooks", "replay", its)
        assert desk.well(*replay, dead[0]["id"], "--json").json == {"replayed": 1}
        assert "no dead letter" in desk.badly(*replay, dead[0]["id"])
        assert desk.well(*replay, "--until", "2020-01-01", "--json").json == {"replayed": 0}
        assert desk.well(*replay, "--since", dead[2]["created_at"], "--json").json == {"replayed": 1}
        assert desk.well(*replay).output == "1 event to be delivered again\n"
        assert desk.well("webhooks", "dead", its).output == "no dead letters\n"


def test_another_users_dead_letters_are_out_of_reach(desk: Shell) -> None:
    its = add(desk, "https://receiver.example.com/", "--user", "alice")
    for words in (("dead", its), ("replay", its)):
        assert "no web hook endpoint" in desk.badly("webhooks", *words, "--user", "bob")
    assert desk.well("webhooks", "status", "--user", "bob", "--json").json["endpoints"] == []


def test_what_waits_for_a_dispatcher_is_said(desk: Shell) -> None:
    add(desk, "https://receiver.example.com/")
    put(desk, "a")
    outcome = desk("webhooks", "status")
    assert outcome.code == 0
    assert "run `storage webhooks deliver`" in outcome.errors
    assert outcome.lines[-1] == "1 endpoint, 0 events pending, 0 dead"


def test_delivering_until_empty_says_what_is_left(desk: Shell) -> None:
    add(desk, "http://127.0.0.1:1/")
    put(desk, "a")
    outcome = desk("webhooks", "deliver", "--until-empty", **LOCAL)
    assert (outcome.code, outcome.output) == (1, "1 event wait to be tried again\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_dispatcher_as_a_process_delivers_until_it_is_stopped(desk: Shell, number: signal.Signals) -> None:
    with listening(desk, "--requests", "1") as listener:
        add(desk, listener.url)
        environment = {**os.environ, **desk.environment, **LOCAL, "PYTHONPATH": str(REPOSITORY)}
        with subprocess.Popen(
            [sys.executable, "-m", "storage", "webhooks", "deliver"],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        ) as dispatcher:
            try:
                put(desk, "a")
                assert "a" in " ".join(listener.ended())
                dispatcher.send_signal(number)
                assert dispatcher.wait(SECONDS) == 0
            finally:
                dispatcher.kill()


def test_old_events_are_removed_by_age(desk: Shell) -> None:
    put(desk, "a", "b")
    assert desk.well("webhooks", "prune", "--json").json == {"removed": 0}
    assert desk.well("webhooks", "prune", "--days", "0").output == "2 events removed\n"
    assert "--days must be from 0" in desk.badly("webhooks", "prune", "--days", "-1")
    assert "keeps events for ever" in desk.badly("webhooks", "prune", STORAGE_CONFIG=str(forever(desk)))


def forever(desk: Shell) -> Path:
    """A configuration that keeps events."""
    path = desk.folder / "config.toml"
    path.write_text("[storage]\nevent_retention_days = inf\n")
    return path
