"""A key file as slow as a key service far away, so that a test has the time to interrupt what asks it often."""

from __future__ import annotations

import asyncio
from typing import Final

from storage.encryption.providers.key_file import KeyFile

ANSWER_SECONDS: Final = 1.0


class SlowKeyFile(KeyFile):
    """Named by a configuration as `tests.cli.slow_keys.SlowKeyFile`."""

    async def wrap(self, kek_id: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
        await asyncio.sleep(ANSWER_SECONDS)
        return await super().wrap(kek_id, plaintext, associated_data)
