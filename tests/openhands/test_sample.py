"""The sample home, number by number: written by OpenHands 1.6.0's own stores, with the flaws that users reported.

The numbers were counted on the unpacked sample with find, wc and a few lines of json, not with the reader.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

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
