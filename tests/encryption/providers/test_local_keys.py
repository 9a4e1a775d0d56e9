"""Master keys held in memory: read strictly, recognised by check values, never shown."""

from __future__ import annotations

import base64
import copy
import hashlib
import hmac
import logging
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.encryption.providers.local_keys import LocalKeys, MasterKey, parse_master_keys
from storage.encryption.providers.provider import ProviderHealth, RegisteredKey
from storage.errors import ConfigurationError, KeyMismatch, KeyMissing, Tampered

ONE = hashlib.sha256(b"test key one").digest()
TWO = hashlib.sha256(b"test key two").digest()
BOUND = b"what it is bound to"


class Keys(LocalKeys):
    name = "test"

    def __init__(self, *keys: bytes) -> None:
        super().__init__()
        self.use(tuple(MasterKey(key) for key in keys))

    @property
    def where(self) -> str:
        return "the test"

    async def health(self) -> ProviderHealth:
        return ProviderHealth(has_key=bool(self._keys), detail="test")


def encoded(key: bytes) -> str:
    return base64.b64encode(key).decode()


@pytest.mark.parametrize(
    "text",
    [
        encoded(ONE),
        encoded(ONE).rstrip("="),
        base64.urlsafe_b64encode(ONE).decode(),
        f"  {encoded(ONE)}\n",
        f"# the key of production\n{encoded(ONE)}\n",
    ],
    ids=["standard", "unpadded", "urlsafe", "white space", "comment"],
)
def test_a_key_is_read_however_it_was_written(text: str) -> None:
    assert parse_master_keys(text, "HERE") == (MasterKey(ONE),)


@given(st.binary(min_size=32, max_size=32).filter(lambda key: len(set(key)) > 20 and not key.isascii()))
def test_every_random_key_survives_its_encoding(material: bytes) -> None:
    key = MasterKey(material)
    assert parse_master_keys(key.encoded(), "HERE") == (key,)


