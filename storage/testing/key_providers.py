"""What every KeyProvider promises, as tests that any implementation can run against itself.

A test module subclasses the suite and tells it how to make providers:

    class TestMyProvider(KeyProviderContract):
        @pytest.fixture
        def open_provider(self):
            return lambda: MyProvider("https://keys.example.com", "first-key")

        @pytest.fixture
        def open_stranger(self):
            return lambda: MyProvider("https://keys.example.com", "another-key")

Every call makes a new instance, as a restarted process would, over keys that outlast it. What is optional
(`open_successor`, `open_empty`) is skipped, visibly, where it is not given. Needs pytest, and pytest-asyncio with
`asyncio_mode = auto`.
"""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
from collections.abc import Callable, Sequence
from typing import TypeAlias

import pytest

from storage.encryption.providers.provider import KeyProvider, RegisteredKey
from storage.errors import ConfigurationError, KeyMismatch, KeyMissing, KeyUnavailable, Tampered

Open: TypeAlias = Callable[[], KeyProvider]
"""Makes a new instance; called inside a running event loop."""

BOUND = b"what a data key is bound to"
AT_ONCE = 20


async def started(open_provider: Open, *registered: RegisteredKey) -> KeyProvider:
    """A new instance, asked what the key ring asks first."""
    provider = open_provider()
    assert (await provider.health()).has_key
    await provider.identify(registered)
    return provider


