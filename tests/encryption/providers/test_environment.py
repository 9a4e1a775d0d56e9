"""Keys from the configuration are checked when the configuration is read."""

from __future__ import annotations

import base64
import hashlib

import pytest
from pydantic import SecretStr

from storage.encryption.providers.environment import EnvironmentKeys
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


async def test_keys_are_added_and_reordered_by_whoever_sets_the_variable() -> None:
    keys = EnvironmentKeys(SecretStr(GOOD))
    kek_id = (await keys.enrol()).kek_id
    assert not keys.can_add
    with pytest.raises(ConfigurationError, match=r"into STORAGE_MASTER_KEY yourself, after a comma.*make one with"):
        await keys.add()
    with pytest.raises(ConfigurationError, match=f"put the key {kek_id.hex()} first in STORAGE_MASTER_KEY"):
        await keys.promote(kek_id)


async def test_the_configured_keys_can_be_exported() -> None:
    assert [key.encoded() for key in await EnvironmentKeys(SecretStr(GOOD)).export()] == [GOOD]
