"""The real server's routes on its own stores and on ours: the same requests have the same outcome."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from storage.config import StorageConfig
from tests.openhands.server.conftest import is_installed

PROGRAM = Path(__file__).with_name("through_routes.py")
ROOT = PROGRAM.parents[3]

pytestmark = pytest.mark.skipif(
    not is_installed(), reason="openhands-ai 0.62 to 1.6 is not installed in this environment (1.6 GB)"
)


def outcome(folder: Path, **environment: str) -> dict[str, Any]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("STORAGE_", "OPENHANDS_"))}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", str(PROGRAM)],
        cwd=folder,
        env={
            **kept,
            "PYTHONPATH": str(ROOT),
            "HOME": str(folder),
            "FILE_STORE": "local",
            "FILE_STORE_PATH": str(folder / "state"),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    lines = [line for line in run.stdout.splitlines() if line.startswith("RESULT ")]
    result: dict[str, Any] = json.loads(lines[-1].removeprefix("RESULT "))
    return result


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the server does with its own stores."""
    return outcome(tmp_path_factory.mktemp("stock"))


def test_the_same_requests_have_the_same_outcome(stock: dict[str, Any], config: StorageConfig, tmp_path: Path) -> None:
    """Settings posted whole and in part, secrets, tokens of forges, and what a session gets of them."""
    ours = outcome(
        tmp_path,
        OPENHANDS_CONFIG_CLS="storage.openhands.SQLServerConfig",
        STORAGE_DATABASE_URL=str(config.database_url),
        STORAGE_DATA_DIR=str(config.data_dir),
        STORAGE_MASTER_KEY_FILE=str(config.master_key_file),
    )
    assert len(ours["answers"]) == len(stock["answers"])
    for mine, theirs in zip(ours["answers"], stock["answers"], strict=True):
        assert mine == theirs
    for name in ("tokens", "custom", "listed"):
        assert ours[name] == stock[name]
    assert (ours["store"], ours["stats"]) == ("SQLFileStore", "SQLFileStore")
    assert (stock["store"], ours["validator"]) == ("LocalFileStore", "SQLConversationValidator")
    state = tmp_path / "state"
    assert not [path for path in state.rglob("*") if path.is_file() and not path.name.startswith(".")]


def test_what_the_server_lets_through_into_events_is_masked(
    stock: dict[str, Any], config: StorageConfig, tmp_path: Path
) -> None:
    ours = outcome(
        tmp_path,
        OPENHANDS_CONFIG_CLS="storage.openhands.SQLServerConfig",
        STORAGE_DATABASE_URL=str(config.database_url),
        STORAGE_DATA_DIR=str(config.data_dir),
        STORAGE_MASTER_KEY_FILE=str(config.master_key_file),
    )
    assert "value of E" in json.dumps(stock["events"]), "the server's own masking has got better"
    assert "value of E" not in json.dumps(ours["events"])
    assert ours["events"][1] == stock["events"][1]
