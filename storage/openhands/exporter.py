"""The way back: a state directory as OpenHands' file-based stores write it, so that leaving is as easy as coming."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from storage.conversations.cursor import ConversationSort
from storage.errors import InvalidInput
from storage.files.maintenance.tree_export import SkippedFile
from storage.identity import LOCAL_USER, user_key
from storage.openhands.export_metadata import metadata_file
from storage.openhands.export_tree import (
    Displaced,
    clear_for_metadata,
    place_files,
    sync_folders,
    write_private,
)
from storage.openhands.locations import CONVERSATIONS, SESSIONS, USERS, home_path
from storage.openhands.names import storable_id
from storage.private_folder import make_private_folder
from storage.secret_fields import exposed, secret_fields
from storage.whole_folder import whole_folder

if TYPE_CHECKING:
    from storage.conversations.model import ConversationMetadata
    from storage.secrets.model import UserSecrets
    from storage.settings.model import Settings
    from storage.storage import Storage, UserStorage

_METADATA: Final = "metadata.json"
_ROWS_AT_ONCE: Final = 100

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class ExportReport:
    """What an export has written.

    Attributes:
        folder: the new state directory.
        users: whose data it is, in stored form.
        conversations: written, each with its metadata.json.
        files: of conversations and loose ones, metadata.json not among them.
        bytes: of these files.
        settings: users whose settings were written.
        secrets: tokens and custom secrets that were written, in clear.
        skipped: what is not there, by its path in the state directory, and why: a damaged file, one whose name the file
            system cannot hold or something else has, a conversation whose id no folder can have, sealed fields.
        broken: conversations with the broken metadata.json that they were imported with; OpenHands does not list them.
    """

    folder: Path
    users: list[str] = field(default_factory=list)
    conversations: int = 0
    files: int = 0
    bytes: int = 0
    settings: int = 0
    secrets: int = 0
    skipped: list[SkippedFile] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "folder": str(self.folder)}


async def export_home(
    storage: Storage,
    folder: str | os.PathLike[str],
    *,
    user: str | None = None,
    repair: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ExportReport:
    """Write everything of everyone, or of one user, as a state directory of OpenHands.

    The local user's data lies in `sessions/` and beside it, another one's below `users/<id>/`. Files come byte for
    byte, each compared with its SHA-256; a conversation's row becomes its metadata.json, with the fields that OpenHands
    does not know. Settings and secrets are in clear, as OpenHands keeps them, in files that only their owner may read.
    Importing the directory into an empty storage gives the same rows and the same files.

    It is built in a folder beside and put in its place at the end: interrupted, it leaves that one, whose name begins
    with a dot, and no state directory. Contents go through memory in pieces, names and paths are held.

    What is guaranteed while others write: each row and each file is whole, and is what was stored at one moment of the
    export; a conversation's metadata.json is read after its files; whatever is there from its beginning to its end is
    in it. There is no common moment, so stop the server first if what is written meanwhile matters.

    Args:
        storage: whose data.
        folder: of the new state directory. It must not be there, or be empty.
        user: only this user's, as a state directory of their own; everyone's if None.
        repair: write a metadata.json from the row also where the one that came in was broken and nothing has changed
            since; without it those bytes come back as they were.
        progress: told after each file how many of how many were dealt with, as far as is known by then.

    Raises:
        Conflict: there is something in `folder`.
        InvalidInput: `user` has nothing stored, one of several has an id that no folder can be named by, or `folder` is
            a file or a mount point.
        KeyMissing, KeyMismatch, KeyUnavailable, Tampered: a secret cannot be opened; nothing is written.
        FileAccessDenied: the folder cannot be made.
        FileStoreError: as FileMaintenance.export.
    """
    owners = await _owners(storage, user)
    for stored in owners:
        # Before anything is written: a missing key is found out now, and what is in clear is on the disk but shortly.
        await _account(storage.user(stored))
    with whole_folder(folder) as building:
        report = ExportReport(await _in_thread(_resolved, folder), users=sorted(owners))
        counted = _Counted(progress, sum([(await storage.user(stored).files.usage()).files for stored in owners]))
        parts = [
            _Export(storage, storage.user(stored), building, owner, report, repair=repair)
            for stored, owner in owners.items()
        ]
        (building / SESSIONS).mkdir(mode=0o700)  # by which it is known for a state directory, however little is in it
        for part in parts:
            await part.files(counted)
            await part.conversations()
        for part in parts:
            await part.account()
        await _in_thread(sync_folders, building)
    return report


async def _owners(storage: Storage, user: str | None) -> dict[str, str | None]:
    """Users in stored form, each with the name of their folder below users/; None for the one at the top."""
    known = [info.user_id for info in await storage.list_users()]
    if user is not None:
        if user_key(user) not in (*known, LOCAL_USER):
            raise InvalidInput(f"the user {user!r} has nothing stored; `storage users list` tells who has")
        return {user_key(user): None}
    owners: dict[str, str | None] = {}
    for stored in known:
        if stored != LOCAL_USER:
            if not _is_folder_name(stored):
                raise InvalidInput(
                    f"the user {stored!r} cannot be a folder's name, as OpenHands' layout wants it; "
                    "export this user alone, by --user, and the others each by theirs"
                )
            owners[stored] = stored
    if LOCAL_USER in known:
        owners[LOCAL_USER] = None  # last: a file of theirs below users/ must not take the place of a user's own
    return owners


async def _account(stores: UserStorage) -> tuple[Settings | None, UserSecrets | None]:
    return await stores.settings.load(), await stores.secrets.load()


def _resolved(folder: str | os.PathLike[str]) -> Path:
    return Path(os.path.realpath(folder))


class _Counted:
    """Tells one number of files over all users."""

    def __init__(self, progress: Callable[[int, int], None] | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._before = 0
        self._here = 0

    def next_user(self) -> None:
        self._before += self._here
        self._here = 0

    def __call__(self, done: int, _total: int | None) -> None:
        self._here = done
        if self._progress is not None:
            self._progress(self._before + done, max(self._total, self._before + done))


class _Export:
    """One user's part; `owner` is None for what lies at the top."""

    def __init__(
        self,
        storage: Storage,
        stores: UserStorage,
        root: Path,
        owner: str | None,
        report: ExportReport,
        *,
        repair: bool,
    ) -> None:
        self._storage = storage
        self._stores = stores
        self._root = root
        self._owner = owner
        self._report = report
        self._repair = repair
        self._top = root if owner is None else root / USERS / owner
        self._conversations = self._top / (SESSIONS if owner is None else CONVERSATIONS)
        self._folders: dict[str, Path] = {}

    async def files(self, told: _Counted) -> None:
        """Everything in the user's catalogue. Its paths name no user, and a state directory's do."""
        if self._owner is not None:
            self._refuse_a_name_twice()
        told.next_user()
        with tempfile.TemporaryDirectory(prefix=".files-", dir=self._root) as staging:
            done = await self._storage.files.export(Path(staging), user_id=self._stores.user_id, progress=told)
            displaced = await _in_thread(place_files, Path(staging), self._root, self._owner)
        self._report.files += done.files
        self._report.bytes += done.bytes
        for left in done.skipped:
            self._leave_out(home_path(self._owner, left.path), left.reason)
        self._displace(displaced)

    async def conversations(self) -> None:
        """Their metadata. In the order of their creation, which no write changes: none is passed over."""
        rows: list[ConversationMetadata] = []
        async for row in self._stores.conversations.iterate(sort=ConversationSort.CREATED_ASCENDING):
            rows.append(row)
            if len(rows) == _ROWS_AT_ONCE:
                await _in_thread(self._write_rows, rows)
                rows = []
        await _in_thread(self._write_rows, rows)

    async def account(self) -> None:
        """Settings and secrets, in clear."""
        settings, secrets = await _account(self._stores)
        if settings is not None:
            values = {**exposed(settings), **exposed(settings.model_extra or {})}
            self._write_json("settings.json", {**values, "secrets_store": {"provider_tokens": {}}})
            self._report.settings += 1
        if secrets is not None:
            values = exposed(secrets.model_extra or {})
            values["provider_tokens"] = {
                str(provider): {"token": exposed(token.token), "host": token.host, "user_id": token.user_id}
                for provider, token in secrets.provider_tokens.items()
            }
            values["custom_secrets"] = {
                name: {"secret": exposed(custom.secret), "description": custom.description}
                for name, custom in secrets.custom_secrets.items()
            }
            self._write_json("secrets.json", values)
            self._report.secrets += len(secrets.provider_tokens) + len(secrets.custom_secrets)

    def _write_json(self, name: str, values: dict[str, Any]) -> None:
        write_private(self._top / name, json.dumps(values, ensure_ascii=False, indent=2).encode())

    def _write_rows(self, rows: Sequence[ConversationMetadata]) -> None:
        for row in rows:
            place = self._conversations / row.conversation_id / _METADATA
            if not _is_folder_name(row.conversation_id):
                told = f"no folder can have the name {row.conversation_id!r} of this conversation"
                self._leave_out(f"{self._conversations.relative_to(self._root)}/{row.conversation_id}", told)
            elif self._is_anothers(place.parent):
                told = "another conversation's folder has this name where upper and lower case do not differ"
                self._leave_out(place.relative_to(self._root).as_posix(), told)
            else:
                self._displace(clear_for_metadata(place, self._root))
                self._write_row(row, place)

    def _write_row(self, row: ConversationMetadata, place: Path) -> None:
        imported = place.read_bytes() if place.is_file() else None
        file = metadata_file(row, imported, repair=self._repair)
        if file.content is not None:
            write_private(place, file.content)
        if file.broken:
            self._report.broken.append(row.conversation_id)
            _date(place.parent, row.created_at.timestamp())
        if row.unreadable_secrets is not None:
            told = f"its sealed fields are not in it: {row.unreadable_secrets}"
            self._leave_out(place.relative_to(self._root).as_posix(), told)
        elif _hides_sealed_fields(row):
            told = "the fields that an application's own class has sealed are not in it"
            self._leave_out(place.relative_to(self._root).as_posix(), told)
        self._report.conversations += 1

    def _is_anothers(self, folder: Path) -> bool:
        """Whether a conversation of another id has the folder, on a file system that folds case."""
        first = self._folders.setdefault(folder.name.casefold(), folder)
        return first != folder and folder.exists() and first.samefile(folder)

    def _refuse_a_name_twice(self) -> None:
        if self._top.exists():
            raise InvalidInput(
                f"the folder of the user {self._owner!r} has the name of another's where upper and lower case do not"
                " differ; export each user alone, by --user"
            )
        make_private_folder(self._top)

    def _displace(self, displaced: Sequence[Displaced]) -> None:
        for left in displaced:
            self._report.files -= 1
            self._report.bytes -= left.size
            self._leave_out(left.path, left.reason)

    def _leave_out(self, path: str, reason: str) -> None:
        self._report.skipped.append(SkippedFile(path, reason))


def _hides_sealed_fields(row: ConversationMetadata) -> bool:
    """Whether secrets are stored with the conversation that the class it was read as does not declare."""
    rest = row._sealed_rest  # noqa: SLF001 - not to be read, but to be told of
    return rest is not None and bool(not secret_fields(type(row)) or rest.undeclared.get_secret_value())


def _is_folder_name(name: str) -> bool:
    return name not in (".", "..") and "/" not in name and storable_id(name) == name


def _date(folder: Path, seconds: float) -> None:
    """Give a conversation's files the time of its beginning, the last resort of whoever has to rebuild its metadata."""
    for path in folder.rglob("*"):
        os.utime(path, (seconds, seconds))


async def _in_thread(work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """In a thread that is waited for also when cancelled: it must not write into what is being removed."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *arguments, **options))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
