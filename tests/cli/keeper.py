"""A shell that looks after keys: a storage with two secrets, and everything that its commands ever said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.cli.conftest import WRONG_KEY
from tests.cli.standard_input import CANARY, Piped, revealed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.conftest import Outcome

PASSPHRASE = "correct horse battery staple"


class Keeper(Piped):
    """Both secrets are CANARY: the custom secret API_KEY of the local user, and alice's token for github."""

    said = ""

    def __call__(self, *words: str | Path, **environment: str) -> Outcome:
        outcome = super().__call__(*words, **environment)
        self.said += outcome.output + outcome.errors
        return outcome

    @property
    def key_file(self) -> Path:
        return self.folder / "config/master.key"

    def keys(self) -> list[str]:
        """What the key file holds, in its order."""
        lines = self.key_file.read_text().split()
        return [word for word in lines if len(word) == 44 and word.endswith("=")]

    def status(self, **environment: str) -> dict[str, Any]:
        """The master keys by id, as a command that is well or not shows them."""
        found = self("keys", "status", "--json", **environment).json
        return {key["kek_id"]: key for key in found["master_keys"]}

    def active(self) -> str:
        (kek_id,) = [kek_id for kek_id, key in self.status().items() if key["state"] == "active"]
        return str(kek_id)

    def rotated(self) -> str:
        """Change the master key; the id of the one before."""
        before = self.active()
        self.well("keys", "promote", self.well("keys", "new", "--json").json["kek_id"])
        assert self("keys", "rewrap").code == 0
        return before

    def both_open(self) -> bool:
        """Whether both secrets are what they were."""
        shown = (("API_KEY",), ("github", "--provider", "--user", "alice"))
        other = Piped(self.folder, self.database_url)  # what it says is a secret, and asked for
        return all(revealed(other, *words) == f"{CANARY}\n".encode() for words in shown)


def kept(keeper: Keeper) -> Iterator[Keeper]:
    """The keeper with its storage, for a fixture: in the end, no command has said a master key or a secret unasked."""
    yield filled(keeper)
    keys = keeper.keys() if keeper.key_file.exists() else []
    assert not any(hidden in keeper.said for hidden in (*keys, WRONG_KEY, PASSPHRASE))


def filled(keeper: Keeper) -> Keeper:
    """The keeper, once it has made its storage."""
    keeper.into(CANARY.encode()).well("init")
    keeper.well("secrets", "set", "API_KEY")
    keeper.well("secrets", "set", "github", "--provider", "--user", "alice")
    return keeper
