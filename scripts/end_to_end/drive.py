"""One server on one database, from the home that the server's own stores made to two servers at once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import socketio

from scripts.end_to_end.counterparts import Counterparts
from scripts.end_to_end.database import StoredData
from scripts.end_to_end.listing import storage_environment
from scripts.end_to_end.report import Report
from scripts.end_to_end.server import OpenHands

LLM_KEY = "sk-e2e-llm-key-4f1c9a7d20"
SEARCH_KEY = "tvly-e2e-search-key-77ab31"
GUI_SECRET = "e2e-value-that-nobody-may-read-91d3"
OTHER_SECRET = "e2e-other-value-52c8f0"
GITLAB_TOKEN = "glpat-e2e-token-aa41c07be9"
SECRETS = (LLM_KEY, SEARCH_KEY, GUI_SECRET, OTHER_SECRET, GITLAB_TOKEN)

BEFORE = 24
"""Conversations that the server's own store has made before: more than fit on its page of 20."""


class Drive:
    """Everything that is done with one database.

    Args:
        report: takes checks and figures.
        folder: for homes, logs and the data.
        counterparts: the model and the GitLab.
        database_url: of an empty PostgreSQL database; None for SQLite.
    """

    def __init__(self, report: Report, folder: Path, counterparts: Counterparts, database_url: str | None) -> None:
        self._report = report
        self._folder = folder
        self._state = folder / "state"
        self._counterparts = counterparts
        self._environment = storage_environment(folder, database_url)
        self._kind = "SQLite" if database_url is None else "PostgreSQL"
        self._stored = StoredData(folder, database_url)
        self._before: dict[str, Any] = {}

    def run(self) -> None:
        """Everything, in order."""
        self._report.section(f"{self._kind}: a home that the server's own stores made")
        with self._server("stock", {}) as server:
            self._make_home(server)
        self._report.section(f"{self._kind}: one variable, and a restart")
        with self._server("first", self._environment) as server:
            self._report.figure(f"first start on {self._kind}, with the import", f"{server.started_in:.1f} s")
            imported = self._stored.blobs()
            self._everything_is_there(server)
            self._settings(server)
            self._secrets(server)
            kept = self._conversations(server)
            self._validator(server)
            server.kill()
        self._report.section(f"{self._kind}: killed, and started again")
        with self._server("second", self._environment) as server:
            self._after_restart(server, kept)
            if self._kind == "PostgreSQL":
                with self._server("third", self._environment) as other:
                    self._two_servers(server, other)
            last = {"titles": self._titles(server), "secrets": _names(server), "settings": server.get("/settings")}
        self._report.section(f"{self._kind}: what is in the database")
        self._database(imported)
        self._report.section(f"{self._kind}: and back to the server's own stores")
        self._back(last)

    def _back(self, last: dict[str, Any]) -> None:
        back = self._folder / "back-state"
        with self._report.check("the server's own stores read what `storage export openhands` wrote"):
            subprocess.run(
                [sys.executable, "-m", "storage", "export", "openhands", str(back)],
                env={**os.environ, **self._environment},
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            with OpenHands(self._folder / "stock", back, {}) as server:
                assert self._titles(server) == last["titles"]
                assert _names(server) == last["secrets"]
                settings = server.get("/settings")
                assert settings == last["settings"], _difference(last["settings"], settings)

    def _server(self, name: str, environment: dict[str, str]) -> OpenHands:
        return OpenHands(self._folder / name, self._state, environment)

    def _llm_settings(self, **further: Any) -> dict[str, Any]:
        return {
            "llm_model": "openai/gpt-4o",
            "llm_api_key": LLM_KEY,
            "llm_base_url": self._counterparts.model_url,
            "language": "en",
            "agent": "CodeActAgent",
            **further,
        }

    def _make_home(self, server: OpenHands) -> None:
        server.post("/settings", self._llm_settings(search_api_key=SEARCH_KEY, max_budget_per_task=12.5))
        server.post("/secrets", {"name": "GUI_SECRET", "value": GUI_SECRET, "description": "of the e2e"})
        host = self._counterparts.gitlab_url
        server.post("/add-git-providers", {"provider_tokens": {"gitlab": {"token": GITLAB_TOKEN, "host": host}}})
        events = {}
        for number in range(BEFORE):
            conversation = self._create(server, f"conversation {number}")
            events[conversation] = server.finished(conversation)
        self._before = {
            "settings": server.get("/settings"),
            "secrets": server.get("/secrets"),
            "conversations": {each["conversation_id"]: each for each in server.conversations(limit=100)},
            "events": events,
        }

    def _create(self, server: OpenHands, message: str) -> str:
        created: str = server.post("/conversations", {"initial_user_msg": message})["conversation_id"]
        return created

    def _everything_is_there(self, server: OpenHands) -> None:
        with self._report.check("GET /settings answers as before, the keys marked as set and not shown"):
            settings = server.get("/settings")
            assert settings == self._before["settings"], _difference(self._before["settings"], settings)
            assert settings["llm_api_key_set"] is True
            assert LLM_KEY not in str(settings)
        with self._report.check("GET /secrets answers as before, names and descriptions"):
            assert server.get("/secrets") == self._before["secrets"]
        with self._report.check(f"all {BEFORE} conversations are listed in pages of 20, as before"):
            found = {each["conversation_id"]: each for each in server.conversations()}
            assert found.keys() == self._before["conversations"].keys()
            for name, conversation in self._before["conversations"].items():
                for field in ("title", "created_at", "trigger", "selected_repository", "conversation_version"):
                    assert found[name][field] == conversation[field], (name, field)
        with self._report.check("the events of a conversation are the same"):
            for conversation, events in self._before["events"].items():
                found_events = server.get(f"/conversations/{conversation}/events?limit=100")["events"]
                assert [_without_secrets(event) for event in found_events] == [
                    _without_secrets(event) for event in events
                ]

    def _settings(self, server: OpenHands) -> None:
        with self._report.check("POST /settings of one field keeps model, key, URL and search key"):
            server.post("/settings", {"language": "fr"})
            settings = server.get("/settings")
            assert settings["language"] == "fr"
            assert settings["llm_model"] == "openai/gpt-4o"
            assert settings["llm_base_url"] == self._counterparts.model_url
            assert settings["llm_api_key_set"] is True
            assert settings["search_api_key_set"] is True
        with self._report.check("POST /settings of everything is what GET answers"):
            server.post("/settings", self._llm_settings(language="de", max_iterations=77, confirmation_mode=False))
            settings = server.get("/settings")
            assert (settings["language"], settings["max_iterations"]) == ("de", 77)
        with self._report.check("adding a provider's token leaves the settings alone"):
            host = self._counterparts.gitlab_url
            server.post("/add-git-providers", {"provider_tokens": {"gitlab": {"token": GITLAB_TOKEN, "host": host}}})
            after = server.get("/settings")
            assert {**after, "provider_tokens_set": None} == {**settings, "provider_tokens_set": None}
            assert after["provider_tokens_set"] == {"gitlab": host}

    def _secrets(self, server: OpenHands) -> None:
        with self._report.check("a secret is added, renamed, described and deleted"):
            server.post("/secrets", {"name": "OTHER", "value": OTHER_SECRET, "description": "second"})
            assert _names(server) == {"GUI_SECRET", "OTHER"}
            status, _ = server.call("PUT", "/secrets/OTHER", {"name": "RENAMED", "description": "third"})
            assert status == 200
            listed = {each["name"]: each["description"] for each in server.get("/secrets")["custom_secrets"]}
            assert listed == {"GUI_SECRET": "of the e2e", "RENAMED": "third"}
            status, _ = server.call("DELETE", "/secrets/RENAMED")
            assert status == 200
            assert _names(server) == {"GUI_SECRET"}
        with self._report.check("the token that reached GitLab is the one that was stored"):
            server.call("GET", "/user/info")
            assert set(self._counterparts.tokens) == {GITLAB_TOKEN}

    def _conversations(self, server: OpenHands) -> str:
        with self._report.check("an agent runs a conversation to its end, and its events are there"):
            started = time.monotonic()
            kept = self._create(server, f"print {GUI_SECRET}")
            events = server.finished(kept)
            self._report.figure(f"one agent's conversation on {self._kind}", f"{time.monotonic() - started:.1f} s")
            assert [event["id"] for event in events] == list(range(len(events)))
            assert GUI_SECRET not in str(events)
            assert any(event.get("action") == "run" for event in events)
        with self._report.check("the model's title arrives in the list"):
            assert self._titles(server)[kept] == "A title by the model"
        with self._report.check("PATCH changes the title, while an agent runs"):
            running = self._create(server, "go on")
            status, _ = server.call("PATCH", f"/conversations/{running}", {"title": "By the user"})
            assert status == 200
            server.finished(running)
            time.sleep(1)
            assert self._titles(server)[running] == "By the user"
        with self._report.check("GET of one conversation, and 404 for one that does not exist"):
            assert server.get(f"/conversations/{kept}")["conversation_id"] == kept
            status, _ = server.call("GET", f"/conversations/{uuid.uuid4().hex}")
            assert status in (200, 404)  # 1.6.0 answers 200 with null
        with self._report.check("DELETE removes the conversation, its row and its files"):
            status, _ = server.call("DELETE", f"/conversations/{running}")
            assert status == 200
            assert running not in self._titles(server)
            assert self._stored.count("conversation", conversation_id=running) == 0
            assert self._stored.count("file", conversation_id=running) == 0
        return kept

    def _titles(self, server: OpenHands) -> dict[str, str]:
        return {each["conversation_id"]: each["title"] for each in server.conversations()}

    def _validator(self, server: OpenHands) -> None:
        with self._report.check("a socket for an unknown conversation is refused, and makes no conversation"):
            unknown = uuid.uuid4().hex
            client = socketio.SimpleClient()
            refused = False
            try:
                client.connect(f"{server.url}?conversation_id={unknown}", transports=["polling"], wait_timeout=10)
            except socketio.exceptions.ConnectionError:
                refused = True
            finally:
                client.disconnect()
            assert refused
            assert unknown not in self._titles(server)

    def _after_restart(self, server: OpenHands, kept: str) -> None:
        with self._report.check("settings, secrets and conversations are those of before the kill"):
            assert server.get("/settings")["language"] == "de"
            assert _names(server) == {"GUI_SECRET"}
            assert len(self._titles(server)) == BEFORE + 1
            assert len(server.get(f"/conversations/{kept}/events?limit=100")["events"]) > 5
        with self._report.check("the home is not imported again: what was deleted stays deleted"):
            gone = next(iter(self._before["conversations"]))
            server.call("DELETE", f"/conversations/{gone}")
            assert gone not in self._titles(server)
        with self._report.check("two browser tabs save at once, and neither loses the other's field"):
            with ThreadPoolExecutor(2) as tabs:
                secrets = [
                    tabs.submit(server.post, "/secrets", {"name": f"TAB_{number}", "value": OTHER_SECRET})
                    for number in range(2)
                ]
                for each in secrets:
                    each.result()
            assert _names(server) == {"GUI_SECRET", "TAB_0", "TAB_1"}

    def _two_servers(self, one: OpenHands, other: OpenHands) -> None:
        self._report.section("PostgreSQL: two servers at once")
        with self._report.check("what one server writes, the other one shows"):
            one.post("/settings", {"language": "ja"})
            assert other.get("/settings")["language"] == "ja"
            made = self._create(other, "on the other server")
            other.finished(made)
            assert made in self._titles(one)
            assert len(one.get(f"/conversations/{made}/events?limit=100")["events"]) > 5
            assert self._titles(one) == self._titles(other)
        with self._report.check("secrets added on both at once are all there"):
            with ThreadPoolExecutor(2) as pool:
                for number in range(5):
                    added = [
                        pool.submit(server.post, "/secrets", {"name": f"{name}_{number}", "value": OTHER_SECRET})
                        for name, server in (("ONE", one), ("OTHER", other))
                    ]
                    for each in added:
                        each.result()
            expected = {f"{name}_{number}" for name in ("ONE", "OTHER") for number in range(5)}
            assert expected <= _names(one)
            assert _names(one) == _names(other)

    def _database(self, imported: list[str]) -> None:
        with self._report.check("rows of conversations, settings, secrets, tokens, files and events are there"):
            counts = {name: self._stored.count(name) for name in self._stored.tables()}
            self._report.figure(f"rows in {self._kind}", ", ".join(f"{n} {c}" for n, c in counts.items() if c))
            expected = {"conversation", "settings", "custom_secret", "provider_token", "file", "event", "data_key"}
            assert not [table for table in expected if not counts[table]]
        with self._report.check("no secret is readable in a row, in a blob written since, or in the database's files"):
            self._stored.assert_unreadable(SECRETS, imported)


def _names(server: OpenHands) -> set[str]:
    return {each["name"] for each in server.get("/secrets")["custom_secrets"]}


def _difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    return {
        key: (before.get(key), after.get(key))
        for key in before.keys() | after.keys()
        if before.get(key) != after.get(key)
    }


def _without_secrets(event: dict[str, Any]) -> str:
    return str(event).replace(GUI_SECRET, "<secret_hidden>")