class KeyProviderContract:
    """Subclass it, name the subclass `Test…`, and give it `open_provider` and `open_stranger`."""

    @pytest.fixture
    def open_provider(self) -> Open:
        """How to make a provider that holds at least one key; all its instances hold the same ones."""
        raise NotImplementedError("give the suite an open_provider fixture")

    @pytest.fixture
    def open_stranger(self) -> Open:
        """How to make a provider that holds other keys."""
        raise NotImplementedError("give the suite an open_stranger fixture")

    @pytest.fixture
    def open_successor(self) -> Open | None:
        """How to make a provider with one key of `open_provider` first, and a further key behind it.

        Not needed where `can_add` is true: there the suite adds one.
        """
        return None

    @pytest.fixture
    def open_empty(self) -> Open | None:
        """How to make a provider that has no key yet; its instances share one place for keys."""
        return None

    @pytest.fixture
    def never_shown(self) -> Sequence[str]:
        """Texts that are secret: the keys as they are configured, a password."""
        return ()

    @pytest.fixture
    def data_key(self) -> bytes:
        """What is wrapped."""
        return os.urandom(32)

    # ---- a key and its id

    async def test_a_provider_says_what_and_where_it_is(self, open_provider: Open) -> None:
        provider = open_provider()
        health = await provider.health()
        assert health.has_key
        assert health.detail
        assert provider.name
        assert provider.where

    async def test_a_key_that_nobody_knows_has_no_id_until_it_is_enrolled(self, open_provider: Open) -> None:
        provider = await started(open_provider)
        assert not provider.active_id
        enrolled = await provider.enrol()
        assert provider.active_id == enrolled.kek_id
        assert len(enrolled.kek_id) == 16
        assert enrolled.check_value
        assert not enrolled.retired
        assert await provider.enrol() == enrolled

    async def test_two_that_enrol_at_once_get_the_same_id(self, open_provider: Open) -> None:
        provider = await started(open_provider)
        answers = await asyncio.gather(*(provider.enrol() for _ in range(4)))
        assert len({answer.kek_id for answer in answers}) == 1

    async def test_a_restarted_process_recognises_the_key_and_opens_what_it_wrapped(
        self, open_provider: Open, data_key: bytes
    ) -> None:
        first = await started(open_provider)
        enrolled = await first.enrol()
        wrapped = await first.wrap(enrolled.kek_id, data_key, BOUND)
        again = open_provider()
        assert (await again.health()).has_key
        assert await again.identify([enrolled]) == {enrolled.kek_id}
        assert again.active_id == enrolled.kek_id
        assert (await again.enrol()).kek_id == enrolled.kek_id
        assert await again.unwrap(enrolled.kek_id, wrapped, BOUND) == data_key

    async def test_recognising_again_changes_nothing(self, open_provider: Open, data_key: bytes) -> None:
        provider = await started(open_provider)
        enrolled = await provider.enrol()
        wrapped = await provider.wrap(enrolled.kek_id, data_key, BOUND)
        for _ in range(3):
            assert (await provider.health()).has_key
            assert await provider.identify([enrolled]) == {enrolled.kek_id}
            assert await provider.unwrap(enrolled.kek_id, wrapped, BOUND) == data_key

    async def test_a_registered_id_wins_over_one_that_was_only_enrolled(self, open_provider: Open) -> None:
        registered = await (await started(open_provider)).enrol()
        late = await started(open_provider)
        assert (await late.enrol()).kek_id != registered.kek_id
        assert await late.identify([registered]) == {registered.kek_id}
        assert late.active_id == (await late.enrol()).kek_id == registered.kek_id

    async def test_keys_of_others_are_not_recognised(self, open_provider: Open, open_stranger: Open) -> None:
        enrolled = await (await started(open_provider)).enrol()
        stranger = await started(open_stranger)
        own = await stranger.enrol()
        other_kind = RegisteredKey(os.urandom(16), os.urandom(32))
        assert await stranger.identify([enrolled, other_kind, own]) == {own.kek_id}
        assert stranger.active_id == own.kek_id
        with pytest.raises(KeyMissing):
            await stranger.unwrap(enrolled.kek_id, b"whatever", BOUND)

    async def test_a_check_value_counts_for_its_id_only(self, open_provider: Open) -> None:
        enrolled = await (await started(open_provider)).enrol()
        moved = RegisteredKey(os.urandom(16), enrolled.check_value)
        shortened = RegisteredKey(enrolled.kek_id, enrolled.check_value[:-1])
        for wrong in (moved, shortened):
            provider = open_provider()
            await provider.health()
            assert await provider.identify([wrong]) == frozenset()

    # ---- wrapping

    async def test_a_wrapped_key_comes_back(self, open_provider: Open, data_key: bytes) -> None:
        provider = await started(open_provider)
        kek_id = (await provider.enrol()).kek_id
        for bound in (BOUND, b"", bytes(range(256)) * 4):
            wrapped = await provider.wrap(kek_id, data_key, bound)
            assert data_key not in wrapped
            assert await provider.unwrap(kek_id, wrapped, bound) == data_key

    async def test_a_wrapped_key_does_not_move_to_another_place(self, open_provider: Open, data_key: bytes) -> None:
        provider = await started(open_provider)
        kek_id = (await provider.enrol()).kek_id
        wrapped = await provider.wrap(kek_id, data_key, BOUND)
        for elsewhere in (BOUND + b"!", BOUND[:-1], b""):
            with pytest.raises(Tampered):
                await provider.unwrap(kek_id, wrapped, elsewhere)

    async def test_a_wrapped_key_does_not_move_to_another_master_key(
        self, open_provider: Open, open_stranger: Open, data_key: bytes
    ) -> None:
        provider, stranger = await started(open_provider), await started(open_stranger)
        wrapped = await provider.wrap((await provider.enrol()).kek_id, data_key, BOUND)
        with pytest.raises(Tampered):
            await stranger.unwrap((await stranger.enrol()).kek_id, wrapped, BOUND)

    async def test_what_was_altered_is_refused(self, open_provider: Open, data_key: bytes) -> None:
        provider = await started(open_provider)
        kek_id = (await provider.enrol()).kek_id
        wrapped = await provider.wrap(kek_id, data_key, BOUND)
        flipped = bytes([*wrapped[:-1], wrapped[-1] ^ 1])
        other_start = bytes([wrapped[0] ^ 0x80, *wrapped[1:]])
        for altered in (flipped, other_start, wrapped[:-1], wrapped[: len(wrapped) // 2], b"", os.urandom(80)):
            with pytest.raises(Tampered):
                await provider.unwrap(kek_id, altered, BOUND)

    async def test_an_unknown_id_is_a_missing_key(self, open_provider: Open, data_key: bytes) -> None:
        provider = await started(open_provider)
        unknown = os.urandom(16)
        with pytest.raises(KeyMissing):
            await provider.wrap(unknown, data_key, BOUND)
        with pytest.raises(KeyMissing):
            await provider.unwrap(unknown, b"whatever", BOUND)

    async def test_many_tasks_at_once_each_get_their_own_answer(self, open_provider: Open) -> None:
        provider = await started(open_provider)
        enrolled = await provider.enrol()

        async def one(number: int) -> None:
            data_key, bound = os.urandom(32), b"task %d" % number
            wrapped = await provider.wrap(enrolled.kek_id, data_key, bound)
            assert await provider.identify([enrolled]) == {enrolled.kek_id}
            assert await provider.unwrap(enrolled.kek_id, wrapped, bound) == data_key

        await asyncio.gather(*(one(number) for number in range(AT_ONCE)), *(provider.health() for _ in range(3)))

    # ---- several keys, and rotation

    async def _with_successor(
        self, open_provider: Open, open_successor: Open | None
    ) -> tuple[KeyProvider, RegisteredKey, Open]:
        """A provider with two keys, the first one's registration, and how to make another instance of it."""
        provider = await started(open_provider)
        first = await provider.enrol()
        if provider.can_add:
            await provider.add()
            return provider, first, open_provider
        if open_successor is None:
            pytest.skip("needs an open_successor fixture")
        return await started(open_successor, first), first, open_successor

    async def test_a_key_behind_the_first_is_held_and_does_not_wrap(
        self, open_provider: Open, open_successor: Open | None
    ) -> None:
        provider, first, _ = await self._with_successor(open_provider, open_successor)
        assert provider.active_id == first.kek_id == (await provider.enrol()).kek_id

    async def test_a_retired_key_opens_and_its_successor_wraps(
        self, open_provider: Open, open_successor: Open | None, data_key: bytes
    ) -> None:
        _, first, reopen = await self._with_successor(open_provider, open_successor)
        wrapped = await (await started(reopen, first)).wrap(first.kek_id, data_key, BOUND)
        retired = RegisteredKey(first.kek_id, first.check_value, retired=True)
        provider = reopen()
        assert (await provider.health()).has_key
        assert await provider.identify([retired]) == {first.kek_id}
        assert not provider.active_id
        assert await provider.unwrap(first.kek_id, wrapped, BOUND) == data_key
        successor = await provider.enrol()
        assert provider.active_id == successor.kek_id != first.kek_id
        assert await provider.identify([retired, successor]) == {first.kek_id, successor.kek_id}
        assert (await provider.enrol()).kek_id == successor.kek_id
        moved = await provider.wrap(successor.kek_id, data_key, BOUND)
        with pytest.raises(Tampered):
            await provider.unwrap(first.kek_id, moved, BOUND)

    async def test_nothing_is_enrolled_when_every_key_is_retired(self, open_provider: Open) -> None:
        first = await (await started(open_provider)).enrol()
        retired = RegisteredKey(first.kek_id, first.check_value, retired=True)
        provider = await started(open_provider, retired)
        assert not provider.active_id
        with pytest.raises(KeyMismatch):
            await provider.enrol()

    async def test_a_further_key_goes_behind_and_can_be_put_first(self, open_provider: Open, data_key: bytes) -> None:
        provider = await started(open_provider)
        first = await provider.enrol()
        if not provider.can_add:
            for refused in (provider.add(), provider.promote(first.kek_id)):
                with pytest.raises(ConfigurationError):
                    await refused
            return
        added = await provider.add()
        assert provider.active_id == first.kek_id
        with pytest.raises(KeyMissing):
            await provider.promote(os.urandom(16))
        wrapped = await provider.wrap(added.kek_id, data_key, BOUND)
        await provider.promote(added.kek_id)
        assert provider.active_id == (await provider.enrol()).kek_id == added.kek_id
        again = await started(open_provider, first, added)
        assert again.active_id == added.kek_id
        assert await again.unwrap(added.kek_id, wrapped, BOUND) == data_key
        await again.promote(first.kek_id)
        assert (await started(open_provider, added, first)).active_id == first.kek_id

    async def test_keys_that_are_added_at_once_are_all_kept(self, open_provider: Open) -> None:
        providers = [await started(open_provider) for _ in range(4)]
        if not providers[0].can_add:
            pytest.skip("this provider adds no keys")
        added = await asyncio.gather(*(provider.add() for provider in providers))
        provider = open_provider()
        await provider.health()
        assert await provider.identify(added) == {key.kek_id for key in added}

    # ---- the first key

    async def test_a_first_key_is_made_once_and_never_replaced(
        self, open_provider: Open, open_empty: Open | None
    ) -> None:
        provider = open_provider()
        if not provider.can_generate:
            with pytest.raises(KeyUnavailable):
                await provider.generate()
            return
        if open_empty is None:
            pytest.skip("needs an open_empty fixture")
        provider = open_empty()
        assert not (await provider.health()).has_key
        assert await provider.identify([]) == frozenset()
        with pytest.raises(KeyMissing):
            await provider.enrol()
        others = [open_empty() for _ in range(4)]
        await asyncio.gather(provider.generate(), *(other.generate() for other in others))
        enrolled = await provider.enrol()
        for other in (*others, open_empty()):
            await other.generate()
            assert await other.identify([enrolled]) == {enrolled.kek_id}

    # ---- secrecy

    async def test_nothing_secret_is_shown(self, open_provider: Open, never_shown: Sequence[str]) -> None:
        provider = await started(open_provider)
        enrolled = await provider.enrol()
        health = await provider.health()
        shown = [repr(provider), str(provider), provider.where, health.detail, repr(enrolled), repr(health)]
        with pytest.raises(Tampered) as tampered:
            await provider.unwrap(enrolled.kek_id, b"garbage", BOUND)
        with pytest.raises(KeyMissing) as missing:
            await provider.unwrap(os.urandom(16), b"garbage", BOUND)
        shown += [str(tampered.value), str(missing.value)]
        for secret in never_shown:
            assert all(secret not in text for text in shown)

    async def test_a_provider_is_neither_pickled_nor_copied(self, open_provider: Open) -> None:
        provider = await started(open_provider)
        for leak in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError):
                leak(provider)

    async def test_closing_twice_does_nothing(self, open_provider: Open) -> None:
        provider = await started(open_provider)
        await provider.close()
        await provider.close()