@pytest.mark.parametrize("separator", [",", " ", "\n", ",\n"])
def test_several_keys_are_read_in_order(separator: str) -> None:
    keys = parse_master_keys(encoded(TWO) + separator + encoded(ONE), "HERE")
    assert keys == (MasterKey(TWO), MasterKey(ONE))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "holds no master key"),
        ("# only a comment", "holds no master key"),
        ("correct&horse&battery&staple!", "not base64"),
        ("changeme", "decodes to 6 bytes"),
        (encoded(ONE[:31]), "decodes to 31 bytes"),
        (encoded(ONE + b"x"), "decodes to 33 bytes"),
        (ONE.hex(), "decodes to 48 bytes"),
        (encoded(bytes(32)), "not random"),
        (encoded(b"a" * 32), "not random"),
        (encoded(bytes(range(32))), "not random"),
        (encoded(bytes(range(31, -1, -1))), "not random"),
        (encoded(b"0123456789abcdef0123456789abcdef"), "not random"),
        (encoded(b"this is my very secret passphras"), "not random"),
        (encoded(b"correct horse battery staple 12\n"), "not random"),
        (encoded(b"my secret password 123".ljust(32, b"\0")), "not random"),
        (encoded("Vorsätzlich geheimer Schlüssel".encode()), "not random"),
        (encoded(ONE[:16] * 2), "not random"),
        (encoded(ONE[:12] * 2 + ONE[:8]), "not random"),
        (encoded(bytes([*range(16), *range(32, 48)])), "not random"),
        (encoded(hashlib.sha256(b"password").digest()), "not random"),
        (f"{encoded(ONE)},{encoded(bytes(32))}", "not random"),
    ],
)
def test_what_is_no_random_key_is_refused_with_a_way_to_make_one(text: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        parse_master_keys(text, "STORAGE_MASTER_KEY")
    message = str(caught.value)
    assert message.startswith("STORAGE_MASTER_KEY ")
    assert "python3 -c" in message
    for word in text.replace(",", " ").split():
        assert len(word) < 8 or word not in message
    assert caught.value.__cause__ is None


def test_a_key_that_would_be_refused_is_never_made(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([bytes(32), b"correct horse battery staple 12\n", ONE])
    monkeypatch.setattr("os.urandom", lambda size: next(drawn)[:size])
    assert MasterKey.generate() == MasterKey(ONE)


def test_the_check_value_is_an_hmac_over_the_id() -> None:
    kek_id = bytes(range(16))
    expected = hmac.new(ONE, b"agent-storage/kek-check/1" + kek_id, hashlib.sha256).digest()
    assert MasterKey(ONE).check_value(kek_id) == expected


async def test_a_provider_recognises_its_keys_among_others() -> None:
    keys, foreign = Keys(TWO, ONE), MasterKey(hashlib.sha256(b"foreign").digest())
    rows = [
        RegisteredKey(b"1" * 16, MasterKey(ONE).check_value(b"1" * 16)),
        RegisteredKey(b"2" * 16, MasterKey(TWO).check_value(b"2" * 16)),
        RegisteredKey(b"3" * 16, foreign.check_value(b"3" * 16)),
        RegisteredKey(b"4" * 16, MasterKey(ONE).check_value(b"1" * 16)),
    ]
    assert await keys.identify(rows) == {b"1" * 16, b"2" * 16}
    assert keys.active_id == b"2" * 16


async def test_an_unregistered_key_gets_a_random_id_and_keeps_it() -> None:
    keys = Keys(ONE)
    assert keys.active_id is None
    enrolled = await keys.enrol()
    assert len(enrolled.kek_id) == 16
    assert await keys.enrol() == enrolled
    assert await keys.identify([enrolled]) == {enrolled.kek_id} == {keys.active_id}
    assert (await Keys(ONE).enrol()).kek_id != enrolled.kek_id


async def test_the_first_key_that_is_not_retired_wraps() -> None:
    keys = Keys(ONE, TWO)
    first = RegisteredKey(b"1" * 16, MasterKey(ONE).check_value(b"1" * 16), retired=True)
    second = RegisteredKey(b"2" * 16, MasterKey(TWO).check_value(b"2" * 16))
    assert await keys.identify([first]) == {first.kek_id}
    assert not keys.active_id
    assert await keys.identify([first, second]) == {first.kek_id, second.kek_id}
    assert keys.active_id == second.kek_id
    assert await keys.enrol() == second
    await keys.identify([RegisteredKey(first.kek_id, first.check_value), second])
    assert keys.active_id == first.kek_id, "a retirement that was taken back"


async def test_a_key_that_is_registered_twice_is_retired_when_both_are() -> None:
    keys = Keys(ONE)
    old, new = (MasterKey(ONE).check_value(kek_id) for kek_id in (b"1" * 16, b"2" * 16))
    rows = [RegisteredKey(b"1" * 16, old, retired=True), RegisteredKey(b"2" * 16, new)]
    assert await keys.identify(rows) == {b"1" * 16, b"2" * 16}
    assert (await keys.enrol()).kek_id == b"2" * 16
    await keys.identify([rows[0], RegisteredKey(b"2" * 16, new, retired=True)])
    assert not keys.active_id
    with pytest.raises(KeyMismatch, match="every master key in the test was retired"):
        await keys.enrol()


async def test_reading_further_keys_forgets_nothing_of_those_that_stay() -> None:
    keys = Keys(ONE)
    enrolled = await keys.enrol()
    wrapped = await keys.wrap(enrolled.kek_id, TWO, BOUND)
    keys.use((MasterKey(ONE), MasterKey(TWO)))
    assert keys.active_id == enrolled.kek_id
    assert await keys.unwrap(enrolled.kek_id, wrapped, BOUND) == TWO
    keys.use((MasterKey(TWO),))
    with pytest.raises(KeyMissing):
        await keys.unwrap(enrolled.kek_id, wrapped, BOUND)


async def test_a_registered_id_wins_over_an_earlier_random_one() -> None:
    keys = Keys(ONE)
    earlier = await keys.enrol()
    registered = RegisteredKey(b"1" * 16, MasterKey(ONE).check_value(b"1" * 16))
    await keys.identify([registered])
    assert await keys.enrol() == registered
    # What was wrapped a moment before is still known by its id.
    assert await keys.unwrap(earlier.kek_id, await keys.wrap(earlier.kek_id, TWO, BOUND), BOUND) == TWO


async def test_a_wrapped_key_opens_only_whole_under_its_key_and_in_its_place() -> None:
    keys, other = Keys(ONE), Keys(TWO)
    kek_id = (await keys.enrol()).kek_id
    other_id = (await other.enrol()).kek_id
    material = hashlib.sha256(b"a data key").digest()
    wrapped = await keys.wrap(kek_id, material, BOUND)
    assert await keys.unwrap(kek_id, wrapped, BOUND) == material
    assert await keys.wrap(kek_id, material, BOUND) != wrapped
    with pytest.raises(Tampered):
        await keys.unwrap(kek_id, wrapped, BOUND + b"!")
    with pytest.raises(Tampered):
        await other.unwrap(other_id, wrapped, BOUND)
    for position in range(len(wrapped) * 8):
        altered = bytearray(wrapped)
        altered[position // 8] ^= 1 << position % 8
        with pytest.raises(Tampered):
            await keys.unwrap(kek_id, bytes(altered), BOUND)
    for length in range(len(wrapped)):
        with pytest.raises(Tampered):
            await keys.unwrap(kek_id, wrapped[:length], BOUND)


async def test_an_unknown_id_is_a_missing_key() -> None:
    with pytest.raises(KeyMissing, match="6e6f6e6f"):
        await Keys(ONE).unwrap(b"nononononononono", b"x", BOUND)
    with pytest.raises(KeyMissing, match="the test"):
        await Keys().enrol()


def test_master_keys_are_shown_to_nobody(caplog: pytest.LogCaptureFixture) -> None:
    key, keys = MasterKey(ONE), Keys(ONE)
    logging.getLogger("test").warning("%s %r", key, keys)
    for text in (repr(key), str(key), f"{key}", repr(keys), caplog.text, repr(parse_master_keys(encoded(ONE), ""))):
        assert encoded(ONE) not in text
        assert ONE.hex() not in text
        assert repr(ONE)[2:-1] not in text
    for thing in (key, keys):
        for leak in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError, match="never pickled or copied"):
                leak(thing)
