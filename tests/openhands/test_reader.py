"""State directories as records: both layouts, every flaw by its name, and no change to the source."""

from __future__ import annotations

import hashlib
import os
import socket
from typing import TYPE_CHECKING

import pytest

from storage.errors import InvalidInput
from storage.files.paths import conversation_of, file_path
from storage.identity import checked_id
from storage.openhands.flaws import FLAW_CODES, Flaw, count_by_code
from storage.openhands.names import storable_id, storable_path
from storage.openhands.reader import open_home
from storage.openhands.source import Limits
from tests.openhands.conftest import UNHURRIED

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.openhands.conftest import Reading, StateDirectory

from hypothesis import given
from hypothesis import strategies as st


def test_both_layouts_are_read_in_order(state: StateDirectory, reading: Callable[[], Reading]) -> None:
    state.conversation("b")
    state.conversation("a")
    state.conversation("c", user="zoe")
    state.conversation("d", user="alice")
    found = reading()
    assert [(record.user, record.conversation_id) for record in found.conversations] == [
        (None, "a"),
        (None, "b"),
        ("alice", "d"),
        ("zoe", "c"),
    ]
    assert found.flaws == []


def test_files_of_a_users_layout_get_the_paths_that_every_user_has(
    state: StateDirectory, reading: Callable[[], Reading]
) -> None:
    state.conversation("c", user="zoe")
    (file,) = reading().only.files
    assert file.path == "sessions/c/events/0.json"
    assert file.source_path == "users/zoe/conversations/c/events/0.json"


def test_events_come_in_the_order_of_their_numbers(state: StateDirectory, reading: Callable[[], Reading]) -> None:
    state.conversation()
    for number in range(1, 12):
        state.write(f"sessions/c1/events/{number}.json", {"id": number})
    files = [file.path for file in reading().only.files]
    assert files == [f"sessions/c1/events/{number}.json" for number in range(12)]


def test_good_metadata_is_not_also_a_file(state: StateDirectory, reading: Callable[[], Reading]) -> None:
    state.conversation()
    assert "sessions/c1/metadata.json" not in reading().content


def test_broken_metadata_is_also_a_file(state: StateDirectory, reading: Callable[[], Reading]) -> None:
    state.conversation()
    state.write("sessions/c1/metadata.json", b'{"conv')
    found = reading()
    assert found.content["sessions/c1/metadata.json"] == b'{"conv'
    assert found.codes == ["metadata-broken"]


def test_a_conversation_without_metadata_is_rebuilt(state: StateDirectory, reading: Callable[[], Reading]) -> None:
    state.conversation()
    (state.root / "sessions/c1/metadata.json").unlink()
    found = reading()
    assert found.only.fields.values["title"] == "hello"
    assert found.codes == ["metadata-missing"]


def test_everything_in_a_conversations_folder_is_kept(state: StateDirectory, reading: Callable[[], Reading]) -> None:
    state.conversation()
    state.write("sessions/c1/agent_state.pkl", b"\x80\x04")
    state.write("sessions/c1/event_cache/0-25.json", [])
    state.write("sessions/c1/.hidden", "x")
    state.write("sessions/c1/deep/er/metadata.json", "not the metadata")
    found = reading()
    assert sorted(found.content) == [
        "sessions/c1/.hidden",
        "sessions/c1/agent_state.pkl",
        "sessions/c1/deep/er/metadata.json",
        "sessions/c1/event_cache/0-25.json",
        "sessions/c1/events/0.json",
    ]
    assert found.flaws == []


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini", "._0.json"])
def test_an_operating_systems_file_is_skipped(state: StateDirectory, reading: Callable[[], Reading], name: str) -> None:
    state.conversation()
    for folder in ("", "sessions/", "sessions/c1/", "sessions/c1/events/", "users/"):
        state.write(folder + name, "x")
    found = reading()
    assert list(found.content) == ["sessions/c1/events/0.json"]
    assert (found.codes, found.loose_files) == (["foreign-file"] * 5, [])


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff"])
def test_an_event_that_is_not_json_is_kept_and_told(
    state: StateDirectory, reading: Callable[[], Reading], content: bytes
) -> None:
    state.conversation()
    state.write("sessions/c1/events/0.json", content)
    found = reading()
    (file,) = found.only.files
    flaw = file.examine(file.read())
    assert found.content[file.path] == content
    assert flaw is not None
    assert (flaw.code, flaw.path) == ("event-broken", "sessions/c1/events/0.json")


def test_only_events_are_examined(state: StateDirectory, reading: Callable[[], Reading]) -> None:
    state.conversation()
    state.write("sessions/c1/llm_registry.json", "{")
    assert [file.examine(file.read()) for file in reading().only.files] == [None, None]


