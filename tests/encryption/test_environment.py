"""Keys from the configuration are checked when the configuration is read."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest
from pydantic import SecretStr

from storage.encryption.configured import provider_for
from storage.encryption.environment import EnvironmentKeys
from storage.encryption.key_file import KeyFile
from storage.errors import ConfigurationError, KeyUnavailable

GOOD = base64.b64encode(hashlib.sha256(b"good").digest()).decode()


async def test_a_good_key_is_ready_at_once() -> None:
    keys = EnvironmentKeys(SecretStr(GOOD))
    assert (await keys.health()).has_key
    assert keys.name == "environment"
    assert GOOD not in repr(keys)


def test_a_bad_key_is_refused_at_once_and_not_repeated() -> None:
    with pytest.raises(ConfigurationError, match="STORAGE_MASTER_KEY") as caught:
        EnvironmentKeys(SecretStr("hunter2hunter2"))
    assert "hunter2" not in str(caught.value)


async def test_no_key_is_ever_generated_for_the_environment() -> None:
    keys = EnvironmentKeys(SecretStr(GOOD))
    assert not keys.can_generate
    with pytest.raises(KeyUnavailable, match="STORAGE_MASTER_KEY"):
        await keys.generate()


def test_a_configured_key_goes_before_the_key_file(tmp_path: Path) -> None:
    assert isinstance(provider_for(SecretStr(GOOD), tmp_path / "key"), EnvironmentKeys)
    assert isinstance(provider_for(None, tmp_path / "key"), KeyFile)
