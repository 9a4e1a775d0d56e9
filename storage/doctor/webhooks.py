"""Whether web hooks arrive: what waits for too long, what was given up, and endpoints to which nothing is sent."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from storage.clock import now
from storage.doctor.finding import Finding

if TYPE_CHECKING:
    from storage.database.database import Database
    from storage.doctor.parts import OpenParts
    from storage.webhooks.queue.status import EndpointStatus

UNROUTED: Final = timedelta(minutes=10)
"""A dispatcher looks every second; events that nobody has looked at for as long have no dispatcher."""

PENDING: Final = timedelta(hours=1)
"""Most retries are over by then; the last ones come after half a day."""


async def deliveries(_: Database, opened: OpenParts) -> list[Finding]:
    """Of every endpoint, and of the events that no dispatcher has looked at."""
    status = await opened.webhooks.status()
    findings = []
    since = status.oldest_to_fan_out_at
    is_heard = any(endpoint.state != "disabled" for endpoint in status.endpoints)
    if is_heard and since is not None and now() - since > UNROUTED:
        message = f"{status.to_fan_out:,} events since {since:%Y-%m-%d %H:%M} UTC wait for a dispatcher: none runs"
        findings.append(Finding("warning", message, "`storage webhooks deliver`, as a service"))
    for endpoint in status.endpoints:
        findings += _of(endpoint)
    return findings


def _of(endpoint: EndpointStatus) -> list[Finding]:
    whose = "everyone" if endpoint.user_id is None else repr(endpoint.user_id)
    name = f"the web hook endpoint {endpoint.id} of {whose}"
    findings = []
    if endpoint.state == "disabled":
        message = f"{name} is disabled: it is sent nothing"
        findings.append(Finding("warning", message, f"`storage webhooks resume {endpoint.id}`, or remove it"))
    if endpoint.dead:
        message = f"{endpoint.dead:,} events were given up for {name}"
        remedy = f"`storage webhooks dead {endpoint.id}` says why; `storage webhooks replay {endpoint.id}` sends them"
        findings.append(Finding("warning", message, remedy))
    since = endpoint.oldest_pending_at
    if endpoint.state == "active" and since is not None and now() - since > PENDING:
        state = "" if endpoint.breaker == "closed" else f"; its breaker is {endpoint.breaker}, because it failed"
        message = f"{endpoint.pending:,} events since {since:%Y-%m-%d %H:%M} UTC wait for {name}{state}"
        findings.append(Finding("warning", message, f"`storage webhooks test {endpoint.id}` tries the receiver"))
    return findings
