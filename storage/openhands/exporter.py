"""The way back: a state directory as OpenHands' file-based stores write it, so that leaving is as easy as coming."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from storage.errors import Conflict, FileAccessDenied, InvalidInput
from storage.files.maintenance.tree_export import SkippedFile
from storage.identity import LOCAL_USER, user_key
from storage.openhands.locations import CONVERSATIONS, SESSIONS, USERS, home_path
from storage.openhands.names import storable_id
from storage.private_folder import make_private_folder
from storage.secret_fields import exposed

if TYPE_CHECKING:
    from storage.conversations.model import ConversationMetadata
    from storage.storage import Storage, UserStorage

_METADATA: Final = "metadata.json"
_MODE: Final = 0o600


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
        skipped: files that are not there, because they are damaged or the file system cannot hold their names.
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
    progress: Callable[[int], None] | None = None,
) -> ExportReport:
    """Write everything of everyone, or of one user, as a state directory of OpenHands.

    The local user's data lies in `sessions/` and beside it, another one's below `users/<id>/`. Files come byte for
    byte, each compared with its SHA-256; a conversation's row becomes its metadata.json, with the fields that OpenHands
    does not know. Settings and secrets are in clear, as OpenHands keeps them, in files that only their owner may read.
    Importing the directory into an empty storage gives the same rows and the same files.

    It is built in a folder beside and put in its place at the end: interrupted, it leaves that one, whose name begins
    with a dot, and no state directory. Each row and each file is read whole, one after the other: stop the server first
    if what is written meanwhile matters.

    Args:
        storage: whose data.
        folder: of the new state directory. It must not be there, or be empty.
        user: only this user's, as a state directory of their own; everyone's if None.
        repair: write a metadata.json from the row also where the one that came in was broken and nothing has changed
            since; without it those bytes come back as they were.
        progress: told after each conversation how many were written.

    Raises:
        Conflict: there is something in `folder`.
        InvalidInput: an id that no folder can be named by, or `folder` is a file.
        KeyMissing, KeyMismatch, KeyUnavailable, Tampered: a secret cannot be opened; nothing is put in place.
        FileAccessDenied: the folder cannot be made.
        FileStoreError: as FileMaintenance.export.
    """
    target = Path(folder).absolute()  # noqa: ASYNC240 - one look, and the files are written in threads
    _refuse_what_is_there(target)
    users = [user_key(user)] if user is not None else [each.user_id for each in await storage.list_users()]
    try:
        make_private_folder(target.parent)
        building = Path(tempfile.mkdtemp(prefix=f".{target.name}.export-", dir=target.parent))
    except OSError as error:
        raise FileAccessDenied(f"{target} cannot be made: {error.strerror}") from error
    try:
        report = ExportReport(target)
        for each in users:
            owner = None if user is not None or each == LOCAL_USER else _folder_name("user", each)
            await _Export(storage.user(each), building, owner, report, progress, repair=repair).run(storage)
        _sync(building)
        _refuse_what_is_there(target)
        building.rename(target)  # noqa: ASYNC240 - onto an empty folder, too
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return report


class _Export:
    """One user's part; `owner` is None for what lies at the top."""

    def __init__(
        self,
        stores: UserStorage,
        root: Path,
        owner: str | None,
        report: ExportReport,
        progress: Callable[[int], None] | None,
        *,
        repair: bool,
    ) -> None:
        self._stores = stores
        self._root = root
        self._owner = owner
        self._report = report
        self._progress = progress
        self._repair = repair
        self._top = root if owner is None else root / USERS / owner
        self._conversations = self._top / (SESSIONS if owner is None else CONVERSATIONS)

    async def run(self, storage: Storage) -> None:
        self._report.users.append(self._stores.user_id)
        # Secrets first: without the key there is nothing to clear away.
        await self._account()
        await self._files(storage)
        async for row in self._stores.conversations.iterate():
            self._conversation(row)
            self._report.conversations += 1
            if self._progress is not None:
                self._progress(self._report.conversations)

    async def _account(self) -> None:
        settings = await self._stores.settings.load()
        if settings is not None:
            values = {**exposed(settings), **exposed(settings.model_extra or {})}
            _write_json(self._top / "settings.json", {**values, "secrets_store": {"provider_tokens": {}}})
            self._report.settings += 1
        secrets = await self._stores.secrets.load()
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
            _write_json(self._top / "secrets.json", values)
            self._report.secrets += len(secrets.provider_tokens) + len(secrets.custom_secrets)

    async def _files(self, storage: Storage) -> None:
        if self._owner is None:
            await self._tree(storage, self._root)
            return
        # The catalogue's paths name no user, and a state directory's do.
        with tempfile.TemporaryDirectory(prefix=".files-", dir=self._root) as staging:
            await self._tree(storage, Path(staging))
            for found in sorted(Path(staging).rglob("*")):  # noqa: ASYNC240 - names only
                if not found.is_dir():
                    place = self._root / home_path(self._owner, found.relative_to(staging).as_posix())
                    make_private_folder(place.parent)
                    found.rename(place)

    async def _tree(self, storage: Storage, folder: Path) -> None:
        done = await storage.files.export(folder, user_id=self._stores.user_id)
        self._report.files += done.files
        self._report.bytes += done.bytes
        self._report.skipped += done.skipped

    def _conversation(self, row: ConversationMetadata) -> None:
        place = self._conversations / _folder_name("conversation", row.conversation_id) / _METADATA
        values = row.model_dump(mode="json", context={"expose_secrets": True})
        try:
            original = json.loads(place.read_bytes())
        except FileNotFoundError:
            original = None
        except ValueError:
            original = None
            if row.version <= 1 and not self._repair:
                self._report.broken.append(row.conversation_id)
                _date(place.parent, row.created_at.timestamp())
                return
        if isinstance(original, dict):
            # The import kept it, because it holds more than the row does.
            if all(original[name] == value for name, value in values.items() if name in original):
                return
            values = {**original, **values}
        _write_json(place, values)


def _folder_name(kind: str, name: str) -> str:
    if name in (".", "..") or storable_id(name) != name or "/" in name:
        raise InvalidInput(
            f"the {kind} {name!r} cannot be a folder's name, as OpenHands' layout wants it; "
            + ("export this user alone, by --user" if kind == "user" else "give the conversation another id first")
        )
    return name


def _refuse_what_is_there(target: Path) -> None:
    try:
        if next(target.iterdir(), None) is not None:
            raise Conflict(f"{target} is not empty; name a folder that is not there yet")
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise InvalidInput(f"{target} is a file; name a folder that is not there yet") from None


def _write_json(path: Path, value: dict[str, Any]) -> None:
    make_private_folder(path.parent)
    path.unlink(missing_ok=True)  # the catalogue's copy
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=2)
        file.flush()
        os.fsync(file.fileno())


def _date(folder: Path, seconds: float) -> None:
    """Give a conversation's files the time of its beginning, the last resort of whoever has to rebuild its metadata."""
    for path in folder.rglob("*"):
        os.utime(path, (seconds, seconds))


def _sync(folder: Path) -> None:
    """Have the names on the disk before the folder is: the contents are there already."""
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
