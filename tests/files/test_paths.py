"""The path rule by itself: its edges, its messages, and that a normal form is one."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import PathRejected
from storage.files.paths import (
    MAX_PATH_BYTES,
    conversation_of,
    file_path,
    folder_path,
    tree_path,
    under,
)
from storage.testing.file_paths import ACCEPTED_PATHS, REJECTED_PATHS

AWKWARD = st.text(st.sampled_from("a./\\\0\n~%é\u0301\ud800\uffff😀"), max_size=12)
ANY_PATH = st.one_of(st.text(max_size=300), AWKWARD, st.sampled_from([*ACCEPTED_PATHS, *REJECTED_PATHS]))


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("", "is empty"),
        ("a/", "names a folder"),
        ("a//b", "empty segment"),
        ("a/../b", r"segment '\.\.'"),
        ("a/./b", r"segment '\.'"),
        ("a\0b", r"U\+0000 at character 1"),
        ("a\nb", r"U\+000A at character 1"),
        ("a\\b", "backslash"),
        ("a\ud800", r"U\+D800"),
        ("é" * 128, "256 bytes"),
        ("/".join(["d" * 204] * 5 + ["x"]), "1026 bytes"),
        (".storage-tmp-" + "0" * 32, "temporary"),
        (None, "must be a str, not NoneType"),
        (b"a", "must be a str, not bytes"),
    ],
)
def test_a_rejection_says_what_was_wrong(path: str, complaint: str) -> None:
    with pytest.raises(PathRejected, match=complaint):
        file_path(path)


def test_a_rejection_does_not_repeat_an_endless_path() -> None:
    with pytest.raises(PathRejected) as rejected:
        file_path("x" * 100_000)
    assert len(str(rejected.value)) < 300


@pytest.mark.parametrize("root", ["", "/", ".", "./"])
def test_the_root_is_a_folder_that_cannot_be_deleted(root: str) -> None:
    assert folder_path(root) == ""
    with pytest.raises(PathRejected, match="whole store"):
        tree_path(root)


@pytest.mark.parametrize("path", ["a/b", "a/b/", "/a/b", "./a/b/"])
def test_a_trailing_slash_of_a_folder_is_dropped(path: str) -> None:
    assert folder_path(path) == "a/b"
    assert tree_path(path) == "a/b"


def test_only_one_trailing_slash_is_dropped() -> None:
    for path in ("a//", "//"):
        with pytest.raises(PathRejected):
            folder_path(path)


@given(ANY_PATH)
def test_an_accepted_path_keeps_the_whole_rule(path: str) -> None:
    try:
        normal = file_path(path)
    except PathRejected:
        return
    assert file_path(normal) == normal
    assert file_path("/" + normal) == normal
    assert file_path("./" + normal) == normal
    assert folder_path(normal + "/") == normal
    assert unicodedata.is_normalized("NFC", normal)
    assert 0 < len(normal.encode()) <= MAX_PATH_BYTES
    for segment in normal.split("/"):
        assert segment not in ("", ".", "..")
        assert len(segment.encode()) <= 255
        assert "\\" not in segment
        assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in segment)


@given(ANY_PATH)
def test_canonically_equal_paths_are_one_file(path: str) -> None:
    answers = set()
    for form in ("NFC", "NFD"):
        try:
            answers.add(file_path(unicodedata.normalize(form, path)))
        except PathRejected:
            answers.add("rejected")
    assert len(answers) == 1


@given(st.sampled_from(["", "a", "a/b", "é"]), ANY_PATH)
def test_the_range_below_a_folder_holds_exactly_what_is_below_it(folder: str, path: str) -> None:
    try:
        normal = file_path(path)
    except PathRejected:
        return
    low, high = under(folder)
    for candidate in (normal, f"{folder}/{normal}", f"{folder}{normal}"):
        inside = candidate.startswith(f"{folder}/") if folder else True
        assert (low <= candidate < high) == inside
        assert (low.encode() <= candidate.encode() < high.encode()) == inside


@pytest.mark.parametrize(
    ("path", "conversation"),
    [
        ("sessions/c1/metadata.json", "c1"),
        ("sessions/c1/events/0.json", "c1"),
        ("conversations/c1/events/0.json", "c1"),
        ("users/u1/conversations/c1/metadata.json", "c1"),
        ("users/u1/conversations/c1/events/0.json", "c1"),
        ("sessions/c1", None),
        ("users/u1/conversations/c1", None),
        ("users/u1/sessions/c1/x", None),
        ("other/sessions/c1/x", None),
        ("sessions.json", None),
        ("settings.json", None),
    ],
)
def test_a_file_belongs_to_the_conversation_whose_folder_it_is_in(path: str, conversation: str | None) -> None:
    assert conversation_of(path) == conversation
