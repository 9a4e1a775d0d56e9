"""Prometheus text: parsed as Prometheus does it, complete, and with nothing in it that names a user."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from storage import Storage
from storage.database.migrate import HEAD, SchemaState, SchemaStatus
from storage.encryption.status import KeyRingStatus
from storage.files.disk_guard import DiskSpace
from storage.metrics import prometheus_text
from storage.status import Problem, StorageStatus, WebhookTotals

_SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (\S+)')
_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\\n]|\\[\\"n])*)"')
_UNESCAPED = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


def parsed(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The samples, by name and labels; fails on what the format does not allow."""
    assert text.endswith("\n")
    found = {}
    typed: set[str] = set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert kind == "gauge"
            assert name not in typed, "one group of lines for a metric"
            typed.add(name)
            continue
        if line.startswith("# HELP "):
            continue
        match = _SAMPLE.fullmatch(line)
        assert match is not None, line
        name, labels, value = match.groups()
        assert name in typed
        key = (
            name.removeprefix("agent_storage_"),
            tuple((k, re.sub(r"\\.", lambda m: _UNESCAPED[m[0]], v)) for k, v in _LABEL.findall(labels or "")),
        )
        assert key not in found, "one sample for a name with its labels"
        found[key] = float(value)
    return found


def status(**changes: object) -> StorageStatus:
    keys = KeyRingStatus("unlocked", "", "", complete=True, kek_id="00", provider="p", where="w", data_keys=3)
    hooks = WebhookTotals({"active": 2}, 1, 5, datetime(2026, 1, 1, tzinfo=UTC), 7, 0, None)
    values = {
        "dialect": "sqlite",
        "database": "sqlite:///a",
        "schema": SchemaStatus(HEAD, HEAD, SchemaState.CURRENT),
        "counts": {"files": 2**60, "users": 0},
        "file_bytes": 10,
        "database_bytes": 20,
        "file_store": "local: a",
        "keys": keys,
        "disks": (DiskSpace("files", 'a "b"\\c\nd', 1, 2, "full"),),
        "webhooks": hooks,
        **changes,
    }
    return StorageStatus(**values)  # type: ignore[arg-type]


def test_labels_are_escaped_and_numbers_exact() -> None:
    found = parsed(prometheus_text(status()))
    assert found[("disk_free_bytes", (("place", "files"), ("path", 'a "b"\\c\nd')))] == 1
    assert 'rows{kind="files"} 1152921504606846976\n' in prometheus_text(status())
    assert found[("webhook_oldest_pending_timestamp_seconds", ())] == datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    assert "oldest_unrouted" not in prometheus_text(status())
    assert found[("webhook_endpoints", (("state", "active"),))] == 2
    assert found[("webhook_endpoints", (("state", "disabled"),))] == 0


def test_every_kind_of_problem_has_a_sample_whether_or_not_there_is_one() -> None:
    well = parsed(prometheus_text(status()))
    ill = parsed(prometheus_text(status(problems=[Problem("disk", "m", "r", "warning"), Problem("new", "m", "r")])))
    warned = ("problem", (("code", "disk"), ("severity", "warning")))
    assert (well[warned], ill[warned]) == (0, 1)
    assert ill[("problem", (("code", "disk"), ("severity", "error")))] == 0
    assert ill[("problem", (("code", "new"), ("severity", "error")))] == 1


@pytest.mark.parametrize("cache", [0, 1000])
async def test_a_real_reading_can_be_parsed_and_names_no_user(database_url: str, tmp_path: Path, cache: int) -> None:
    options = {"data_dir": tmp_path / "data", "master_key_file": tmp_path / "key", "file_cache_bytes": cache}
    async with Storage.open(database_url, **options) as storage:
        await storage.user("canary").files.write("canary/path", b"12345")
        await storage.user("canary").webhooks.add("https://canary.example.com")
        text = prometheus_text(await storage.status())
    found = parsed(text)
    assert found[("files_bytes", ())] == 5
    assert found[("rows", (("kind", "files"),))] == 1
    assert found[("webhook_endpoints", (("state", "active"),))] == 1
    assert (("file_cache_limit_bytes", ()) in found) is bool(cache)
    assert "canary" not in text
