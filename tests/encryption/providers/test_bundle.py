"""A key bundle opens with its passphrase, whole, and tells what is wrong only as far as that is safe."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from storage.encryption.providers import bundle
from storage.encryption.providers.aws_kms import AWSKMS
from storage.encryption.providers.bundle import (
    BundledKey,
    KeyDerivation,
    export_bundle,
    import_bundle,
    open_bundle,
    seal_bundle,
)
from storage.encryption.providers.environment import EnvironmentKeys
from storage.encryption.providers.key_file import KeyFile
from storage.encryption.providers.local_keys import MasterKey
from storage.errors import ConfigurationError, InvalidInput, KeyMismatch, KeyMissing, Tampered

PASSPHRASE = "correct horse battery staple"
KEYS = [
    BundledKey(hashlib.md5(b"%d" % number).digest(), MasterKey(hashlib.sha256(b"bundled %d" % number).digest()))
    for number in range(3)
]


@pytest.fixture(scope="module")
def sealed() -> bytes:
    return seal_bundle(KEYS, PASSPHRASE)


@pytest.fixture
def each_derivation_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of bundles with one salt need Argon2id once."""
    monkeypatch.setattr(KeyDerivation, "derive", cache(KeyDerivation.derive))


def changed(sealed: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    content = json.loads(sealed)
    change(content)
    return json.dumps(content).encode()


# ---- sealing and opening


def test_the_keys_come_back_with_their_ids_and_in_their_order(sealed: bytes) -> None:
    assert open_bundle(sealed, PASSPHRASE) == tuple(KEYS)


def test_a_bundle_is_text_that_says_which_keys_it_has_and_shows_none(sealed: bytes) -> None:
    content = json.loads(sealed)
    assert content["kek_ids"] == [key.kek_id.hex() for key in KEYS if key.kek_id]
    assert sealed.isascii()
    for key in KEYS:
        material = base64.b64decode(key.key.encoded())
        for form in (material, material.hex().encode(), key.key.encoded().encode()):
            assert form not in sealed
        assert key.key.encoded() not in repr(key)
        assert repr(material)[2:-1] not in repr(key)


def test_two_bundles_of_the_same_keys_have_nothing_in_common(sealed: bytes) -> None:
    one, other = json.loads(sealed), json.loads(seal_bundle(KEYS, PASSPHRASE))
    assert one["kdf"]["salt"] != other["kdf"]["salt"]
    assert one["commitment"] != other["commitment"]
    assert one["sealed"] != other["sealed"]


def test_the_parameters_are_the_second_recommended_option_of_rfc_9106(sealed: bytes) -> None:
    kdf = json.loads(sealed)["kdf"]
    assert (kdf["name"], kdf["memory_kib"], kdf["iterations"], kdf["lanes"]) == ("argon2id", 64 * 1024, 3, 4)
    assert len(base64.b64decode(kdf["salt"])) == 32


def test_argon2id_is_the_one_of_the_rfc() -> None:
    # RFC 9106, section 5.3, which also has a secret and associated data that bundles do not use.
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    kdf = Argon2id(
        salt=b"\x02" * 16, length=32, iterations=3, lanes=4, memory_cost=32, ad=b"\x04" * 12, secret=b"\x03" * 8
    )
    assert kdf.derive(b"\x01" * 32).hex() == "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659"


def test_a_bundle_of_version_1_stays_readable() -> None:
    """Made when version 1 was fixed; people keep bundles for years."""
    assert [key.key for key in open_bundle(GOLDEN, PASSPHRASE)] == [key.key for key in KEYS[:2]]


def test_the_format_is_the_documented_one() -> None:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    content = json.loads(GOLDEN)
    commitment, sealed = (base64.b64decode(content.pop(name)) for name in ("commitment", "sealed"))
    header = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    salt = base64.b64decode(content["kdf"]["salt"])
    okm = Argon2id(salt=salt, length=76, iterations=3, lanes=4, memory_cost=65536).derive(PASSPHRASE.encode())
    assert okm[32:64] == commitment
    keys = AESGCM(okm[:32]).decrypt(okm[64:], sealed, header)
    assert keys == b"".join(base64.b64decode(key.key.encoded()) for key in KEYS[:2])


def test_a_bundle_survives_windows_and_mail(sealed: bytes) -> None:
    assert open_bundle(b"\xef\xbb\xbf" + sealed.replace(b"\n", b"\r\n"), PASSPHRASE) == tuple(KEYS)
    assert open_bundle(changed(sealed, json.dumps), PASSPHRASE) == tuple(KEYS)


def test_a_passphrase_is_the_same_from_every_keyboard() -> None:
    composed, decomposed = "s\u00e9same ouvre-toi", "se\u0301same ouvre-toi"
    assert open_bundle(seal_bundle(KEYS, composed), decomposed) == tuple(KEYS)


@pytest.mark.parametrize("passphrase", ["", "eleven char", "e\u0301" * 11, "x" * 11])
def test_a_short_passphrase_is_refused(passphrase: str) -> None:
    with pytest.raises(InvalidInput, match="fewer than 12 characters"):
        seal_bundle(KEYS, passphrase)


def test_a_passphrase_that_no_keyboard_types_is_refused(sealed: bytes) -> None:
    with pytest.raises(InvalidInput, match="lone surrogate"):
        seal_bundle(KEYS, "twelve chars \ud800")
    with pytest.raises(InvalidInput, match="lone surrogate"):
        open_bundle(sealed, "twelve chars \ud800")


def test_a_bundle_of_no_keys_is_refused() -> None:
    with pytest.raises(InvalidInput, match="1 to 256 keys, not 0"):
        seal_bundle([], PASSPHRASE)


# ---- what is wrong


@pytest.mark.parametrize("passphrase", ["", "Correct horse battery staple", PASSPHRASE + " "])
def test_a_wrong_passphrase_is_told(sealed: bytes, passphrase: str) -> None:
    with pytest.raises(KeyMismatch, match="the passphrase is wrong, or"):
        open_bundle(sealed, passphrase)


@pytest.mark.parametrize("data", [b"", b"hello", b"{}", b"-----BEGIN PGP MESSAGE-----", b"\0" * 100_000])
def test_what_is_no_bundle_is_no_damaged_one_either(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="not a key bundle"):
        open_bundle(data, PASSPHRASE)


def test_a_bundle_of_a_newer_release_asks_for_an_upgrade(sealed: bytes) -> None:
    with pytest.raises(InvalidInput, match="has version 2, this release reads 1; upgrade"):
        open_bundle(changed(sealed, lambda content: content.update(version=2, sealed=["of", "another", "shape"])), "")


@pytest.mark.usefixtures("each_derivation_once")
def test_a_bundle_that_was_cut_off_anywhere_is_damaged(sealed: bytes) -> None:
    whole = sealed.rstrip()
    for length in range(whole.index(b"master-key-bundle") + len(b"master-key-bundle"), len(whole)):
        with pytest.raises(Tampered):
            open_bundle(whole[:length], PASSPHRASE)


def test_no_bit_of_a_bundle_can_be_changed(sealed: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    salt = base64.b64decode(json.loads(sealed)["kdf"]["salt"])
    derived = KeyDerivation(salt).derive(PASSPHRASE)

    # Stands for what other parameters derive, which would take minutes.
    def derive(self: KeyDerivation, passphrase: str) -> bytes:
        return derived if self == KeyDerivation(salt) else hashlib.shake_256(repr(self).encode()).digest(76)

    monkeypatch.setattr(KeyDerivation, "derive", derive)
    assert open_bundle(sealed, PASSPHRASE) == tuple(KEYS)
    for position in range(len(sealed) * 8):
        altered = bytearray(sealed)
        altered[position // 8] ^= 1 << position % 8
        with pytest.raises((Tampered, KeyMismatch, InvalidInput)):
            open_bundle(bytes(altered), PASSPHRASE)


@pytest.mark.usefixtures("each_derivation_once")
@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["kek_ids"].reverse(),
        lambda content: content["kek_ids"].pop(),
        lambda content: content["kek_ids"].append("00" * 16),
        lambda content: content["kek_ids"].__setitem__(0, ""),
        lambda content: content["kek_ids"].__setitem__(0, "zz"),
        lambda content: content["kek_ids"].__setitem__(0, 7),
        lambda content: content.update(kek_ids=[]),
        lambda content: content.update(kek_ids="00" * 16),
        lambda content: content.update(created_at="2020-01-01T00:00:00Z"),
        lambda content: content.update(more="than there was"),
        lambda content: content.update(sealed=""),
        lambda content: content.update(sealed=None),
        lambda content: content.update(kdf=None),
        lambda content: content.update(version="1"),
        lambda content: content.update(version=True),
        lambda content: content.pop("created_at"),
        lambda content: content.pop("commitment"),
        lambda content: content["kdf"].pop("lanes"),
        lambda content: content["kdf"].update(name="scrypt"),
        lambda content: content["kdf"].update(secret="x"),
    ],
)
def test_whatever_was_altered_is_damage(sealed: bytes, change: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(Tampered, match="altered or truncated"):
        open_bundle(changed(sealed, change), PASSPHRASE)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("memory_kib", 2**31),
        ("memory_kib", 1024 * 1024 + 1),
        ("memory_kib", 8),
        ("memory_kib", -1),
        ("memory_kib", 65536.0),
        ("memory_kib", "65536"),
        ("iterations", 10**9),
        ("iterations", 17),
        ("iterations", 1),
        ("iterations", True),
        ("lanes", 0),
        ("lanes", 10**6),
        ("salt", base64.b64encode(b"short").decode()),
    ],
)
def test_a_bundle_does_not_choose_what_the_machine_spends(
    sealed: bytes, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    monkeypatch.setattr(KeyDerivation, "derive", lambda *_: pytest.fail("nothing is to be derived with that"))
    with pytest.raises(Tampered, match=f"{name} out of bounds"):
        open_bundle(changed(sealed, lambda content: content["kdf"].update({name: value})), PASSPHRASE)


# ---- from one machine to another


def test_a_machine_with_too_little_memory_is_told_apart_from_a_wrong_passphrase(
    sealed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    class TooLarge:
        def __init__(self, **parameters: Any) -> None:
            pass

        def derive(self, passphrase: bytes) -> bytes:
            raise MemoryError

    monkeypatch.setattr("cryptography.hazmat.primitives.kdf.argon2.Argon2id", TooLarge)
    with pytest.raises(ConfigurationError, match="64 MiB of memory"):
        open_bundle(sealed, PASSPHRASE)


async def test_keys_move_to_another_machine_and_are_recognised_there(tmp_path: Path) -> None:
    here, there = KeyFile(tmp_path / "here.key"), KeyFile(tmp_path / "there.key")
    await here.generate()
    registered = [await here.enrol(), await here.add()]
    unregistered = (await here.add()).kek_id
    data = await export_bundle(here, registered, PASSPHRASE)
    ids = [key.kek_id.hex() for key in registered]
    assert json.loads(data)["kek_ids"] == [*ids, ""]
    assert unregistered.hex() not in data.decode()
    assert await import_bundle(there, data, PASSPHRASE) == (*ids, bundle.UNREGISTERED)
    assert await there.identify(registered) == {key.kek_id for key in registered}
    assert there.active_id == registered[0].kek_id
    assert await there.export() == await here.export()
    assert await import_bundle(there, data, PASSPHRASE) == ()


async def test_imported_keys_do_not_replace_those_that_are_there(tmp_path: Path) -> None:
    here, there = KeyFile(tmp_path / "here.key"), KeyFile(tmp_path / "there.key")
    await here.generate()
    await there.generate()
    own = await there.enrol()
    data = await export_bundle(here, [await here.enrol()], PASSPHRASE)
    await import_bundle(there, data, PASSPHRASE)
    assert (await there.export())[0].is_registered_as(own)
    assert there.active_id == own.kek_id
    for wrong in (data[:-50], data.replace(b'"version": 1', b'"version": 9')):
        before = there.path.read_bytes()
        with pytest.raises((Tampered, InvalidInput)):
            await import_bundle(there, wrong, PASSPHRASE)
        assert there.path.read_bytes() == before


async def test_keys_of_the_environment_can_leave_it_and_none_can_come(tmp_path: Path) -> None:
    key = MasterKey.generate()
    environment = EnvironmentKeys(SecretStr(key.encoded()))
    data = await export_bundle(environment, [await environment.enrol()], PASSPHRASE)
    with pytest.raises(ConfigurationError, match="cannot be stored in STORAGE_MASTER_KEY"):
        await import_bundle(environment, data, PASSPHRASE)
    there = KeyFile(tmp_path / "there.key")
    await import_bundle(there, data, PASSPHRASE)
    assert await there.export() == (key,)


async def test_keys_of_a_key_service_never_leave_it() -> None:
    provider = AWSKMS(["alias/app"])
    with pytest.raises(ConfigurationError, match=r"AWS KMS \(alias/app\) never leave it"):
        await export_bundle(provider, [], PASSPHRASE)
    with pytest.raises(ConfigurationError, match="cannot be stored in AWS KMS"):
        await import_bundle(provider, b"", PASSPHRASE)


async def test_there_is_nothing_to_export_before_the_first_secret(tmp_path: Path) -> None:
    with pytest.raises(KeyMissing, match="no master key"):
        await export_bundle(KeyFile(tmp_path / "none.key"), [], PASSPHRASE)


async def test_deriving_the_key_lets_the_event_loop_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = KeyFile(tmp_path / "keys")
    await keys.generate()
    loop_ran, loop, derive = asyncio.Event(), asyncio.get_running_loop(), KeyDerivation.derive

    def slow(self: KeyDerivation, passphrase: str) -> bytes:
        asyncio.run_coroutine_threadsafe(loop_ran.wait(), loop).result(timeout=30)
        return derive(self, passphrase)

    monkeypatch.setattr(KeyDerivation, "derive", slow)
    exporting = asyncio.create_task(export_bundle(keys, [], PASSPHRASE))
    await asyncio.sleep(0)
    loop_ran.set()
    assert await exporting


GOLDEN = b"""{
  "agent-storage": "master-key-bundle",
  "version": 1,
  "created_at": "2026-11-22T23:56:57Z",
  "kek_ids": [
    "cfcd208495d565ef66e7dff9f98764da",
    ""
  ],
  "kdf": {
    "name": "argon2id",
    "salt": "jORtRlKrreJudiqyfQgXcMK4xdKiPamJ8kaJPZHAHbs=",
    "memory_kib": 65536,
    "iterations": 3,
    "lanes": 4
  },
  "commitment": "QTA2/+QoKYiiPtgUAOYkNQ30g4igCKDfGO0pv24jyZA=",
  "sealed":
  "xDEVQKY5fZf+qivJzxXUJ1fpX120Zqsyl10bvxdBVw5cUtRjV6fYGm2rnSp5p58PlyVkPyPunsSxUT70dO9lEtUIaBx/hV20eW24G8qVZ1w="
}
"""
