"""`test` sends one event to a real receiver, signed and written like any other."""

from __future__ import annotations

import pytest

from storage.database import Database
from storage.encryption.keyring import KeyRing
from storage.errors import (
    EgressRefused,
)
from storage.webhooks.endpoints.store import Endpoints
from storage.webhooks.sending.egress import Egress
from storage.webhooks.sending.signature import new_secret, verify
from tests.servers.receiver import Behaviour, ReceiverProcess
from tests.webhooks.endpoint_desk import (
    TOKEN,
    alice,
    database,
    egress,
    keyring,
    migrated_url,
    operator,
    user_id,
)

__all__ = [
    "alice",
    "database",
    "egress",
    "keyring",
    "migrated_url",
    "operator",
    "user_id",
]


async def test_a_trial_is_signed_and_carries_the_headers(alice: Endpoints, receiver: ReceiverProcess) -> None:
    added = await alice.add(f"{receiver.url}/hook?a=b", headers=TOKEN)
    new = await alice.rotate_secret(added.endpoint.id)
    await alice.pause(added.endpoint.id)
    answer = await alice.test(added.endpoint.id)
    assert answer.status == 200
    [request] = receiver.requests()
    assert (request.method, request.path, request.headers["authorization"]) == (
        "POST",
        "/hook?a=b",
        TOKEN["Authorization"],
    )
    assert request.json["type"] == "webhook.test"
    assert request.json["data"]["key"] == str(added.endpoint.id)
    assert added.secret is not None
    for secret in (new, added.secret):
        assert verify([secret.get_secret_value()], request.headers, request.body) == request.id


async def test_a_trial_is_in_the_endpoints_format(
    alice: Endpoints, operator: Endpoints, receiver: ReceiverProcess
) -> None:
    for owner, options in (
        (alice, {"mode": "batched"}),
        (operator, {"format": "cloudevents"}),
        (operator, {"format": "openhands", "signed": False}),
        (alice, {"format": "openhands", "signed": False, "mode": "batched"}),
    ):
        added = await owner.add(f"{receiver.url}/files/", **options)
        assert (await owner.test(added.endpoint.id)).status == 200
    batch, event, single, several = receiver.requests()
    assert [item["type"] for item in batch.json["data"]] == ["webhook.test"]
    assert event.json["type"] == "agent-storage.webhook.test"
    assert (single.method, single.path) == ("DELETE", "/files/.storage-webhook-test")
    assert "webhook-signature" not in single.headers
    assert (several.method, several.path) == ("POST", "/files/")
    assert several.json == [{"method": "DELETE", "path": ".storage-webhook-test"}]


async def test_what_a_receiver_quotes_of_secrets_is_not_shown(alice: Endpoints, receiver: ReceiverProcess) -> None:
    secret = new_secret()
    receiver.behave("", Behaviour(status=400, body=f"no: {secret} {TOKEN['Authorization']} sorry"))
    added = await alice.add(receiver.url, secret=secret, headers=TOKEN)
    answer = await alice.test(added.endpoint.id)
    assert (answer.status, answer.text) == (400, "no: *** *** sorry")


async def test_a_trial_goes_nowhere_that_web_hooks_do_not_go(
    database: Database, keyring: KeyRing, alice: Endpoints, receiver: ReceiverProcess, user_id: str
) -> None:
    added = await alice.add(receiver.url)
    stricter = Endpoints(database, keyring, Egress(()), user_id)
    with pytest.raises(EgressRefused):
        await stricter.test(added.endpoint.id)
    receiver.refuse()
    answer = await alice.test(added.endpoint.id)
    receiver.recover()
    assert answer.status is None
    assert answer.text
