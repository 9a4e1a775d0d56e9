"""The text of a key file is people's: their lines and comments survive what this program changes."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from storage.encryption.providers.key_file_text import HEADER, new_text, with_key_first, with_keys_behind
from storage.encryption.providers.local_keys import MasterKey, parse_master_keys

KEYS = [MasterKey(hashlib.sha256(b"key %d" % number).digest()) for number in range(5)]
A, B, C = KEYS[:3]
a, b, c = (key.encoded() for key in KEYS[:3])


def keys_of(text: str) -> tuple[MasterKey, ...]:
    return parse_master_keys(text, "the test")


def test_a_new_file_says_what_it_is() -> None:
    text = new_text([A, B])
    assert text.startswith(HEADER)
    assert keys_of(text) == (A, B)
    assert all(line.startswith("#") for line in text.splitlines() if line and line not in (a, b))


def test_a_comment_moves_with_the_key_below_it() -> None:
    text = f"# of 2024\n{a}\n\n# of 2025,\n# in use\n{b}\n# the end\n"
    assert with_key_first(text, B) == f"# of 2025,\n# in use\n{b}\n# of 2024\n{a}\n\n# the end\n"


def test_the_header_stays_on_top() -> None:
    text = with_key_first(new_text([A, B]), B)
    assert text.startswith(HEADER)
    assert keys_of(text) == (B, A)


def test_a_key_among_others_on_a_line_leaves_the_line() -> None:
    assert with_key_first(f"# both\n{a},{b} {c}\n", B) == f"{b}\n# both\n{a} {c}\n"


def test_a_key_that_is_first_stays_where_it_is() -> None:
    text = f"{a}, {b}"
    assert with_key_first(text, A) is text


def test_a_key_that_is_written_twice_is_moved_as_one() -> None:
    again = b.rstrip("=").replace("+", "-").replace("/", "_")
    assert keys_of(with_key_first(f"{a}\n{b}\n{c}\n{again}", B)) == (B, A, C)


def test_keys_are_added_below_whatever_ends_the_file() -> None:
    for end in ("", "\n", "\r\n", "\n# the end", "\n# the end\n\n"):
        text = a + end
        longer = with_keys_behind(text, [B, A, C, B])
        assert longer.startswith(text)
        assert keys_of(longer) == (A, B, C)
        assert with_keys_behind(longer, [C, B]) is longer


lines = st.lists(
    st.one_of(
        st.sampled_from(["", "  ", "# a comment", f"# {a}", "#", "  # indented"]),
        st.lists(st.sampled_from([key.encoded() for key in KEYS]), min_size=1, max_size=3).map(", ".join),
    ),
    max_size=12,
).map(lambda lines: [*lines, a])


@given(lines, st.sampled_from(["\n", "\r\n"]), st.data())
def test_no_order_of_changes_loses_a_key_or_a_comment(lines: list[str], newline: str, data: st.DataObject) -> None:
    text = newline.join(lines)
    comments = sorted(line.strip() for line in lines if line.lstrip().startswith("#"))
    expected = keys_of(text)
    for _ in range(3):
        key = data.draw(st.sampled_from(expected))
        text, expected = with_key_first(text, key), (key, *(other for other in expected if other != key))
        assert keys_of(text) == expected
        new = data.draw(st.sampled_from(KEYS))
        text = with_keys_behind(text, [new])
        expected = tuple(dict.fromkeys((*expected, new)))
        assert keys_of(text) == expected
    kept = sorted(line.strip() for line in text.splitlines() if line.lstrip().startswith("#"))
    assert [line for line in kept if "Stored here on" not in line] == comments
