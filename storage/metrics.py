"""A reading of a storage as Prometheus text: for node_exporter's textfile collector, or whatever serves it over HTTP.

Totals only. A user, a URL or a path of a file as a label would make a time series for each of them, and tell of them.

The format is Prometheus' text-based exposition format, version 0.0.4
(https://prometheus.io/docs/instrumenting/exposition_formats/), names and units are as OpenMetrics has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypeAlias

from storage.clock import now

if TYPE_CHECKING:
    from storage.status import StorageStatus

PREFIX: Final = "agent_storage"

CODES: Final = ("schema", "keys", "disk")
"""Codes of problems. Each has a sample also while there is none, so that an alert has something to compare."""

_STATES: Final = ("active", "paused", "disabled")

_Samples: TypeAlias = Iterable[tuple[Mapping[str, str], float]]


def prometheus_text(status: StorageStatus) -> str:
    """The reading in Prometheus' text format; ends with a newline. All are gauges.

    Args:
        status: as Storage.status() gives it.
    """
    return "".join(_family(name, description, list(samples)) for name, description, samples in _families(status))


def _families(status: StorageStatus) -> Iterable[tuple[str, str, _Samples]]:
    """Name without the prefix, help, and samples of each metric."""
    about = {"dialect": status.dialect, "schema": status.schema.stored or "", "key_provider": status.keys.provider}
    yield "info", "What kind of storage this is; always 1.", [(about, 1)]
    yield "status_timestamp_seconds", "When these figures were read.", _one(now().timestamp())
    codes = {(problem.code, problem.severity) for problem in status.problems}
    yield (
        "problem",
        "1 if `storage status` tells of a problem of this kind.",
        [
            ({"code": code, "severity": severity}, (code, severity) in codes)
            for code in dict.fromkeys((*CODES, *(code for code, _ in sorted(codes))))
            for severity in ("error", "warning")
        ],
    )
    yield "rows", "Rows by kind.", [({"kind": kind}, number) for kind, number in status.counts.items()]
    yield "files_bytes", "Sum of the sizes of all files.", _one(status.file_bytes)
    yield "database_bytes", "Size of the database, without SQLite's WAL.", _one(status.database_bytes)
    yield "secrets_locked", "1 if a master key that secrets depend on is not at hand.", _one(not status.keys.complete)
    yield "data_keys", "Data keys that are stored.", _one(status.keys.data_keys)
    disks = [({"place": disk.place, "path": disk.path}, disk) for disk in status.disks]
    yield "disk_free_bytes", "Free bytes of a local disk.", [(labels, disk.free_bytes) for labels, disk in disks]
    yield "disk_size_bytes", "Size of that disk.", [(labels, disk.total_bytes) for labels, disk in disks]
    yield from _webhooks(status)
    if status.file_cache is not None:
        yield "file_cache_bytes", "Bytes that the cache of files holds.", _one(status.file_cache.held_bytes)
        yield "file_cache_limit_bytes", "Bytes that it may hold.", _one(status.file_cache.limit_bytes)


def _webhooks(status: StorageStatus) -> Iterable[tuple[str, str, _Samples]]:
    hooks = status.webhooks
    states = [({"state": state}, hooks.endpoints.get(state, 0)) for state in _STATES]
    yield "webhook_endpoints", "Endpoints by state.", states
    yield "webhook_breakers_open", "Endpoints that nothing is sent to, because they failed.", _one(hooks.breakers_open)
    yield "webhook_pending_events", "Events that wait for an endpoint.", _one(hooks.pending)
    yield "webhook_dead_events", "Events that were given up and may be replayed.", _one(hooks.dead)
    yield "webhook_unrouted_events", "Events that no dispatcher has looked at yet.", _one(hooks.to_fan_out)
    yield (
        "webhook_oldest_pending_timestamp_seconds",
        "When the oldest event happened that waits for an endpoint; no sample if none waits.",
        _since(hooks.oldest_pending_at),
    )
    yield (
        "webhook_oldest_unrouted_timestamp_seconds",
        "When the oldest event happened that no dispatcher has looked at; no sample if there is none.",
        _since(hooks.oldest_to_fan_out_at),
    )


def _one(value: float) -> _Samples:
    return [({}, value)]


def _since(moment: datetime | None) -> _Samples:
    return [] if moment is None else _one(moment.timestamp())


def _family(name: str, description: str, samples: list[tuple[Mapping[str, str], float]]) -> str:
    if not samples:
        return ""
    full = f"{PREFIX}_{name}"
    lines = [f"# HELP {full} {_escaped(description, quotes=False)}", f"# TYPE {full} gauge"]
    lines += [f"{full}{_labels(labels)} {_number(value)}" for labels, value in samples]
    return "".join(f"{line}\n" for line in lines)


def _labels(labels: Mapping[str, str]) -> str:
    pairs = [f'{name}="{_escaped(value, quotes=True)}"' for name, value in labels.items()]
    return f"{{{','.join(pairs)}}}" if pairs else ""


def _escaped(text: str, *, quotes: bool) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text


def _number(value: float) -> str:
    """Whole numbers in full: a repr of a float keeps 17 digits, and `1e+16` is harder to read."""
    return str(int(value)) if value == int(value) else repr(float(value))
