"""`storage secrets`: which secrets a user has, and setting one; a value is shown only where `--reveal` asks for it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

from cyclopts import App, Parameter

from storage.cli.connection import DEFAULT, AsJSON, Connection, User, flag, opened
from storage.cli.output import Column, line, moment, pairs, plain, show_json, table, verbatim
from storage.cli.prompt import ask_secret

if TYPE_CHECKING:
    from storage.secrets.model import SecretInfo
    from storage.secrets.store import SecretsStore

app = App(name="secrets", help="See which secrets a user has, and set or delete one.")

Name: TypeAlias = Annotated[
    str, Parameter(help="The secret's name, or with --provider the git provider's: github, gitlab, …")
]
OfProvider: TypeAlias = Annotated[
    bool, flag("NAME is a git provider, and the secret is the token for it.", name="--provider")
]


@app.command(name="list")
async def list_(*, user: User = None, connection: Connection = DEFAULT, json: AsJSON = False) -> None:
    """List a user's provider tokens and custom secrets. Nothing is decrypted, and it works without the master key.

    JSON: a list of `{kind, name, description, state, host, provider_user_id, created_at, updated_at}`; state is
    `"set"`, `"unset"` or `"unreadable"`.
    """
    async with opened(connection) as storage:
        found = await storage.user(user).secrets.list()
    if json:
        show_json([asdict(info) for info in found])
        return
    if not found:
        line("no secrets")
        return
    columns = [
        Column("Kind"),
        Column("Name", wrap=True),
        Column("State"),
        Column("Host", wide=True),
        Column("Description", wrap=True),
        Column("Updated (UTC)"),
    ]
    table(
        columns,
        [(info.kind, info.name, info.state, info.host, info.description, moment(info.updated_at)) for info in found],
    )


@app.command
async def show(
    name: Name,
    /,
    *,
    provider: OfProvider = False,
    reveal: Annotated[bool, flag("Write the value, and nothing else. The policy allow_reveal can forbid it.")] = False,
    user: User = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> None:
    """Show what is known of one secret. The value is opened and written only with --reveal.

    JSON: `{kind, name, description, state, host, provider_user_id, created_at, updated_at}`, and with --reveal `value`,
    which is null for a token that is not set.
    """
    from storage.errors import SecretNotFound

    config = connection.settings()
    if reveal:
        require_reveal(allowed=config.allow_reveal)
    async with opened(connection) as storage:
        secrets = storage.user(user).secrets
        info = await _find(secrets, name, provider=provider)
        if info is None:
            raise _not_found(name, provider=provider)
        value = await _value(secrets, name, provider=provider) if reveal else None
    if json:
        show_json({**asdict(info), **({"value": value} if reveal else {})})
    elif not reveal:
        pairs(
            (key.replace("_", " "), moment(field) if key.endswith("_at") else field)
            for key, field in asdict(info).items()
        )
    elif value is None:
        raise SecretNotFound(f"no token is set for {name!r}, only its host or account")
    else:
        verbatim(value)


@app.command(name="set")
async def set_(
    name: Name,
    /,
    *,
    provider: OfProvider = False,
    description: Annotated[
        str | None, Parameter(help="What a custom secret is for; not secret. What is stored stays if not given.")
    ] = None,
    host: Annotated[
        str | None,
        Parameter(help="The one host that a provider's token is for. What is stored stays if not given."),
    ] = None,
    from_file: Annotated[
        Path | None,
        Parameter(allow_leading_hyphen=True, help="Read the value from this file, or from the standard input: `-`."),
    ] = None,
    user: User = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> None:
    """Set one secret, and no other: also one that cannot be read any more is entered again this way.

    The value is asked for without being shown. Without a terminal it is read from the standard input, or from
    --from-file; one newline at its end is not part of it. It is never an argument: other users can see command lines.

    JSON: `{kind, name, description, state, host, provider_user_id, created_at, updated_at}`.
    """
    from storage.errors import InvalidInput
    from storage.identity import user_key

    if host is not None and not provider:
        raise InvalidInput("--host is for the token of a git provider; give --provider too")
    if description is not None and provider:
        raise InvalidInput("--description is for custom secrets; a provider's token has none")
    owner = user_key(user)
    async with opened(connection) as storage:
        secrets = storage.user(owner).secrets
        before = await _find(secrets, name, provider=provider)
        if storage.config.secrets_store_class is None:
            storage.keyring.require_unlocked()  # before anything is typed for nothing
        value = ask_secret(f"{'token for' if provider else 'value of'} {plain(name)}", from_file)
        if provider:
            kept = None if before is None else before.host
            account = None if before is None else before.provider_user_id
            await secrets.set_provider_token(name, value, host=kept if host is None else host, user_id=account)
        else:
            kept = "" if before is None else before.description
            await secrets.set_custom_secret(name, value, kept if description is None else description)
        after = await _find(secrets, name, provider=provider)
    if json:
        show_json(None if after is None else asdict(after))
        return
    how = "stored" if before is None else "replaced"
    if before is not None and before.state == "unreadable":
        how = "replaced; the value before could not be read"
    line(f"{_called(name, provider=provider)} of {plain(owner)}: {how}")


@app.command
async def delete(
    name: Name,
    /,
    *,
    provider: OfProvider = False,
    user: User = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> None:
    """Delete one secret. It works without the master key.

    JSON: `{kind, name, deleted: true}`.
    """
    async with opened(connection) as storage:
        secrets = storage.user(user).secrets
        removed = await (secrets.delete_provider_token(name) if provider else secrets.delete_custom_secret(name))
    if not removed:
        raise _not_found(name, provider=provider)
    if json:
        show_json({"kind": _kind(provider=provider), "name": name, "deleted": True})
    else:
        line(f"{_called(name, provider=provider)}: deleted")


def require_reveal(*, allowed: bool) -> None:
    """Pass if the policy lets the command line show secrets.

    Raises:
        InvalidInput: it does not.
    """
    from storage.errors import InvalidInput

    if not allowed:
        raise InvalidInput("--reveal is forbidden here: allow_reveal is false in the configuration ([security])")


async def _find(secrets: SecretsStore, name: str, *, provider: bool) -> SecretInfo | None:
    kind = _kind(provider=provider)
    return next((info for info in await secrets.list() if (info.kind, info.name) == (kind, name)), None)


async def _value(secrets: SecretsStore, name: str, *, provider: bool) -> str | None:
    if not provider:
        return (await secrets.get_custom_secret(name)).secret.get_secret_value()
    token = (await secrets.get_provider_token(name)).token
    return None if token is None else token.get_secret_value()


def _kind(*, provider: bool) -> str:
    return "provider_token" if provider else "custom_secret"


def _called(name: str, *, provider: bool) -> str:
    return f"{'provider token' if provider else 'custom secret'} {plain(name)}"


def _not_found(name: str, *, provider: bool) -> Exception:
    from storage.errors import SecretNotFound

    kind = "provider token" if provider else "custom secret"
    return SecretNotFound(f"no {kind} named {name!r} is stored for this user; `storage secrets list` shows which are")
