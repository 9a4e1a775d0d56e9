"""`storage settings`: a user's settings, with their secrets out of sight, and the setting of those."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from cyclopts import App, Parameter

from storage.cli.connection import DEFAULT, AsJSON, Connection, User, opened
from storage.cli.output import line, pairs, plain, show_json
from storage.cli.prompt import ask_secret

if TYPE_CHECKING:
    from storage.settings.store import SettingsStore

app = App(name="settings", help="Look at a user's settings, and set the secret ones.")

Name: TypeAlias = Annotated[str, Parameter(help="A secret setting: llm_api_key, search_api_key, …")]


@app.command
async def show(*, user: User = None, connection: Connection = DEFAULT, json: AsJSON = False) -> None:
    """Show a user's settings. Of a secret it only says whether it is set, unset or unreadable; nothing is decrypted.

    JSON: `{settings, secrets}`: the settings that are not secret by name, or null if none were ever stored; and for
    each secret one `"set"`, `"unset"` or `"unreadable"`.
    """
    async with opened(connection) as storage:
        store = storage.user(user).settings
        settings = await store.load_without_secrets()
        states = await store.secret_states()
    values: dict[str, Any] | None = None
    if settings is not None:
        values = {name: value for name, value in settings.model_dump(mode="json").items() if name not in states}
    if json:
        show_json({"settings": values, "secrets": states})
        return
    if values is None:
        line("no settings are stored for this user")
        return
    pairs([*values.items(), *states.items()])


@app.command
async def set_secret(
    name: Name,
    /,
    *,
    from_file: Annotated[
        Path | None,
        Parameter(allow_leading_hyphen=True, help="Read the value from this file, or from the standard input: `-`."),
    ] = None,
    user: User = None,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> None:
    """Set one secret setting, and no other: also one that cannot be read any more is entered again this way.

    The value is asked for without being shown. Without a terminal it is read from the standard input, or from
    --from-file; one newline at its end is not part of it. What is no text, such as mcp_config, is read as JSON.

    JSON: `{name, state}`.
    """
    async with opened(connection) as storage:
        store = storage.user(user).settings
        before = await _state(store, name)
        value = ask_secret(f"value of {plain(name)}", from_file)
        await store.update(**{name: value if _is_text(store, name) else _parsed(name, value.get_secret_value())})
        after = await _state(store, name)
    if json:
        show_json({"name": name, "state": after})
    else:
        how = "replaced; the value before could not be read" if before == "unreadable" else after
        line(f"{plain(name)}: {how}")


@app.command
async def unset_secret(
    name: Name, /, *, user: User = None, connection: Connection = DEFAULT, json: AsJSON = False
) -> None:
    """Remove one secret setting, and no other: also one that cannot be read any more. It works without the master key.

    JSON: `{name, state: "unset"}`.
    """
    async with opened(connection) as storage:
        store = storage.user(user).settings
        if await _state(store, name) != "unset":
            await store.update(**{name: None})
    if json:
        show_json({"name": name, "state": "unset"})
    else:
        line(f"{plain(name)}: unset")


async def _state(store: SettingsStore, name: str) -> str:
    """What is known of the secret setting of this name.

    Raises:
        InvalidInput: there is none.
    """
    from storage.errors import InvalidInput

    states = await store.secret_states()
    if name not in states:
        raise InvalidInput(f"there is no secret setting {name!r}; there are: {', '.join(states)}")
    return states[name]


def _is_text(store: SettingsStore, name: str) -> bool:
    """Whether the setting is declared a SecretStr, or not at all."""
    from typing import get_args

    from pydantic import SecretStr

    field = store.model.model_fields.get(name)
    return field is None or SecretStr in (field.annotation, *get_args(field.annotation))


def _parsed(name: str, text: str) -> Any:
    from json import JSONDecodeError, loads

    from storage.errors import InvalidInput

    try:
        return loads(text)
    except JSONDecodeError as error:
        problem = f"{name} is no JSON: {error.msg} at line {error.lineno}, column {error.colno}"
    # Raised out here: the original holds the text.
    raise InvalidInput(problem)
