"""`storage webhooks add` and `update`: what an endpoint is. Secrets and headers come from files, never from options.

Other users of a machine can see command lines, and shells write them down.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias

from cyclopts import Group, Parameter

from storage.cli.connection import DEFAULT, AsJSON, Connection, EveryUser, User, flag, opened
from storage.cli.output import line, pairs, show_json
from storage.cli.prompt import STANDARD_INPUT
from storage.cli.webhook_deliveries import EndpointId
from storage.webhooks.endpoints.model import Batching, Format, Include, OnDead

if TYPE_CHECKING:
    from pydantic import SecretStr

    from storage.storage import Storage
    from storage.webhooks.endpoints.model import Endpoint
    from storage.webhooks.verbs import Webhooks

_ANSWERS: Final = {"yes": True, "no": False}
_BATCHES: Final = Group("Batches", sort_key=50)

Types: TypeAlias = Annotated[
    tuple[str, ...],
    Parameter(
        name="--type",
        negative="",
        show_default=False,
        help="Only events of this type, such as 'file.*'; repeat it for several.",
    ),
]
Description: TypeAlias = Annotated[str | None, Parameter(help="What it is for, for people.")]
Including: TypeAlias = Annotated[
    Include | None, Parameter(help="What an event of a written file brings along: a signed URL (link) or the content.")
]
IncludeBytes: TypeAlias = Annotated[int | None, Parameter(help="A longer content is not included; 16 MiB at first.")]
AfterDead: TypeAlias = Annotated[
    OnDead | None,
    Parameter(help="Whether later events of a file or conversation wait for one that could not be delivered."),
]
BatchEvents: TypeAlias = Annotated[
    int | None, Parameter(group=_BATCHES, help="A batch is sent with so many events; 100 at first.")
]
BatchBytes: TypeAlias = Annotated[
    int | None, Parameter(group=_BATCHES, help="A batch is sent with so many bytes of contents; 1 MiB at first.")
]
BatchSeconds: TypeAlias = Annotated[
    float | None, Parameter(group=_BATCHES, help="A batch is sent when its oldest event is so old; 5 s at first.")
]
HeadersFrom: TypeAlias = Annotated[
    Path | None,
    Parameter(
        name="--headers-from",
        allow_leading_hyphen=True,
        help="Headers to send with every request, from this file or the standard input (-): a line of `Name: value`"
        " each. They are sealed.",
    ),
]
SecretFrom: TypeAlias = Annotated[
    Path | None,
    Parameter(
        name="--secret-from",
        allow_leading_hyphen=True,
        help="The secret to sign with, `whsec_…`, from this file or the standard input (-); a new one if not given.",
    ),
]
SecretTo: TypeAlias = Annotated[
    Path | None, Parameter(name="--secret-to", help="Write the secret into this new file instead of showing it.")
]


async def add(
    url: Annotated[
        str, Parameter(help="Where requests go. With --format openhands what a file's path is appended to.")
    ],
    /,
    *,
    everyone: Annotated[bool, flag("Events of all users, for the operator; --user's only if not given.")] = False,
    types: Types = (),
    format_: Annotated[
        Format, Parameter(name="--format", help="How events are written: Standard Webhooks, CloudEvents, or OpenHands.")
    ] = "standard",
    batched: Annotated[bool, flag("Many events in one request.")] = False,
    batch_events: BatchEvents = None,
    batch_bytes: BatchBytes = None,
    batch_seconds: BatchSeconds = None,
    include: Including = None,
    include_bytes: IncludeBytes = None,
    secret_names: Annotated[
        bool, flag("Let an event of a secret say which one it is about. Values are never sent.")
    ] = False,
    on_dead: AfterDead = None,
    description: Description = None,
    headers_from: HeadersFrom = None,
    secret_from_: SecretFrom = None,
    secret_to: SecretTo = None,
    unsigned: Annotated[bool, flag("Without a secret; only with --format openhands.")] = False,
    user: User = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> None:
    """Add an endpoint: from now on it is told of changes. The secret is shown this once, for its receiver.

    It hears of one user, the local one if none is named, or with --everyone of all. Addresses that are not public need
    STORAGE_WEBHOOK_ALLOWED_NETWORKS.

    JSON: what `show` gives, and `secret`, which is null with --secret-to and --unsigned.
    """
    from storage.errors import InvalidInput
    from storage.identity import user_key

    if everyone and user is not None:
        raise InvalidInput("--everyone and --user exclude each other; give one of them")
    if unsigned and secret_to is not None:
        raise InvalidInput(
            "--unsigned means that there is no secret which --secret-to could take; leave one of them out"
        )
    given, headers = secret_from(secret_from_), _headers(headers_from)
    options = _given(include=include, include_bytes=include_bytes, on_dead=on_dead, description=description)
    limits = _given(events=batch_events, bytes=batch_bytes, seconds=batch_seconds)
    async with opened(connection) as storage:
        webhooks = whose(storage, None if everyone else user_key(user))
        with hand_over(secret_to) as take:
            added = await webhooks.add(
                url,
                event_types=types or None,
                format=format_,
                mode="batched" if batched else "standard",
                secret=given,
                signed=not unsigned,
                headers=headers,
                secret_names=secret_names,
                batching=Batching(**limits),
                **options,
            )
            take(added.secret)
    told = None if secret_to is not None or added.secret is None else added.secret.get_secret_value()
    if json:
        show_json({**shown(added.endpoint), "secret": told})
        return
    line(f"endpoint {added.endpoint.id}: added")
    if told is not None:
        pairs([("secret", told)])


async def update(
    endpoint: EndpointId,
    /,
    *,
    url: Annotated[
        str | None, Parameter(help="Where requests go. With another host headers have to be given again.")
    ] = None,
    types: Types = (),
    batch_events: BatchEvents = None,
    batch_bytes: BatchBytes = None,
    batch_seconds: BatchSeconds = None,
    include: Including = None,
    include_bytes: IncludeBytes = None,
    secret_names: Annotated[
        Literal["yes", "no"] | None, Parameter(help="Whether an event of a secret says which one it is about.")
    ] = None,
    on_dead: AfterDead = None,
    description: Description = None,
    headers_from: HeadersFrom = None,
    no_headers: Annotated[bool, flag("Send no headers any more.")] = False,
    user: EveryUser = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> None:
    """Change what is named, and nothing else. The format, and whether it is batched, stay: add another endpoint.

    JSON: what `show` gives.
    """
    from dataclasses import replace

    from storage.errors import InvalidInput

    if no_headers and headers_from is not None:
        raise InvalidInput("--headers-from and --no-headers exclude each other; give one of them")
    changes = _given(
        url=url,
        event_types=types or None,
        include=include,
        include_bytes=include_bytes,
        secret_names=None if secret_names is None else _ANSWERS[secret_names],
        on_dead=on_dead,
        description=description,
        headers={} if no_headers else _headers(headers_from),
    )
    limits = _given(events=batch_events, bytes=batch_bytes, seconds=batch_seconds)
    async with opened(connection) as storage:
        webhooks = whose(storage, user)
        if limits:
            changes["batching"] = replace((await webhooks.get(endpoint)).batching, **limits)
        changed = await webhooks.update(endpoint, **changes)
    if json:
        show_json(shown(changed))
    else:
        line(f"endpoint {endpoint}: {'changed' if changes else 'nothing to change was named'}")


def whose(storage: Storage, user: str | None) -> Webhooks:
    """The web hooks of a user, or the operator's if None."""
    return storage.webhooks if user is None else storage.user(user).webhooks


