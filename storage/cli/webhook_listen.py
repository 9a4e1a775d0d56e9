"""`storage webhooks listen`: a receiver to try web hooks out with, which shows what it gets."""

from __future__ import annotations

import asyncio
import json as json_module
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter

from storage.cli.connection import AsJSON, flag
from storage.cli.output import iso, line, note, plain, size

if TYPE_CHECKING:
    from storage.webhooks.sending.receiver import Received

PORT: Final = 8787

_SHOWN: Final = 4096
"""Characters of a body that are shown for people; JSON has all of it."""


async def listen(
    *,
    port: Annotated[int, Parameter(help="Where to listen; 0 chooses a free one.")] = PORT,
    host: Annotated[
        str, Parameter(help="The address to listen on: this machine's own only, if not given.")
    ] = "127.0.0.1",
    secret_from: Annotated[
        tuple[Path, ...],
        Parameter(
            name="--secret-from",
            negative="",
            show_default=False,
            allow_leading_hyphen=True,
            help="Refuse what is not signed with the secret in this file, `whsec_…`; repeat it while secrets change.",
        ),
    ] = (),
    requests: Annotated[int | None, Parameter(help="End after so many requests.")] = None,
    headers: Annotated[bool, flag("Show the headers of each request too.")] = False,
    json: AsJSON = False,
) -> None:
    """Receive web hooks and show them, until it is stopped with Ctrl-C. It answers 204, and 401 to what is not signed.

    Needs no storage. JSON: a line for each request, `{at, method, path, signed, reason, headers, body}`; signed is null
    without --secret-from, and body is base64 with `encoding: "base64"` where it is no UTF-8.
    """
    from storage.cli.prompt import ask_secret
    from storage.errors import InvalidInput
    from storage.webhooks.sending.receiver import Receiver
    from storage.webhooks.sending.signature import checked_secret

    if requests is not None and requests < 1:
        raise InvalidInput(f"--requests must be at least 1, not {requests}")
    secrets = [checked_secret(ask_secret("secret", file).get_secret_value()) for file in secret_from]
    left, done = requests, asyncio.Event()

    def show(received: Received) -> None:
        nonlocal left
        line(_as_json(received) if json else _for_people(received, headers=headers))
        sys.stdout.flush()
        if left is not None:
            left -= 1
            if left <= 0:
                done.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, done.set)
    async with Receiver(show, secrets=secrets, host=host, port=port) as receiver:
        note(f"listening on {receiver.url}; {'signatures are verified' if secrets else 'signatures are not verified'}")
        await done.wait()


def _as_json(received: Received) -> str:
    body, encoding = _body(received.body)
    shown: dict[str, Any] = {
        "at": iso(datetime.now(UTC)),
        "method": received.method,
        "path": received.path,
        "signed": received.is_signed,
        "reason": received.reason,
        "headers": dict(received.headers),
        "body": body,
        **({"encoding": encoding} if encoding else {}),
    }
    return json_module.dumps(shown, ensure_ascii=False)


def _for_people(received: Received, *, headers: bool) -> str:
    verdict = {True: "signed", False: f"REFUSED, {received.reason}", None: ""}[received.is_signed]
    parts = (
        datetime.now(UTC).strftime("%H:%M:%S"),
        received.method,
        received.path,
        received.headers.get("webhook-id", ""),
        verdict,
    )
    rows = ["  ".join(plain(part) for part in parts if part)]
    if headers:
        rows += [f"    {plain(name)}: {plain(value)}" for name, value in received.headers.items()]
    if received.body:
        body, encoding = _body(received.body)
        text = plain(body[:_SHOWN]) if not encoding else f"{size(len(received.body))} that are no text"
        rows.append(f"    {text}{'…' if not encoding and len(body) > _SHOWN else ''}")
    return "\n".join(rows)


def _body(content: bytes) -> tuple[str, str]:
    """The text, or base64 of it and its encoding's name."""
    from base64 import b64encode

    try:
        return content.decode(), ""
    except UnicodeDecodeError:
        return b64encode(content).decode(), "base64"
