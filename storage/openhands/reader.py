"""A state directory as a stream of records that the stores accept.

Everything that was repaired, skipped or guessed on the way comes with it as a flaw. Knows no database.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from pydantic import SecretStr

from storage.errors import InvalidInput
from storage.openhands.account import Account, read_secrets, read_settings
from storage.openhands.event_facts import EVENT_PATH, examine_event, missing_numbers
from storage.openhands.flaws import Flaw
from storage.openhands.legacy_values import KEY_FILES, LegacyValues, secrets_in_key_file
from storage.openhands.metadata import ConversationFields, read_metadata
from storage.openhands.names import SECRET_FILES, is_foreign, storable_id, storable_path
from storage.openhands.source import Entry, Limits, Tree, join, open_source

_METADATA: Final = "metadata.json"
_MARKS: Final = frozenset({"sessions", "users", "settings.json", "secrets.json"})
_ROOT_FOLDERS: Final = frozenset({"sessions", "users"})
_ACCOUNT_FILES: Final = frozenset({"settings.json", "secrets.json"})


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file to keep.

    `path` is where the user's catalogue keeps it (`sessions/<id>/events/0.json`, also for `users/<user>/…`),
    `source_path` where it lay, `size` its bytes when it was listed.
    """

    path: str
    source_path: str
    size: int
    modified: datetime
    _read: Callable[[str], bytes] = field(repr=False, compare=False)

    def read(self) -> bytes:
        """The bytes; raises OSError when they cannot be read (any more)."""
        return self._read(self.source_path)

    def examine(self, data: bytes) -> Flaw | None:
        """The flaw of the file's content, if it has one that matters: being an event and not JSON."""
        tail = self.path.split("/", 2)[-1]
        return examine_event(self.source_path, data) if EVENT_PATH.fullmatch(tail) else None


@dataclass(slots=True)
class ConversationRecord:
    """One conversation. `user` is None when the layout names none; the files are in natural order."""

    user: str | None
    conversation_id: str
    source_path: str
    fields: ConversationFields
    files: list[SourceFile]
    flaws: list[Flaw]


