"""Which bytes a conversation's metadata.json gets: written from its row, or those that it was imported with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from storage.conversations.model import ConversationMetadata
from storage.openhands.metadata import ConversationFields, read_metadata

_BROKEN: Final = "metadata-broken"
_BAD_VALUE: Final = "bad-value"
_FIRST_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class MetadataFile:
    """A metadata.json to be.

    Attributes:
        content: what to write; None if the bytes that were imported are to stay.
        broken: the bytes that stay are such that OpenHands does not list the conversation.
    """

    content: bytes | None
    broken: bool = False


def metadata_file(row: ConversationMetadata, imported: bytes | None, *, repair: bool) -> MetadataFile:
    """What to write for a conversation.

    Args:
        row: as stored.
        imported: the metadata.json that the import kept as a file, because it holds more than the row; None if it kept
            none.
        repair: write a file that OpenHands lists also where the imported one is none and nothing has changed since.
    """
    values = row.model_dump(mode="json", context={"expose_secrets": True})
    if imported is None:
        return MetadataFile(_as_json(values))
    fields = read_metadata(
        imported,
        conversation_id=row.conversation_id,
        user_id=row.user_id,
        path="metadata.json",
        present=True,
        modified=row.created_at,
        events=tuple,
    )
    codes = {flaw.code for flaw in fields.flaws}
    if _BROKEN in codes:
        # The row was rebuilt from the events, so there is nothing to compare it with; but it knows of being changed.
        if row.version <= _FIRST_VERSION and not repair:
            return MetadataFile(None, broken=True)
        return MetadataFile(_as_json(values))
    flawed = _BAD_VALUE in codes
    if _says_the_same(fields, row) and not (flawed and repair):
        return MetadataFile(None, broken=flawed)
    # Escaped, because what the row does not hold may be half a surrogate pair.
    return MetadataFile(_as_json({**json.loads(imported.decode("utf-8-sig")), **values}, ascii_only=True))


def _says_the_same(fields: ConversationFields, row: ConversationMetadata) -> bool:
    """Whether the import would make this row of the file: then nobody has changed it since."""
    try:
        read = ConversationMetadata(**{**fields.extra, **fields.values})
    except ValidationError:
        return False
    return read.model_dump(exclude={"user_id"}) == row.model_dump(exclude={"user_id"})


def _as_json(values: dict[str, Any], *, ascii_only: bool = False) -> bytes:
    return json.dumps(values, ensure_ascii=ascii_only, indent=2).encode()
