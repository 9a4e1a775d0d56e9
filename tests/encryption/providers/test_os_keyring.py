"""The operating system's keyring: used if it is a safe one, and refused, with a way out, if it is not."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from storage import Storage
from storage.encryption.providers.local_keys import MasterKey
from storage.encryption.providers.os_keyring import OSKeyring
from storage.errors import ConfigurationError, KeyMissing, KeyUnavailable

keyring = pytest.importorskip("keyring", reason="the extra `keyring` is not installed")
chainer, fail, null = (import_module(f"keyring.backends.{name}") for name in ("chainer", "fail", "null"))

from tests.keyring_in_file import KeyringInFile  # noqa: E402 - needs the package

PROCESSES = 4
ROUNDS = 10

# Each process makes the first key of the same services in the same order, then adds one of its own to the last.
RACER = """
import asyncio, pathlib, sys
from storage.encryption.providers.os_keyring import OSKeyring
from tests.keyring_in_file import KeyringInFile

async def race(folder, rounds):
    backend = KeyringInFile(folder / "keyring.json")
    for number in range(rounds):
        keys = OSKeyring(f"service-{number}", folder / "keyring.lock", backend)
        if not (await keys.health()).has_key:
            await keys.generate()
        print(keys._keys[0].check_value(b"").hex())
    added = await keys.add()
    print(keys._by_id[added.kek_id].check_value(b"").hex())

print("ready", flush=True)
sys.stdin.readline()
asyncio.run(race(pathlib.Path(sys.argv[1]), int(sys.argv[2])))
"""

# Goes through the life of a key with whatever keyring the machine has.
ON_THIS_MACHINE = """
import asyncio, pathlib, sys
from storage.encryption.providers.os_keyring import OSKeyring

async def live(folder):
    several = [OSKeyring("agent-storage-test", folder / "keyring.lock") for _ in range(4)]
    assert not (await several[0].health()).has_key
    await asyncio.gather(*(keys.generate() for keys in several))
    first = await several[0].enrol()
    for keys in several:
        assert await keys.identify([first]) == {first.kek_id}
    added = await asyncio.gather(*(keys.add() for keys in several))
    await several[0].identify([first, *added])
    await several[0].health()
    assert len(await several[0].identify([first, *added])) == 5
    await several[0].promote(added[2].kek_id)
    again = OSKeyring("agent-storage-test", folder / "keyring.lock")
    await again.health()
    await again.identify([first, *added])
    assert again.active_id == added[2].kek_id
    print(type(again._backend).__module__)

