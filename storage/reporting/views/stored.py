"""Views of what is kept: users, their files, and that they have secrets, never which."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Text, and_, case, cast, func, literal_column, null, select, union_all

from storage.conversations.table import UPDATED
from storage.encryption.table import DataKeyTable
from storage.files.table import FileContentTable
from storage.reporting.views.conversations import CONVERSATION, FILE, owned
from storage.reporting.views.expressions import (
    data_key_of,
    day_of,
    days_since,
    hexadecimal,
    readable_time,
    total,
    total_usd,
)
from storage.reporting.views.view import View, columns
from storage.secrets.table import CustomSecretTable, ProviderTokenTable
from storage.settings.table import SEALED, SettingsTable
from storage.webhooks.table import WebhookEndpointTable

_SECRET: Final[Any] = CustomSecretTable.__table__  # type: ignore[attr-defined]
_TOKEN: Final[Any] = ProviderTokenTable.__table__  # type: ignore[attr-defined]
_CONTENT: Final[Any] = FileContentTable.__table__  # type: ignore[attr-defined]
_SETTINGS: Final[Any] = SettingsTable.__table__  # type: ignore[attr-defined]
_ENDPOINT: Final[Any] = WebhookEndpointTable.__table__  # type: ignore[attr-defined]
_KEY: Final[Any] = DataKeyTable.__table__  # type: ignore[attr-defined]

_ZERO: Final[Any] = literal_column("0")
_UNKNOWN_OF_USER: Final[dict[str, Any]] = {
    "conversations": _ZERO,
    "cost_usd": literal_column("0.0"),
    "total_tokens": _ZERO,
    "files": _ZERO,
    "file_bytes": _ZERO,
    "custom_secrets": _ZERO,
    "provider_tokens": _ZERO,
    "webhooks": _ZERO,
    "settings": _ZERO,
    "first": null(),
    "last": null(),
}
"""What is known of a user, as a table says it that does not know."""


def _user(user_id: str | None) -> Any:
    def numbers(table: Any, **known: Any) -> Any:
        """For each user that has rows in one table: what this one knows, and nothing of what the others do."""
        mine = (table.c.user_id.is_not(None), *owned(table.c.user_id, user_id))
        all_ = [known.get(name, unknown).label(name) for name, unknown in _UNKNOWN_OF_USER.items()]
        return select(table.c.user_id, *all_).where(*mine).group_by(table.c.user_id)

    c = CONVERSATION.c
    parts = union_all(
        # This one first: the types of its columns are those of all.
        numbers(
            CONVERSATION,
            conversations=func.count(),
            cost_usd=total_usd(c.accumulated_cost),
            total_tokens=total(c.total_tokens),
            first=func.min(c.created_at),
            last=func.max(UPDATED),
        ),
        numbers(FILE, files=func.count(), file_bytes=total(FILE.c.size)),
        numbers(_SECRET, custom_secrets=func.count()),
        numbers(_TOKEN, provider_tokens=func.count()),
        numbers(_ENDPOINT, webhooks=func.count()),
        numbers(_SETTINGS, settings=func.count()),
    ).subquery("part")
    p = parts.c
    # The largest of what one table knows and the others' zeros: each number has one table that knows it.
    counts = [func.max(p[name]).label(name) for name in _UNKNOWN_OF_USER if name not in ("settings", "first", "last")]
    return select(
        p.user_id,
        *counts,
        (func.max(p.settings) > _ZERO).label("has_settings"),
        readable_time(func.max(p.first)).label("first_conversation_at"),
        readable_time(func.max(p.last)).label("last_conversation_at"),
    ).group_by(p.user_id)


def _file(user_id: str | None) -> Any:
    c, content = FILE.c, _CONTENT.c
    in_database = FILE.outerjoin(_CONTENT, and_(content.user_id == c.user_id, content.blob_key == c.blob_key))
    query = select(
        c.user_id,
        c.path,
        c.size.label("size_bytes"),
        c.media_type,
        c.conversation_id,
        hexadecimal(c.sha256).label("sha256"),
        content.blob_key.is_not(None).label("in_database"),
        c.content_key.is_not(None).label("sealed"),
        c.version,
        readable_time(c.created_at).label("created_at"),
        readable_time(c.updated_at).label("updated_at"),
    )
    return query.select_from(in_database).where(*owned(c.user_id, user_id))


def _storage_usage(user_id: str | None) -> Any:
    c = FILE.c
    day = day_of(c.created_at)
    daily = (
        select(day.label("day"), c.user_id, func.count().label("files"), total(c.size).label("bytes"))
        .where(*owned(c.user_id, user_id))
        .group_by(day, c.user_id)
        .subquery("daily")
    )
    d = daily.c

    def so_far(column: Any, name: str) -> Any:
        return cast(func.sum(column).over(partition_by=d.user_id, order_by=d.day), FILE.c.size.type).label(name)

    return select(d.day, d.user_id, d.files, d.bytes, so_far(d.files, "total_files"), so_far(d.bytes, "total_bytes"))


def _secret(user_id: str | None) -> Any:
    def kind(table: Any, name: str, title: Any, sealed: Any, host: Any, *more: Any) -> Any:
        c = table.c
        key_is_there = and_(_KEY.c.user_id == c.user_id, _KEY.c.id == data_key_of(sealed))
        state = case(
            (sealed.is_(None), literal_column("'unset'")),
            (_KEY.c.id.is_(None), literal_column("'unreadable'")),
            else_=literal_column("'set'"),
        )
        return (
            select(
                c.user_id,
                literal_column(f"'{name}'", Text()).label("kind"),
                title.label("name"),
                cast(host, Text()).label("host"),
                state.label("state"),
                _KEY.c.state.label("data_key_state"),
                readable_time(c.created_at).label("created_at"),
                readable_time(c.updated_at).label("updated_at"),
                days_since(c.updated_at).label("age_days"),
            )
            .select_from(table.outerjoin(_KEY, key_is_there))
            .where(*owned(c.user_id, user_id), *more)
        )

    def setting(name: str) -> Any:
        sealed = _SETTINGS.c[name]
        # The further fields are no setting that could be unset.
        more = (sealed.is_not(None),) if name == "sealed_extra" else ()
        return kind(_SETTINGS, "setting", literal_column(f"'{name}'", Text()), sealed, null(), *more)

    return union_all(
        kind(_SECRET, "custom_secret", _SECRET.c.name, _SECRET.c.value, null()),
        kind(_TOKEN, "provider_token", _TOKEN.c.provider, _TOKEN.c.token, _TOKEN.c.host),
        *(setting(name) for name in SEALED),
    )


USER: Final = View(
    "report_user",
    "Someone who has something stored.",
    columns(
        ("user_id", "text", "their id; `local` is the one user of a desktop install"),
        ("conversations", "integer", "how many they have"),
        ("cost_usd", "number", "of these conversations, US dollars"),
        ("total_tokens", "integer", "prompt and completion tokens of these conversations"),
        ("files", "integer", "how many they have"),
        ("file_bytes", "integer", "bytes of these files"),
        ("custom_secrets", "integer", "how many they have"),
        ("provider_tokens", "integer", "how many they have"),
        ("webhooks", "integer", "how many endpoints of their own they have"),
        ("has_settings", "boolean", "whether they have saved settings"),
        ("first_conversation_at", "time", "when their first conversation began"),
        ("last_conversation_at", "time", "when one of their conversations last changed"),
    ),
    _user,
)
FILE_VIEW: Final = View(
    "report_file",
    "A file in the catalogue.",
    columns(
        ("user_id", "text", "whose"),
        ("path", "text", "its path, `/` between the folders"),
        ("size_bytes", "integer", "its length"),
        ("media_type", "text", "such as `application/json`; null if not known"),
        ("conversation_id", "text", "the conversation that it belongs to; null if none"),
        ("sha256", "text", "of its content, 64 hexadecimal digits"),
        ("in_database", "boolean", "whether its content is in the database, and not in the file store"),
        ("sealed", "boolean", "whether its content is encrypted under its user's data key"),
        ("version", "integer", "how often it was written"),
        ("created_at", "time", "when it was first written"),
        ("updated_at", "time", "when it was last written"),
    ),
    _file,
)
STORAGE_USAGE: Final = View(
    "report_storage_usage",
    "The files of a user that were first written on one day and are still stored.",
    columns(
        ("day", "day", "when they were first written"),
        ("user_id", "text", "whose"),
        ("files", "integer", "how many they are"),
        ("bytes", "integer", "their bytes, as long as they are now"),
        ("total_files", "integer", "how many the user has of this day and before"),
        ("total_bytes", "integer", "bytes of these"),
    ),
    _storage_usage,
)
SECRET: Final = View(
    "report_secret",
    "A place for a secret and whether it is filled. Values are in no view, sealed or not.",
    columns(
        ("user_id", "text", "whose"),
        ("kind", "text", "`custom_secret`, `provider_token` or `setting`"),
        ("name", "text", "the secret's name, the provider, or the setting"),
        ("host", "text", "the host that a provider's token is for; null if it is the provider's own"),
        ("state", "text", "`set`, `unset`, or `unreadable`: its data key is not there"),
        ("data_key_state", "text", "of the data key it is sealed under: `active`, `retired`; null without one"),
        ("created_at", "time", "when the row was made"),
        ("updated_at", "time", "when the row was last written; of settings, all settings together"),
        ("age_days", "integer", "whole days since then"),
    ),
    _secret,
)
