"""Format 1 is frozen, and opens only whole, under its key, in its place."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import hmac
import importlib
import inspect
import pickle
import pkgutil
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

import storage.encryption
from storage.encryption import envelope
from storage.encryption.envelope import (
    KEPT_DERIVATIONS,
    OVERHEAD_BYTES,
    DataKey,
    SealContext,
    data_key_id_of,
    is_sealed,
    open_sealed,
    seal,
)
from storage.encryption.keyset import KeySet
from storage.errors import EncryptionError, InvalidInput, Tampered

KEY_ID = bytes(range(16))
MATERIAL = bytes(range(100, 132))
SALT = bytes(range(200, 232))
CONTEXT = SealContext(
    "custom_secret.value/1",
    "alice",
    "018f2a9c-0000-7000-8000-000000000001",
    "DATABASE_URL",
    "db.example.com",
)
PLAINTEXT = "pässword-🔑".encode()

# Frozen: values like these are in people's databases. A change here is a new format.
GOLDEN = [
    (
        CONTEXT,
        PLAINTEXT,
        (
            "e101000102030405060708090a0b0c0d0e0fc8c9cacbcccdcecfd0d1d2d3d4d5d6d7d8d9dadbdcdddedfe0e1e2e3e4e5e6e7"
            "12363d11a957568b6796c161db254b922a39a1a869760abb4b3f4d2a0fc06d98f569f71ad3d2c775a2665c61520410e5"
            "c14a9d63fd60e20448e852f343fd"
        ),
    ),
    (
        SealContext("settings.llm_api_key/1", "local", "local"),
        b"",
        (
            "e101000102030405060708090a0b0c0d0e0fc8c9cacbcccdcecfd0d1d2d3d4d5d6d7d8d9dadbdcdddedfe0e1e2e3e4e5e6e7"
            "12363d11a957568b6796c161db254b922a39a1a869760abb4b3f4d2a0fc06d988d8d29a5065a4954759ba3f8d825e13c"
        ),
    ),
]


@pytest.fixture
def key() -> DataKey:
    return DataKey(KEY_ID, MATERIAL)


def hkdf_expand(key: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869, section 2.3, from the standard library alone."""
    block, okm, counter = b"", b"", 1
    while len(okm) < length:
        block = hmac.new(key, block + info + bytes((counter,)), hashlib.sha256).digest()
        okm += block
        counter += 1
    return okm[:length]


def field(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(4, "big") + encoded


def seal_independently(context: SealContext, plaintext: bytes, salt: bytes) -> bytes:
    header = b"\xe1\x01" + KEY_ID + salt
    okm = hkdf_expand(MATERIAL, b"agent-storage/envelope/1" + header, 76)
    associated = header + b"".join(
        map(field, (context.label, context.user_id, context.row_id, context.name, context.destination))
    )
    return header + okm[32:64] + AESGCM(okm[:32]).encrypt(okm[64:], plaintext, associated)


@pytest.mark.parametrize(("context", "plaintext", "sealed"), GOLDEN)
def test_a_value_sealed_by_an_earlier_release_opens(
    key: DataKey, context: SealContext, plaintext: bytes, sealed: str
) -> None:
    assert open_sealed(key, context, bytes.fromhex(sealed)) == plaintext


@pytest.mark.parametrize(("context", "plaintext", "sealed"), GOLDEN)
def test_format_one_is_what_its_description_says(
    key: DataKey, context: SealContext, plaintext: bytes, sealed: str
) -> None:
    assert envelope._seal_with_salt(key, context, plaintext, SALT).hex() == sealed
    assert seal_independently(context, plaintext, SALT).hex() == sealed


def test_the_key_derivation_follows_rfc_5869() -> None:
    # Appendix A.1, test case 1: the expand step.
    prk = bytes.fromhex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5")
    okm = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    assert hkdf_expand(prk, bytes.fromhex("f0f1f2f3f4f5f6f7f8f9"), 42).hex() == okm


def test_every_flipped_bit_is_refused(key: DataKey) -> None:
    sealed = seal(key, CONTEXT, PLAINTEXT)
    for position in range(len(sealed) * 8):
        flipped = bytearray(sealed)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(Tampered):
            open_sealed(key, CONTEXT, bytes(flipped))


def test_every_truncation_and_every_extension_is_refused(key: DataKey) -> None:
    sealed = seal(key, CONTEXT, PLAINTEXT)
    for length in range(len(sealed)):
        with pytest.raises(Tampered):
            open_sealed(key, CONTEXT, sealed[:length])
        with pytest.raises(Tampered):
            open_sealed(key, CONTEXT, sealed[length + 1 :])
    for length in range(1, 100):
        for more in (bytes(length), sealed[:length], sealed[-length:]):
            with pytest.raises(Tampered):
                open_sealed(key, CONTEXT, sealed + more)
            with pytest.raises(Tampered):
                open_sealed(key, CONTEXT, more + sealed)


def test_every_byte_left_out_doubled_or_exchanged_with_the_next_is_refused(key: DataKey) -> None:
    sealed = seal(key, CONTEXT, PLAINTEXT)
    for at in range(len(sealed)):
        altered = {
            sealed[:at] + sealed[at + 1 :],
            sealed[: at + 1] + sealed[at:],
            sealed[:at] + sealed[at : at + 2][::-1] + sealed[at + 2 :],
        }
        for value in altered - {sealed}:
            with pytest.raises(Tampered):
                open_sealed(key, CONTEXT, value)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 1024 * 1024])
