"""Real git, asking this helper for real: it gets in where the token is for the host, and shows it to nobody else."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.cli.conftest import REPOSITORY, WRONG_KEY
from tests.cli.standard_input import Piped, revealed
from tests.git_credentials.git_host import GitHost, git

TOKEN = "canary-7f3a9c51e0"
STALE = "canary-of-yesterday"

Hosts = Callable[..., GitHost]


class Desk:
    """Somebody who has a storage, and git configured to ask it."""

    def __init__(self, folder: Path, database_url: str | None) -> None:
        self.folder = folder
        self.shell = Piped(folder, database_url)
        self.shell.into(b"").well("init")

    def has(self, token: str, host: str, user: str = "alice", provider: str = "gitlab") -> None:
        self.shell.into(token.encode()).well("secrets", "set", provider, "--provider", "--host", host, "--user", user)

    def token(self, user: str = "alice", provider: str = "gitlab") -> str | None:
        """The stored token; None if there is none."""
        for info in self.shell.well("secrets", "list", "--user", user, "--json").json:
            if (info["name"], info["state"]) == (provider, "set"):
                return revealed(self.shell, provider, "--provider", "--user", user).decode().rstrip("\n")
        return None

    def git(
        self, *words: str | Path, helper: str = "--user alice", after: str = "", **more: str
    ) -> CompletedProcess[str]:
        """Run git with the helper, and with another one `after` it."""
        command = f"!{shlex.quote(sys.executable)} -m storage git-credential {helper}"
        others = ("-c", f"credential.helper={after}") if after else ()
        environment = {**self.shell.environment, "PYTHONPATH": str(REPOSITORY), "PATH": os.environ["PATH"], **more}
        environment.pop("HOME")
        return git("-c", f"credential.helper={command}", *others, *words, home=self.folder, **environment)

    def clone(self, url: str, **options: str) -> CompletedProcess[str]:
        return self.git("clone", "--quiet", url, self.folder / "clone", **options)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path, None)


@pytest.fixture
def either_desk(tmp_path: Path, database_url: str) -> Desk:
    return Desk(tmp_path, database_url)


def test_git_clones_and_fetches_with_the_stored_token(either_desk: Desk, host: Hosts) -> None:
    place = host(TOKEN)
    either_desk.has(TOKEN, place.authority)
    cloned = either_desk.clone(place.url)
    assert (cloned.returncode, cloned.stderr) == (0, "")
    assert (either_desk.folder / "clone" / "README.md").read_text() == "hello\n"
    assert place.shown[0] is None
    assert place.shown[1] == ("oauth2", TOKEN)
    fetched = either_desk.git("-C", either_desk.folder / "clone", "fetch", "--quiet")
    assert (fetched.returncode, fetched.stderr) == (0, "")
    assert either_desk.token() == TOKEN


def test_the_token_stays_out_of_the_clone_and_of_what_git_traces(desk: Desk, host: Hosts) -> None:
    place = host(TOKEN)
    desk.has(TOKEN, place.authority)
    cloned = desk.clone(place.url, GIT_TRACE="1", GIT_TRACE_CURL="1", GIT_CURL_VERBOSE="1")
    assert cloned.returncode == 0
    assert "git-credential" in cloned.stderr
    assert TOKEN not in cloned.stderr + cloned.stdout
    held = [path for path in (desk.folder / "clone").rglob("*") if path.is_file()]
    assert held
    assert not any(TOKEN.encode() in path.read_bytes() for path in held)


def test_another_port_is_another_host(desk: Desk, host: Hosts) -> None:
    place, stranger = host(TOKEN), host(TOKEN)
    desk.has(TOKEN, place.authority)
    cloned = desk.clone(stranger.url)
    assert cloned.returncode != 0
    assert stranger.shown == [None]
    assert TOKEN not in cloned.stderr


def test_another_name_for_the_same_machine_is_another_host(desk: Desk, host: Hosts) -> None:
    place = host(TOKEN)
    desk.has(TOKEN, place.authority)
    cloned = desk.clone(place.url.replace("127.0.0.1", "localhost"))
    assert cloned.returncode != 0
    assert place.passwords == set()


def test_a_host_that_sends_git_elsewhere_does_not_send_the_token_there(desk: Desk, host: Hosts) -> None:
    stranger = host(TOKEN)
    place = host(redirect_to=f"http://{stranger.authority}")
    desk.has(TOKEN, place.authority)
    cloned = desk.clone(place.url)
    assert cloned.returncode != 0
    assert stranger.shown
    assert set(stranger.shown) == {None}


def test_nor_does_a_host_that_has_seen_the_token_already(desk: Desk, host: Hosts) -> None:
    stranger = host(TOKEN)
    place = host(TOKEN, redirect_to=f"http://{stranger.authority}")
    desk.has(TOKEN, place.authority)
    cloned = desk.clone(place.url)
    assert cloned.returncode != 0
    assert place.passwords == {TOKEN}
    assert stranger.shown
    assert set(stranger.shown) == {None}


@pytest.mark.parametrize("trick", ["%0ahost={known}", "%0d%0ahost={known}", "?%0ahost={known}"])
def test_a_line_break_in_an_address_shows_the_token_to_nobody(desk: Desk, host: Hosts, trick: str) -> None:
    place, stranger = host(TOKEN), host(TOKEN)
    desk.has(TOKEN, place.authority)
    cloned = desk.clone(stranger.url + trick.format(known=place.authority))
    assert cloned.returncode != 0
    assert stranger.passwords == set()
    assert place.shown == []


def test_a_user_name_that_looks_like_the_host_makes_no_difference(desk: Desk, host: Hosts) -> None:
    place, stranger = host(TOKEN), host(TOKEN)
    desk.has(TOKEN, place.authority)
    cloned = desk.clone(f"http://{place.authority.replace(':', '%3a')}@{stranger.authority}/project.git")
    assert cloned.returncode != 0
    assert stranger.shown
    assert not any(TOKEN in password for password in stranger.passwords)


def test_each_user_clones_with_a_token_of_their_own(desk: Desk, host: Hosts) -> None:
    place = host(TOKEN)
    desk.has(STALE, place.authority, user="alice")
    desk.has(TOKEN, place.authority, user="bob")
    assert desk.clone(place.url, helper="--user carol").returncode != 0
    assert place.passwords == set()
    assert desk.clone(place.url, helper="--user bob").returncode == 0
    assert place.passwords == {TOKEN}
    assert desk.token("alice") == STALE


def test_a_token_that_the_host_refuses_is_forgotten_and_the_next_one_is_kept(either_desk: Desk, host: Hosts) -> None:
    place = host(TOKEN)
    either_desk.has(STALE, place.authority)
    assert either_desk.clone(place.url).returncode != 0
    assert either_desk.token() is None
    typed = f"!f() {{ test \"$1\" = get && printf 'username=me\\npassword={TOKEN}\\n'; }}; f"
    assert either_desk.clone(place.url, after=typed).returncode == 0
    assert either_desk.token() == TOKEN
    assert place.shown.count(("me", TOKEN)) > 0


def test_without_the_key_git_is_told_in_one_line_and_goes_on(desk: Desk, host: Hosts) -> None:
    place = host(TOKEN)
    desk.has(TOKEN, place.authority)
    typed = f"!f() {{ test \"$1\" = get && printf 'username=me\\npassword={TOKEN}\\n'; }}; f"
    cloned = desk.clone(place.url, after=typed, STORAGE_MASTER_KEY=WRONG_KEY)
    assert cloned.returncode == 0
    told = cloned.stderr.splitlines()
    # Once when git asks, and once when it says that the other helper's answer got in.
    assert len(told) == 2
    assert all(line.startswith("error: the master key") for line in told)
    assert TOKEN not in cloned.stderr
    assert desk.token() == TOKEN


def test_a_storage_that_is_not_there_is_not_made(desk: Desk, host: Hosts, tmp_path: Path) -> None:
    place = host(TOKEN)
    nowhere = tmp_path / "misspelt"
    cloned = desk.clone(place.url, helper=f"--user alice --data-dir {shlex.quote(str(nowhere))}")
    assert cloned.returncode != 0
    assert "there is no database" in cloned.stderr
    assert not nowhere.exists()