asyncio.run(live(pathlib.Path(sys.argv[1])))
"""


class Forgetful(KeyringInFile):
    """Takes a password and does not keep it."""

    viable = False

    def set_password(self, service: str, username: str, password: str) -> None:
        self.path.write_text("{}")


class Broken(KeyringInFile):
    """Fails with the secret in its message."""

    viable = False

    def set_password(self, service: str, username: str, password: str) -> None:
        raise RuntimeError(f"cannot store {password}")


class Plaintext(KeyringInFile):
    """Stands for keyrings.alt.file.PlaintextKeyring, whose priority is 0.5."""

    viable = False
    priority = 0.5


class InAltPackage(KeyringInFile):
    """Stands for a backend of keyrings.alt that rates itself high."""

    viable = False
    __module__ = "keyrings.alt.file"


class Slow(KeyringInFile):
    """Answers when somebody lets it, and notes on which thread."""

    viable = False

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.threads: set[int] = set()
        self.answer = threading.Event()

    def get_password(self, service: str, username: str) -> str | None:
        self.threads.add(threading.get_ident())
        assert self.answer.wait(30)
        return super().get_password(service, username)


@pytest.fixture
def backend(tmp_path: Path) -> KeyringInFile:
    return KeyringInFile(tmp_path / "keyring.json")


@pytest.fixture
def open_with(tmp_path: Path) -> Callable[[Any], OSKeyring]:
    return lambda backend: OSKeyring("agent-storage", tmp_path / "config" / "keyring.lock", backend)


@pytest.fixture
def found_keyring() -> Iterator[Callable[[Any], None]]:
    """Sets what the package finds on this machine."""
    before = keyring.get_keyring()
    yield keyring.set_keyring
    keyring.set_keyring(before)


def chain_of(*backends: Any) -> Any:
    """A chain as the package makes it, over these backends."""

    attributes = {"__module__": chainer.__name__, "backends": list(backends), "viable": False}
    chain: Any = type("Chain", (chainer.ChainerBackend,), attributes)
    return chain()


# ---- what is refused


@pytest.mark.parametrize("kind", ["none", "null", "plain file", "other package", "empty chain", "chain of bad ones"])
async def test_a_machine_without_a_safe_keyring_gets_an_error_and_no_key(
    open_with: Callable[[Any], OSKeyring], tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "plain.json"
    backend = {
        "none": fail.Keyring,
        "null": null.Keyring,
        "plain file": lambda: Plaintext(path),
        "other package": lambda: InAltPackage(path),
        "empty chain": chain_of,
        "chain of bad ones": lambda: chain_of(Plaintext(path), InAltPackage(path), null.Keyring(), fail.Keyring()),
    }[kind]()
    provider = open_with(backend)
    for call in (provider.health, provider.generate, provider.add):
        with pytest.raises(KeyUnavailable, match=r"no keyring that keeps secrets safe .*key_provider = 'key-file'"):
            await call()
    assert not path.exists()


async def test_of_a_chain_the_best_safe_keyring_is_used_for_everything(
    open_with: Callable[[Any], OSKeyring], backend: KeyringInFile, tmp_path: Path
) -> None:
    plain = Plaintext(tmp_path / "plain.json")
    plain.set_password("agent-storage", "master-key", MasterKey.generate().encoded())
    provider = open_with(chain_of(plain, backend))
    assert not (await provider.health()).has_key, "the key in the plain file counts for nothing"
    await provider.generate()
    assert backend.get_password("agent-storage", "master-key")


async def test_a_headless_machine_opens_locked_and_makes_no_key_anywhere(
    sqlite_url: str, tmp_path: Path, found_keyring: Callable[[Any], None]
) -> None:
    found_keyring(fail.Keyring())
    key_file = tmp_path / "config" / "master.key"
    async with Storage.open(
        database_url=sqlite_url, data_dir=tmp_path, key_provider="keyring", master_key_file=key_file
    ) as storage:
        alice = storage.user("alice")
        with pytest.raises(KeyUnavailable, match="no keyring that keeps secrets safe"):
            await alice.secrets.set_custom_secret("TOKEN", "of alice")
        await alice.settings.update(language="en")
    assert not key_file.exists()


async def test_the_found_keyring_keeps_a_storage_readable(
    sqlite_url: str, tmp_path: Path, found_keyring: Callable[[Any], None], backend: KeyringInFile
) -> None:
    found_keyring(backend)
    settings: dict[str, Any] = {
        "database_url": sqlite_url,
        "data_dir": tmp_path,
        "key_provider": "keyring",
        "keyring_service": "of this test",
        "master_key_file": tmp_path / "config" / "master.key",
    }
    async with Storage.open(**settings) as storage:
        await storage.user("alice").secrets.set_custom_secret("TOKEN", "of alice")
    async with Storage.open(**settings) as storage:
        secret = await storage.user("alice").secrets.get_custom_secret("TOKEN")
        assert secret.secret.get_secret_value() == "of alice"
    assert backend.get_password("of this test", "master-key")
    assert [entry.name for entry in (tmp_path / "config").iterdir()] == ["keyring.lock"]


# ---- the entry


async def test_an_entry_that_is_no_key_is_refused_and_left_alone(
    open_with: Callable[[Any], OSKeyring], backend: KeyringInFile
) -> None:
    backend.set_password("agent-storage", "master-key", "hunter2hunter2")
    provider = open_with(backend)
    for call in (provider.health, provider.generate, provider.add):
        with pytest.raises(ConfigurationError, match="service 'agent-storage'") as caught:
            await call()
        assert "hunter2" not in str(caught.value)
    assert backend.get_password("agent-storage", "master-key") == "hunter2hunter2"


async def test_a_keyring_that_forgets_is_no_place_for_a_key(
    open_with: Callable[[Any], OSKeyring], tmp_path: Path
) -> None:
    with pytest.raises(KeyUnavailable, match="does not give back what was just written"):
        await open_with(Forgetful(tmp_path / "keyring.json")).generate()


async def test_what_a_keyring_says_of_its_failure_is_not_repeated(
    open_with: Callable[[Any], OSKeyring], tmp_path: Path
) -> None:
    with pytest.raises(KeyUnavailable, match=r"cannot write the keyring.*RuntimeError") as caught:
        await open_with(Broken(tmp_path / "keyring.json")).generate()
    assert "cannot store" not in str(caught.value)


async def test_a_key_that_somebody_took_out_is_missed(
    open_with: Callable[[Any], OSKeyring], backend: KeyringInFile
) -> None:
    provider = open_with(backend)
    await provider.generate()
    added = await provider.add()
    backend.set_password("agent-storage", "master-key", provider._keys[0].encoded())
    with pytest.raises(KeyMissing):
        await provider.promote(added.kek_id)
    backend.delete_password("agent-storage", "master-key")
    assert not (await provider.health()).has_key
    with pytest.raises(KeyMissing):
        await provider.append([MasterKey.generate()])


async def test_a_folder_without_room_for_the_lock_is_unavailable(tmp_path: Path, backend: KeyringInFile) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(KeyUnavailable, match=r"lock file .* cannot be used"):
        await OSKeyring("agent-storage", tmp_path / "file" / "keyring.lock", backend).generate()


# ---- at once


async def test_a_slow_keyring_lets_the_event_loop_run(open_with: Callable[[Any], OSKeyring], tmp_path: Path) -> None:
    backend = Slow(tmp_path / "keyring.json")
    provider = open_with(backend)
    looking = [asyncio.create_task(provider.health()) for _ in range(3)]
    await asyncio.sleep(0)
    backend.answer.set()  # which nobody could do if the loop waited for the keyring
    for task in looking:
        assert not (await task).has_key
    assert len(backend.threads) == 1
    assert threading.get_ident() not in backend.threads
    await provider.close()


def test_processes_that_start_at_once_get_one_key_and_keep_what_each_adds(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path), str(ROUNDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    answers = [racer.communicate()[0].split() for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * PROCESSES
    for seen in list(zip(*answers, strict=True))[:-1]:
        assert len(set(seen)) == 1
    last = KeyringInFile(tmp_path / "keyring.json").get_password(f"service-{ROUNDS - 1}", "master-key")
    assert last is not None
    kept = {key.check_value(b"").hex() for key in _keys(last)}
    assert kept == {answers[0][-2], *(answer[-1] for answer in answers)}
    assert len(kept) == 1 + PROCESSES


def _keys(text: str) -> tuple[MasterKey, ...]:
    from storage.encryption.providers.local_keys import parse_master_keys

    return parse_master_keys(text, "the keyring")


# ---- a desktop's own

DAEMON = shutil.which("gnome-keyring-daemon")
SESSION = shutil.which("dbus-run-session")


@pytest.mark.skipif(DAEMON is None or SESSION is None, reason="no gnome-keyring-daemon and dbus-run-session here")
@pytest.mark.parametrize("unlocked", [True, False], ids=["unlocked", "locked"])
def test_gnome_keyring_holds_the_keys(tmp_path: Path, unlocked: bool) -> None:
    pytest.importorskip("secretstorage")
    start = "printf password | gnome-keyring-daemon --unlock" if unlocked else "gnome-keyring-daemon --start"
    shell = f'{start} --components=secrets >/dev/null && exec "$@"'
    program = [sys.executable, "-c", ON_THIS_MACHINE, str(tmp_path)]
    private = {name: str(tmp_path) for name in ("HOME", "XDG_RUNTIME_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DBUS_", "GNOME_KEYRING", "PYTHON_KEYRING", "DISPLAY"))
    }
    done = subprocess.run(
        [str(SESSION), "--", "sh", "-c", shell, "sh", *program],
        env={**inherited, **private},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if unlocked:
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == "keyring.backends.SecretService"
    else:
        assert "KeyUnavailable: cannot read the keyring of the operating system" in done.stderr
