"""`storage webhooks`: endpoints are managed without showing what is sealed, and both ends can be tried out."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import WRONG_KEY, Shell
from tests.cli.listener import listening
from tests.cli.standard_input import Piped

URL = "https://receiver.example.com/hook"
LOCAL: dict[str, Any] = {"STORAGE_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8"}


@pytest.fixture
def desk(either_shell: Shell) -> Shell:
    """A storage that is ready, for tests that mean both databases."""
    assert either_shell("init").code == 0
    return either_shell


@pytest.fixture
def home(shell: Shell) -> Shell:
    """A storage that is ready, with what a test says of files in its folder."""
    assert shell("init").code == 0
    return shell


def added(desk: Shell, *words: str | Path, **environment: str) -> dict[str, Any]:
    found: dict[str, Any] = desk.well("webhooks", "add", *words, "--json", **environment).json
    return found


# ---- endpoints


def test_an_endpoint_is_added_shown_listed_and_removed(desk: Shell) -> None:
    endpoint = added(desk, URL, "--description", "the archive")
    secret = endpoint.pop("secret")
    assert secret.startswith("whsec_")
    assert (endpoint["url"], endpoint["user_id"], endpoint["event_types"]) == (URL, "local", ["*"])
    assert endpoint["batching"] == {"events": 100, "bytes": 1048576, "seconds": 5.0}
    its = endpoint["id"]
    assert desk.well("webhooks", "list", "--json").json == [endpoint]
    assert desk.well("webhooks", "show", its, "--json").json == endpoint
    for words in (("list",), ("list", "--json"), ("show", its), ("show", its, "--json")):
        assert secret not in desk.well("webhooks", *words).output
    rows = [line.split() for line in desk.well("webhooks", "show", its).lines]
    assert ["is", "signed", "yes"] in rows
    assert ["description", "the", "archive"] in rows
    listed = desk.well("webhooks", "list").lines[-1].split()
    assert listed[:4] == [its, "local", "active", "standard"]
    assert desk.well("webhooks", "remove", its, "--json").json == {"id": its, "removed": True}
    assert desk.well("webhooks", "list").output == "no endpoints\n"
    assert "no web hook endpoint" in desk.badly("webhooks", "remove", its)


def test_every_option_arrives(home: Shell) -> None:
    headers, secret = home.folder / "headers", home.folder / "secret"
    headers.write_text("Authorization: Bearer letmein-letmein\n\nX-Team: storage\n")
    secret.write_text("whsec_" + "A" * 40 + "\n")
    endpoint = added(
        home,
        *(URL, "--user", "alice", "--type", "file.*", "--type", "settings.updated", "--format", "cloudevents"),
        *("--batched", "--batch-events", "0", "--batch-bytes", "5", "--batch-seconds", "0.5", "--include", "content"),
        *("--include-bytes", "10", "--secret-names", "--on-dead", "block"),
        *("--headers-from", headers, "--secret-from", secret),
    )
    assert endpoint.pop("secret") == "whsec_" + "A" * 40
    assert {
        name: endpoint[name] for name in ("user_id", "event_types", "format", "mode", "include", "include_bytes")
    } == {
        "user_id": "alice",
        "event_types": ["file.*", "settings.updated"],
        "format": "cloudevents",
        "mode": "batched",
        "include": "content",
        "include_bytes": 10,
    }
    assert endpoint["batching"] == {"events": 0, "bytes": 5, "seconds": 0.5}
    assert (endpoint["secret_names"], endpoint["on_dead"], endpoint["has_headers"]) == (True, "block", True)
    changed = home.well(
        *(
            "webhooks",
            "update",
            endpoint["id"],
            "--batch-seconds",
            "2",
            "--type",
            "file.written",
            "--secret-names",
            "no",
        ),
        *("--description", "new", "--no-headers", "--on-dead", "skip", "--include", "nothing", "--json"),
    ).json
    assert changed["batching"] == {"events": 0, "bytes": 5, "seconds": 2.0}
    assert (changed["event_types"], changed["secret_names"], changed["on_dead"]) == (["file.written"], False, "skip")
    assert (changed["description"], changed["has_headers"], changed["include"]) == ("new", False, "nothing")
    assert "batch seconds" in home.well("webhooks", "show", endpoint["id"]).output
    assert home.well("webhooks", "update", endpoint["id"]).output.endswith("nothing to change was named\n")
    assert "letmein" not in home.well("webhooks", "list", "--json").output


def test_an_endpoint_is_a_users_own_or_the_operators(desk: Shell) -> None:
    hers = added(desk, URL, "--user", "alice")["id"]
    everyones = added(desk, URL, "--everyone")
    assert everyones["user_id"] is None
    listed = desk.well("webhooks", "list", "--json").json
    assert [endpoint["id"] for endpoint in listed] == [hers, everyones["id"]]
    assert [endpoint["id"] for endpoint in desk.well("webhooks", "list", "--user", "alice", "--json").json] == [hers]
    assert "everyone" in desk.well("webhooks", "list").output
    for verb in ("show", "pause", "resume", "remove", "rotate-secret", "test", "update"):
        assert "no web hook endpoint" in desk.badly("webhooks", verb, hers, "--user", "bob")
        assert "no web hook endpoint" in desk.badly("webhooks", verb, everyones["id"], "--user", "alice")
    assert "exclude each other" in desk.badly("webhooks", "add", URL, "--user", "alice", "--everyone")


def test_pausing_and_resuming(home: Shell) -> None:
    its = added(home, URL)["id"]
    assert home.well("webhooks", "pause", its).output == f"endpoint {its}: paused\n"
    assert home.well("webhooks", "show", its, "--json").json["state"] == "paused"
    assert home.well("webhooks", "resume", its, "--json").json["state"] == "active"


def test_what_is_not_acceptable_is_refused_in_one_line(home: Shell) -> None:
    assert "STORAGE_WEBHOOK_ALLOWED_NETWORKS" in home.badly("webhooks", "add", "http://127.0.0.1:8000/")
    assert "must begin with https" in home.badly("webhooks", "add", "ftp://receiver.example.com/")
    assert "'File'" in home.badly("webhooks", "add", URL, "--type", "File")
    assert "'openhands'" in home.badly("webhooks", "add", URL, "--unsigned")
    assert "mode 'batched'" in home.badly("webhooks", "add", URL, "--batch-events", "3")
    to = home.folder / "secret"
    words = ("webhooks", "add", URL, "--format", "openhands", "--unsigned", "--secret-to", to)
    assert "--unsigned means" in home.badly(*words)
    assert home("webhooks", "add", URL, "--format", "json").code == 2
    assert home("webhooks", "show", "one").code == 2
    assert home.well("webhooks", "list", "--json").json == []
    added(home, "http://127.0.0.1:8000/", **LOCAL)


# ---- secrets


def test_a_secret_goes_into_a_new_file_of_its_owners(home: Shell) -> None:
    to = home.folder / "hook.secret"
    outcome = home.well("webhooks", "add", URL, "--secret-to", to)
    assert "whsec_" not in outcome.output
    assert to.read_text().startswith("whsec_")
    assert to.stat().st_mode & 0o777 == 0o600
    assert "File exists" in home.badly("webhooks", "add", URL, "--secret-to", to)
    nothing = home.folder / "nothing"
    assert home("webhooks", "add", "ftp://a.example/", "--secret-to", nothing).code == 1
    assert not nothing.exists()
    assert len(home.well("webhooks", "list", "--json").json) == 1


def test_a_secret_is_replaced_and_shown_once(home: Shell) -> None:
    endpoint = added(home, URL)
    its = endpoint["id"]
    rotated = home.well("webhooks", "rotate-secret", its, "--keep-previous", "2h", "--json").json
    assert rotated["id"] == its
    assert rotated["secret"].startswith("whsec_")
    assert rotated["secret"] != endpoint["secret"]
    assert "whsec_" in home.well("webhooks", "rotate-secret", its).output
    to = home.folder / "new.secret"
    assert home.well("webhooks", "rotate-secret", its, "--secret-to", to, "--json").json["secret"] is None
    assert to.read_text().startswith("whsec_")
    assert "90 days" in home.badly("webhooks", "rotate-secret", its, "--keep-previous", "1000d")


def test_headers_come_from_the_standard_input(home: Shell) -> None:
    piped = Piped(home.folder)
    assert added(piped.into(b"X-Key: letmein\n"), URL, "--headers-from", "-")["has_headers"]
    words = ("webhooks", "add", URL, "--headers-from", "-")
    assert "line 1 of the standard input" in piped.into(b"no header\n").badly(*words)
    assert "given twice" in piped.into(b"A: b\nA: c\n").badly(*words)


def test_without_the_key_endpoints_are_listed_paused_and_removed(home: Shell) -> None:
    its = added(home, URL)["id"]
    wrong = {"STORAGE_MASTER_KEY": WRONG_KEY}
    assert home.well("webhooks", "list", "--json", **wrong).json[0]["is_signed"] is True
    home.well("webhooks", "pause", its, **wrong)
    outcome = home("webhooks", "add", URL, **wrong)
    assert outcome.code == 1
    assert "not the one" in outcome.errors
    home.well("webhooks", "remove", its, **wrong)


# ---- both ends


def test_a_receiver_shows_what_is_sent_to_it_and_refuses_what_is_signed_otherwise(home: Shell) -> None:
    secret = home.folder / "hook.secret"
    with listening(home, "--requests", "3", "--json", *_secret_of(home, secret)) as listener:
        signed = added(home, f"{listener.url}/hook", "--secret-from", secret, **LOCAL)["id"]
        others = added(home, f"{listener.url}/other", **LOCAL)["id"]
        files = added(home, f"{listener.url}/files/", "--format", "openhands", "--secret-from", secret, **LOCAL)["id"]
        assert home.well("webhooks", "test", signed, **LOCAL).output == "accepted with 204\n"
        assert "answered 401" in home.badly("webhooks", "test", others, **LOCAL)
        tested = home.well("webhooks", "test", files, "--json", **LOCAL).json
        assert (tested["id"], tested["status"]) == (files, 204)
        first, second, third = map(json.loads, listener.ended())
    assert (first["method"], first["path"], first["signed"]) == ("POST", "/hook", True)
    assert json.loads(first["body"])["type"] == "webhook.test"
    uuid.UUID(first["headers"]["webhook-id"])
    assert (second["path"], second["signed"]) == ("/other", False)
    assert second["reason"]
    assert (third["method"], third["path"]) == ("DELETE", "/files/.storage-webhook-test")


def _secret_of(home: Shell, to: Path) -> tuple[str | Path, ...]:
    """A new secret in the file, and the option that names it."""
    home.well("webhooks", "add", URL, "--secret-to", to)
    return ("--secret-from", to)


def test_a_receiver_shows_people_lines(home: Shell) -> None:
    with listening(home, "--requests", "1", "--headers") as listener:
        its = added(home, listener.url, **LOCAL)["id"]
        home.well("webhooks", "test", its, **LOCAL)
        shown = "\n".join(listener.ended())
    assert "POST  /" in shown
    assert "webhook-signature: v1," in shown
    assert '"webhook.test"' in shown


def test_an_endpoint_that_does_not_answer_is_told_of(home: Shell) -> None:
    with listening(home) as listener:
        its = added(home, listener.url, **LOCAL)["id"]
    assert home.badly("webhooks", "test", its, **LOCAL).startswith("no answer: ")
    outcome = home("webhooks", "test", its, "--json", **LOCAL)
    assert (outcome.code, outcome.json["status"]) == (1, None)


def test_a_receiver_says_what_it_cannot_use(home: Shell) -> None:
    assert "--requests must be at least 1" in home.badly("webhooks", "listen", "--requests", "0")
    wrong = home.folder / "secret"
    wrong.write_text("letmein")
    assert "letmein" not in home.badly("webhooks", "listen", "--secret-from", wrong)
