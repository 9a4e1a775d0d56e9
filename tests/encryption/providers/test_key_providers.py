"""The conformance suite, run on every provider of ours and on one of somebody else's."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from storage import Storage
from storage.config import StorageConfig
from storage.encryption.providers.aws_kms import AWSKMS
from storage.encryption.providers.configured import provider_for
from storage.encryption.providers.environment import EnvironmentKeys
from storage.encryption.providers.key_file import KeyFile
from storage.encryption.providers.local_keys import MasterKey
from storage.encryption.providers.os_keyring import OSKeyring
from storage.errors import ConfigurationError
from storage.testing.key_providers import KeyProviderContract, Open
from tests.kms import aws_credentials, kms, kms_client, kms_server, new_key
from tests.servers.moto import MotoServer
from tests.third_party_keys import FolderKeys

__all__ = ["aws_credentials", "kms", "kms_client", "kms_server"]

GOOD = MasterKey.generate().encoded()
THIRD_PARTY = "tests.third_party_keys.FolderKeys"


class TestEnvironmentKeys(KeyProviderContract):
    @pytest.fixture
    def never_shown(self) -> list[str]:
        return [MasterKey.generate().encoded() for _ in range(3)]

    @pytest.fixture
    def open_provider(self, never_shown: list[str]) -> Open:
        return lambda: EnvironmentKeys(SecretStr(never_shown[0]))

    @pytest.fixture
    def open_successor(self, never_shown: list[str]) -> Open:
        return lambda: EnvironmentKeys(SecretStr(",".join(never_shown[:2])))

    @pytest.fixture
    def open_stranger(self, never_shown: list[str]) -> Open:
        return lambda: EnvironmentKeys(SecretStr(never_shown[2]))


class TestKeyFile(KeyProviderContract):
    @pytest.fixture
    def key_file(self, tmp_path: Path) -> Callable[[str], KeyFile]:
        def make(name: str) -> KeyFile:
            path = tmp_path / name
            if name != "empty" and not path.exists():
                path.write_text(MasterKey.generate().encoded())
                path.chmod(0o600)
            return KeyFile(path)

        return make

    @pytest.fixture
    def never_shown(self, key_file: Callable[[str], KeyFile]) -> list[str]:
        return [key_file("own").path.read_text()]

    @pytest.fixture
    def open_provider(self, key_file: Callable[[str], KeyFile]) -> Open:
        return lambda: key_file("own")

    @pytest.fixture
    def open_stranger(self, key_file: Callable[[str], KeyFile]) -> Open:
        return lambda: key_file("other")

    @pytest.fixture
    def open_empty(self, key_file: Callable[[str], KeyFile]) -> Open:
        return lambda: key_file("empty")


class TestOSKeyring(KeyProviderContract):
    @pytest.fixture
    def service(self, tmp_path: Path) -> Callable[[str], OSKeyring]:
        pytest.importorskip("keyring")
        from tests.keyring_in_file import KeyringInFile

        backend = KeyringInFile(tmp_path / "keyring.json")
        for name in ("own", "other"):
            backend.set_password(name, "master-key", MasterKey.generate().encoded())
        return lambda name: OSKeyring(name, tmp_path / "keyring.lock", backend)

    @pytest.fixture
    def never_shown(self, service: Callable[[str], OSKeyring]) -> list[str]:
        return [service("own")._backend.get_password("own", "master-key")]

    @pytest.fixture
    def open_provider(self, service: Callable[[str], OSKeyring]) -> Open:
        return lambda: service("own")

    @pytest.fixture
    def open_stranger(self, service: Callable[[str], OSKeyring]) -> Open:
        return lambda: service("other")

    @pytest.fixture
    def open_empty(self, service: Callable[[str], OSKeyring]) -> Open:
        return lambda: service("empty")


class TestAWSKMS(KeyProviderContract):
    @pytest.fixture
    def arns(self, kms: Any) -> list[str]:
        return [new_key(kms) for _ in range(3)]

    @pytest.fixture
    def open_provider(self, arns: list[str], kms_server: MotoServer) -> Open:
        return lambda: AWSKMS(arns[:1], kms_server.url)

    @pytest.fixture
    def open_successor(self, arns: list[str], kms_server: MotoServer) -> Open:
        return lambda: AWSKMS(arns[:2], kms_server.url)

    @pytest.fixture
    def open_stranger(self, arns: list[str], kms_server: MotoServer) -> Open:
        return lambda: AWSKMS(arns[2:], kms_server.url)


class TestSomebodyElses(KeyProviderContract):
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Callable[..., FolderKeys]:
        keys = [os.urandom(32) for _ in range(3)]
        numbers = itertools.count()

        def make(*chosen: int) -> FolderKeys:
            path = tmp_path / str(next(numbers))
            path.mkdir()
            for number in chosen:
                (path / str(number)).write_bytes(keys[number])
            return FolderKeys(path)

        return make

    @pytest.fixture
    def open_provider(self, folder: Callable[..., FolderKeys]) -> Open:
        return lambda: folder(0)

    @pytest.fixture
    def open_successor(self, folder: Callable[..., FolderKeys]) -> Open:
        return lambda: folder(0, 1)

    @pytest.fixture
    def open_stranger(self, folder: Callable[..., FolderKeys]) -> Open:
        return lambda: folder(2)


# ---- chosen by the configuration


def configured(tmp_path: Path, **settings: Any) -> StorageConfig:
    return StorageConfig(data_dir=tmp_path, master_key_file=tmp_path / "config" / "master.key", **settings)


async def test_somebody_elses_provider_is_named_by_its_dotted_path(tmp_path: Path) -> None:
    config = configured(tmp_path, key_provider=THIRD_PARTY)
    folder = config.master_key_file.with_suffix(".d")
    folder.mkdir(parents=True)
    (folder / "1").write_bytes(os.urandom(32))
    async with Storage.open(config) as storage:
        await storage.user("alice").secrets.set_custom_secret("TOKEN", "of alice")
    async with Storage.open(config) as storage:
        assert (await storage.user("alice").secrets.get_custom_secret("TOKEN")).secret.get_secret_value() == "of alice"
        status = await storage.keyring.status()
        assert (status.provider, status.where) == ("folder", f"the folder {folder}")
    assert not config.master_key_file.exists()


@pytest.mark.parametrize(
    ("dotted_path", "complaint"),
    [
        ("tests.nowhere.Keys", "cannot import 'tests.nowhere'"),
        ("tests.third_party_keys.Keys", "has no class 'Keys'"),
        ("storage.config.StorageConfig", "must be a subclass of storage.encryption.providers.provider.KeyProvider"),
        ("storage.encryption.providers.local_keys.LocalKeys", "does not implement health, where"),
    ],
)
async def test_a_dotted_path_that_leads_to_no_provider_is_refused(
    tmp_path: Path, dotted_path: str, complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"key_provider: .*{complaint}"):
        await provider_for(configured(tmp_path, key_provider=dotted_path))


async def test_a_given_key_goes_before_the_key_file(tmp_path: Path) -> None:
    assert isinstance(await provider_for(configured(tmp_path, master_key=GOOD)), EnvironmentKeys)
    provider = await provider_for(configured(tmp_path))
    assert isinstance(provider, KeyFile)
    assert provider.path == tmp_path / "config" / "master.key"


async def test_a_provider_is_chosen_by_its_name(tmp_path: Path) -> None:
    pytest.importorskip("keyring")
    pytest.importorskip("boto3")
    chosen = [
        await provider_for(configured(tmp_path, key_provider="environment", master_key=GOOD)),
        await provider_for(configured(tmp_path, key_provider="key-file")),
        await provider_for(configured(tmp_path, key_provider="keyring", keyring_service="mine")),
        await provider_for(configured(tmp_path, key_provider="aws-kms", aws_kms_key_ids="alias/a, alias/b")),
    ]
    assert [provider.name for provider in chosen] == ["environment", "key-file", "keyring", "aws-kms"]
    assert "'mine'" in chosen[2].where
    assert chosen[3].where == "AWS KMS (alias/a, alias/b)"


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"key_provider": "environment"}, "STORAGE_MASTER_KEY.*not set; make one with"),
        ({"key_provider": "aws-kms"}, "STORAGE_AWS_KMS_KEY_IDS.* names no key"),
        ({"key_provider": "key-file", "master_key": GOOD}, "master_key is set, and the key provider is 'key-file'"),
        ({"key_provider": "keyring", "master_key": GOOD}, "set key_provider to 'environment', or unset master_key"),
        ({"aws_kms_key_ids": "alias/a"}, "set key_provider to 'aws-kms', or unset aws_kms_key_ids"),
    ],
)
async def test_settings_that_name_another_key_than_the_chosen_one_are_refused(
    tmp_path: Path, settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        await provider_for(configured(tmp_path, **settings))
    assert GOOD not in str(caught.value)


@pytest.mark.parametrize(
    ("package", "settings", "extra"),
    [
        ("keyring", {"key_provider": "keyring"}, "keyring"),
        ("boto3", {"key_provider": "aws-kms", "aws_kms_key_ids": "alias/a"}, "kms"),
    ],
)
async def test_a_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, settings: dict[str, Any], extra: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ConfigurationError, match=rf"pip install 'agent-storage\[{extra}\]'"):
        await provider_for(configured(tmp_path, **settings))
