"""The sample home, number by number: written by OpenHands 1.6.0's own stores, with the flaws that users reported.

The numbers were counted on the unpacked sample with find, wc and a few lines of json, not with the reader.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest

from storage.database.change import Change
from storage.openhands.flaws import count_by_code
from storage.openhands.importer import import_home
from storage.openhands.report import KINDS
from storage.storage import Storage
from tests.openhands.conftest import Reading, read

SAMPLE = Path(__file__).parents[2].parent / "shared" / "samples" / "openhands-home.tar.xz"

pytestmark = pytest.mark.skipif(not SAMPLE.exists(), reason=f"the sample home is not at {SAMPLE}")

FLAWED = {
    "sessions/badtrigger": "unknown-trigger",
    "sessions/brokenjson": "metadata-broken",
    "sessions/legacygithub": "legacy-field",
    "sessions/naivetime": "naive-time",
    "sessions/newfield": "unknown-field",
    "sessions/nocreated": "created-at-missing",
    "sessions/nometadata": "metadata-missing",
    "sessions/offset": "other-offset",
}


@pytest.fixture(scope="module")
def sample() -> Reading:
    return read(SAMPLE)


def test_every_conversation_of_the_sample_is_there(sample: Reading) -> None:
    assert Counter(record.user for record in sample.conversations) == {
        None: 88,
        "user-1-0": 5,
        "user-1-1": 5,
        "user-1-2": 5,
    }


def test_all_but_the_eight_flawed_conversations_of_the_sample_are_good(sample: Reading) -> None:
    flaws = {record.source_path: [flaw.code for flaw in record.flaws] for record in sample.conversations}
    assert {path: codes for path, codes in flaws.items() if codes} == {path: [code] for path, code in FLAWED.items()}
    assert sum(not codes for codes in flaws.values()) == 95


def test_every_file_of_the_sample_is_there(sample: Reading) -> None:
    kinds: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for path, content in sample.content.items():
        kind = "event" if "/events/" in path else path.rpartition("/")[2]
        kinds[kind] += 1
        sizes[kind] += len(content)
    assert kinds == {"event": 640, "agent_state.pkl": 23, "metadata.json": 1}
    assert sizes == {"event": 598_121, "agent_state.pkl": 9_200, "metadata.json": 28}


def test_every_event_of_the_sample_is_json(sample: Reading) -> None:
    files = [file for record in sample.conversations for file in record.files]
    assert [file.examine(sample.content[file.path]) for file in files] == [None] * 664


def test_every_flaw_of_the_sample_is_told(sample: Reading) -> None:
    assert {(flaw.code, flaw.path) for flaw in sample.flaws} == {
        *((code, f"{path}/metadata.json") for path, code in FLAWED.items()),
        ("foreign-file", "sessions/.DS_Store"),
        ("masked-secret", "settings.json"),
        ("empty-secret", "secrets.json"),
    }
    assert len(sample.flaws) == 11


def test_the_samples_settings_and_secrets_are_read(sample: Reading) -> None:
    (account,) = sample.accounts
    assert account.settings is not None
    assert account.secrets is not None
    assert len(account.settings) == 28
    assert account.settings["git_user_name"] == "Ada Ĺovelace"
    assert "sandbox_api_key" not in account.settings
    assert account.settings["mcp_config"]["shttp_servers"][0]["timeout"] == 60
    assert sorted(account.secrets.provider_tokens) == ["github", "gitlab"]
    assert sorted(account.secrets.custom_secrets) == ["DATABASE_URL", "EMPTY", "UNICODE_秘密"]


def test_the_samples_costs_and_tokens_add_up(sample: Reading) -> None:
    rows = [record.fields.values for record in sample.conversations]
    assert sum(row.get("accumulated_cost", 0) for row in rows) == pytest.approx(159.932357)
    assert sum(row.get("prompt_tokens", 0) for row in rows) == 16_132_735
    assert sum(row.get("completion_tokens", 0) for row in rows) == 1_375_587
    assert sum(row.get("total_tokens", 0) for row in rows) == 17_508_322


def test_the_samples_flawed_conversations_keep_what_they_had(sample: Reading) -> None:
    rows = {record.source_path: record.fields for record in sample.conversations}
    assert rows["sessions/badtrigger"].values["trigger"] == "carrier_pigeon"
    assert rows["sessions/brokenjson"].values["title"] == "hi"
    assert sample.content["sessions/brokenjson/metadata.json"] == b'{"conversation_id": "brokenj'
    assert rows["sessions/legacygithub"].extra == {"github_user_id": 7}
    assert rows["sessions/naivetime"].values["created_at"].isoformat() == "2025-03-01T10:00:00+00:00"
    assert rows["sessions/newfield"].extra == {"field_of_tomorrow": {"a": 1}}
    assert rows["sessions/nocreated"].values["tags"] == ["recovered"]
    assert rows["sessions/nometadata"].values["title"] == "hi"
    assert rows["sessions/offset"].values["created_at"].isoformat() == "2025-06-02T06:30:00+00:00"


USERS = (None, "user-1-0", "user-1-1", "user-1-2")


async def test_the_sample_is_imported_number_by_number(storage: Storage) -> None:
    report = await import_home(storage, SAMPLE)
    totals = {kind: asdict(report.total(kind)) for kind in KINDS}
    nothing = {"imported": 0, "overwritten": 0, "unchanged": 0, "kept": 0, "skipped": 0, "bytes": 0}
    assert totals == {
        "conversations": {**nothing, "imported": 103},
        "files": {**nothing, "imported": 664, "bytes": 607_349},
        "settings": {**nothing, "imported": 1},
        "secrets": {**nothing, "imported": 5},
    }
    assert report.recovered == 3
    assert {code: number for code, number in count_by_code(report.flaws).items() if number} == {
        **dict.fromkeys(FLAWED.values(), 1),
        "empty-secret": 1,
        "foreign-file": 1,
        "masked-secret": 1,
    }
    assert [await storage.user(user).conversations.count() for user in USERS] == [88, 5, 5, 5]
    usage = [await storage.user(user).files.usage() for user in USERS]
    assert (sum(item.files for item in usage), sum(item.bytes for item in usage)) == (664, 607_349)

    rows = [row for user in USERS async for row in storage.user(user).conversations.iterate()]
    assert sum(row.accumulated_cost for row in rows) == pytest.approx(159.932357)
    assert sum(row.prompt_tokens for row in rows) == 16_132_735
    assert sum(row.completion_tokens for row in rows) == 1_375_587
    assert Counter(row.llm_model for row in rows) == {
        None: 38,
        "anthropic/claude-sonnet-4": 20,
        "litellm_proxy/qwen3-coder": 16,
        "gemini/gemini-2.5-pro": 15,
        "openai/gpt-5": 14,
    }


async def test_every_byte_of_the_sample_arrives(storage: Storage, sample: Reading) -> None:
    await import_home(storage, SAMPLE)
    for user in USERS:
        files = storage.user(user).files
        paths = [stat.path async for stat in files.walk()]
        assert await files.read_many(paths) == {
            file.path: sample.content[file.path]
            for record in sample.conversations
            if record.user == user
            for file in record.files
        }


async def test_the_samples_secrets_arrive(storage: Storage) -> None:
    await import_home(storage, SAMPLE)
    settings, secrets = await storage.user().settings.load(), await storage.user().secrets.load()
    assert settings is not None
    assert secrets is not None
    shown = settings.model_dump(mode="json", context={"expose_secrets": True})
    assert shown["llm_api_key"] == "sk-ant-sample-1-0123456789"
    assert shown["search_api_key"] == "tvly-sample-1"
    assert shown["sandbox_api_key"] is None
    assert shown["mcp_config"]["shttp_servers"] == [
        {"url": "https://mcp.example.com", "api_key": "mcp-sample-1", "timeout": 60}
    ]
    dumped = secrets.model_dump(mode="json", context={"expose_secrets": True})
    assert dumped["provider_tokens"]["github"] == {
        "token": "ghp_sample1",
        "host": "github.example.com",
        "user_id": "42",
    }
    assert dumped["custom_secrets"]["UNICODE_秘密"]["secret"] == "pässwörd 🔑\nsecond line"
    assert dumped["custom_secrets"]["EMPTY"]["secret"] == ""


async def test_a_second_import_of_the_sample_changes_nothing(storage: Storage) -> None:
    first = await import_home(storage, SAMPLE)
    changes: list[Change] = []
    storage.on_commit(changes.extend)
    second = await import_home(storage, SAMPLE)
    assert changes == []
    assert not second.changed
    assert second.total("conversations").unchanged == 103
    assert second.total("files").unchanged == 664
    assert second.flaws == first.flaws
