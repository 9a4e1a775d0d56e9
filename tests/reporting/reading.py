"""What a view gives, in one form for both databases."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from storage import Storage
from storage.reporting.views import VIEWS, View


def by_name(name: str) -> View:
    (view,) = (view for view in VIEWS if view.name == name)
    return view


async def rows_of(storage: Storage, name: str, user_id: str | None = None) -> list[dict[str, Any]]:
    """Everybody's rows from the view itself, or one user's from its query; sorted by all that is in them."""
    view = by_name(name)
    query = f"SELECT * FROM {name}" if user_id is None else view.sql(storage.database.dialect, user_id)
    async with storage.session(read_only=True) as session:
        result = await (await session.connection()).exec_driver_sql(query)
        found = [dict(zip(result.keys(), row, strict=True)) for row in result]
    kinds = {column.name: column.kind for column in view.columns}
    rows = [{key: _plain(value, kinds[key]) for key, value in row.items()} for row in found]
    return sorted(rows, key=lambda row: json.dumps(row, default=str))


def _plain(value: Any, kind: str) -> Any:
    if value is None:
        return None
    match kind:
        case "boolean":
            assert value in (0, 1)
            return bool(value)
        case "time":
            moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
            assert moment.utcoffset() is not None
            return moment.astimezone(UTC).isoformat()
        case "json":
            return json.loads(value) if isinstance(value, str) else value
        case "number":
            assert isinstance(value, int | float)
            return round(value, 9)
        case "integer":
            assert type(value) is int
            return value
        case _:
            assert isinstance(value, str)
            return value
