"""The statements of endpoints' management, each twice: for a user's own endpoints, and for the operator's eyes.

Whose endpoint it is, is a condition in SQL and no check after it: what no statement finds cannot be shown by mistake.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Uuid, bindparam, delete, func, literal_column, select, update

from storage.database.statement import Statement
from storage.database.upsert import insert_if_absent
from storage.webhooks.table import EventTable, WebhookEndpointTable

_table: Final[Any] = WebhookEndpointTable.__table__  # type: ignore[attr-defined]
_event: Final[Any] = EventTable.__table__  # type: ignore[attr-defined]

SEALED: Final = ("secret", "previous_secret", "headers")
"""The columns that a listing does not read."""

COLUMNS: Final = tuple(column.name for column in _table.c)
"""What `read` and `lock` give, in their order."""

_OPEN: Final = tuple(name for name in COLUMNS if name not in SEALED)
FRONT: Final = (*_OPEN, "is_signed", "has_headers")
"""What `list` and `find` give, in their order: nothing that is sealed, only whether it is there."""

CHANGING: Final = tuple(name for name in COLUMNS if name not in ("id", "user_id", "format", "created_at"))
"""What `update` takes."""

_front: Final = (
    *(_table.c[name] for name in _OPEN),
    _table.c.secret.is_not(None).label("is_signed"),
    _table.c.headers.is_not(None).label("has_headers"),
)
_this: Final = _table.c.id == bindparam("endpoint_id", type_=Uuid())


@dataclass(frozen=True, slots=True)
class Reach:
    """The statements of someone who may reach these endpoints and no others."""

    list: Statement
    find: Statement
    read: Statement
    lock: Statement
    update: Statement
    remove: Statement


def _reach(whose: str, *conditions: ColumnElement[bool], list_name: str) -> Reach:
    def named(verb: str) -> str:
        return f"webhook_endpoint.{verb}_{whose}"

    return Reach(
        list=Statement(list_name, select(*_front).where(*conditions)),
        find=Statement(named("find"), select(*_front).where(_this, *conditions)),
        read=Statement(named("read"), select(*_table.c).where(_this, *conditions)),
        lock=Statement(named("lock"), select(*_table.c).where(_this, *conditions).with_for_update(key_share=True)),
        update=Statement(
            named("update"),
            update(_table).where(_this, *conditions).values({name: bindparam(name) for name in CHANGING}),
        ),
        remove=Statement(named("remove"), delete(_table).where(_this, *conditions).returning(_table.c.user_id)),
    )


OWN: Final = _reach("own", _table.c.user_id == bindparam("owner"), list_name="webhook_endpoint.list_own")
"""Those of the user `owner`."""

ANY: Final = _reach("any", list_name="report.webhook_endpoints")
"""Everyone's, for the operator."""

NOBODYS: Final = _reach("nobodys", _table.c.user_id.is_(None), list_name="webhook_endpoint.list_nobodys")
"""The operator's own, for what is configured."""

INSERT: Final = Statement("webhook_endpoint.insert", insert_if_absent(_table, conflict=("id",), returning=("id",)))
# The condition is always true, and makes it a search of the index for both databases.
LAST_EVENT: Final = Statement("event.last", select(func.max(_event.c.seq)).where(_event.c.seq > literal_column("0")))
