"""`storage report serve`: Datasette over the report views."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from storage.cli.connection import DEFAULT, Connection, EveryUser, opened
from storage.cli.output import line, note

if TYPE_CHECKING:
    from storage.reporting.serve.gate import Application

PORT: Final = 8001
"""Datasette's own."""

REFRESH_SECONDS: Final = 60.0


async def serve(
    *,
    port: Annotated[
        int, Parameter(help="Where to listen, on this machine's own address; 0 chooses a free one.")
    ] = PORT,
    refresh: Annotated[
        float, Parameter(help="Seconds that the rows may be old when somebody asks; they are copied anew then.")
    ] = REFRESH_SECONDS,
    user: EveryUser = None,
    connection: Connection = DEFAULT,
) -> None:
    """Browse, filter and query the report views in a browser, until it is stopped with Ctrl-C.

    Prints the address to open, and with it the token that lets one in. What is served is a copy of the views' rows, in
    a file that is removed in the end; nothing else is in it, so no query finds anything else. Nothing can be changed.
    It is for this machine only (127.0.0.1), and needs Datasette: agent-storage[reporting].
    """
    from storage.errors import InvalidInput
    from storage.reporting.serve.site import site

    if refresh < 0:
        raise InvalidInput(f"--refresh must not be negative, and is {refresh:g}")
    async with opened(connection) as storage:
        with _listening(port) as listener:
            port = listener.getsockname()[1]
            async with site(storage.database, user, port=port, refresh_seconds=refresh) as served:
                note("Ctrl-C ends it")
                line(f"http://127.0.0.1:{port}/?token={served.token}")
                await _run(served.application, listener)


def _listening(port: int) -> socket.socket:
    """A socket of this machine's own address.

    Raises:
        InvalidInput: the port is none, or taken.
    """
    from storage.errors import InvalidInput

    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()  # who is quick with the printed address waits, and is not refused
    except (OSError, OverflowError) as error:
        listener.close()
        why = error.strerror if isinstance(error, OSError) else "there is no such port"
        raise InvalidInput(
            f"cannot listen on port {port}: {why}; choose another with --port, or a free one with 0"
        ) from error
    return listener


async def _run(application: Application, listener: socket.socket) -> None:
    """Serve until Ctrl-C or SIGTERM, which are how it ends well."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(application, log_level="warning", access_log=False))

    def stop() -> None:
        server.should_exit = True

    # The server has handlers of its own while it runs, and afterwards raises once more what it has heard.
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    sys.stdout.flush()
    await server.serve(sockets=[listener])
