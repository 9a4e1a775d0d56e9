"""Everything that is stored of one user, as files that a person can read: the answer to "give me my data".

A user is whoever owns rows, so this walks every table that has an owner, as the deletion does, and a table that is
added later takes part without being named here.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Table, bindparam, select

from storage.backup.snapshot import Snapshot, snapshot
from storage.backup.values import archived, encoder
from storage.clock import now
from storage.database.statement import DIALECTS
from storage.database.types import PlainText, Sealed, from_microseconds
from storage.errors import InvalidInput, NotFound
from storage.identity import user_key
from storage.secret_fields import exposed
from storage.users import owned_tables
from storage.whole_folder import whole_folder

if TYPE_CHECKING:
    from storage.database.url import DatabaseURL
    from storage.files.maintenance.verbs import FileMaintenance
    from storage.secrets.store import SecretsStore
    from storage.settings.store import SettingsStore

Progress = Callable[[int, int | None], None]

ZIP_SUFFIX: Final = ".zip"
SECRETS: Final = "secrets.json"

_LEFT_OUT: Final = {("file_content", "content"), ("data_key", "wrapped")}
"""Contents are files of their own; a wrapped key opens nothing without the master key, and is nobody's data."""

_SEALED: Final = "(sealed)"


@dataclass(frozen=True, slots=True)
class UserExport:
    """What was written.

    Attributes:
        path: the folder or file.
        user_id: in stored form.
        made_at: when.
        rows: how many rows of each table; tables with none are left out.
        files: how many.
        bytes: of these.
        skipped: files that could not be written, by path, with the reason.
        secrets_revealed: whether the values of secrets are in it.
    """

    path: Path
    user_id: str
    made_at: datetime
    rows: dict[str, int]
    files: int
    bytes: int
    skipped: dict[str, str]
    secrets_revealed: bool


@dataclass(frozen=True, slots=True)
class Belongings:
    """Where a user's things are.

    Attributes:
        url: of the database.
        files: everyone's files.
        settings: the user's.
        secrets: the user's.
    """

    url: DatabaseURL
    files: FileMaintenance
    settings: SettingsStore
    secrets: SecretsStore


async def export_user(
    belongings: Belongings,
    user_id: str | None,
    target: Path,
    *,
    reveal: bool = False,
    progress: Progress | None = None,
) -> UserExport:
    """Write everything of one user: each table as lines of JSON, each file at its own path, and what is in it.

    Values of secrets stand as "(sealed)", and in `secrets.json` only with `reveal`. The target is there whole or not at
    all, for its owner only.

    Args:
        belongings: where.
        user_id: whose; None is the local user.
        target: a file whose name ends in `.zip`, or a folder that is not there yet.
        reveal: also write the values of settings and secrets, in clear.
        progress: told files, and how many there are.

    Raises:
        NotFound: nothing is stored for this user. Nothing was written.
        InvalidInput, Conflict: the target is there already.
        KeyMissing, KeyMismatch, KeyUnavailable: something sealed is to be opened, and its key is not at hand.
        FileStoreError, DatabaseError: something cannot be read.
    """
    owner = user_key(user_id)
    if target.suffix == ZIP_SUFFIX:
        with _whole_zip(target) as folder:
            return await _fill(belongings, owner, folder, target, reveal=reveal, progress=progress)
    with whole_folder(target) as folder:
        return await _fill(belongings, owner, folder, target, reveal=reveal, progress=progress)


@contextmanager
def _whole_zip(target: Path) -> Iterator[Path]:
    """A folder to fill, which becomes the file when the block ends well."""
    if target.exists():
        raise InvalidInput(f"{target} is there already; choose another name")
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as beside:  # 0700
        folder = Path(beside) / "export"
        folder.mkdir(mode=0o700)
        yield folder
        made = Path(shutil.make_archive(f"{beside}/made", "zip", folder))
        made.chmod(0o600)
        made.rename(target)


