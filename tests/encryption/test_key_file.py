"""The key file: made whole or not at all, private, and never replaced."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from storage.encryption.key_file import KeyFile
from storage.encryption.local_keys import MasterKey
from storage.errors import ConfigurationError, KeyUnavailable

PROCESSES = 8
ROUNDS = 30

# Each process makes the same files in the same order, and tells the check value of what it got.
RACER = """
import asyncio, pathlib, sys
from storage.encryption.key_file import KeyFile

async def race(folder, rounds):
    for number in range(rounds):
        keys = KeyFile(folder / str(number) / "master.key")
        if not (await keys.health()).has_key:
            await keys.generate()
        print(keys._keys[0].check_value(b"").hex())

print("ready", flush=True)
sys.stdin.readline()
asyncio.run(race(pathlib.Path(sys.argv[1]), int(sys.argv[2])))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config" / "master.key"


def write(path: Path, text: str, mode: int = 0o600) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


async def test_a_missing_file_is_no_error_and_is_not_made(path: Path) -> None:
    health = await KeyFile(path).health()
    assert not health.has_key
    assert str(path) in health.detail
    assert not path.parent.exists()


async def test_a_generated_file_is_private_and_reads_back(path: Path) -> None:
    keys = KeyFile(path)
    await keys.generate()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["master.key"]
    again = KeyFile(path)
    assert (await again.health()).has_key
    assert again._keys == keys._keys


async def test_an_existing_key_is_never_replaced(path: Path) -> None:
    write(path, MasterKey.generate().encoded())
    before = path.read_bytes(), path.stat().st_ino
    await KeyFile(path).generate()
    assert (path.read_bytes(), path.stat().st_ino) == before


async def test_even_an_empty_file_is_not_replaced(path: Path) -> None:
    write(path, "")
    with pytest.raises(ConfigurationError, match="holds no master key"):
        await KeyFile(path).generate()
    assert path.read_bytes() == b""


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o620, 0o610, 0o777])
async def test_a_file_that_others_can_open_is_refused(path: Path, mode: int) -> None:
    write(path, MasterKey.generate().encoded(), mode)
    with pytest.raises(KeyUnavailable, match=rf"mode {mode:04o}\); mend it: chmod 600 '{path}'"):
        await KeyFile(path).health()


@pytest.mark.parametrize("mode", [0o600, 0o400])
async def test_a_private_file_is_accepted(path: Path, mode: int) -> None:
    write(path, MasterKey.generate().encoded(), mode)
    assert (await KeyFile(path).health()).has_key


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
async def test_an_unreadable_file_is_unavailable(path: Path) -> None:
    write(path, MasterKey.generate().encoded(), 0)
    with pytest.raises(KeyUnavailable, match="cannot be opened: Permission denied"):
        await KeyFile(path).health()


async def test_what_is_no_key_file_is_refused(path: Path) -> None:
    write(path, "not a key at all!")
    with pytest.raises(ConfigurationError, match=str(path)):
        await KeyFile(path).health()
    write(path, "x" * 100_000)
    with pytest.raises(KeyUnavailable, match="100000 bytes"):
        await KeyFile(path).health()
    path.write_bytes(os.urandom(31) + b"\xff")
    with pytest.raises(KeyUnavailable, match="not text"):
        await KeyFile(path).health()
    with pytest.raises(KeyUnavailable, match="not a regular file"):
        await KeyFile(path.parent).health()
    fifo = path.with_name("fifo")
    os.mkfifo(fifo, 0o600)
    with pytest.raises(KeyUnavailable, match="not a regular file"):
        await KeyFile(fifo).health()


async def test_a_folder_that_cannot_be_written_is_unavailable_and_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(KeyUnavailable, match="STORAGE_MASTER_KEY_FILE"):
        await KeyFile(tmp_path / "file" / "master.key").generate()


async def test_an_interrupted_write_leaves_neither_key_nor_temporary_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyUnavailable, match="No space left"):
        await KeyFile(path).generate()
    assert list(path.parent.iterdir()) == []


async def test_a_key_added_to_the_file_is_seen_by_the_next_look(path: Path) -> None:
    first, second = MasterKey.generate(), MasterKey.generate()
    write(path, first.encoded())
    keys = KeyFile(path)
    await keys.health()
    enrolled = await keys.enrol()
    write(path, f"{second.encoded()}\n{first.encoded()}\n")
    assert "2 key(s)" in (await keys.health()).detail
    assert await keys.identify([enrolled]) == {enrolled.kek_id}
    assert keys.active_id is None, "the new first key is in no registry yet"


async def test_a_key_file_lets_the_event_loop_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, MasterKey.generate().encoded())
    loop_ran = asyncio.Event()
    real_open, loop = os.open, asyncio.get_running_loop()

    def slow_open(*arguments: object, **options: object) -> int:
        # A disk that does not answer before the event loop has done something else.
        asyncio.run_coroutine_threadsafe(loop_ran.wait(), loop).result(timeout=30)
        return real_open(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", slow_open)
    looking = asyncio.create_task(KeyFile(path).health())
    await asyncio.sleep(0)
    loop_ran.set()
    assert (await looking).has_key


def test_of_processes_that_start_at_once_all_get_the_same_key(tmp_path: Path) -> None:
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
    for seen in zip(*answers, strict=True):
        assert len(set(seen)) == 1
    assert len(set(answers[0])) == len(answers[0]) == ROUNDS
    for number in range(ROUNDS):
        (only,) = (tmp_path / str(number)).iterdir()
        assert stat.S_IMODE(only.stat().st_mode) == 0o600