def shown(endpoint: Endpoint) -> dict[str, Any]:
    """An endpoint as JSON."""
    return {**asdict(endpoint), "id": str(endpoint.id), "event_types": list(endpoint.event_types)}


def secret_from(file: Path | None) -> SecretStr | None:
    """The secret in a file; None for none.

    Raises:
        InvalidInput: it is empty or no text.
        OSError: it cannot be read.
    """
    from storage.cli.prompt import ask_secret

    return None if file is None else ask_secret("secret", file)


@contextmanager
def hand_over(file: Path | None) -> Iterator[Callable[[SecretStr | None], None]]:
    """What takes a secret into a new file, which only its owner can read; nothing is left of it after an error.

    The file comes first: a secret that nobody could be told would be lost.

    Raises:
        OSError: the file is there already, or cannot be made.
    """
    if file is None:
        yield lambda _: None
        return
    made = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(made, "w", encoding="utf-8") as open_file:
            yield lambda secret: print(secret.get_secret_value() if secret else "", file=open_file)
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def _headers(file: Path | None) -> dict[str, str] | None:
    """Headers from a file, a line each; None if there is no file."""
    from storage.errors import InvalidInput

    if file is None:
        return None
    secret = secret_from(file)
    found: dict[str, str] = {}
    for number, text in enumerate(secret.get_secret_value().splitlines() if secret else (), 1):
        if not text.strip():
            continue
        name, colon, value = text.partition(":")
        if not colon:
            where = "the standard input" if str(file) == STANDARD_INPUT else str(file)
            raise InvalidInput(f"line {number} of {where} is no header; write `Name: value`")
        if name.strip() in found:
            raise InvalidInput(f"the header {name.strip()!r} is given twice")
        found[name.strip()] = value.strip()
    return found


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