async def _fill(
    belongings: Belongings, owner: str, folder: Path, target: Path, *, reveal: bool, progress: Progress | None
) -> UserExport:
    # First, since it needs the key: without it nothing is written for nothing.
    clear = await _clear(belongings) if reveal else None
    (folder / "tables").mkdir(mode=0o700)
    rows = {}
    async with snapshot(belongings.url) as source:
        for table in owned_tables():
            rows[table.name] = await _table(source, table, owner, folder / "tables" / f"{table.name}.jsonl")
    if not any(rows.values()):
        raise NotFound(f"nothing is stored for a user {owner!r}; `storage users list` shows who there is")
    exported = await belongings.files.export(folder / "files", user_id=owner, progress=progress)
    if clear is not None:
        await asyncio.to_thread(_write_private, folder / SECRETS, json.dumps(clear, ensure_ascii=False, indent=2))
    done = UserExport(
        path=target,
        user_id=owner,
        made_at=now(),
        rows={name: number for name, number in rows.items() if number},
        files=exported.files,
        bytes=exported.bytes,
        skipped={left.path: left.reason for left in exported.skipped},
        secrets_revealed=reveal,
    )
    text = json.dumps({**asdict(done), "path": None}, ensure_ascii=False, indent=2, default=str)
    await asyncio.to_thread(_write_private, folder / "export.json", text)
    return done


async def _table(source: Snapshot, table: Table, owner: str, file: Path) -> int:
    """Write a table's rows, as objects that people can read; an empty table has no file."""
    columns = [column for column in table.columns if (table.name, column.name) not in _LEFT_OUT]
    # Of what is sealed, only whether it is there.
    read = [column.is_not(None) if isinstance(column.type, Sealed) else column for column in columns]
    is_theirs = table.c.user_id == bindparam(None, owner, type_=PlainText())
    query = select(*read).where(is_theirs).order_by(*table.primary_key)
    sql = str(query.compile(dialect=DIALECTS[source.dialect], compile_kwargs={"literal_binds": True}))
    shown = [_shown(source, column) for column in columns]
    number = 0
    async with aclosing(source.rows(sql)) as batches:
        async for batch in batches:
            lines = [
                {column.name: show(value) for column, show, value in zip(columns, shown, row, strict=True)}
                for row in batch
            ]
            number += len(lines)
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            await asyncio.to_thread(_write_private, file, text)
    return number


def _shown(source: Snapshot, column: Any) -> Callable[[Any], Any]:
    if isinstance(column.type, Sealed):
        return lambda is_there: _SEALED if is_there else None
    kind = archived(column).kind
    encode = encoder(kind, source.dialect)

    def show(value: Any) -> Any:
        if value is None:
            return None
        plain = value if encode is None else encode(value)
        if kind == "time":
            return from_microseconds(plain).isoformat()
        return value.hex() if kind == "bytes" else plain

    return show


async def _clear(belongings: Belongings) -> dict[str, Any]:
    """The values of settings and secrets, as the two models hold them."""
    settings = await belongings.settings.load()
    secrets = await belongings.secrets.load()
    return {
        "settings": None if settings is None else {**exposed(settings), **exposed(settings.model_extra or {})},
        "provider_tokens": {}
        if secrets is None
        else {
            str(provider): {"token": exposed(token.token), "host": token.host, "user_id": token.user_id}
            for provider, token in secrets.provider_tokens.items()
        },
        "custom_secrets": {}
        if secrets is None
        else {
            name: {"secret": exposed(custom.secret), "description": custom.description}
            for name, custom in secrets.custom_secrets.items()
        },
    }


def _write_private(file: Path, text: str) -> None:
    """Append a text to a file that is its owner's alone."""
    file.touch(mode=0o600)
    with file.open("a", encoding="utf-8", errors="surrogateescape") as opened:
        opened.write(text)
