"""A migrated database of each kind, shared, with users of each test's own; and hosts of repositories to clone from."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage.database.database import Database
from storage.encryption.keyring import KeyRing
from storage.secrets.sql import SQLSecretsStore
from storage.secrets.store import SecretsStore
from tests.databases import database, keyring, locked_keyring, shared_database, user_id
from tests.git_credentials.git_host import GitHost, git

__all__ = ["database", "keyring", "locked_keyring", "user_id"]

migrated_url = shared_database("sqlite", "postgresql")


@pytest.fixture
def secrets(database: Database, keyring: KeyRing, user_id: str) -> SecretsStore:
    """The secrets of a user who has none."""
    return SQLSecretsStore(database, user_id, keyring)


@pytest.fixture(scope="session")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one bare repository, project.git, of one commit."""
    folder = tmp_path_factory.mktemp("repositories")
    work = folder / "work"
    git("init", "--quiet", "--initial-branch", "main", work, home=folder)
    (work / "README.md").write_text("hello\n")
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.com")
    for words in (("add", "README.md"), (*identity, "commit", "--quiet", "--message", "One")):
        git("-C", work, *words, home=folder)
    done: subprocess.CompletedProcess[str] = git(
        "clone", "--quiet", "--bare", work, folder / "project.git", home=folder
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def host(repositories: Path) -> Iterator[Callable[..., GitHost]]:
    """Makes hosts, each on a port of its own; they end with the test."""
    running: list[GitHost] = []

    def make(password: str | None = None, redirect_to: str | None = None) -> GitHost:
        running.append(GitHost(repositories, password, redirect_to).start())
        return running[-1]

    yield make
    for one in running:
        one.stop()
