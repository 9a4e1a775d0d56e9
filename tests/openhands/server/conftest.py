"""The drop-in's stores on a storage of the test's own, with the real OpenHands where there is one."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from storage.config import StorageConfig
from storage.openhands import process_storage as process
from storage.openhands.process_storage import ProcessStorage
from tests.openhands.server import stand_in

OURS = "storage.openhands.server"


def is_installed() -> bool:
    """Whether this machine has a release with these stores, 0.62 to 1.6; others have the name `openhands` too."""
    return find_spec("openhands") is not None and find_spec("openhands.storage") is not None


@pytest.fixture(scope="module")
def openhands() -> Iterator[Any]:
    """What tests use of OpenHands, and our classes on top of it, by their names."""
    put = {} if is_installed() else stand_in.install()
    names = {
        "openhands.storage.data_models.conversation_metadata": ("ConversationMetadata", "ConversationTrigger"),
        "openhands.storage.data_models.secrets": ("Secrets",),
        "openhands.storage.data_models.settings": ("Settings",),
        "openhands.integrations.provider": ("CustomSecret", "ProviderToken"),
        "openhands.integrations.service_types": ("ProviderType",),
        f"{OURS}.conversations": ("SQLConversationStore",),
        f"{OURS}.settings": ("SQLSettingsStore",),
        f"{OURS}.secrets": ("SQLSecretsStore",),
        f"{OURS}.validator": ("SQLConversationValidator",),
        f"{OURS}.config": ("SQLServerConfig", "storage_config"),
        "storage.openhands.switch_over": ("switch_over", "MARKER"),
        "socketio.exceptions": ("ConnectionRefusedError",),
    }
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else loading it asks the network for prices
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it builds on warns of its own affairs
        found = {
            name: getattr(importlib.import_module(module), name) for module, each in names.items() for name in each
        }
    yield SimpleNamespace(**found)
    if put:
        ours = [name for name in sys.modules if name.startswith(OURS)]
        for name in (*put, *ours):
            del sys.modules[name]


@pytest.fixture
def config(database_url: str, tmp_path: Path) -> StorageConfig:
    """Of a storage of the test's own."""
    return StorageConfig(
        database_url=database_url,
        data_dir=tmp_path / "data",
        master_key_file=tmp_path / "keys" / "master.key",
        webhook_delivery=False,
    )


@pytest.fixture
def place(config: StorageConfig) -> Iterator[ProcessStorage]:
    """That storage, open as the process's own."""
    process.close_process_storage()
    yield process.process_storage(config)
    process.close_process_storage()
