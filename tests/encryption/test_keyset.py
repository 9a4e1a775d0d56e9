"""What a user's keys say when they cannot open something: each case has its own error, and no key is in it."""

from __future__ import annotations

import copy
import pickle

import pytest

from storage.encryption.envelope import DataKey, SealContext, seal
from storage.encryption.keyset import KeySet, state_of
from storage.errors import EncryptionError, InvalidInput, KeyMissing, KeyUnavailable, Tampered

CONTEXT = SealContext("custom_secret.value/1", "alice", "1", "TOKEN")


@pytest.fixture
def key() -> DataKey:
    return DataKey.generate()


@pytest.fixture
def keys(key: DataKey) -> KeySet:
    retired = DataKey.generate()
    return KeySet("alice", {key.id: key, retired.id: retired}, key.id)


def test_every_key_opens_what_it_sealed_and_the_active_one_seals(keys: KeySet, key: DataKey) -> None:
    assert keys.seal(CONTEXT, b"x")[2:18] == key.id
    for key_id in keys.ids:
        assert keys.open(CONTEXT, seal(keys.get(key_id), CONTEXT, b"x")) == b"x"


def test_an_unknown_key_id_is_a_missing_key_and_named(keys: KeySet) -> None:
    foreign = DataKey.generate()
    sealed = seal(foreign, CONTEXT, b"x")
    with pytest.raises(KeyMissing, match=foreign.id.hex()):
        keys.open(CONTEXT, sealed)
    assert state_of(keys, sealed) == "unreadable"


def test_a_key_id_that_was_changed_to_another_key_of_the_same_user_is_tampering(keys: KeySet, key: DataKey) -> None:
    sealed = keys.seal(CONTEXT, b"x")
    for key_id in keys.ids - {key.id}:
        with pytest.raises(Tampered):
            keys.open(CONTEXT, sealed[:2] + key_id + sealed[18:])


@pytest.mark.parametrize("prefix", [b"\xe1\x02", b"\xe1\x00", b"\xe0\x01", b"\xe2\x01", b"\x01\xe1", b"{}", b"gA"])
def test_another_format_or_suite_is_refused_before_any_key_is_looked_for(keys: KeySet, prefix: bytes) -> None:
    sealed = prefix + keys.seal(CONTEXT, b"x")[2:]
    with pytest.raises(Tampered, match="not a sealed value of format 1"):
        keys.open(CONTEXT, sealed)
    assert state_of(keys, sealed) == "unreadable"


def test_a_key_that_could_not_be_unwrapped_breaks_what_it_sealed_and_nothing_else(key: DataKey) -> None:
    lost = DataKey.generate()
    keys = KeySet("alice", {key.id: key}, key.id, {lost.id: KeyUnavailable("the service is down")})
    with pytest.raises(KeyUnavailable, match="the service is down"):
        keys.open(CONTEXT, seal(lost, CONTEXT, b"x"))
    assert keys.open(CONTEXT, keys.seal(CONTEXT, b"x")) == b"x"
    assert not keys.is_whole


def test_nothing_is_sealed_without_an_active_key(key: DataKey) -> None:
    with pytest.raises(KeyMissing):
        KeySet("alice", {key.id: key}, None).seal(CONTEXT, b"x")
    with pytest.raises(KeyMissing, match="was retired"):
        KeySet("alice", {}, key.id, {key.id: KeyMissing("its master key was retired")}).seal(CONTEXT, b"x")


def test_the_keys_of_one_user_neither_seal_nor_open_for_another(keys: KeySet) -> None:
    other = SealContext(CONTEXT.label, "bob", CONTEXT.row_id, CONTEXT.name)
    with pytest.raises(InvalidInput):
        keys.seal(other, b"x")
    with pytest.raises(InvalidInput):
        keys.open(other, keys.seal(CONTEXT, b"x"))


def test_states_are_told_without_opening(keys: KeySet) -> None:
    sealed = keys.seal(CONTEXT, b"x")
    assert state_of(keys, None) == "unset"
    assert state_of(keys, sealed) == "set"
    assert state_of(keys, sealed[:50] + bytes(48)) == "set"  # found out only when it is opened
    assert state_of(keys, b"") == state_of(keys, sealed[:97]) == "unreadable"
    assert state_of(EncryptionError("locked"), sealed) == "unreadable"


def test_a_key_set_shows_ids_only_and_is_neither_pickled_nor_copied(keys: KeySet, key: DataKey) -> None:
    assert key.id.hex() in repr(keys)
    for secret in (key.reveal().hex(), repr(key.reveal())[2:-1]):
        assert secret not in repr(keys)
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="never pickled or copied"):
            leak(keys)
