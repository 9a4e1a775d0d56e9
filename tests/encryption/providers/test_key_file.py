"""The key file: made whole or not at all, private, and no key in it is ever lost."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from storage.encryption.providers import file_lock
from storage.encryption.providers.file_lock import exclusive
from storage.encryption.providers.key_file import KeyFile
from storage.encryption.providers.local_keys import MasterKey, parse_master_keys
from storage.errors import ConfigurationError, KeyMissing, KeyUnavailable

PROCESSES = 8
ROUNDS = 30

# Each process makes the same files in the same order, and tells the check value of what it got.
RACER = """
import asyncio, pathlib, sys
from storage.encryption.providers.key_file import KeyFile

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

# Adds keys and puts them first until it is killed; tells of each when it is stored.
ADDER = """
import asyncio, pathlib, sys
from storage.encryption.providers.key_file import KeyFile

async def add(path):
    keys = KeyFile(path)
    await keys.health()
    while True:
        added = await keys.add()
        await keys.promote(added.kek_id)
        print(keys._by_id[added.kek_id].check_value(b"").hex(), flush=True)

asyncio.run(add(pathlib.Path(sys.argv[1])))
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


async def test_a_byte_order_mark_is_no_part_of_the_key(path: Path) -> None:
    key = MasterKey.generate()
    path.parent.mkdir()
    path.write_bytes(b"\xef\xbb\xbf" + key.encoded().encode() + b"\r\n")
    path.chmod(0o600)
    keys = KeyFile(path)
    await keys.health()
    assert keys._keys == (key,)
    await keys.add()
    assert keys._keys[0] == key


# ---- adding and reordering


async def test_a_key_is_added_behind_and_the_file_stays_private(path: Path) -> None:
    keys = KeyFile(path)
    await keys.generate()
    first = await keys.enrol()
    text = path.read_text()
    added = await keys.add()
    assert path.read_text().startswith(text)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["master.key"]
    assert keys.active_id == first.kek_id
    await keys.promote(added.kek_id)
    again = KeyFile(path)
    await again.health()
    assert await again.identify([first, added]) == {first.kek_id, added.kek_id}
    assert again.active_id == added.kek_id


async def test_adding_to_no_file_makes_one(path: Path) -> None:
    added = await KeyFile(path).add()
    keys = KeyFile(path)
    assert (await keys.health()).has_key
    assert await keys.identify([added]) == {added.kek_id} == {keys.active_id}


async def test_a_file_that_is_no_key_file_is_not_added_to(path: Path) -> None:
    write(path, "somebody's notes")
    for call in (KeyFile(path).add(), KeyFile(path).import_([MasterKey.generate()])):
        with pytest.raises(ConfigurationError):
            await call
    assert path.read_text() == "somebody's notes"


async def test_imported_keys_go_behind_in_their_order(path: Path) -> None:
    own, *others = (MasterKey.generate() for _ in range(4))
    write(path, own.encoded())
    keys = KeyFile(path)
    assert await keys.import_([others[0], own, others[1]]) == (others[0], others[1])
    assert await keys.import_([others[1], others[2], others[2]]) == (others[2],)
    assert await keys.import_(others) == ()
    assert await KeyFile(path).export() == (own, *others)


async def test_nothing_is_exported_of_a_file_that_is_not_there(path: Path) -> None:
    with pytest.raises(KeyMissing, match=str(path)):
        await KeyFile(path).export()


async def test_a_retired_key_is_not_put_first(path: Path) -> None:
    keys = KeyFile(path)
    await keys.generate()
    added = await keys.add()
    await keys.identify([type(added)(added.kek_id, added.check_value, retired=True)])
    with pytest.raises(ConfigurationError, match="was retired"):
        await keys.promote(added.kek_id)


async def test_a_key_that_was_taken_out_of_the_file_is_not_put_first(path: Path) -> None:
    keys = KeyFile(path)
    await keys.generate()
    before = path.read_text()
    gone = (await keys.add()).kek_id
    key = keys._by_id[gone]
    path.write_text(before)
    with pytest.raises(KeyMissing, match="taken out"):
        await keys.put_first(key)
    with pytest.raises(KeyMissing, match=gone.hex()):
        await keys.promote(gone)
    path.unlink()
    with pytest.raises(KeyMissing, match="does not exist"):
        await keys.append([key])


async def test_a_symbolic_link_stays_one(path: Path, tmp_path: Path) -> None:
    real = tmp_path / "elsewhere" / "real.key"
    write(real, MasterKey.generate().encoded())
    path.parent.mkdir()
    path.symlink_to(real)
    await KeyFile(path).add()
    assert path.is_symlink()
    assert len(parse_master_keys(real.read_text(), "")) == 2
    assert [entry.name for entry in real.parent.iterdir()] == ["real.key"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
async def test_a_symbolic_link_to_nothing_is_not_taken_for_a_missing_key(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to(tmp_path / "not mounted" / "master.key")
    for call in (KeyFile(path).health, KeyFile(path).generate, KeyFile(path).add):
        with pytest.raises(KeyUnavailable, match="symbolic link to nothing"):
            await call()


async def test_what_a_killed_process_left_goes_with_the_next_change_and_nothing_else_does(path: Path) -> None:
    keys = KeyFile(path)
    await keys.generate()
    left, young = (path.with_name(f".master.key.{number}.{'0f' * 8}") for number in (1234, 1235))
    theirs = path.with_name(".master.key.swp")
    for file in (left, young, theirs):
        file.write_text(MasterKey.generate().encoded())
        if file is not young:
            os.utime(file, (time.time() - 3600,) * 2)
    await keys.add()
    assert sorted(path.parent.iterdir()) == sorted([path, young, theirs])


async def test_a_file_never_grows_beyond_what_is_read(path: Path) -> None:
    keys = KeyFile(path)
    await keys.generate()
    path.write_text(path.read_text() + "# a note\n" * 7200)
    before = path.read_text()
    with pytest.raises(KeyUnavailable, match="is full"):
        await keys.import_([MasterKey.generate() for _ in range(20)])
    assert path.read_text() == before
    assert (await keys.health()).has_key


async def test_an_administrator_who_adds_a_key_does_not_lock_out_the_owner(path: Path) -> None:
    write(path, MasterKey.generate().encoded())
    os.chown(path, 65534, 65534)
    await KeyFile(path).add()
    status = path.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (65534, 65534, 0o600)


@pytest.mark.parametrize("failing", ["fsync", "replace"])
async def test_a_failed_addition_leaves_the_file_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    keys = KeyFile(path)
    await keys.generate()
    before = path.read_bytes(), path.stat().st_ino

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os if failing == "fsync" else Path, failing, full)
    with pytest.raises(KeyUnavailable, match=r"No space left.*the file is as it was"):
        await keys.add()
    assert (path.read_bytes(), path.stat().st_ino) == before
    assert [entry.name for entry in path.parent.iterdir()] == ["master.key"]


async def test_an_editor_that_saves_meanwhile_is_not_overwritten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = KeyFile(path)
    await keys.generate()
    edited = path.read_text() + "# by hand\n"
    real_fsync = os.fsync

    def save(descriptor: int) -> None:
        path.write_text(edited)
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", save)
    with pytest.raises(KeyUnavailable, match="changed by another program"):
        await keys.add()
    assert path.read_text() == edited


async def test_a_lock_that_is_never_given_back_is_given_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = KeyFile(path)
    await keys.generate()
    monkeypatch.setattr(file_lock, "LOCK_SECONDS", 0.1)
    with exclusive(path, create=False), pytest.raises(KeyUnavailable, match="another process has held the lock"):
        await keys.add()
    await keys.add()


async def test_keys_that_are_added_and_moved_at_once_are_all_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_lock, "LOCK_SECONDS", 60.0)  # on a busy disk each change takes a good part of a second
    await KeyFile(path).generate()

    async def add_and_promote() -> MasterKey:
        keys = KeyFile(path)
        await keys.health()
        added = await keys.add()
        await keys.promote(added.kek_id)
        return keys._by_id[added.kek_id]

    added = await asyncio.gather(*(add_and_promote() for _ in range(6)))
    assert set(added) < set(await KeyFile(path).export())
    assert len(await KeyFile(path).export()) == 7


async def test_once_the_file_is_replaced_the_temporary_name_is_the_next_writers(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = KeyFile(path)
    await keys.generate()
    real_replace, next_writers = Path.replace, path.with_name(".master.key.new")

    def replace_and_be_followed(self: Path, target: Path) -> Path:
        replaced = real_replace(self, target)
        next_writers.write_text("what the next holder of the lock is about to put in place")
        return replaced

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", replace_and_be_followed)
        await keys.add()
    assert next_writers.exists()


def test_killed_at_any_moment_the_file_is_whole_and_has_every_key(path: Path) -> None:
    asyncio.run(KeyFile(path).generate())
    stored: list[str] = []
    for number in range(12):
        adder = subprocess.Popen([sys.executable, "-c", ADDER, str(path)], stdout=subprocess.PIPE, text=True)
        assert adder.stdout is not None
        stored.append(adder.stdout.readline().strip())
        time.sleep(0.001 * number)  # so that it dies in another step each time
        adder.kill()
        stored += adder.communicate()[0].split()
        keys = {key.check_value(b"").hex() for key in parse_master_keys(path.read_text(), "")}
        assert keys >= {line for line in stored if len(line) == 64}
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    asyncio.run(KeyFile(path).add())  # which also clears away what a kill left behind
    assert [entry.name for entry in path.parent.iterdir()] == ["master.key"]


# ---- at once


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