def test_values_of_every_size_open_whole_or_not_at_all(key: DataKey, size: int) -> None:
    sealed = seal(key, CONTEXT, bytes(size))
    assert open_sealed(key, CONTEXT, sealed) == bytes(size)
    for at in sorted({0, 1, 2, 17, 18, 49, 50, 81, 82, 82 + size // 2, 81 + size, 82 + size, 97 + size}):
        for bit in range(8):
            flipped = bytearray(sealed)
            flipped[min(at, len(sealed) - 1)] ^= 1 << bit
            with pytest.raises(Tampered):
                open_sealed(key, CONTEXT, bytes(flipped))
        with pytest.raises(Tampered):
            open_sealed(key, CONTEXT, sealed[:at])


def test_parts_of_two_values_do_not_make_a_third(key: DataKey) -> None:
    one, other = seal(key, CONTEXT, PLAINTEXT), seal(key, CONTEXT, PLAINTEXT)
    for at in range(19, len(one)):
        mixed = one[:at] + other[at:]
        if mixed not in (one, other):
            with pytest.raises(Tampered):
                open_sealed(key, CONTEXT, mixed)


def test_what_was_opened_before_is_checked_as_strictly(key: DataKey) -> None:
    sealed = seal(key, CONTEXT, PLAINTEXT)
    assert open_sealed(key, CONTEXT, sealed) == PLAINTEXT
    for position in range(len(sealed) * 8):
        flipped = bytearray(sealed)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(Tampered):
            open_sealed(key, CONTEXT, bytes(flipped))
    with pytest.raises(Tampered):
        open_sealed(key, SealContext(*CONTEXT[:3], "OTHER", CONTEXT.destination), sealed)
    assert open_sealed(key, CONTEXT, sealed) == PLAINTEXT


def test_derivations_are_kept_for_some_values_that_opened_and_for_no_others(key: DataKey) -> None:
    values = [seal(key, CONTEXT, str(number).encode()) for number in range(3 * KEPT_DERIVATIONS)]
    assert key._kept == {}
    for number, value in enumerate(values):
        with pytest.raises(Tampered):
            open_sealed(key, CONTEXT, value[:-1] + bytes([value[-1] ^ 1]))
        assert value[:50] not in key._kept
        assert open_sealed(key, CONTEXT, value) == str(number).encode()
        assert value[:50] in key._kept
        assert len(key._kept) <= KEPT_DERIVATIONS
    for number, value in enumerate(values):
        assert open_sealed(key, CONTEXT, value) == str(number).encode()


@pytest.mark.parametrize(
    "other",
    [
        SealContext("provider_token.token/1", "alice", CONTEXT.row_id, "DATABASE_URL", "db.example.com"),
        SealContext("custom_secret.value/2", "alice", CONTEXT.row_id, "DATABASE_URL", "db.example.com"),
        SealContext(CONTEXT.label, "bob", CONTEXT.row_id, "DATABASE_URL", "db.example.com"),
        SealContext(CONTEXT.label, "alice", CONTEXT.row_id[:-1] + "2", "DATABASE_URL", "db.example.com"),
        SealContext(CONTEXT.label, "alice", CONTEXT.row_id, "database_url", "db.example.com"),
        SealContext(CONTEXT.label, "alice", CONTEXT.row_id, "DATABASE_URL", "evil.example.com"),
        SealContext(CONTEXT.label, "alice", CONTEXT.row_id, "DATABASE_URL", ""),
        SealContext(CONTEXT.label, "alice", CONTEXT.row_id, "DATABASE_URLdb.example.com", ""),
        SealContext(CONTEXT.label, "alice", CONTEXT.row_id, "", "DATABASE_URLdb.example.com"),
    ],
    ids=["column", "version", "user", "row", "name", "host", "no host", "joined left", "joined right"],
)
def test_a_value_does_not_open_in_another_place(key: DataKey, other: SealContext) -> None:
    sealed = seal(key, CONTEXT, PLAINTEXT)
    with pytest.raises(Tampered):
        open_sealed(key, other, sealed)
    with pytest.raises(Tampered):
        open_sealed(key, CONTEXT, seal(key, other, PLAINTEXT))


def test_a_value_does_not_open_under_another_key(key: DataKey) -> None:
    sealed = seal(key, CONTEXT, PLAINTEXT)
    with pytest.raises(Tampered):
        open_sealed(DataKey(bytes(16), MATERIAL), CONTEXT, sealed)
    with pytest.raises(Tampered):
        open_sealed(DataKey(KEY_ID, bytes(range(32))), CONTEXT, sealed)


def test_the_commitment_is_checked_before_anything_is_decrypted(key: DataKey, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = bytearray(seal(key, CONTEXT, PLAINTEXT))
    sealed[50] ^= 1

    class Watched:
        def __init__(self, key: bytes) -> None:
            self.key = key

        def decrypt(self, *arguments: object) -> bytes:
            raise AssertionError("decrypted before the commitment was checked")

    expand, _, invalid = envelope._primitives()
    monkeypatch.setattr(envelope, "_primitives", lambda: (expand, Watched, invalid))
    with pytest.raises(Tampered):
        open_sealed(key, CONTEXT, bytes(sealed))


def test_sealing_the_same_value_twice_gives_different_bytes(key: DataKey) -> None:
    values = {seal(key, CONTEXT, PLAINTEXT) for _ in range(1000)}
    assert len({value[18:50] for value in values}) == 1000
    assert len({value[82:] for value in values}) == 1000


def test_a_sealed_value_names_its_data_key_and_costs_98_bytes(key: DataKey) -> None:
    sealed = seal(key, CONTEXT, PLAINTEXT)
    assert data_key_id_of(sealed) == KEY_ID
    assert len(sealed) == len(PLAINTEXT) + OVERHEAD_BYTES == len(PLAINTEXT) + 98


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xe1\x01",
        b"\xe1\x01" + bytes(95),
        b"\xe1\x02" + bytes(200),
        b"\xe0\x01" + bytes(200),
        b"postgres://user:pass@host/db" * 5,
        b"gAAAAABh" + b"A" * 200,
    ],
    ids=["empty", "prefix only", "one byte short", "suite 2", "format E0", "plaintext", "Fernet"],
)
def test_what_is_not_format_one_is_refused(key: DataKey, value: bytes) -> None:
    assert not is_sealed(value)
    with pytest.raises(Tampered):
        data_key_id_of(value)
    with pytest.raises(Tampered):
        open_sealed(key, CONTEXT, value)


def test_no_other_format_or_suite_opens(key: DataKey) -> None:
    sealed = seal(key, CONTEXT, PLAINTEXT)
    for number in range(0x10000):
        prefix = number.to_bytes(2)
        if prefix == b"\xe1\x01":
            continue
        assert not is_sealed(prefix + sealed[2:])
        with pytest.raises(Tampered):
            open_sealed(key, CONTEXT, prefix + sealed[2:])


@pytest.mark.parametrize("guard", ["the derivation", "the associated data"])
@pytest.mark.parametrize("prefix", [b"\xe1\x02", b"\xe2\x01", b"\xe1\x00"])
def test_format_and_suite_are_authenticated_twice(
    key: DataKey, prefix: bytes, guard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A release that knows another suite seals a value; someone rewrites its first two bytes, to have it read as ours.
    # The derivation and the associated data each refuse it, whatever the other does.
    if guard == "the associated data":
        expanded = envelope._expanded
        monkeypatch.setattr(envelope, "_expanded", lambda key, header: expanded(key, b"\xe1\x01" + header[2:]))
    else:
        associated = envelope._associated_data
        monkeypatch.setattr(envelope, "_associated_data", lambda _header, context: associated(b"", context))
    with monkeypatch.context() as later:
        later.setattr(envelope, "_PREFIX", prefix)
        sealed = seal(key, CONTEXT, PLAINTEXT)
        assert open_sealed(key, CONTEXT, sealed) == PLAINTEXT
    with pytest.raises(Tampered):
        open_sealed(key, CONTEXT, b"\xe1\x01" + sealed[2:])


def test_no_public_call_takes_a_nonce_or_a_salt() -> None:
    seen = set()
    for module in pkgutil.walk_packages(storage.encryption.__path__, "storage.encryption."):
        loaded = importlib.import_module(module.name)
        for name, thing in vars(loaded).items():
            if name.startswith("_") or getattr(thing, "__module__", None) != module.name:
                continue
            if name == "KeyDerivation":
                continue  # what the header of a bundle says; whoever seals a bundle gets a fresh one
            members = [(name, thing)]
            if inspect.isclass(thing):
                own = inspect.getmembers(thing, callable)
                members += [(f"{name}.{method}", call) for method, call in own if method[0] != "_"]
            for called, member in members:
                with contextlib.suppress(ValueError, TypeError):  # no signature: nothing of ours
                    taken = {parameter.strip("_").lower() for parameter in inspect.signature(member).parameters}
                    assert taken.isdisjoint({"nonce", "iv", "salt", "counter", "random"}), called
                    seen.add(called)
    assert {"seal", "open_sealed", "KeySet.seal", "MasterKey.wrap", "KeyProvider.wrap", "KeyRing.run"} <= seen
    # The one function that takes a salt is private, for the golden values above.
    assert "salt" in inspect.signature(envelope._seal_with_salt).parameters


def test_text_is_not_taken_for_a_sealed_value() -> None:
    assert not is_sealed("á\x01" + "x" * 200)
    assert not is_sealed(None)


def test_the_reason_of_a_refusal_is_not_told(key: DataKey) -> None:
    sealed = seal(key, CONTEXT, PLAINTEXT)
    messages = set()
    for position in (1, 5, 20, 60, 85, len(sealed) - 1):
        altered = bytearray(sealed)
        altered[position] ^= 0xFF
        with pytest.raises(Tampered) as caught:
            open_sealed(key, CONTEXT, bytes(altered))
        assert caught.value.__cause__ is None
        messages.add(str(caught.value))
    assert len(messages) == 1


def test_a_context_that_utf8_cannot_encode_is_refused(key: DataKey) -> None:
    broken = SealContext("custom_secret.value/1", "alice", "1", "bad \udc80 name")
    with pytest.raises(InvalidInput, match="surrogate"):
        seal(key, broken, b"x")


def test_a_data_key_shows_its_material_to_nobody(key: DataKey) -> None:
    shown = [repr(key), str(key), f"{key}", f"{[key]}", f"{dir(key)}"]
    try:
        open_sealed(key, CONTEXT, b"nothing")
    except EncryptionError as error:
        shown.append("".join(traceback.format_exception(error)))
    for text in shown:
        assert MATERIAL.hex() not in text
        assert repr(MATERIAL)[2:-1] not in text
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="never pickled or copied"):
            leak(key)
    assert not hasattr(key, "__dict__")


@pytest.mark.parametrize(("key_id", "material"), [(b"short", MATERIAL), (KEY_ID, b"short"), (KEY_ID, b"")])
def test_a_data_key_has_an_id_of_16_and_material_of_32_bytes(key_id: bytes, material: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        DataKey(key_id, material)


def test_generated_keys_differ() -> None:
    keys = [DataKey.generate() for _ in range(100)]
    assert len({key.id for key in keys}) == len({key.reveal() for key in keys}) == 100


texts = st.text(st.characters(exclude_categories=["Cs"]))


@settings(max_examples=200, deadline=None)
@given(plaintext=st.binary(max_size=4096), fields=st.tuples(texts, texts, texts, texts, texts))
def test_any_value_in_any_place_seals_and_opens(plaintext: bytes, fields: tuple[str, str, str, str, str]) -> None:
    key, context = DataKey(KEY_ID, MATERIAL), SealContext(*fields)
    sealed = seal(key, context, plaintext)
    assert is_sealed(sealed)
    assert open_sealed(key, context, sealed) == plaintext


longest = 1024 * 1024


@st.composite
def long_values(draw: st.DrawFn) -> bytes:
    """Bytes up to 1 MiB: what hypothesis finds interesting, repeated, since it generates no more than some KiB."""
    pattern = draw(st.binary(min_size=1, max_size=200) | st.text(min_size=1, max_size=60).map(_as_utf8))
    size = draw(st.integers(0, 2000) | st.integers(0, longest) | st.sampled_from([longest - 1, longest]))
    return (pattern * (size // len(pattern) + 1))[:size]


def _as_utf8(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


@settings(max_examples=100, deadline=None)
@given(plaintext=long_values(), fields=st.tuples(texts, texts, texts, texts, texts))
def test_any_value_up_to_a_mebibyte_seals_and_opens_for_any_user_and_name(
    plaintext: bytes, fields: tuple[str, str, str, str, str]
) -> None:
    key, context = DataKey.generate(), SealContext(*fields)
    keys = KeySet(context.user_id, {key.id: key}, key.id)
    sealed = keys.seal(context, plaintext)
    assert len(sealed) == len(plaintext) + OVERHEAD_BYTES
    assert keys.open(context, sealed) == plaintext


@settings(max_examples=200, deadline=None)
@given(
    one=st.tuples(texts, texts, texts, texts, texts),
    other=st.tuples(texts, texts, texts, texts, texts),
)
def test_different_places_never_look_the_same(
    one: tuple[str, str, str, str, str], other: tuple[str, str, str, str, str]
) -> None:
    header = bytes(50)
    same = envelope._associated_data(header, SealContext(*one)) == envelope._associated_data(
        header, SealContext(*other)
    )
    assert same == (one == other)


SEAL_MANY = """
import sys
from storage.encryption.envelope import DataKey, SealContext, seal

key, context = DataKey(bytes(16), bytes(range(32))), SealContext("custom_secret.value/1", "alice", "1")
for _ in range(int(sys.argv[1])):
    sys.stdout.buffer.write(seal(key, context, b"")[18:50])
"""


@pytest.mark.slow
def test_of_a_million_salts_of_two_processes_no_two_are_equal(tmp_path: Path) -> None:
    # Key and nonce follow from the salt: while no salt comes twice under one data key, no nonce does under any key.
    number, paths = 500_000, (tmp_path / "one", tmp_path / "other")
    command = [sys.executable, "-c", SEAL_MANY, str(number)]
    running = []
    for path in paths:
        with path.open("wb") as output:
            running.append(subprocess.Popen(command, stdout=output, cwd=Path(storage.__file__).parents[1]))
    assert [process.wait() for process in running] == [0, 0]
    salts: set[bytes] = set()
    for path in paths:
        written = path.read_bytes()
        assert len(written) == number * 32
        salts.update(written[at : at + 32] for at in range(0, len(written), 32))
    assert len(salts) == number * len(paths)
