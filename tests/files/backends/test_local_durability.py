"""What LocalFileStore asks of the kernel, and in which order: seen from outside the process, by strace."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]

CALL = re.compile(r"\b(fsync|fdatasync|rename|renameat|renameat2)\((.*)")


def _traces() -> bool:
    """Whether strace is here and may look into a process; a container often forbids it."""
    strace = shutil.which("strace")
    return (
        strace is not None and subprocess.run([strace, "-f", "true"], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.skipif(not _traces(), reason="strace is missing or forbidden; test_local.py watches the calls from inside")
@pytest.mark.parametrize("content", ["b'new'", "pieces()"], ids=["at once", "streamed"])
def test_the_kernel_is_asked_to_flush_the_file_then_to_rename_it_then_to_flush_its_folder(
    tmp_path: Path, content: str
) -> None:
    root, trace = tmp_path / "files", tmp_path / "trace"
    program = f"""
import asyncio, sys
from storage.files.backends.local import LocalFileStore

async def pieces():
    yield b"n"
    yield b"ew"

async def main():
    async with LocalFileStore(sys.argv[1]) as store:
        await store.write("folder/file", {content})

asyncio.run(main())
"""
    (root / "folder").mkdir(parents=True)
    (root / "folder" / "file").write_bytes(b"old")
    command = ["strace", "-f", "-y", "-s", "200", "-e", "trace=/(f(data)?sync|rename.*)", "-o", str(trace)]
    subprocess.run(
        [*command, sys.executable, "-c", program, str(root)], check=True, cwd=REPOSITORY, capture_output=True
    )
    steps = []
    for line in trace.read_text().splitlines():
        found = CALL.search(line)
        if found is None or str(root) not in line:
            continue
        call, arguments = found.groups()
        if call.startswith("rename"):
            steps.append("rename")
            assert ".storage-tmp-" in arguments.split(",")[1]
            assert '"file"' in arguments
        else:
            target = arguments.partition("<")[2].partition(">")[0]
            steps.append("flush file" if "/.storage-tmp-" in target else f"flush {Path(target).name}")
    assert steps == ["flush file", "rename", "flush folder"], trace.read_text()
    assert (root / "folder" / "file").read_bytes() == b"new"
