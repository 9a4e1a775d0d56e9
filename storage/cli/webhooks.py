"""`storage webhooks`: who is told of changes, and how. What is sealed of an endpoint is never shown again."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import App, Parameter

from storage.cli import webhook_deliveries
from storage.cli.connection import DEFAULT, AsJSON, Connection, EveryUser, opened
from storage.cli.output import Column, line, moment, pairs, plain, show_json, table
from storage.cli.webhook_deliveries import EndpointId
from storage.cli.webhook_endpoints import SecretFrom, SecretTo, add, hand_over, secret_from, shown, update, whose
from storage.cli.webhook_listen import listen

if TYPE_CHECKING:
    from storage.webhooks.endpoints.model import Endpoint

app = App(name="webhooks", help="Tell other programs of changes: endpoints, deliveries, dead letters.")

_DAY: Final = timedelta(days=1)

app.command(add)


@app.command(name="list")
async def list_(*, user: EveryUser = None, connection: Connection = DEFAULT, json: AsJSON = False) -> None:
    """List endpoints, oldest first. Nothing is decrypted, and it works without the master key.

    JSON: a list of what `show` gives.
    """
    async with opened(connection) as storage:
        found = await whose(storage, user).list()
    if json:
        show_json([shown(endpoint) for endpoint in found])
        return
    if not found:
        line("no endpoints")
        return
    table(
        [
            Column("Endpoint"),
            Column("User", wrap=True),
            Column("State"),
            Column("Format", wide=True),
            Column("Events", wrap=True),
            Column("URL", wrap=True),
            Column("Description", wide=True),
        ],
        [
            (
                endpoint.id,
                owner(endpoint),
                endpoint.state,
                f"{endpoint.format}, batched" if endpoint.mode == "batched" else endpoint.format,
                " ".join(endpoint.event_types),
                endpoint.url,
                endpoint.description,
            )
            for endpoint in found
        ],
    )


@app.command
async def show(
    endpoint: EndpointId, /, *, user: EveryUser = None, connection: Connection = DEFAULT, json: AsJSON = False
) -> None:
    """Show an endpoint. Its secret and its headers are not shown, only whether it has any.

    JSON: `{id, user_id, url, description, event_types, format, mode, batching: {events, bytes, seconds}, include,
    include_bytes, secret_names, on_dead, is_signed, has_headers, state, state_reason, failures, blocked_until,
    created_at, updated_at}`; user_id is null for an endpoint that hears of everyone.
    """
    async with opened(connection) as storage:
        found = await whose(storage, user).get(endpoint)
    if json:
        show_json(shown(found))
        return
    rows: dict[str, Any] = {**shown(found), "user_id": owner(found)}
    batching = rows.pop("batching")
    if found.mode == "batched":
        rows |= {f"batch {name}": limit for name, limit in batching.items()}
    pairs((key.replace("_", " "), _cell(key, value)) for key, value in rows.items())


app.command(update)


@app.command(name="rotate-secret")
async def rotate_secret(
    endpoint: EndpointId,
    /,
    *,
    keep_previous: Annotated[
        timedelta,
        Parameter(
            show_default=False,
            help="How long requests are signed with the secret before as well, such as 36h or 7d; a day if not given,"
            " 0s if somebody else knows it.",
        ),
    ] = _DAY,
    secret_from_: SecretFrom = None,
    secret_to: SecretTo = None,
    user: EveryUser = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> None:
    """Give an endpoint another secret to sign with. It is shown this once, for its receiver.

    JSON: `{id, secret}`; secret is null with --secret-to.
    """
    given = secret_from(secret_from_)
    async with opened(connection) as storage:
        webhooks = whose(storage, user)
        await webhooks.get(endpoint)
        with hand_over(secret_to) as take:
            value = await webhooks.rotate_secret(endpoint, secret=given, keep_previous=keep_previous)
            take(value)
    told = None if secret_to is not None else value.get_secret_value()
    if json:
        show_json({"id": str(endpoint), "secret": told})
    else:
        line(f"endpoint {endpoint}: secret replaced")
        if told is not None:
            pairs([("secret", told)])


@app.command
async def pause(
    endpoint: EndpointId, /, *, user: EveryUser = None, connection: Connection = DEFAULT, json: AsJSON = False
) -> None:
    """Send nothing to an endpoint until it is resumed. Events are kept for it meanwhile.

    JSON: what `show` gives.
    """
    async with opened(connection) as storage:
        _tell(await whose(storage, user).pause(endpoint), json=json)


@app.command
async def resume(
    endpoint: EndpointId, /, *, user: EveryUser = None, connection: Connection = DEFAULT, json: AsJSON = False
) -> None:
    """Send to an endpoint again and at once, whether it was paused, disabled by its receiver, or failed too often.

    JSON: what `show` gives.
    """
    async with opened(connection) as storage:
        _tell(await whose(storage, user).resume(endpoint), json=json)


@app.command
async def remove(
    endpoint: EndpointId, /, *, user: EveryUser = None, connection: Connection = DEFAULT, json: AsJSON = False
) -> None:
    """Remove an endpoint, with its dead letters and what it has not received yet.

    JSON: `{id, removed: true}`.
    """
    async with opened(connection) as storage:
        await whose(storage, user).remove(endpoint)
    if json:
        show_json({"id": str(endpoint), "removed": True})
    else:
        line(f"endpoint {endpoint}: removed")


@app.command(name="test")
async def try_out(
    endpoint: EndpointId, /, *, user: EveryUser = None, connection: Connection = DEFAULT, json: AsJSON = False
) -> int:
    """Send one event of type `webhook.test` now, whatever the endpoint's state, and show what comes back.

    An endpoint of the format `openhands` gets the deletion of a file that never was. Exits with 1 unless the receiver
    accepts it.

    JSON: `{id, status, text}`; status is null if there was no answer, and text then says why.
    """
    from storage.cli.output import complain

    async with opened(connection) as storage:
        answer = await whose(storage, user).test(endpoint)
    is_accepted = answer.status is not None and 200 <= answer.status < 300  # noqa: PLR2004 - RFC 9110 15.3
    if json:
        show_json({"id": str(endpoint), "status": answer.status, "text": answer.text})
    elif is_accepted:
        line(f"accepted with {answer.status}")
    elif answer.status is None:
        complain(f"no answer: {answer.text}")
    else:
        complain(f"the receiver answered {answer.status}{f': {answer.text}' if answer.text else ''}")
    return 0 if is_accepted else 1


for delivery_command in (
    webhook_deliveries.deliver,
    webhook_deliveries.status,
    webhook_deliveries.dead,
    webhook_deliveries.replay,
    webhook_deliveries.prune,
    listen,
):
    app.command(delivery_command)


def owner(endpoint: Endpoint) -> str:
    """Whose events it hears of, for people."""
    return "everyone" if endpoint.user_id is None else endpoint.user_id


def _cell(key: str, value: Any) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return moment(value) if key.endswith(("_at", "_until")) else value


def _tell(endpoint: Endpoint, *, json: bool) -> None:
    if json:
        show_json(shown(endpoint))
    else:
        line(f"endpoint {endpoint.id}: {plain(endpoint.state)}")
