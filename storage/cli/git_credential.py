"""`storage git-credential`: a credential helper, which git asks for the tokens of the hosts that it speaks to."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

from cyclopts import Parameter

from storage.cli.connection import DEFAULT, Connection, User, flag, opened

if TYPE_CHECKING:
    from storage.git_credentials.lookup import TokenChange
    from storage.git_credentials.protocol import CredentialRequest
    from storage.secrets.store import SecretsStore
    from storage.storage import UserStorage

    Plan: TypeAlias = Callable[[SecretsStore, CredentialRequest], Awaitable[TokenChange | None]]

_OPERATIONS: Final = ("get", "store", "erase")


async def git_credential(
    operation: Annotated[
        str,
        Parameter(help="What git wants: get, store or erase. Another one is passed over, as git asks of its helpers."),
    ],
    /,
    *,
    allow_http: Annotated[
        bool, flag("Answer for http:// too, where everyone on the way can read the token. This machine needs no word.")
    ] = False,
    user: User = None,
    connection: Connection = DEFAULT,
) -> None:
    """Give git the token of the host that it speaks to, and of no other: a credential helper.

    `git config credential.helper '!storage git-credential --user alice'` makes git run it. What git asks comes on the
    standard input as lines of `key=value`; a user name and a password go to the standard output, or nothing, and git
    goes on with its next helper or asks.

    The host has to be the one that a token is stored for, with its port, or the provider's own where none is stored.
    `store` keeps a new token for such a host, and `erase` forgets one that the host has refused, if it is the one that
    is stored. `get` changes nothing.
    """
    if operation not in _OPERATIONS:
        return
    from storage.errors import InvalidInput
    from storage.git_credentials.lookup import credential_for, plan_erase, plan_store
    from storage.git_credentials.protocol import read_request, response

    if sys.stdin is None:
        raise InvalidInput("git's request should come from the standard input, which is closed")
    request = read_request(sys.stdin.buffer)
    with _errors_only():
        async with opened(connection) as storage:
            owner = storage.user(user)
            if operation == "get":
                credential = await credential_for(owner.secrets, request, allow_http=allow_http)
                answer = b"" if credential is None else response(credential)
                sys.stdout.buffer.write(answer)
                sys.stdout.buffer.flush()
            else:
                plan = partial(plan_store if operation == "store" else plan_erase, allow_http=allow_http)
                await _change(owner, plan, request)


async def _change(owner: UserStorage, plan: Plan, request: CredentialRequest) -> None:
    if await plan(owner.secrets, request) is None:
        return  # git says after every success that it got in; that is to hold up no writer
    async with owner.transaction() as inside:
        # Looked at again where nobody else can write in between: a newer token is neither replaced nor forgotten.
        change = await plan(inside.secrets, request)
        if change is not None:
            await change.apply(inside.secrets)


@contextmanager
def _errors_only() -> Iterator[None]:
    """Leave out the library's warnings: git shows what a helper says, at every fetch and for every host."""
    log = logging.getLogger("storage")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
