"""git's lines are read as git writes them, and what git would not write is refused without a word of what was in it."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from storage.errors import InvalidInput
from storage.git_credentials.protocol import (
    MAX_REQUEST_BYTES,
    Credential,
    CredentialRequest,
    read_request,
    response,
)

CANARY = "canary-7f3a9c51e0"


def read(content: bytes) -> CredentialRequest:
    return read_request(io.BytesIO(content))


def test_a_request_is_read_up_to_the_empty_line() -> None:
    stream = io.BytesIO(b"protocol=https\nhost=git.example.com:8443\nusername=me\n\nhost=other.example.com\n")
    request = read_request(stream)
    assert (request.protocol, request.host, request.username) == ("https", "git.example.com:8443", "me")
    assert request.password is None
    assert stream.read() == b"host=other.example.com\n"


def test_the_end_of_the_stream_ends_a_request_too() -> None:
    request = read(b"protocol=https\nhost=git.example.com\npassword=a=b=c")
    assert request.password == SecretStr("a=b=c")
    assert request.username is None


def test_what_later_releases_of_git_add_is_passed_over() -> None:
    request = read(
        b"capability[]=authtype\ncapability[]=state\nprotocol=https\nhost=git.example.com\npath=a/b.git\n"
        b'wwwauth[]=Basic realm="x"\nwwwauth[]=Bearer\nstate[]=one\nauthtype=Basic\noauth_refresh_token=r\n\n'
    )
    assert request == CredentialRequest("https", "git.example.com")


@pytest.mark.parametrize(
    ("line", "lasting"),
    [
        (b"", True),
        (b"password_expiry_utc=1700000000\n", False),
        (b"ephemeral=1\n", False),
        (b"ephemeral=true\n", False),
        (b"ephemeral=0\n", True),
        (b"ephemeral=\n", True),
    ],
)
def test_a_password_that_expires_or_is_not_to_be_stored_is_told_apart(line: bytes, lasting: bool) -> None:
    assert read(b"protocol=https\nhost=git.example.com\n" + line).lasting is lasting


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"host=github.com\n",
        b"protocol=https\n",
        b"protocol=https\nhost=\n",
        b"protocol=\nhost=github.com\n",
        # A line that somebody's address has put in between: CVE-2020-5260 and CVE-2020-11008.
        b"protocol=https\nhost=evil.example\nhost=github.com\n",
        b"protocol=https\nhost=github.com\nprotocol=http\n",
        b"protocol=https\nhost=github.com\nusername=a\nusername=b\n",
        b"protocol=https\nhost=github.com\npassword=a\npassword=b\n",
        b"url=https://github.com/a/b.git\n",
        b"protocol=https\nhost=evil.example\nurl=https://github.com\n",
        # A carriage return that another reader takes for the end of a line: CVE-2024-52006.
        b"protocol=https\nhost=evil.example\rhost=github.com\n",
        b"protocol=https\r\nhost=github.com\r\n",
        b"protocol=https\nhost=github.com\r\n",
        b"protocol=https\nhost=github.com\npath=a\rb\n",
        b"protocol=https\nhost=github.com\0.evil.example\n",
        b"protocol=https\nhost=github.com\nunknown=\0\n",
        b"protocol=https\nhost=github.com\nusername\n",
        b"protocol=https\nhost=github.com\n=value\n",
        b"protocol=https\nhost=\xff\xfe\n",
        b"protocol=https\nhost=github.com\nunknown=" + b"a" * MAX_REQUEST_BYTES,
    ],
)
def test_what_git_does_not_send_is_refused_as_a_whole(content: bytes) -> None:
    with pytest.raises(InvalidInput) as refused:
        read(content)
    assert "github" not in str(refused.value)
    assert "evil" not in str(refused.value)


def test_a_refusal_and_a_repr_show_no_password() -> None:
    with pytest.raises(InvalidInput) as refused:
        read(f"protocol=https\nhost=github.com\npassword={CANARY}\npassword={CANARY}\n".encode())
    assert CANARY not in str(refused.value)
    assert refused.value.__cause__ is None
    request = read(f"protocol=https\nhost=github.com\nusername=a\npassword={CANARY}\n".encode())
    assert CANARY not in repr(request)
    assert CANARY not in repr(Credential("a", SecretStr(CANARY)))


def test_a_protocol_that_has_no_host_is_read() -> None:
    assert read(b"protocol=cert\npath=/home/me/client.pem\n").host == ""


def test_an_answer_is_two_lines_and_names_no_host() -> None:
    assert response(Credential("oauth2", SecretStr("a=b"))) == b"username=oauth2\npassword=a=b\n"


@pytest.mark.parametrize(
    ("name", "password"), [("a\nb", CANARY), ("a", f"{CANARY}\n"), ("a", f"{CANARY}\r"), ("\0", "")]
)
def test_an_answer_that_would_be_read_as_more_lines_is_refused(name: str, password: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        response(Credential(name, SecretStr(password)))
    assert CANARY not in str(refused.value)


@given(
    st.binary(max_size=200)
    | st.lists(st.sampled_from([b"protocol=https", b"host=a", b"\n", b"=", b"\r"])).map(b"\n".join)
)
def test_any_bytes_are_a_request_or_refused(content: bytes) -> None:
    try:
        request = read(content)
    except InvalidInput:
        return
    assert request.protocol
    assert not any(sign in request.host for sign in "\n\r\0")
