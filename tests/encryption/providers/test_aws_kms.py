"""AWS KMS as the holder of master keys, against moto's server.

moto binds a ciphertext to its encryption context and its key, as KMS does. It knows neither disabled keys when it
encrypts, nor permissions, nor quotas; those answers come from the gate in front of it, under AWS's names.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from storage import Storage
from storage.encryption.providers import aws_kms
from storage.encryption.providers.aws_kms import AWSKMS
from storage.encryption.providers.provider import RegisteredKey
from storage.errors import ConfigurationError, KeyMismatch, KeyMissing, KeyUnavailable, StorageError, Tampered
from tests.kms import aws_credentials, kms, kms_client, kms_server, new_key
from tests.servers.moto import REGION, MotoServer

__all__ = ["aws_credentials", "kms", "kms_client", "kms_server"]

DATA_KEY = hashlib.sha256(b"a data key").digest()
BOUND = b"agent-storage/data-key/1 of alice@example.com"


async def started(server: MotoServer, *key_ids: str, registered: tuple[RegisteredKey, ...] = ()) -> AWSKMS:
    provider = AWSKMS(key_ids, server.url)
    assert (await provider.health()).has_key
    await provider.identify(registered)
    return provider


def retired(row: RegisteredKey) -> RegisteredKey:
    return RegisteredKey(row.kek_id, row.check_value, retired=True)


def id_of(arn: str) -> str:
    return arn.rpartition("/")[2]  # moto changes a key's state by its id only


# ---- what is sent


async def test_the_context_that_everybody_may_see_has_only_a_hash(kms_server: MotoServer, kms: Any) -> None:
    arn = new_key(kms)
    provider = await started(kms_server, arn)
    wrapped = await provider.wrap((await provider.enrol()).kek_id, DATA_KEY, BOUND)
    assert wrapped[:1] == b"\x02"
    assert wrapped[1:17] == hashlib.sha256(arn.encode()).digest()[:16]
    context = {
        "agent-storage": "data-key/1",
        "bound-to": base64.b64encode(hashlib.sha256(BOUND).digest()).decode(),
    }
    answer = kms.decrypt(CiphertextBlob=wrapped[17:], EncryptionContext=context, KeyId=arn)
    assert answer["Plaintext"] == DATA_KEY
    for other in ({}, {**context, "bound-to": BOUND.decode()}, {**context, "more": "than that"}):
        with pytest.raises(kms.exceptions.InvalidCiphertextException):
            kms.decrypt(CiphertextBlob=wrapped[17:], EncryptionContext=other, KeyId=arn)


@pytest.mark.parametrize("names_of_threads", [True, False])
async def test_boto3s_logs_at_debug_do_not_show_data_keys(
    kms_server: MotoServer,
    kms: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    names_of_threads: bool,
) -> None:
    monkeypatch.setattr(logging, "logThreads", names_of_threads)
    arn = new_key(kms)
    caplog.set_level(logging.DEBUG)
    provider = await started(kms_server, arn)
    kek_id = (await provider.enrol()).kek_id
    assert await provider.unwrap(kek_id, await provider.wrap(kek_id, DATA_KEY, BOUND), BOUND) == DATA_KEY
    assert "botocore" in {record.name.partition(".")[0] for record in caplog.records}
    for secret in (base64.b64encode(DATA_KEY).decode(), DATA_KEY.hex(), repr(DATA_KEY)[2:-1]):
        assert secret not in caplog.text
    # Calls of others in this process are theirs to log.
    kms.encrypt(KeyId=arn, Plaintext=b"of somebody else")
    assert base64.b64encode(b"of somebody else").decode() in caplog.text


# ---- which key


@pytest.mark.parametrize("kind", ["id", "arn", "alias", "alias arn"])
async def test_a_key_is_named_in_any_way_that_kms_knows(kms_server: MotoServer, kms: Any, kind: str) -> None:
    arn = new_key(kms)
    alias = f"alias/app-{os.urandom(4).hex()}"
    kms.create_alias(AliasName=alias, TargetKeyId=arn)
    alias_arn = arn.rpartition(":")[0] + ":" + alias
    name = {"id": arn.rpartition("/")[2], "arn": arn, "alias": alias, "alias arn": alias_arn}[kind]
    row = await (await started(kms_server, arn)).enrol()
    provider = await started(kms_server, name, registered=(row,))
    assert provider.active_id == row.kek_id
    assert await provider.unwrap(row.kek_id, await provider.wrap(row.kek_id, DATA_KEY, BOUND), BOUND) == DATA_KEY


async def test_an_alias_that_was_pointed_elsewhere_does_not_pass_for_the_old_key(
    kms_server: MotoServer, kms: Any
) -> None:
    old, new = new_key(kms), new_key(kms)
    alias = f"alias/app-{os.urandom(4).hex()}"
    kms.create_alias(AliasName=alias, TargetKeyId=old)
    first = await started(kms_server, alias)
    row = await first.enrol()
    wrapped = await first.wrap(row.kek_id, DATA_KEY, BOUND)
    kms.update_alias(AliasName=alias, TargetKeyId=new)
    assert await (await started(kms_server, alias)).identify([row]) == frozenset()
    both = await started(kms_server, alias, old, registered=(row,))
    assert await both.unwrap(row.kek_id, wrapped, BOUND) == DATA_KEY
    assert both.active_id is None, "the alias comes first, and its key is in no registry yet"


async def test_a_check_value_is_verified_and_not_believed(kms_server: MotoServer, kms: Any) -> None:
    arn = new_key(kms)
    row = await (await started(kms_server, arn)).enrol()
    forged = RegisteredKey(os.urandom(16), row.check_value)  # names the right ARN
    assert await (await started(kms_server, arn)).identify([forged]) == frozenset()
    for check_value in (
        b"",
        b"aws-kms/1\x00",
        b"aws-kms/1\x00\xff\xff" + arn.encode(),
        b"aws-kms/1\x00\x00\x02\xff\xff",
    ):
        odd = RegisteredKey(row.kek_id, check_value)
        assert await (await started(kms_server, arn)).identify([odd]) == frozenset()


def test_replicas_of_a_multi_region_key_are_one_key() -> None:
    here = "arn:aws:kms:eu-central-1:123456789012:key/mrk-1234abcd12ab34cd56ef1234567890ab"
    assert aws_kms._identity(here) == aws_kms._identity(here.replace("eu-central-1", "us-east-1"))
    single = "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    assert aws_kms._identity(single) != aws_kms._identity(single.replace("eu-central-1", "us-east-1"))


async def test_the_region_of_an_arn_needs_no_configuring(
    kms_server: MotoServer, kms: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    arn = new_key(kms)
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    assert (await AWSKMS([arn], kms_server.url).health()).has_key
    with pytest.raises(ConfigurationError, match="AWS_REGION, or name the key by its ARN"):
        await AWSKMS(["alias/app"], kms_server.url).health()
    assert REGION in arn


async def test_no_key_is_made_or_reordered_here(kms_server: MotoServer, kms: Any) -> None:
    provider = await started(kms_server, arn := new_key(kms))
    row = await provider.enrol()
    assert not provider.can_add
    assert not provider.can_generate
    with pytest.raises(ConfigurationError, match="append it to aws_kms_key_ids"):
        await provider.add()
    with pytest.raises(ConfigurationError, match=f"put the key {arn} first in aws_kms_key_ids"):
        await provider.promote(row.kek_id)
    with pytest.raises(KeyUnavailable, match="name it in aws_kms_key_ids"):
        await provider.generate()


# ---- keys that cannot be used


@pytest.mark.parametrize(
    ("error", "raised", "remedy"),
    [
        ("AccessDeniedException", KeyUnavailable, "allow kms:Encrypt, kms:Decrypt and kms:DescribeKey"),
        ("NotFoundException", KeyMissing, "check aws_kms_key_ids and the region"),
        ("DisabledException", KeyUnavailable, "enable it"),
        ("KMSInvalidStateException", KeyUnavailable, "cancel its deletion"),
        ("InvalidKeyUsageException", ConfigurationError, "SYMMETRIC_DEFAULT"),
        ("ExpiredTokenException", KeyUnavailable, "renew"),
        ("UnrecognizedClientException", KeyUnavailable, "AWS refuses them"),
        ("KMSInternalException", KeyUnavailable, "try again"),
        ("IncorrectKeyException", Tampered, "another user or master key"),
    ],
)
async def test_what_aws_refuses_says_what_to_do(
    kms_server: MotoServer, kms: Any, error: str, raised: type[StorageError], remedy: str
) -> None:
    arn = new_key(kms)
    provider = await started(kms_server, arn)
    kek_id = (await provider.enrol()).kek_id
    wrapped = await provider.wrap(kek_id, DATA_KEY, BOUND)
    kms_server.gate(error=error)
    for call in (provider.unwrap(kek_id, wrapped, BOUND), provider.wrap(kek_id, DATA_KEY, BOUND)):
        with pytest.raises(raised, match=remedy) as caught:
            await call
        assert arn in str(caught.value)
        assert type(caught.value) is raised
    kms_server.gate()
    assert await provider.unwrap(kek_id, wrapped, BOUND) == DATA_KEY


async def test_missing_credentials_are_told_apart_from_a_missing_key(
    kms_server: MotoServer, kms: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    arn = new_key(kms)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(KeyUnavailable, match="no AWS credentials"):
        await AWSKMS([arn], kms_server.url).health()


@pytest.mark.parametrize("name", ["alias/nobody-made-this", "00000000-0000-0000-0000-000000000000"])
async def test_a_key_that_does_not_exist_is_missing(kms_server: MotoServer, kms: Any, name: str) -> None:
    with pytest.raises(KeyMissing, match=f"{name} does not exist in this account and region"):
        await AWSKMS([name], kms_server.url).health()


@pytest.mark.parametrize("state", ["Disabled", "PendingDeletion"])
async def test_a_key_in_a_state_without_use_is_unavailable(kms_server: MotoServer, kms: Any, state: str) -> None:
    arn = new_key(kms)
    if state == "Disabled":
        kms.disable_key(KeyId=id_of(arn))
    else:
        kms.schedule_key_deletion(KeyId=id_of(arn), PendingWindowInDays=7)
    with pytest.raises(KeyUnavailable, match=f"is in the state {state}"):
        await AWSKMS([arn], kms_server.url).health()


async def test_a_key_that_only_signs_is_refused(kms_server: MotoServer, kms: Any) -> None:
    arn = new_key(kms, KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
    with pytest.raises(ConfigurationError, match="not a symmetric key"):
        await AWSKMS([arn], kms_server.url).health()


async def test_a_bad_key_behind_the_first_is_told_and_hinders_nothing(kms_server: MotoServer, kms: Any) -> None:
    good, bad = new_key(kms), new_key(kms)
    of_bad = await (await started(kms_server, bad)).enrol()
    kms.disable_key(KeyId=id_of(bad))
    provider = AWSKMS([good, bad], kms_server.url)
    health = await provider.health()
    assert health.has_key
    assert f"{bad} is in the state Disabled" in health.detail
    of_good = await provider.enrol()
    assert await provider.identify([of_bad, of_good]) == {of_good.kek_id}


async def test_a_bad_first_key_is_not_replaced_by_the_second(kms_server: MotoServer, kms: Any) -> None:
    bad, good = new_key(kms), new_key(kms)
    row = await (await started(kms_server, good)).enrol()
    wrapped = await (await started(kms_server, good, registered=(row,))).wrap(row.kek_id, DATA_KEY, BOUND)
    kms.disable_key(KeyId=id_of(bad))
    provider = await started(kms_server, bad, good, registered=(row,))
    assert await provider.unwrap(row.kek_id, wrapped, BOUND) == DATA_KEY
    with pytest.raises(KeyUnavailable, match=f"{bad} is in the state Disabled"):
        await provider.enrol()


async def test_a_key_that_may_be_seen_and_not_used_is_unavailable_and_not_a_wrong_one(
    kms_server: MotoServer, kms: Any
) -> None:
    arn = new_key(kms)
    row = await (await started(kms_server, arn)).enrol()
    provider = await started(kms_server, arn)
    kms_server.gate(error="AccessDeniedException", action="Decrypt")
    with pytest.raises(KeyUnavailable, match="kms:Decrypt"):
        await provider.identify([row])


async def test_a_retired_first_key_makes_way(kms_server: MotoServer, kms: Any) -> None:
    first, second = new_key(kms), new_key(kms)
    row = retired(await (await started(kms_server, first)).enrol())
    provider = await started(kms_server, first, second, registered=(row,))
    assert f":{REGION}:" in second
    successor = await provider.enrol()
    assert second.encode() in successor.check_value
    alone = await started(kms_server, first, registered=(row,))
    with pytest.raises(KeyMismatch, match="name a further one in aws_kms_key_ids"):
        await alone.enrol()


# ---- a service on the network


async def test_throttling_is_waited_out(kms_server: MotoServer, kms: Any) -> None:
    provider = await started(kms_server, new_key(kms))
    kek_id = (await provider.enrol()).kek_id
    kms_server.gate(error="ThrottlingException", times=2)
    wrapped = await provider.wrap(kek_id, DATA_KEY, BOUND)
    counted = kms_server.gate(error="ThrottlingException")
    assert (counted["calls"], counted["refused"]) == (3, 2)
    with pytest.raises(KeyUnavailable, match=r"out of reach for the moment.*ThrottlingException"):
        await provider.unwrap(kek_id, wrapped, BOUND)
    assert kms_server.gate()["calls"] == aws_kms.ATTEMPTS


async def test_a_server_that_is_down_is_unavailable(aws_credentials: None, kms: Any) -> None:
    arn = new_key(kms)
    with pytest.raises(KeyUnavailable, match="EndpointConnectionError"):
        await AWSKMS([arn], "http://127.0.0.1:9").health()
    with pytest.raises(ConfigurationError, match="cannot be asked"):
        await AWSKMS([arn], "not a url").health()


async def test_an_answer_that_does_not_come_is_given_up(
    kms_server: MotoServer, kms: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    arn = new_key(kms)
    monkeypatch.setattr(aws_kms, "READ_SECONDS", 0.1)
    monkeypatch.setattr(aws_kms, "ATTEMPTS", 1)
    kms_server.gate(delay_s=1.0)
    with pytest.raises(KeyUnavailable, match="ReadTimeoutError"):
        await AWSKMS([arn], kms_server.url).health()


async def test_a_slow_service_lets_the_event_loop_run_and_is_asked_in_parallel(
    kms_server: MotoServer, kms: Any
) -> None:
    provider = await started(kms_server, new_key(kms))
    kek_id = (await provider.enrol()).kek_id
    ticks, done = 0, False

    async def heart() -> None:
        nonlocal ticks
        while not done:
            ticks += 1
            await asyncio.sleep(0.005)

    beating = asyncio.create_task(heart())
    kms_server.gate(delay_s=0.05)
    before = ticks
    wrapped = await asyncio.gather(*(provider.wrap(kek_id, DATA_KEY, b"%d" % number) for number in range(20)))
    during, done = ticks - before, True
    await beating
    counted = kms_server.gate()
    assert counted["calls"] == 20
    assert counted["most_at_once"] > 1
    # 20 calls of 50 ms take two rounds of the 16 threads; a loop that waits for one of them has a single tick.
    assert during > 2
    for number in (0, 19):
        assert await provider.unwrap(kek_id, wrapped[number], b"%d" % number) == DATA_KEY


# ---- as the key ring sees it


async def test_secrets_live_under_kms_and_are_locked_while_it_is_away(
    kms_server: MotoServer, kms: Any, sqlite_url: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "database_url": sqlite_url,
        "data_dir": tmp_path,
        "master_key_file": tmp_path / "config" / "master.key",
        "key_provider": "aws-kms",
        "aws_kms_key_ids": (new_key(kms),),
        "aws_kms_endpoint_url": kms_server.url,
    }
    async with Storage.open(**settings) as storage:
        await storage.user("alice").secrets.set_custom_secret("TOKEN", "of alice")
    kms_server.gate(error="AccessDeniedException")
    async with Storage.open(**settings) as storage:
        alice = storage.user("alice")
        with pytest.raises(KeyUnavailable, match="kms:Decrypt"):
            await alice.secrets.load()
        with pytest.raises(KeyUnavailable):
            await alice.secrets.set_custom_secret("TOKEN", "overwritten")
        await alice.settings.update(language="en")
        assert (await storage.keyring.status()).reason == "KeyUnavailable"
    kms_server.gate()
    async with Storage.open(**settings) as storage:
        secret = await storage.user("alice").secrets.get_custom_secret("TOKEN")
        assert secret.secret.get_secret_value() == "of alice"
    assert not settings["master_key_file"].exists(), "no key was made beside"