class Home:
    """A state directory that is open for reading. Get one from `open_home`.

    The iterators are lazy and may be run again. `flaws` is what concerns no conversation and no account: it
    fills up while iterating, and a second iteration adds nothing to it twice. `source` is the path as it was given.
    """

    def __init__(self, source: str, tree: Tree, root: str, left_out: Collection[str] = ()) -> None:
        self.source = source
        self._left_out = frozenset(left_out)
        self._tree = tree
        self._root = root
        self._flaws: dict[Flaw, None] = dict.fromkeys(tree.flaws)

    @property
    def flaws(self) -> list[Flaw]:
        return list(self._flaws)

    def users(self) -> list[str | None]:
        """Whose data is here, sorted; None stands for the data that names no user."""
        return [None, *(self._user_folders())]

    def count_conversations(self) -> int:
        """How many folders of conversations there are: an upper bound, told by listings alone."""
        return sum(len(group) for _, group in self._grouped())

    def conversations(self) -> Iterator[ConversationRecord]:
        """Every conversation: first those without a user, then user by user, each in the order of their ids.

        A conversation that lies in two places comes as one record, under the user: the seed system puts
        metadata into `sessions/` and events under the user, when there is one.
        """
        for user, group in self._grouped():
            for conversation_id, folders in sorted(group.items()):
                record = self._conversation(user, conversation_id, folders)
                if record is not None:
                    yield record

    def accounts(self, jwt_secrets: Iterable[SecretStr] = ()) -> Iterator[Account]:
        """The settings and secrets: those of the directory first, then each user's that has some.

        Args:
            jwt_secrets: to open encrypted values with, besides those that the directory itself holds.
        """
        values = LegacyValues([*jwt_secrets, *self._jwt_secrets()], plain_tokens=True)
        for user, folder in [(None, ""), *self._user_folders().items()]:
            account = Account(user, None, None, [], join(folder, "settings.json"), join(folder, "secrets.json"))
            present = {entry.name: entry for entry in self._listed(folder)}
            # In this order: secrets that older releases left in the settings give way to secrets.json.
            for name, read in (("settings.json", read_settings), ("secrets.json", read_secrets)):
                path = join(folder, name)
                if name in present and (data := self._bytes(path, present[name], account.flaws)) is not None:
                    read(data, path, account, values)
            if account.settings is not None or account.secrets is not None or account.flaws:
                yield account

    def loose_files(self) -> Iterator[tuple[str | None, SourceFile]]:
        """Files that belong to no conversation, each with its owner.

        Hidden ones and known holders of keys are not among them: the catalogue stores files as they are.
        """
        yield from self._loose(None, "", skip=_ROOT_FOLDERS)
        for entry in self._listed("sessions"):
            if entry.kind == "file" and self._is_loose("sessions", entry):
                yield None, self._file("sessions/" + entry.name, "sessions/" + entry.name, entry)
        for user, folder in self._user_folders().items():
            yield from self._loose(user, folder, skip=frozenset({"conversations"}))
            inside = join(folder, "conversations")
            for entry in self._listed(inside):
                if entry.kind == "file" and self._is_loose(inside, entry):
                    yield user, self._file(join(inside, entry.name), join(inside, entry.name), entry)

    def _jwt_secrets(self) -> Iterator[SecretStr]:
        for entry in self._listed(""):
            if entry.name in KEY_FILES and (data := self._bytes(entry.name, entry, [])) is not None:
                yield from secrets_in_key_file(entry.name, data)

    # ---- conversations

    def _user_folders(self) -> dict[str, str]:
        """User → folder, sorted. Files and links directly in `users/` are reported."""
        found = {}
        for entry in self._listed("users"):
            path = join("users", entry.name)
            if is_foreign(entry.name) or entry.name.startswith("."):
                self._note(_skipped(path, entry.name))
            elif entry.kind == "folder":
                user = storable_id(entry.name)
                if user != entry.name:
                    self._note(Flaw("renamed-file", path, f"cannot be a user id; it became {user}"))
                found[user] = path
            elif entry.kind == "file":
                self._note(Flaw("unknown-file", path, "lies among the users; it was skipped"))
            else:
                self._note(_unfollowed(path, entry))
        return found

    def _grouped(self) -> Iterator[tuple[str | None, dict[str, list[str]]]]:
        """Per user: conversation id → the folders that it lies in, the user's own first."""
        plain = self._conversation_folders("sessions")
        owned: dict[str, dict[str, list[str]]] = {}
        for user, folder in self._user_folders().items():
            mine = owned[user] = {}
            for conversation_id, path in self._conversation_folders(join(folder, "conversations")).items():
                mine[conversation_id] = [path]
                if conversation_id in plain:
                    mine[conversation_id].append(plain.pop(conversation_id))
        yield None, {conversation_id: [path] for conversation_id, path in plain.items()}
        yield from owned.items()

    def _conversation_folders(self, folder: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for entry in self._listed(folder):
            path = join(folder, entry.name)
            if entry.kind == "folder" and not is_foreign(entry.name):
                conversation_id = storable_id(entry.name)
                if conversation_id != entry.name:
                    told = f"cannot be a conversation's id; it became {conversation_id}"
                    self._note(Flaw("renamed-file", path, told))
                found[conversation_id] = path
            elif entry.kind not in ("file", "folder"):
                self._note(_unfollowed(path, entry))
            elif is_foreign(entry.name) or entry.name.startswith("."):
                self._note(_skipped(path, entry.name))
        return found

    def _conversation(self, user: str | None, conversation_id: str, folders: list[str]) -> ConversationRecord | None:
        flaws: list[Flaw] = []
        files: dict[str, SourceFile] = {}
        metadata: SourceFile | None = None
        for folder in folders:
            for inner, entry in self._walk(folder, "", flaws):
                source_path = join(folder, inner)
                if inner == _METADATA and metadata is None:
                    metadata = self._file(f"sessions/{conversation_id}/{_METADATA}", source_path, entry)
                    continue
                path = self._distinct(f"sessions/{conversation_id}/{inner}", source_path, files, flaws)
                files[path] = self._file(path, source_path, entry)
        if not files and metadata is None:
            self._note(*flaws, Flaw("empty-conversation", folders[0], "holds no file; it was skipped"))
            return None
        if len(folders) > 1:
            flaws.append(Flaw("split-conversation", folders[0], f"also lies in {folders[1]}; they were put together"))
        events = _numbered_events(files.values())
        for first, last in missing_numbers(events):
            told = f"{first}" if first == last else f"{first} to {last}"
            flaws.append(Flaw("event-gap", f"{folders[0]}/events", f"has no event {told}"))

        data = None if metadata is None else self._bytes(metadata.source_path, None, flaws)
        fields = read_metadata(
            data,
            conversation_id=conversation_id,
            user_id=user,
            path=metadata.source_path if metadata else f"{folders[0]}/{_METADATA}",
            present=metadata is not None,
            modified=max(file.modified for file in (*files.values(), *([metadata] if metadata else []))),
            events=lambda: self._contents(events[number] for number in sorted(events)),
        )
        flaws.extend(fields.flaws)
        if fields.keep_original and metadata is not None:
            files[metadata.path] = metadata
        return ConversationRecord(user, conversation_id, folders[0], fields, list(files.values()), flaws)

    def _contents(self, files: Iterable[SourceFile]) -> Iterator[bytes]:
        for file in files:
            try:
                yield file.read()
            except OSError:
                continue  # reported when the file itself is imported

    def _distinct(self, path: str, source_path: str, taken: dict[str, SourceFile], flaws: list[Flaw]) -> str:
        """A path that the catalogue takes and that no other file of the conversation has."""
        stored = storable_path(path)
        number = 1
        while stored in taken:
            number += 1
            stored = storable_path(f"{path}~{number}")
        if stored != path:
            flaws.append(Flaw("renamed-file", source_path, f"was stored as {stored}"))
        return stored

    # ---- files

    def _walk(self, folder: str, inner: str, flaws: list[Flaw]) -> Iterator[tuple[str, Entry]]:
        """The regular files of a conversation, depth first, as (path within its folder, entry)."""
        # Not by recursion: a folder can lie deeper than Python calls.
        levels = [(inner, iter(self._listed(join(folder, inner) if inner else folder, flaws)))]
        while levels:
            inside, entries = levels[-1]
            entry = next(entries, None)
            if entry is None:
                levels.pop()
                continue
            path = join(inside, entry.name)
            if is_foreign(entry.name):
                flaws.append(_skipped(join(folder, path), entry.name))
            elif entry.kind == "folder":
                levels.append((path, iter(self._listed(join(folder, path), flaws))))
            elif entry.kind == "file":
                yield path, entry
            else:
                flaws.append(_unfollowed(join(folder, path), entry))

    def _loose(self, user: str | None, folder: str, skip: frozenset[str]) -> Iterator[tuple[str | None, SourceFile]]:
        taken: dict[str, SourceFile] = {}
        flaws: list[Flaw] = []
        for entry in self._listed(folder):
            if entry.name in _ACCOUNT_FILES or (entry.name in skip and entry.kind == "folder"):
                continue
            for source_path, found in self._walk_loose(folder, entry):
                path = self._distinct(source_path, source_path, taken, flaws)
                taken[path] = self._file(path, source_path, found)
                yield user, taken[path]
        self._note(*flaws)

    def _walk_loose(self, folder: str, entry: Entry) -> Iterator[tuple[str, Entry]]:
        levels = [(folder, iter([entry]))]
        while levels:
            inside, entries = levels[-1]
            found = next(entries, None)
            if found is None:
                levels.pop()
            elif self._is_loose(inside, found):
                path = join(inside, found.name)
                if found.kind == "file":
                    yield path, found
                else:
                    levels.append((path, iter(self._listed(path))))

    def _is_loose(self, folder: str, entry: Entry) -> bool:
        """Whether a name outside of conversations is worth keeping; says so, or why not, in the flaws."""
        path = join(folder, entry.name)
        if path in self._left_out:
            return False
        if is_foreign(entry.name) or entry.name.startswith("."):
            self._note(_skipped(path, entry.name))
            return False
        if entry.kind in ("link", "special"):
            self._note(_unfollowed(path, entry))
            return False
        if entry.name in SECRET_FILES:
            self._note(Flaw("secret-file", path, "may hold keys in clear; it was skipped and stays in the source"))
            return False
        if entry.kind == "file":
            self._note(Flaw("unknown-file", path, "belongs to no conversation; it was kept as a file"))
        return True

    def _file(self, path: str, source_path: str, entry: Entry) -> SourceFile:
        return SourceFile(path, source_path, entry.size, entry.modified, self._read)

    def _read(self, path: str) -> bytes:
        return self._tree.read(join(self._root, path))

    def _bytes(self, path: str, entry: Entry | None, flaws: list[Flaw]) -> bytes | None:
        if entry is not None and entry.kind != "file":
            flaws.append(_unfollowed(path, entry))
            return None
        try:
            return self._read(path)
        except OSError as error:
            flaws.append(unreadable(path, error))
            return None

    def _listed(self, folder: str, flaws: list[Flaw] | None = None) -> list[Entry]:
        try:
            return self._tree.entries(join(self._root, folder) if folder else self._root)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            flaw = Flaw("unreadable-folder", folder or ".", f"cannot be listed ({error.strerror}); it was skipped")
            if flaws is None:
                self._note(flaw)
            else:
                flaws.append(flaw)
            return []

    def _note(self, *flaws: Flaw) -> None:
        self._flaws.update(dict.fromkeys(flaws))


@contextmanager
def open_home(
    path: str | os.PathLike[str], limits: Limits | None = None, left_out: Collection[str] = ()
) -> Iterator[Home]:
    """Open a state directory, or an archive of one, for reading.

    The state directory may be the folder or archive itself or one folder below it.

    Args:
        path: of the folder or archive.
        limits: on what is read.
        left_out: files and folders that belong to no conversation and are not to be read, by their paths in the state
            directory: the folder of the database that it is read into, for one.

    Raises:
        InvalidInput: there is no state directory, or there are several.
    """
    with open_source(path, limits) as tree:
        yield Home(os.fspath(path), tree, _find_root(tree, str(path)), left_out)


def unreadable(path: str, error: OSError) -> Flaw:
    """The flaw of a file that could not be read."""
    return Flaw("unreadable-file", path, f"cannot be read ({error.strerror}); it was skipped")


def _find_root(tree: Tree, shown: str) -> str:
    try:
        top = tree.entries("")
    except OSError as error:
        raise InvalidInput(f"{shown} cannot be listed: {error.strerror}.") from error
    if _is_home(top):
        return ""
    found = []
    for entry in top:
        if entry.kind == "folder" and not is_foreign(entry.name):
            try:
                below = tree.entries(entry.name)
            except OSError:
                continue
            if _is_home(below):
                found.append(entry.name)
    if len(found) == 1:
        return found[0]
    if found:
        raise InvalidInput(f"{shown} holds several state directories ({', '.join(found)}). Name one of them.")
    raise InvalidInput(
        f"{shown} holds no OpenHands state: expected sessions/, users/, settings.json or secrets.json in it "
        "or one folder below. OpenHands keeps it in ~/.openhands unless told otherwise."
    )


def _is_home(entries: list[Entry]) -> bool:
    return any(
        entry.name in _MARKS and entry.kind == ("folder" if entry.name in _ROOT_FOLDERS else "file")
        for entry in entries
    )


def _numbered_events(files: Iterable[SourceFile]) -> dict[int, SourceFile]:
    found = {}
    for file in files:
        match = EVENT_PATH.fullmatch(file.path.split("/", 2)[-1])
        if match:
            found[int(match[1])] = file
    return found


def _skipped(path: str, name: str) -> Flaw:
    if is_foreign(name):
        return Flaw("foreign-file", path, "is the operating system's, not OpenHands'; it was skipped")
    return Flaw("hidden-file", path, "is hidden and belongs to no conversation; it was skipped")


def _unfollowed(path: str, entry: Entry) -> Flaw:
    if entry.kind == "link":
        return Flaw("link", path, "is a link; it was not followed")
    return Flaw("special-file", path, "is not a regular file; it was skipped")
