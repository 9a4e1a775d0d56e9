"""One secret on its way between a row and its owner, and what may be said or lost of a value that does not open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from storage.encryption.envelope import SealContext, data_key_id_of, is_sealed
from storage.encryption.keyset import Keys, KeySet
from storage.encryption.registry import SealedColumn
from storage.errors import EncryptionError, KeyUnavailable
from storage.secrets import statements as sql
from storage.secrets.model import CustomSecret, ProviderToken, UserSecrets
from storage.secrets.table import SET_SEALED


@dataclass(frozen=True, slots=True)
class Entry:
    """A token or custom secret on its way to its row; `value` in clear."""

    plain: dict[str, Any]
    value: str | None = field(repr=False)


def entries(secrets: UserSecrets) -> dict[str, dict[str, Entry]]:
    """All tokens and custom secrets, by kind and name."""
    return {
        sql.TOKEN.name: {str(name): token_entry(token) for name, token in secrets.provider_tokens.items()},
        sql.CUSTOM.name: {name: custom_entry(custom) for name, custom in secrets.custom_secrets.items()},
    }


def token_entry(token: ProviderToken) -> Entry:
    """A token; its value may be None."""
    value = None if token.token is None else token.token.get_secret_value()
    return Entry({"host": token.host, "provider_user_id": token.user_id}, value)


def custom_entry(custom: CustomSecret) -> Entry:
    """A custom secret."""
    return Entry({"description": custom.description}, custom.secret.get_secret_value())


def row_of(kind: sql.Kind, values: Sequence[Any]) -> dict[str, Any]:
    """A row of `Kind.hold_all`, or of `find` and `hold` behind the name, by column."""
    return dict(zip((kind.key, "id", *kind.plain, kind.sealed.column), values, strict=True))


def head_of(values: Sequence[Any]) -> dict[str, Any]:
    """A row of `HOLD_SET`, by column."""
    return dict(zip(("version", "extra", "sealed_extra"), values, strict=True))


def opened_or_none(keys: KeySet, context: SealContext, sealed: bytes) -> bytes | None:
    """The plaintext; None for what cannot be opened, which is then replaced, by name and on purpose."""
    try:
        return keys.open(context, sealed)
    except EncryptionError:
        return None


def is_lost(keys: KeySet, context: SealContext, sealed: bytes | None) -> bool:
    """Whether a value cannot be opened.

    Raises:
        KeyUnavailable: its key is out of reach for now.
    """
    if sealed is None:
        return False
    try:
        keys.open(context, sealed)
    except KeyUnavailable:
        raise
    except EncryptionError:
        return True
    return False


def refuse_loss(keys: Keys, sealed: bytes | None) -> None:
    """Pass if nothing is lost with `sealed`: what only lacks its key can be read once that is back."""
    if sealed is not None:
        held = held_or_raise(keys)
        if is_sealed(sealed):
            held.get(data_key_id_of(sealed))


def held_or_raise(keys: Keys) -> KeySet:
    """The keys, or their error raised."""
    if isinstance(keys, EncryptionError):
        raise keys
    return keys


def column_of(row: Mapping[str, Any]) -> SealedColumn:
    """Where the value of a row of `ALL` is stored."""
    for kind in sql.KINDS:
        if row["kind"] == kind.name:
            return kind.sealed
    return SET_SEALED


def called(row: Mapping[str, Any]) -> str:
    """The secret of a row with `kind` and `name`, for people."""
    if row["kind"] == sql.SET:
        return "the secret fields of the set"
    return f"{row['kind'].replace('_', ' ')} {row['name']!r}"
