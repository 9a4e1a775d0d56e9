"""Spans and durations of statements for OpenTelemetry: which statement, how long, and whether it failed; no parameter.

Names follow OpenTelemetry's conventions for database clients
(https://opentelemetry.io/docs/specs/semconv/database/). A statement's own name is its summary: there are a few hundred
of them, so that each may be a time series. Neither SQL nor values are told.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from storage.database.unit import T, Unit

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from storage.database.statement import DialectName, Row, Statement
    from storage.database.unit import Executor

SCOPE: Final = "agent-storage"

_BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
"""Seconds, those that the conventions give for databases."""


class DatabaseTelemetry:
    """Tells OpenTelemetry of what one database is asked.

    Args:
        dialect: which database.
        tracer_provider: the application's own if None.
        meter_provider: likewise.
    """

    def __init__(
        self,
        dialect: DialectName,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        from opentelemetry import metrics, trace

        self._system: dict[str, str] = {"db.system.name": dialect}
        self._tracer = trace.get_tracer(SCOPE, tracer_provider=tracer_provider)
        self._durations = metrics.get_meter(SCOPE, meter_provider=meter_provider).create_histogram(
            "db.client.operation.duration",
            "s",
            "Time for a statement, or for a unit of several in one transaction, waiting included",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self._kind = trace.SpanKind.CLIENT
        self._failed = trace.StatusCode.ERROR

    async def observe(self, names: list[str], work: Awaitable[T]) -> T:
        """Wait for something, within a span.

        Args:
            names: of the statements, known at the latest when it has ended.
            work: what to wait for.
        """
        began = time.perf_counter()
        attributes: dict[str, str] = dict(self._system)
        with self._tracer.start_as_current_span(
            names[0] if names else "unit", kind=self._kind, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                return await work
            except BaseException as error:
                # Not its message: it is for people who may see the data.
                attributes["error.type"] = type(error).__name__
                span.set_status(self._failed)
                raise
            finally:
                attributes["db.query.summary"] = names[0] if names else "unit"
                span.update_name(attributes["db.query.summary"])
                span.set_attributes({**attributes, "storage.statements": tuple(dict.fromkeys(names))})
                self._durations.record(time.perf_counter() - began, attributes)


class ObservedExecutor:
    """An open transaction whose statements are told of one by one."""

    def __init__(self, executor: Executor, telemetry: DatabaseTelemetry) -> None:
        self._executor = executor
        self._telemetry = telemetry
        self.dialect = executor.dialect
        self.in_transaction = executor.in_transaction

    async def read(self, statement: Statement, parameters: Mapping[str, Any], *, scan: bool = False) -> list[Row]:
        """See Executor.read."""
        return await self._telemetry.observe([statement.name], self._executor.read(statement, parameters, scan=scan))

    async def run(self, unit: Callable[[], Unit[T]]) -> T:
        """See Executor.run."""
        names: list[str] = []
        return await self._telemetry.observe(names, self._executor.run(noting(unit, names)))


def is_wanted() -> bool:
    """Whether the application uses OpenTelemetry's SDK: it has to be imported before the storage is opened."""
    return "opentelemetry.sdk" in sys.modules


def noting(unit: Callable[[], Unit[T]], names: list[str]) -> Callable[[], Unit[T]]:
    """The same unit, which notes the names of its statements as they are run."""

    def noted() -> Unit[T]:
        inner = unit()
        names.clear()  # it may have to be run again
        try:
            step = next(inner)
            while True:
                names.append(step.statement.name)
                try:
                    rows = yield step
                except GeneratorExit:
                    inner.close()
                    raise
                except BaseException as error:  # noqa: BLE001 - the unit's to deal with
                    step = inner.throw(error)
                else:
                    step = inner.send(rows)
        except StopIteration as stop:
            result: T = stop.value
            return result

    return noted
