"""OpenHands' synchronous file store over the catalogues of all users, by the paths that OpenHands uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from storage.errors import FileNotFound
from storage.files.paths import folder_path, tree_path
from storage.openhands.locations import CONVERSATIONS, SESSIONS, USERS, owner_and_path

if TYPE_CHECKING:
    from collections.abc import Iterable

    from storage.files.store import Content
    from storage.openhands.process_storage import ProcessStorage
    from storage.storage import UserStorage

Names: TypeAlias = list[str]
"""A listing; by this name because `list` is a method below."""


class SyncFileStore:
    """Files as OpenHands reads and writes them: blocking, by paths that name the user. See storage.openhands.locations.

    Safe to use from any number of threads, with or without an event loop of their own; each call blocks its thread
    and waits for the portal. On the portal's own thread every method raises PortalBlocked.

    Beside what each method says, they raise StorageError for whatever the storage refuses or fails at: nothing is
    swallowed, so that a lost write is never taken for one that was made.

    Args:
        place: the open storage.
        owner: whose the files are that the path gives to nobody; None is the local user.
    """

    def __init__(self, place: ProcessStorage, owner: str | None = None) -> None:
        self._place = place
        self._owner = owner

    def write(self, path: str, contents: str | bytes) -> None:
        """Store the contents at `path`, replacing what is there; a str as UTF-8.

        Where the configuration's `masked_paths` say so (by default an event stream's files), the user's secrets are
        masked on the way.

        Raises:
            PathRejected: (a ValueError) the path breaks the rule of storage.files.paths.
        """
        self._place.portal.call(self._write, path, contents)

    def write_from_path(self, path: str, source_path: str) -> None:
        """Store a copy of the local file `source_path` at `path`, in bounded memory; otherwise as `write`.

        Raises:
            OSError: the local file cannot be read.
        """
        with open(source_path, "rb") as source:  # noqa: PTH123 - the app server's callers give a str
            self._place.portal.call(self._write, path, source)

    def read(self, path: str) -> str:
        """The whole content, which has to be UTF-8; line ends come as they were written.

        Raises:
            FileNotFound: (a FileNotFoundError) no file is at `path`.
            InvalidInput: (a ValueError) the content is not text.
        """
        return self._place.portal.call(self._read, path)

    def list(self, path: str) -> Names:
        """What is directly in a folder, in byte order: each behind the path as it was given, folders ending in `/`.

        A folder is there as long as something is in it; the root is always, and a conversation's as long as there is
        the conversation, whose metadata is a row and not a file. Users are not listed: ask for one's folder.

        Raises:
            FileNotFound: (a FileNotFoundError) no such folder.
        """
        names = self._place.portal.call(self._names, path)
        if names is None:
            raise FileNotFound(f"no folder is at {path!r}")
        return joined_to(path, names)

    def delete(self, path: str) -> None:
        """Remove a file, or a folder with all that is in it. What is not there is no error.

        Raises:
            PathRejected: (a ValueError) the path breaks the rule or names the root.
        """
        self._place.portal.call(self._delete, path)

    def exists(self, path: str) -> bool:
        """Whether a file or a folder is at `path`."""
        return self._place.portal.call(self._exists, path)

    # ---- on the portal's loop

    def _user(self, owner: str | None) -> UserStorage:
        return self._place.storage.user(self._owner if owner is None else owner)

    async def _write(self, path: str, contents: Content) -> None:
        owner, inner = owner_and_path(path)
        await self._user(owner).files.write(inner, contents)

    async def _read(self, path: str) -> str:
        owner, inner = owner_and_path(path)
        return await self._user(owner).files.read_text(inner)

    async def _delete(self, path: str) -> None:
        for owner, inner in _trees(tree_path(path)):
            await self._user(owner).files.delete(inner)

    async def _exists(self, path: str) -> bool:
        folder = folder_path(path)
        if folder and not path.endswith("/"):
            owner, inner = owner_and_path(folder)
            if await self._user(owner).files.exists(inner):
                return True
        for owner, inner in _trees(folder):
            if await self._holds_files(owner, inner):
                return True
        return await self._is_empty_folder(folder)

    async def _names(self, path: str) -> Names | None:
        """The bare names of what is directly in a folder; None if there is no such folder."""
        folder = folder_path(path)
        names: set[str] = set()
        for owner, inner in _trees(folder):
            if inner == SESSIONS and folder == f"{USERS}/{owner}":
                names |= {f"{CONVERSATIONS}/"} if await self._holds_files(owner, inner) else set()
                continue
            for found in await self._user(owner).files.list(inner):
                names.add(found[len(inner) + 1 :] if inner else found)
        return sorted(names) if names or await self._is_empty_folder(folder) else None

    async def _holds_files(self, owner: str | None, folder: str) -> bool:
        # Not a listing: a conversation may have many thousand events.
        page = await self._user(owner).files.search(prefix=f"{folder}/" if folder else "", limit=1)
        return bool(page.results)

    async def _is_empty_folder(self, folder: str) -> bool:
        """Whether a folder that holds no file is one all the same."""
        owner, inner = owner_and_path(f"{folder}/")
        match inner.split("/"):
            case [""]:
                return True
            case ["sessions", conversation_id, ""]:
                return await self._user(owner).conversations.exists(conversation_id)
        return False


def _trees(path: str) -> list[tuple[str | None, str]]:
    """Where what is below a path in normal form is kept: of whose files, and in which folders."""
    owner, inner = owner_and_path(f"{path}/")
    trees = {(owner, inner.removesuffix("/"))}
    match path.split("/"):
        case ["users", user] if user:
            trees.add((user, SESSIONS))
        case ["users", user, "conversations"] | ["users", user, "conversations", _] if user:
            trees.add((user, path))  # what lies beside the conversations
    return sorted(trees, key=str)


def joined_to(folder: str, names: Iterable[str]) -> list[str]:
    """The names behind the folder, as os.path.join does it on POSIX: callers read the paths that they get."""
    between = "" if not folder or folder.endswith("/") else "/"
    return [f"{folder}{between}{name}" for name in names]
