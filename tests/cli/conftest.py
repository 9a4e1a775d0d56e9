"""Fixtures: a command line of its own for each test, and an example storage that the reading tests share."""

from __future__ import annotations

import base64
import io
import json
import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from storage.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parents[2]
WRONG_KEY = base64.b64encode(secrets.token_bytes(32)).decode()
EXAMPLE = REPOSITORY / "examples" / "openhands-home"


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    content: bytes
    errors: str

    @property
    def output(self) -> str:
        return self.content.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def lines(self) -> list[str]:
        return self.output.splitlines()


class Shell:
    """Runs commands in this process, as a pipe would see them, in an environment that holds nothing of this machine."""

    def __init__(self, folder: Path, database_url: str | None = None) -> None:
        self.folder = folder
        self.database_url = database_url
        self.environment = {
            "HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "XDG_DATA_HOME": str(folder / "data"),
            "STORAGE_DATA_DIR": str(folder / "storage"),
            "STORAGE_MASTER_KEY_FILE": str(folder / "config" / "master.key"),
            "COLUMNS": "80",
        }
        if database_url is not None:
            self.environment["STORAGE_DATABASE_URL"] = database_url

    def __call__(self, *words: str | Path, **environment: str) -> Outcome:
        with pytest.MonkeyPatch.context() as patch:
            for name in os.environ:
                if name.startswith("STORAGE_"):
                    patch.delenv(name)
            for name, value in {**self.environment, **environment}.items():
                patch.setenv(name, value)
            output, errors = io.BytesIO(), io.BytesIO()
            with (
                io.TextIOWrapper(output, encoding="utf-8") as out,
                io.TextIOWrapper(errors, encoding="utf-8") as err,
            ):
                patch.setattr(sys, "stdout", out)
                patch.setattr(sys, "stderr", err)
                with pytest.raises(SystemExit) as ended:
                    main([str(word) for word in words])
                out.flush()
                err.flush()
                code = ended.value.code
                assert isinstance(code, int)
                return Outcome(code, output.getvalue(), errors.getvalue().decode())

    def well(self, *words: str | Path, **environment: str) -> Outcome:
        """Run a command that has to succeed, without a word on stderr but a warning."""
        outcome = self(*words, **environment)
        assert outcome.code == 0
        assert all(line.startswith("warning: ") for line in outcome.errors.splitlines())
        return outcome

    def badly(self, *words: str | Path, code: int = 1, **environment: str) -> str:
        """Run a command that has to fail with one line on stderr; that line, without `error: `."""
        outcome = self(*words, **environment)
        assert (outcome.code, outcome.output) == (code, "")
        assert outcome.errors.startswith("error: ")
        assert outcome.errors.count("\n") == 1
        return outcome.errors.removeprefix("error: ").rstrip("\n")


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A command line in an empty home."""
    return Shell(tmp_path)


@pytest.fixture
def either_shell(tmp_path: Path, database_url: str) -> Shell:
    """A command line on a storage that holds nothing, once per dialect."""
    return Shell(tmp_path, database_url)


@pytest.fixture
def fresh_shell(tmp_path: Path, empty_database_url: str) -> Shell:
    """A command line on a database that was never migrated, once per dialect."""
    return Shell(tmp_path, empty_database_url)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A command line on a storage that holds the example home, once per dialect. For commands that only read."""
    folder = tmp_path_factory.mktemp("example")
    if request.param == "sqlite":
        shell = Shell(folder)
        shell("import", "openhands", EXAMPLE, "--json")
        yield shell
        return
    server = request.getfixturevalue("postgres_server")
    url = server.create_database()
    shell = Shell(folder, url)
    shell("import", "openhands", EXAMPLE, "--json")
    yield shell
    server.drop_database(url)
