"""A token's host is compared whole, by name and port."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.git_credentials.hosts import Host, is_loopback


@pytest.mark.parametrize(
    ("stored", "name", "encrypted_only"),
    [
        ("git.example.com", "git.example.com", False),
        ("Git.Example.COM", "git.example.com", False),
        (" git.example.com ", "git.example.com", False),
        ("git.example.com:8443", "git.example.com:8443", False),
        ("https://git.example.com", "git.example.com", True),
        ("HTTPS://git.example.com/", "git.example.com", True),
        ("http://git.example.com/api/v4", "git.example.com", False),
        ("https://git.example.com:8443/gitlab/x?y#z", "git.example.com:8443", True),
        ("dev.azure.com/contoso/project", "dev.azure.com", False),
        ("[::1]:3000", "[::1]:3000", False),
        ("müller.example", "müller.example", False),
    ],
)
def test_a_host_is_read_from_what_people_store(stored: str, name: str, encrypted_only: bool) -> None:
    assert Host.stored(stored) == Host(name, encrypted_only)


@pytest.mark.parametrize(
    "stored",
    [
        "",
        " ",
        "/",
        "https://",
        "ssh://git.example.com",
        "me@git.example.com",
        "https://me:pw@git.example.com",
        "https://git.example.com\\@evil.example",
        "git.example.com evil.example",
        "git.example.com:port",
        "git.example.com:",
        "git.example.com?evil.example",
        "git.example.com#evil.example",
        "git%2eexample.com",
        "*.example.com]",
        "a\0b",
    ],
)
def test_what_names_no_host_for_certain_names_none(stored: str) -> None:
    assert Host.stored(stored) is None


@given(st.text(max_size=40))
def test_a_host_is_that_of_a_request_only_where_the_two_are_the_same(text: str) -> None:
    stored = Host.stored("github.com")
    assert stored is not None
    ascii_lowered = "".join(chr(ord(sign) + 32) if "A" <= sign <= "Z" else sign for sign in text)
    assert stored.is_that_of(text) == (ascii_lowered == "github.com")


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True),
        ("LOCALHOST:8080", True),
        ("127.0.0.1", True),
        ("127.8.9.1:80", True),
        ("[::1]", True),
        ("[::1]:3000", True),
        ("localhost.evil.example", False),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("127.0.0.1@evil.example", False),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("127.1", False),
        ("[fe80::1]:80", False),
        ("", False),
    ],
)
def test_only_this_machine_is_this_machine(host: str, local: bool) -> None:
    assert is_loopback(host) is local
