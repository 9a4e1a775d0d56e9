"""The example that the project carries, which the demo imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from storage.openhands.importer import import_home
from storage.storage import Storage
from tests.openhands.conftest import read

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "openhands-home"


def test_the_example_is_what_its_script_writes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "scripts" / "make-example-home", tmp_path / "home"], check=True)
    for made in (tmp_path / "home").rglob("*"):
        carried = EXAMPLE / made.relative_to(tmp_path / "home")
        assert carried.is_dir() if made.is_dir() else carried.read_bytes() == made.read_bytes()
    assert len(list(EXAMPLE.rglob("*"))) == len(list((tmp_path / "home").rglob("*")))


def test_the_example_has_twelve_conversations_of_three_users_and_three_flaws() -> None:
    found = read(EXAMPLE)
    assert [record.user for record in found.conversations] == [None] * 6 + ["alice"] * 3 + ["bob"] * 3
    assert sum("/events/" in path for path in found.content) == 69
    assert found.codes == ["masked-secret", "metadata-missing", "naive-time"]


def test_the_example_adds_up_to_a_cost_report() -> None:
    costs = [record.fields.values["accumulated_cost"] for record in read(EXAMPLE).conversations]
    assert sum(costs) == pytest.approx(11.6316)


def test_the_examples_secrets_say_that_they_are_none() -> None:
    (account,) = read(EXAMPLE).accounts
    assert account.secrets is not None
    assert account.settings is not None
    tokens = [token["token"] or "" for token in account.secrets.provider_tokens.values()]
    values = [secret["secret"] for secret in account.secrets.custom_secrets.values()]
    assert all("not-real" in secret for secret in [*tokens, *values, account.settings["llm_api_key"]])


async def test_the_example_is_imported(storage: Storage) -> None:
    report = await import_home(storage, EXAMPLE)
    assert list(report.lines()) == [
        "conversations: 12 found, 12 imported",
        f"files: 81 found, 81 imported ({report.total('files').bytes:,} bytes)",
        "settings: 1 found, 1 imported",
        "secrets: 4 found, 4 imported",
        "recovered: 1 of the conversations, rebuilt and tagged 'recovered'",
        "conversations by user: local 6, alice 3, bob 3",
        "flaws: 3",
        *(f"  {flaw}" for flaw in report.flaws),
    ]
    found = await storage.user().conversations.search(title="readme")
    assert [row.title for row in found.results] == [
        "Translate the README to Spanish and keep the code samples as they are."
    ]
