"""`storage keys`: the master keys, from a look at them to their replacement. No command shows one unless asked to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

from cyclopts import App, Parameter

from storage.cli import key_transfer
from storage.cli.connection import DEFAULT, AsJSON, Connection, flag, opened
from storage.cli.output import Column, line, moment, note, pairs, plain, progress, show_json, table
from storage.cli.output import count as counted
from storage.cli.prompt import confirm

if TYPE_CHECKING:
    from storage.encryption.status import KeysStatus, Unreadable
    from storage.storage import Storage

app = App(name="keys", help="Look after the master keys that all secrets depend on.")

Kek: TypeAlias = Annotated[
    str, Parameter(name="KEK", help="Id of a master key, as `storage keys status` shows it; its beginning will do.")
]

_IMPORTING: Final = frozenset({"key-file", "keyring"})
"""Names of the providers that `storage keys import` and `storage keys new` can store a key with."""

_SHORTEST_PREFIX: Final = 6
"""Hex digits of an id from which on it may be shortened: fewer would be a guess."""


@app.command
async def status(*, connection: Connection = DEFAULT, json: AsJSON = False) -> int:
    """Show every master key, who holds it, and what depends on it. Works without the key; changes nothing.

    A master key is `active` (new data keys are wrapped under it), `available` (the provider holds it), `missing` (it
    does not) or `retired`. Exits with 1 when something is wrong, and says what mends it.

    JSON: `{ring: {state, reason, message, complete, kek_id, provider, where, data_keys}, master_keys: [{kek_id, state,
    data_keys, created_at, retired_at}], unfinished, problems: [{message, remedy}]}`; unfinished is the number of data
    keys that a re-encryption has still to replace.
    """
    async with opened(connection, locked=True) as storage:
        found = await storage.keys.status()
    problems = _problems(found)
    if json:
        wrong = [{"message": message, "remedy": remedy} for message, remedy in problems]
        show_json({**asdict(found), "problems": wrong})
        return 1 if problems else 0
    pairs(
        [
            ("state", found.ring.state),
            ("provider", found.ring.provider),
            ("place", found.ring.where),
            ("data keys", f"{found.ring.data_keys:,}"),
            ("to be replaced", f"{found.unfinished:,}"),
        ]
    )
    if found.master_keys:
        line()
        table(
            [
                Column("Master key"),
                Column("State"),
                Column("Data keys", number=True),
                Column("Created (UTC)"),
                Column("Retired (UTC)", wide=True),
            ],
            [
                (key.kek_id, key.state, f"{key.data_keys:,}", moment(key.created_at), moment(key.retired_at))
                for key in found.master_keys
            ],
        )
    line()
    for message, remedy in problems:
        line(f"problem: {plain(message)}")
        line(f"  remedy: {plain(remedy)}")
    for key in found.master_keys:
        if key.state == "retired" and key.data_keys:
            line(f"{counted(key.data_keys, 'data key')} left under {key.kek_id}; see `storage keys doctor`")
    if not problems:
        line(f"all is well: {plain(found.ring.message)}")
    return 1 if problems else 0


app.command(key_transfer.new)


@app.command
async def promote(kek: Kek, /, *, connection: Connection = DEFAULT, json: AsJSON = False) -> None:
    """Make a master key the active one: the second phase of a rotation, once every machine has the key.

    New data keys are wrapped under it from then on; `storage keys rewrap` moves the others.

    JSON: `{kek_id}`.
    """
    async with opened(connection) as storage:
        kek_id = await _resolved(storage, kek)
        await storage.keys.promote(kek_id)
    if json:
        show_json({"kek_id": kek_id})
    else:
        line(f"the master key {kek_id} is the active one; next: storage keys rewrap")


@app.command
async def rewrap(*, connection: Connection = DEFAULT, json: AsJSON = False) -> int:
    """Wrap every data key under the active master key. No secret is touched.

    Running it again continues where it was interrupted. Exits with 1 if a data key could not be moved.

    JSON: `{kek_id, moved, already, failed: [{table, column, user_id, row_id, name, reason}]}`.
    """
    async with opened(connection) as storage:
        with _continued_by("storage keys rewrap"), progress("rewrapping", "data keys", quiet=json) as move:
            done = await storage.keys.rewrap(move)
    if json:
        show_json(asdict(done))
    else:
        line(
            f"{counted(done.moved, 'data key')} moved to the master key {done.kek_id},"
            f" {done.already:,} there already, {len(done.failed):,} failed"
        )
        _show_unreadable(done.failed)
    return 1 if done.failed else 0


@app.command
async def reencrypt(*, connection: Connection = DEFAULT, json: AsJSON = False) -> int:
    """Give every user a new data key and seal every secret again under it: for when a data key may be known.

    Users go on reading and writing meanwhile. Running it again continues where it was interrupted. Exits with 1 if
    something could not be read; that stays as it is, with its old data key.

    JSON: `{users, resealed, resumed, unreadable: [{table, column, user_id, row_id, name, reason}]}`; resumed says that
    this run has finished an interrupted one, and began none of its own.
    """
    async with opened(connection) as storage:
        with _continued_by("storage keys reencrypt"), progress("re-encrypting", "users", quiet=json) as move:
            done = await storage.keys.reencrypt(move)
    if json:
        show_json(asdict(done))
        return 1 if done.unreadable else 0
    line(f"{counted(done.resealed, 'value')} of {counted(done.users, 'user')} sealed under new data keys")
    if done.resumed:
        line("this finished an interrupted run; run it again to begin a new one")
    _show_unreadable(done.unreadable)
    return 1 if done.unreadable else 0


@app.command
async def retire(kek: Kek, /, *, connection: Connection = DEFAULT, json: AsJSON = False) -> None:
    """Take a master key out of use. Refused while it is the active one or any data key is wrapped under it.

    It stays with its provider until you remove it there: old backups need it.

    JSON: `{kek_id}`.
    """
    async with opened(connection) as storage:
        kek_id = await _resolved(storage, kek)
        await storage.keys.retire(kek_id)
    if json:
        show_json({"kek_id": kek_id})
    else:
        line(f"the master key {kek_id} is retired; keep a copy of it as long as a backup needs it")


@app.command
async def abandon(
    kek: Kek,
    /,
    *,
    yes: Annotated[bool, flag("Do not ask.")] = False,
    connection: Connection = DEFAULT,
    json: AsJSON = False,
) -> None:
    """Give up a master key that is lost for good, so that users can set their secrets again.

    What was sealed under it stays unreadable, and is kept: should the key be found, what was not set again opens once
    more. Refused while the provider holds the key. It asks for the whole id to be typed; without a terminal it needs
    --yes.

    JSON: `{kek_id, data_keys}`.
    """
    from storage.errors import KeyInUse

    async with opened(connection, locked=True) as storage:
        kek_id = await _resolved(storage, kek)
        found = await storage.keys.status()
        (key,) = [key for key in found.master_keys if key.kek_id == kek_id]
        if key.state in {"active", "available"}:
            raise KeyInUse(f"the master key {kek_id} is in {found.ring.where}, so it is not lost; nothing was changed")
        number = counted(key.data_keys, "data key")
        confirm(
            kek_id,
            f"This gives up the master key {kek_id} and the {number} wrapped under it:"
            " no secret sealed with them can be read, until somebody finds the key.",
            yes=yes,
        )
        given_up = await storage.keys.abandon(kek_id)
    if json:
        show_json({"kek_id": kek_id, "data_keys": given_up})
    else:
        line(f"the master key {kek_id} is given up, with {counted(given_up, 'data key')}")
        if found.ring.provider in _IMPORTING:
            first = "storage keys new, unless another key is in place"
        else:
            first = f"a new master key in {plain(found.ring.where)}, unless another one is there already"
        line(f"next: {first}; set the secrets again; storage keys reencrypt")


@app.command
async def doctor(*, connection: Connection = DEFAULT, json: AsJSON = False) -> int:
    """Try to open every data key and every sealed value, and name those that do not open. Changes nothing.

    Exits with 1 if there are any. `storage secrets set` replaces a single one on purpose.

    JSON: `{master_keys: [{kek_id, state, data_keys, created_at, retired_at}], data_keys, sealed: {column: number},
    unreadable: [{table, column, user_id, row_id, name, reason}], problems: [text]}`.
    """
    async with opened(connection, locked=True) as storage:
        with progress("opening", "users", quiet=json) as move:
            found = await storage.keys.doctor(move)
    wrong = bool(found.unreadable or found.problems)
    if json:
        show_json(asdict(found))
        return 1 if wrong else 0
    table(
        [Column("Master key"), Column("State"), Column("Data keys", number=True)],
        [(key.kek_id, key.state, f"{key.data_keys:,}") for key in found.master_keys],
    )
    line()
    table(
        [Column("Sealed values"), Column("Number", number=True)],
        [(name, f"{number:,}") for name, number in found.sealed.items()],
    )
    line()
    for problem in found.problems:
        line(f"problem: {plain(problem)}")
    _show_unreadable(found.unreadable)
    if not wrong:
        line(f"all is well: {counted(sum(found.sealed.values()), 'sealed value')} opened")
    return 1 if wrong else 0


app.command(key_transfer.export)
app.command(key_transfer.import_, name="import")


def _problems(found: KeysStatus) -> list[tuple[str, str]]:
    """What is wrong and what mends it."""
    problems: list[tuple[str, str]] = []
    ring = found.ring
    missing = [key for key in found.master_keys if key.state == "missing" and key.data_keys]
    lost = ", ".join(f"`storage keys abandon {key.kek_id}`" for key in missing)
    given_up = f". If it is lost for good, {lost} gives it up" if lost else ""
    put_back = f"put that master key back into {ring.where}"
    if ring.provider in _IMPORTING:
        put_back += ", or use `storage keys import`"
    if ring.reason == "KeyUnavailable":
        problems.append((ring.message, f"make {ring.where} usable again"))
    elif ring.state == "locked":
        problems.append((ring.message, f"{put_back}{given_up}"))
    elif missing:
        number = counted(sum(key.data_keys for key in missing), "data key")
        message = f"{number} wrapped under {', '.join(key.kek_id for key in missing)}, not in {ring.where}"
        problems.append((message, f"{put_back}{given_up}"))
    if found.unfinished:
        problems.append(
            (
                f"{counted(found.unfinished, 'data key')} still to be replaced by a re-encryption",
                "`storage keys reencrypt` continues it",
            )
        )
    return problems


def _show_unreadable(rows: Sequence[Unreadable]) -> None:
    """One line each, by row and never by content."""
    if not rows:
        return
    table(
        [
            Column("Table"),
            Column("Column", wide=True),
            Column("User", wrap=True),
            Column("Row", wrap=True),
            Column("Name", wrap=True),
            Column("Reason"),
        ],
        [(row.table, row.column, row.user_id, row.row_id, row.name, row.reason) for row in rows],
        title="Cannot be read:",
    )


async def _resolved(storage: Storage, given: str) -> str:
    """The whole id of the one registered master key whose id begins like this.

    Raises:
        InvalidInput: no id, the beginning of none, or of several.
    """
    from storage.errors import InvalidInput

    known = [key.kek_id for key in (await storage.keys.status()).master_keys]
    word = given.lower()
    if len(word) < _SHORTEST_PREFIX or not set(word) <= set("0123456789abcdef"):
        raise InvalidInput(f"{given!r} is no id of a master key, nor {_SHORTEST_PREFIX} or more hex digits of one")
    found = [kek_id for kek_id in known if kek_id.startswith(word)]
    if len(found) > 1:
        raise InvalidInput(f"{given!r} begins several ids; give more of it: {', '.join(found)}")
    if not found:
        raise InvalidInput(f"there is no master key {given!r}; known are: {', '.join(known) or 'none yet'}")
    return found[0]


@contextmanager
def _continued_by(command: str) -> Iterator[None]:
    try:
        yield
    except (asyncio.CancelledError, KeyboardInterrupt):
        note(f"what is done stays done, and every secret can be read; `{command}` continues from here")
        raise
