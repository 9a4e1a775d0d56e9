"""What every view says of two real homes, held against files that were looked at; the same on both databases.

After a change on purpose: STORAGE_WRITE_GOLDEN=1 scripts/test tests/reporting/test_golden_views.py, and read the diff.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from storage import Storage
from storage.clock import now
from storage.openhands.importer import import_home
from storage.openhands.reader import open_home
from storage.reporting.views import VIEWS
from tests.databases import MASTER_KEY
from tests.reporting.reading import rows_of

ROOT: Final = Path(__file__).parents[2]
EXAMPLE: Final = ROOT / "examples" / "openhands-home"
SAMPLE: Final = ROOT.parent / "shared" / "samples" / "openhands-home.tar.xz"
GOLDEN: Final = Path(__file__).parent / "golden"

WHEN_IMPORTED: Final = {
    "report_file": {"created_at", "updated_at"},
    "report_storage_usage": {"day"},
    "report_secret": {"created_at", "updated_at", "age_days"},
    "report_event_daily": {"day"},
}
"""What depends on the day of the import."""


async def imported(database_url: str, folder: Path, home: Path) -> AsyncIterator[Storage]:
    options = {"data_dir": folder, "master_key": MASTER_KEY, "webhook_delivery": False}
    today = now().date()
    async with Storage.open(database_url, **options) as storage:
        with open_home(home) as found:
            await import_home(storage, found)
        if now().date() != today:
            pytest.skip("midnight came during the import: its events are of two days")
        yield storage


async def lasting_rows(storage: Storage, view: str, user_id: str | None = None) -> list[dict[str, Any]]:
    """The rows without what depends on the day; of one import there is one day."""
    rows = await rows_of(storage, view, user_id)
    left_out = WHEN_IMPORTED.get(view, set())
    kept = [{key: value for key, value in row.items() if key not in left_out} for row in rows]
    return sorted(kept, key=lambda row: json.dumps(row, default=str))


def held_against(file: Path, found: Any) -> None:
    text = json.dumps(found, ensure_ascii=False, indent=1) + "\n"
    if os.environ.get("STORAGE_WRITE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert json.loads(file.read_text(encoding="utf-8")) == found


async def test_every_view_of_the_example_home(database_url: str, tmp_path: Path) -> None:
    async for storage in imported(database_url, tmp_path, EXAMPLE):
        for view in VIEWS:
            held_against(GOLDEN / f"example.{view.name}.json", await lasting_rows(storage, view.name))


@pytest.mark.skipif(not SAMPLE.exists(), reason=f"the sample home is not at {SAMPLE}")
async def test_every_view_of_the_sample_home(database_url: str, tmp_path: Path) -> None:
    """How many rows, the sums of what can be added up, and a hash over everything: the rows are not ours to carry."""
    async for storage in imported(database_url, tmp_path, SAMPLE):
        found = {}
        for view in VIEWS:
            rows = await lasting_rows(storage, view.name)
            numbers = [column.name for column in view.columns if column.kind in ("integer", "number")]
            found[view.name] = {
                "rows": len(rows),
                **{name: round(sum(row.get(name) or 0 for row in rows), 6) for name in numbers},
                "sha256": hashlib.sha256(json.dumps(rows, ensure_ascii=True).encode()).hexdigest(),
            }
        held_against(GOLDEN / "sample.json", found)


@pytest.mark.skipif(not SAMPLE.exists(), reason=f"the sample home is not at {SAMPLE}")
async def test_the_users_of_the_sample_add_up_to_everybody(database_url: str, tmp_path: Path) -> None:
    async for storage in imported(database_url, tmp_path, SAMPLE):
        users = [row["user_id"] for row in await rows_of(storage, "report_user")]
        for view in ("report_conversation", "report_usage_daily", "report_file", "report_secret", "report_user"):
            everybody = await lasting_rows(storage, view)
            of_each = [row for user in users for row in await lasting_rows(storage, view, user)]
            assert sorted(of_each, key=str) == sorted(everybody, key=str)
