"""A process that stores files and kills itself at one exact moment; for test_crash_points.

Forks for each order that it reads, once everything is imported: what is killed is the writer and not its imports.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterable
from typing import Any

from pydantic import SecretStr

import storage.tables  # noqa: F401 - before the fork
from storage.database import postgresql_lane, sqlite_lane  # noqa: F401 - as above
from storage.database.database import Database
from storage.database.url import parse_url
from storage.encryption.keyring import KeyRing
from storage.encryption.providers.environment import EnvironmentKeys
from storage.files.backends.local import LocalFileStore
from storage.files.blobs import ContentRules
from storage.files.catalog import FileCatalog
from storage.files.store import FileStat
from storage.users import delete_user

KEY = SecretStr(base64.b64encode(hashlib.sha256(b"the key of these tests").digest()).decode())


def die() -> None:
    """kill -9."""
    os.kill(os.getpid(), signal.SIGKILL)


class KillingStore(LocalFileStore):
    """A folder whose writer dies at a moment of a blob's life."""

    def __init__(self, root: str, moment: str) -> None:
        super().__init__(root)
        self.moment = moment

    def reached(self, moment: str) -> None:
        if self.moment == moment:
            die()

    async def _write(
        self,
        path: str,
        content: bytes | AsyncIterable[bytes],
        media_type: str | None,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
    ) -> FileStat:
        self.reached("before the blob")
        if self.moment == "in the middle of the blob":
            assert isinstance(content, bytes)
            content = self.half(content)
        stat = await super()._write(path, content, media_type, if_absent=if_absent, if_match=if_match)
        self.reached("after the blob")
        return stat

    async def half(self, content: bytes) -> AsyncGenerator[bytes, None]:
        yield content[: len(content) // 2]
        yield content[len(content) // 2 :]
        die()  # all of it is in the temporary file, which has no name yet

    async def _delete(self, path: str) -> int:
        self.reached("before the first removal")
        removed = await super()._delete(path)
        self.reached("after the first removal")
        return removed


async def main(order: dict[str, Any]) -> None:
    database = Database(parse_url(order["url"]))
    blobs = KillingStore(order["folder"], order["moment"])
    user_id, path, content = order["user_id"], order["path"], order["content"].encode()
    rules = ContentRules(small_bytes=order["small_bytes"])
    if order["moment"] == "after the commit":
        database.on_commit(lambda _: die())
    if order["action"] == "write":
        await FileCatalog(database, blobs, user_id, rules=rules).write(path, content)
    elif order["action"] == "write in a transaction":
        async with database.transaction() as transaction:
            await FileCatalog(transaction, blobs, user_id, rules=rules).write(path, content)
            blobs.reached("before the commit")
    elif order["action"] == "write many":
        items = [(path, content), (f"{path}.2", content + b"2"), (f"{path}.3", content + b"3")]
        await FileCatalog(database, blobs, user_id, rules=rules).write_many(items)
    else:
        await delete_user(database, KeyRing(database, EnvironmentKeys(KEY)), blobs, user_id)


if __name__ == "__main__":
    for line in sys.stdin:
        child = os.fork()
        if not child:
            asyncio.run(main(json.loads(line)))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()