def test_gaps_between_events_are_told(state: StateDirectory, reading: Callable[[], Reading]) -> None:
    state.conversation()
    for number in (2, 3, 7):
        state.write(f"sessions/c1/events/{number}.json", {})
    assert [flaw.message for flaw in reading().flaws] == ["has no event 1", "has no event 4 to 6"]


def test_an_empty_folder_is_no_conversation(state: StateDirectory, reading: Callable[[], Reading]) -> None:
    (state.root / "sessions/c1/events").mkdir(parents=True)
    found = reading()
    assert (found.conversations, found.codes) == ([], ["empty-conversation"])


def test_a_conversation_in_two_places_is_put_together(state: StateDirectory, reading: Callable[[], Reading]) -> None:
    state.write("sessions/c1/metadata.json", {"created_at": "2025-09-01T10:00:00Z", "title": "told apart"})
    state.write("users/alice/conversations/c1/events/0.json", {"id": 0})
    found = reading()
    assert found.only.user == "alice"
    assert found.only.fields.values["title"] == "told apart"
    assert list(found.content) == ["sessions/c1/events/0.json"]
    assert found.codes == ["split-conversation"]


def test_files_that_collide_when_put_together_are_both_kept(
    state: StateDirectory, reading: Callable[[], Reading]
) -> None:
    state.conversation("c1", user="alice")
    state.write("sessions/c1/events/0.json", "other bytes")
    found = reading()
    assert sorted(found.content) == ["sessions/c1/events/0.json", "sessions/c1/events/0.json~2"]
    assert found.codes == ["renamed-file", "split-conversation"]


def test_a_file_that_cannot_be_read_is_told_and_the_rest_is_read(
    state: StateDirectory, reading: Callable[[], Reading], monkeypatch: pytest.MonkeyPatch
) -> None:
    state.conversation("c1")
    state.conversation("c2")
    if os.geteuid() == 0:
        # Permissions do not bind root, so let the file vanish between listing and reading instead.
        with open_home(state.root) as home:
            records = home.conversations()
            first = next(records)
            (state.root / first.files[0].source_path).unlink()
            with pytest.raises(FileNotFoundError):
                first.files[0].read()
            assert next(records).conversation_id == "c2"
        return
    (state.root / "sessions/c1/metadata.json").chmod(0)
    found = reading()
    assert [record.conversation_id for record in found.conversations] == ["c1", "c2"]
    assert found.codes == ["metadata-missing", "unreadable-file"]


