from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.openhands.importer import import_home
from storage.openhands.locations import home_path, owner_and_path
from storage.storage import Storage
from tests.openhands.conftest import StateDirectory

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/", exclude_categories=("Cc", "Cs")), min_size=1
).filter(lambda name: name not in (".", ".."))


@pytest.mark.parametrize(
    ("path", "owner", "inner"),
    [
        ("sessions/c1/events/0.json", None, "sessions/c1/events/0.json"),
        ("/sessions/c1/events/", None, "sessions/c1/events/"),
        ("./settings.json", None, "settings.json"),
        ("", None, ""),
        ("users/alice/conversations/c1/events/0.json", "alice", "sessions/c1/events/0.json"),
        ("users/alice/conversations/c1/", "alice", "sessions/c1/"),
        ("users/alice/conversations/", "alice", "sessions/"),
        ("users/alice/conversations/notes.txt", "alice", "users/alice/conversations/notes.txt"),
        ("users/alice/conversations", "alice", "users/alice/conversations"),
        ("users/alice/notes/a.txt", "alice", "users/alice/notes/a.txt"),
        ("users/alice/", "alice", "users/alice/"),
        ("users/", None, "users/"),
        ("users/README", None, "users/README"),
        ("users//conversations/c1/x", None, "users//conversations/c1/x"),
        ("usersfile", None, "usersfile"),
    ],
)
def test_a_path_names_its_owner_and_the_catalogues_path(path: str, owner: str | None, inner: str) -> None:
    assert owner_and_path(path) == (owner, inner)


@pytest.mark.parametrize(
    ("user", "path", "home"),
    [
        (None, "sessions/c1/events/0.json", "sessions/c1/events/0.json"),
        ("local", "notes.txt", "notes.txt"),
        ("alice", "sessions/c1/events/0.json", "users/alice/conversations/c1/events/0.json"),
        ("alice", "sessions/c1/", "users/alice/conversations/c1/"),
        ("alice", "sessions/", "users/alice/conversations/"),
        ("alice", "users/alice/notes.txt", "users/alice/notes.txt"),
        ("alice", "users/bob/notes.txt", "users/alice/users/bob/notes.txt"),
        ("alice", "notes.txt", "users/alice/notes.txt"),
    ],
)
def test_a_file_of_a_catalogue_has_one_place_in_a_state_directory(user: str | None, path: str, home: str) -> None:
    assert home_path(user, path) == home


@given(st.lists(st.one_of(st.sampled_from(["users", "sessions", "conversations", "alice"]), NAMES), max_size=6))
def test_every_path_is_found_again(parts: list[str]) -> None:
    path = "/".join(parts)
    owner, inner = owner_and_path(path)
    if owner != "local":
        assert home_path(owner, inner) == path


async def test_the_importer_puts_files_where_the_paths_say(storage: Storage, state: StateDirectory) -> None:
    state.conversation("c1")
    state.conversation("c2", user="alice")
    for path in ("notes.txt", "sessions/beside.txt", "users/alice/own.txt", "users/alice/conversations/beside.txt"):
        state.write(path, path)
    await import_home(storage, state.root)
    for found in state.root.rglob("*"):
        if found.is_file() and found.name != "metadata.json":
            owner, inner = owner_and_path(found.relative_to(state.root).as_posix())
            assert await storage.user(owner).files.read(inner) == found.read_bytes()
