"""One event that tells of nothing, sent at once: whether an endpoint can be reached, and what its receiver answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from storage.clock import now
from storage.encryption.keyring import EVERYONE
from storage.identity import new_id
from storage.webhooks.endpoints.rows import SendingSecrets, without_secrets
from storage.webhooks.message import Answer, Event, Included, Message

if TYPE_CHECKING:
    from storage.webhooks.endpoints.model import Endpoint
    from storage.webhooks.endpoints.rows import SendingSecrets
    from storage.webhooks.sending.egress import Egress

TRIAL_TYPE: Final = "webhook.test"

TRIAL_PATH: Final = ".storage-webhook-test"
"""The format `openhands` knows files only, so its trial is the deletion of this one: its receiver takes the deletion of
what it does not have for done."""


async def send_trial(egress: Egress, endpoint: Endpoint, sending: SendingSecrets, *, timeout: float) -> Answer:
    """Send it, signed like any other, over a connection of its own; one attempt.

    Args:
        egress: says which addresses are allowed.
        endpoint: where to.
        sending: what is sealed of it, in clear.
        timeout: seconds that it may take in all.

    Raises:
        EgressRefused: nothing may be sent to the address.
    """
    from storage.webhooks.sending.sender import Sender
    from storage.webhooks.sending.signature import signature_headers

    message = trial_message(endpoint)
    signed = signature_headers(sending.secrets, message.id, now(), message.body)
    sender = Sender(egress, timeout=timeout)
    try:
        answer = await sender.send(message, {**sending.headers, **signed})
    finally:
        await sender.close()
    return without_secrets(answer, sending)


def trial_message(endpoint: Endpoint) -> Message:
    """The request, in the endpoint's format and mode."""
    from storage.webhooks.formats import render, render_batch

    of_files = endpoint.format == "openhands"
    event = Event(
        seq=0,
        id=new_id(),
        user_id=EVERYONE if endpoint.user_id is None else endpoint.user_id,
        type="file.deleted" if of_files else TRIAL_TYPE,
        key=TRIAL_PATH if of_files else str(endpoint.id),
        version=None,
        payload={"path": TRIAL_PATH} if of_files else {},
        created_at=now(),
    )
    if endpoint.mode == "batched":
        return render_batch(endpoint, new_id(), [(event, Included())])
    return render(endpoint, event, Included())