def test_links_are_told_and_not_followed(state: StateDirectory, reading: Callable[[], Reading], tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    state.conversation()
    (state.root / "sessions/c1/events/1.json").symlink_to(outside)
    (state.root / "sessions/c2").symlink_to(state.root / "sessions/c1")
    (state.root / "users").mkdir()
    (state.root / "users/alice").symlink_to(state.root)
    (state.root / "secrets.json").symlink_to(outside)
    found = reading()
    assert list(found.content) == ["sessions/c1/events/0.json"]
    assert found.codes == ["link"] * 4


def test_a_link_put_in_a_files_place_is_not_followed(state: StateDirectory, tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    state.conversation()
    with open_home(state.root) as home:
        (file,) = next(home.conversations()).files
        (state.root / file.source_path).unlink()
        (state.root / file.source_path).symlink_to(outside)
        with pytest.raises(OSError, match="symbolic link"):
            file.read()


def test_pipes_and_sockets_are_told_and_not_opened(
    state: StateDirectory, reading: Callable[[], Reading], monkeypatch: pytest.MonkeyPatch
) -> None:
    state.conversation()
    os.mkfifo(state.root / "sessions/c1/pipe")
    monkeypatch.chdir(state.root / "sessions/c1")  # a socket's path may have 107 bytes
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    assert reading().codes == ["special-file", "special-file"]


def test_a_file_over_the_limit_is_not_read(state: StateDirectory) -> None:
    state.conversation()
    state.write("sessions/c1/big", b"x" * 2000)
    with open_home(state.root, Limits(file_bytes=1000)) as home:
        big = next(file for file in next(home.conversations()).files if file.path.endswith("big"))
        with pytest.raises(OSError, match="larger than 1,000 bytes"):
            big.read()


def test_files_beside_conversations_are_kept_with_their_user(
    state: StateDirectory, reading: Callable[[], Reading]
) -> None:
    state.conversation()
    state.write("cache/models.json", {})
    state.write("notes.txt", "n")
    state.write("sessions/stray.json", {})
    state.write("users/alice/profile.json", {})
    found = reading()
    assert [(user, file.path) for user, file in found.loose_files] == [
        (None, "cache/models.json"),
        (None, "notes.txt"),
        (None, "sessions/stray.json"),
        ("alice", "users/alice/profile.json"),
    ]
    assert found.codes == ["unknown-file"] * 4


def test_files_with_keys_in_clear_and_hidden_files_stay_where_they_are(
    state: StateDirectory, reading: Callable[[], Reading]
) -> None:
    state.conversation()
    state.write("config.toml", 'api_key = "k"')
    state.write(".jwt_secret", "s")
    state.write("cli/.keys/a", "s")
    state.write("cli/agent_settings.json", "s")
    found = reading()
    assert found.loose_files == []
    assert found.codes == ["hidden-file", "hidden-file", "secret-file", "secret-file"]


def test_names_that_cannot_be_stored_are_escaped(state: StateDirectory, reading: Callable[[], Reading]) -> None:
    state.conversation("tab\tbed")
    state.write("sessions/tab\tbed/events/new\nline.json", "x")
    state.write("sessions/tab\tbed/back\\slash", "x")
    os.rename(  # noqa: PTH104 - a name that is not UTF-8 is given as bytes
        os.fsencode(state.write("sessions/tab\tbed/latin", "x")),
        os.fsencode(state.root / "sessions/tab\tbed") + b"/latin-\xe9",
    )
    found = reading()
    assert found.only.conversation_id == "tab%09bed"
    assert sorted(found.content) == [
        "sessions/tab%09bed/back%5Cslash",
        "sessions/tab%09bed/events/0.json",
        "sessions/tab%09bed/events/new%0Aline.json",
        "sessions/tab%09bed/latin-%E9",
    ]
    assert found.only.fields.extra == {"metadata_conversation_id": "tab\tbed"}
    assert found.codes == ["id-differs", *["renamed-file"] * 4]
    assert all(flaw.path.isprintable() and flaw.message.isprintable() for flaw in found.flaws)


@UNHURRIED
@given(
    st.lists(
        st.text(min_size=1).filter(lambda name: "/" not in name and name not in (".", "..")),
        min_size=1,
        max_size=3,
    )
)
def test_every_name_becomes_a_path_that_the_catalogue_takes(parts: list[str]) -> None:
    path = storable_path("/".join(parts))
    assert file_path(path) == path
    assert storable_path(path) == path


@UNHURRIED
@given(st.text(min_size=1).filter(lambda name: "/" not in name and name not in (".", "..")))
def test_every_name_becomes_an_id_whose_files_are_found_by_it(name: str) -> None:
    identity = storable_id(name)
    assert checked_id("conversation_id", identity) == identity
    assert conversation_of(file_path(storable_path(f"sessions/{identity}/events/0.json"))) == identity


def test_a_state_directory_one_folder_below_is_found(state: StateDirectory, tmp_path: Path) -> None:
    state.conversation()
    with open_home(tmp_path) as home:
        assert [record.source_path for record in home.conversations()] == ["sessions/c1"]


def test_a_folder_without_state_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no OpenHands state: expected sessions/"), open_home(tmp_path):
        pass


def test_a_folder_with_several_state_directories_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "sessions").mkdir(parents=True)
    with pytest.raises(InvalidInput, match=r"several state directories \(a, b\)"), open_home(tmp_path):
        pass


def test_a_source_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="No such file"), open_home(tmp_path / "nowhere"):
        pass


def test_a_home_without_conversations_is_empty(state: StateDirectory, reading: Callable[[], Reading]) -> None:
    (state.root / "sessions").mkdir()
    found = reading()
    assert (found.conversations, found.accounts, found.loose_files, found.flaws) == ([], [], [], [])


def test_reading_changes_nothing(state: StateDirectory, reading: Callable[[], Reading]) -> None:
    def fingerprint() -> list[tuple[str, int, str]]:
        return [
            (str(path), path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
            for path in sorted(state.root.rglob("*"))
            if path.is_file()
        ]

    state.conversation("c1")
    state.write("sessions/c2/metadata.json", "{")
    state.write("settings.json", {"llm_api_key": "**********"})
    before = fingerprint()
    reading()
    assert fingerprint() == before


def test_reading_twice_tells_everything_once(state: StateDirectory) -> None:
    state.conversation()
    state.write("sessions/.DS_Store", "x")
    with open_home(state.root) as home:
        assert [len(list(home.conversations())) for _ in range(2)] == [1, 1]
        assert home.count_conversations() == 1
        assert count_by_code(home.flaws) == {"foreign-file": 1}


def test_a_flaw_has_a_code_from_the_list() -> None:
    assert str(Flaw("link", "a", "b")) == "a: b [link]"
    with pytest.raises(ValueError, match="not a flaw code"):
        Flaw("typo", "a", "b")
    assert all(code == code.lower() and " " not in code for code in FLAW_CODES)
