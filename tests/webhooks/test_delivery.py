"""From a commit to a real receiver and back, on both databases: what arrives, what is tried again, what is given up."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from typing import Any

import pytest
from standardwebhooks import Webhook

from storage.webhooks.endpoints.model import Batching
from storage.webhooks.sending.signature import verify
from tests.databases import OTHER_KEY
from tests.servers import receiver as behaviours
from tests.servers.receiver import Behaviour, ReceiverProcess, moved, too_many
from tests.webhooks.office import Office, office, rows, settled, until
from tests.webhooks.queue_place import own_url, place

__all__ = ["office", "own_url", "place"]

HEADERS = {"Authorization": "Bearer canary-of-a-header"}


# ---- what arrives


async def test_a_committed_write_arrives_signed_and_says_what_was_written(
    office: Office, receiver: ReceiverProcess
) -> None:
    async with office.open() as storage:
        added = await storage.user("alice").webhooks.add(f"{receiver.url}/hook", headers=HEADERS)
        assert added.secret is not None
        await storage.user("alice").files.write("notes/a.txt", b"hello")
        await settled(storage)
    [request] = receiver.requests()
    assert (request.method, request.path) == ("POST", "/hook")
    assert request.headers["authorization"] == HEADERS["Authorization"]
    said = Webhook(added.secret.get_secret_value()).verify(request.body, dict(request.headers))
    assert said["type"] == "file.written"
    assert said["data"]["path"] == "notes/a.txt"
    assert (said["data"]["version"], said["data"]["size"]) == (1, 5)
    assert said["data"]["sha256"] == hashlib.sha256(b"hello").hexdigest()
    assert b"hello" not in request.body


async def test_what_is_rolled_back_never_arrives(office: Office, receiver: ReceiverProcess) -> None:
    async with office.open() as storage:
        alice = storage.user("alice")
        await alice.webhooks.add(receiver.url)
        with pytest.raises(RuntimeError):
            async with alice.transaction() as transaction:
                await transaction.files.write("never", b"x")
                raise RuntimeError
        await alice.files.write("always", b"x")
        await settled(storage)
    assert [request.json["data"]["path"] for request in receiver.requests()] == ["always"]


async def test_a_user_hears_of_nobody_else_and_the_operator_of_everyone(
    office: Office, receiver: ReceiverProcess
) -> None:
    async with office.open() as storage:
        await storage.webhooks.add(f"{receiver.url}/operator")
        await storage.user("alice").webhooks.add(f"{receiver.url}/alice")
        await storage.user("alice").files.write("a", b"x")
        await storage.user("bob").files.write("b", b"x")
        await settled(storage)
    heard = sorted((request.path, request.json["data"]["path"]) for request in receiver.requests())
    assert heard == [("/alice", "a"), ("/operator", "a"), ("/operator", "b")]


async def test_a_secret_is_named_only_if_asked_and_its_value_is_never_sent(
    office: Office, receiver: ReceiverProcess
) -> None:
    async with office.open() as storage:
        alice = storage.user("alice")
        await alice.webhooks.add(f"{receiver.url}/thin")
        await alice.webhooks.add(f"{receiver.url}/named", secret_names=True)
        await alice.secrets.set_custom_secret("DATABASE_URL", "canary-of-a-secret")
        await alice.settings.update(llm_api_key="canary-of-a-key", llm_model="x/y")
        await settled(storage)
    requests = receiver.requests()
    assert len(requests) == 4
    for request in requests:
        assert b"canary" not in request.body
        assert (b"DATABASE_URL" in request.body) == (
            request.path == "/named" and request.json["type"] == "secret.updated"
        )


async def test_both_secrets_sign_while_one_is_rotated(office: Office, receiver: ReceiverProcess) -> None:
    async with office.open() as storage:
        hooks = storage.user("alice").webhooks
        added = await hooks.add(receiver.url)
        after = await hooks.rotate_secret(added.endpoint.id)
        await storage.user("alice").files.write("a", b"x")
        await settled(storage)
    [request] = receiver.requests()
    assert added.secret is not None
    for secret in (added.secret, after):
        Webhook(secret.get_secret_value()).verify(request.body, dict(request.headers))


@pytest.mark.parametrize(
    "settings", [{}, {"small_files_in_database": 1000}, {"seal_files": True}], ids=["blob", "row", "sealed"]
)
async def test_each_version_arrives_with_its_own_content_also_after_it_was_overwritten(
    office: Office, receiver: ReceiverProcess, settings: dict[str, Any]
) -> None:
    async with office.open(webhook_delivery=False, **settings) as storage:
        await storage.user("alice").webhooks.add(receiver.url, include="content", include_bytes=100)
        for content in (b"one", b"two", b"\xff\x00", b"x" * 101):
            await storage.user("alice").files.write("a", content)
        await storage.user("alice").files.delete("a")
    async with office.open(**settings) as storage:
        await settled(storage)
    said = [request.json["data"] for request in receiver.requests()]
    contents = [
        base64.b64decode(data["content"]) if data["encoding"] == "base64" else data["content"].encode()
        for data in said[:3]
    ]
    assert contents == [b"one", b"two", b"\xff\x00"]
    assert ["content" in data for data in said[3:]] == [False, False], "too long, and deleted"


async def test_a_cloud_event_arrives_in_the_structured_mode(office: Office, receiver: ReceiverProcess) -> None:
    async with office.open() as storage:
        await storage.user("alice").webhooks.add(receiver.url, format="cloudevents")
        await storage.user("alice").files.write("a", b"x")
        await settled(storage)
    [request] = receiver.requests()
    assert request.headers["content-type"].startswith("application/cloudevents+json")
    assert request.json["specversion"] == "1.0"
    assert request.json["id"] == request.id


# ---- as the seed system sends


async def test_the_seed_systems_receiver_gets_raw_bytes_and_deletions(
    office: Office, receiver: ReceiverProcess
) -> None:
    async with office.open() as storage:
        alice = storage.user("alice")
        await alice.webhooks.add(f"{receiver.url}/hook/", format="openhands", signed=False)
        await alice.files.write("sessions/1/ü.json", b"\xff one")
        await alice.files.delete("sessions/1/ü.json")
        await alice.files.write("sessions/1/ü.json", b"two")
        await settled(storage)
    path = "/hook/sessions/1/%C3%BC.json"
    assert [(request.method, request.path, request.body) for request in receiver.requests()] == [
        ("POST", path, b"\xff one"),
        ("DELETE", path, b""),
        ("POST", path, b"two"),
    ]


async def test_a_batch_merges_adjacent_writes_of_a_file_and_nothing_else(
    office: Office, receiver: ReceiverProcess
) -> None:
    async with office.open() as storage:
        alice = storage.user("alice")
        batching = Batching(events=6, seconds=3600.0)
        await alice.webhooks.add(receiver.url, format="openhands", signed=False, mode="batched", batching=batching)
        for path, content in (("a", b"1"), ("b", b"1"), ("a", b"2"), ("b", None), ("b", b"3"), ("a", b"3")):
            await (alice.files.delete(path) if content is None else alice.files.write(path, content))
        await settled(storage)
    [request] = receiver.requests()
    assert [(item["method"], item["path"], item.get("content")) for item in request.json] == [
        ("POST", "b", "1"),
        ("DELETE", "b", None),
        ("POST", "b", "3"),
        ("POST", "a", "3"),
    ]


# ---- what is tried again


@pytest.mark.parametrize(
    "behaviour",
    [
        behaviours.SERVER_ERROR,
        behaviours.UNAVAILABLE,
        Behaviour(status=408),
        too_many(0),
        too_many(0, as_date=True),
        moved("http://127.0.0.1:1/elsewhere"),
        behaviours.SLOW_HEADERS,
        behaviours.SLOW_BODY,
        behaviours.RESET,
        behaviours.RESET_MID_BODY,
        behaviours.SILENCE,
    ],
    ids=[
        "500",
        "503",
        "408",
        "429-seconds",
        "429-date",
        "301",
        "slow-headers",
        "slow-body",
        "reset",
        "mid-body",
        "mute",
    ],
)
@pytest.mark.parametrize("mode", ["standard", "batched"])
async def test_after_a_failure_the_same_bytes_are_sent_under_the_same_id(
    office: Office, receiver: ReceiverProcess, behaviour: Behaviour, mode: Any
) -> None:
    receiver.behave("", behaviour, times=1)
    batching = Batching(events=1) if mode == "batched" else Batching()
    async with office.open() as storage:
        added = await storage.user("alice").webhooks.add(receiver.url, mode=mode, batching=batching)
        await storage.user("alice").files.write("a", b"x")
        await settled(storage)
        found = await rows(storage, "SELECT state, attempts FROM delivery")
    first, second = receiver.requests()
    assert (first.id, first.body) == (second.id, second.body)
    assert found == [("delivered", 2)]
    assert added.secret is not None
    for request in (first, second):
        assert verify([added.secret.get_secret_value()], request.headers, request.body) == request.id


async def test_an_answer_without_an_end_is_read_so_far_and_counts(office: Office, receiver: ReceiverProcess) -> None:
    receiver.behave("", behaviours.ENDLESS_BODY)
    async with office.open() as storage:
        await storage.user("alice").webhooks.add(receiver.url)
        await storage.user("alice").files.write("a", b"x")
        await settled(storage)
    assert len(receiver.requests()) == 1


async def test_a_receiver_that_is_away_gets_everything_in_order_when_it_is_back(
    office: Office, receiver: ReceiverProcess
) -> None:
    receiver.refuse()
    async with office.open() as storage:
        await storage.user("alice").webhooks.add(receiver.url)
        for number in range(8):
            await storage.user("alice").files.write("a", str(number))
        await until(lambda: storage.webhooks._counts().get("none", 0) >= 6)
        [endpoint] = (await storage.webhooks.status()).endpoints
        assert endpoint.breaker != "closed"
        receiver.recover()
        await settled(storage)
        [endpoint] = (await storage.webhooks.status()).endpoints
        assert (endpoint.breaker, endpoint.pending, endpoint.dead) == ("closed", 0, 0)
    assert [request.json["data"]["version"] for request in receiver.requests()] == list(range(1, 9))


async def test_a_certificate_that_nobody_vouches_for_gets_nothing(office: Office, receiver: ReceiverProcess) -> None:
    async with office.open(webhook_max_attempts=2) as storage:
        added = await storage.user("alice").webhooks.add(receiver.tls_url)
        await storage.user("alice").files.write("a", b"x")
        await settled(storage)
        [letter] = await storage.webhooks.dead_letters(added.endpoint.id)
    assert "certificate" in (letter.error or "").lower()
    assert receiver.requests() == []


async def test_an_address_that_is_not_allowed_any_more_gets_nothing(office: Office, receiver: ReceiverProcess) -> None:
    async with office.open(webhook_delivery=False) as storage:
        added = await storage.user("alice").webhooks.add(receiver.url)
        await storage.user("alice").files.write("a", b"x")
    async with office.open(webhook_allowed_networks=(), webhook_max_attempts=2) as storage:
        await settled(storage)
        [letter] = await storage.webhooks.dead_letters(added.endpoint.id)
        assert "webhook_allowed_networks" in (letter.error or "").lower()
    assert receiver.requests() == []


async def test_while_the_keys_are_locked_signed_hooks_wait_and_are_not_counted(
    office: Office, receiver: ReceiverProcess
) -> None:
    async with office.open(webhook_delivery=False) as storage:
        await storage.user("alice").webhooks.add(receiver.url)
        await storage.user("alice").files.write("a", b"x")
    async with office.open(master_key=OTHER_KEY.get_secret_value()) as storage:
        await until(lambda: _waits(storage, "waits for the master key"))
    assert receiver.requests() == []
    async with office.open(webhook_delivery=False) as storage, storage.session() as session:
        from sqlalchemy import text

        connection = await session.connection()
        past = "0" if storage.database.dialect == "sqlite" else "'2000-01-01'"
        await connection.execute(text(f"UPDATE delivery SET next_at = {past}"))
        await session.commit()
    async with office.open() as storage:
        await settled(storage)
    assert len(receiver.requests()) == 1


async def _waits(storage: Any, why: str) -> bool:
    found = await rows(storage, "SELECT attempts, last_error FROM delivery")
    return any(attempts == 0 and why in (error or "") for attempts, error in found)


# ---- what is given up


async def test_a_refusal_is_a_dead_letter_at_once_and_is_replayed_under_its_id(
    office: Office, receiver: ReceiverProcess
) -> None:
    receiver.behave("", behaviours.BAD_REQUEST, times=1)
    async with office.open() as storage:
        hooks = storage.user("alice").webhooks
        added = await hooks.add(receiver.url)
        await storage.user("alice").files.write("a", b"x")
        await settled(storage)
        [letter] = await hooks.dead_letters(added.endpoint.id)
        assert (letter.status, letter.error, letter.attempts) == (400, "not like this", 1)
        assert await hooks.replay(added.endpoint.id, [letter.id]) == 1
        await settled(storage)
        assert await hooks.dead_letters(added.endpoint.id) == []
    first, second = receiver.requests()
    assert first.id == second.id == str(letter.id)


async def test_410_disables_the_endpoint_until_somebody_resumes_it(office: Office, receiver: ReceiverProcess) -> None:
    receiver.behave("", behaviours.GONE, times=1)
    async with office.open() as storage:
        hooks = storage.user("alice").webhooks
        added = await hooks.add(receiver.url)
        await storage.user("alice").files.write("a", b"1")
        await until(lambda: _is_disabled(hooks, added.endpoint.id))
        await storage.user("alice").files.write("b", b"unheard")
        await hooks.resume(added.endpoint.id)
        await storage.user("alice").files.write("c", b"2")
        await settled(storage)
    heard = [request.json["data"]["path"] for request in receiver.requests()]
    assert heard[0] == "a"
    assert sorted(heard[1:]) == ["a", "c"]


async def _is_disabled(hooks: Any, endpoint_id: Any) -> bool:
    return bool((await hooks.get(endpoint_id)).state == "disabled")


async def test_what_a_receiver_repeats_of_its_secrets_is_stored_and_logged_nowhere(
    office: Office, receiver: ReceiverProcess, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.behave("", Behaviour(status=400, body=f"you sent {HEADERS['Authorization']}"))
    async with office.open() as storage:
        added = await storage.user("alice").webhooks.add(receiver.url, headers=HEADERS)
        await storage.user("alice").files.write("a", b"x")
        await settled(storage)
        [letter] = await storage.webhooks.dead_letters(added.endpoint.id)
    assert letter.error == "you sent ***"
    assert "canary" not in caplog.text


async def test_a_content_that_is_gone_is_a_dead_letter_that_says_so(office: Office, receiver: ReceiverProcess) -> None:
    async with office.open(webhook_delivery=False) as storage:
        added = await storage.user("alice").webhooks.add(receiver.url, include="content")
        await storage.user("alice").files.write("a", b"x")
        [(blob_key,)] = await rows(storage, "SELECT blob_key FROM event")
        await storage.blobs.delete(blob_key)
    async with office.open() as storage:
        await settled(storage)
        [letter] = await storage.webhooks.dead_letters(added.endpoint.id)
    assert "missing" in (letter.error or "")
    assert receiver.requests() == []


async def test_a_dead_letter_holds_its_key_back_only_where_the_endpoint_says_so(
    office: Office, receiver: ReceiverProcess
) -> None:
    for path in ("/skips", "/blocks"):
        receiver.behave(path, behaviours.BAD_REQUEST, times=1)
    async with office.open() as storage:
        hooks = storage.user("alice").webhooks
        skips = await hooks.add(f"{receiver.url}/skips")
        blocks = await hooks.add(f"{receiver.url}/blocks", on_dead="block")
        for content in (b"1", b"2"):
            await storage.user("alice").files.write("a", content)

        async def settled_but_one() -> bool:
            states = await rows(storage, "SELECT state, COUNT(*) FROM delivery GROUP BY state ORDER BY state")
            return states == [("dead", 2), ("delivered", 1), ("pending", 1)]

        await until(settled_but_one)
        assert len(await hooks.dead_letters(skips.endpoint.id)) == 1
        assert len(await hooks.dead_letters(blocks.endpoint.id)) == 1
    assert [json.loads(request.body)["data"]["version"] for request in receiver.requests("/skips")] == [1, 2]
