"""Log records as JSON, one object a line, for programs that collect them.

The library logs with the standard library's logging, below the logger `storage`, and never a secret: an application
gives its handler this formatter, and the command line does so where STORAGE_LOG_FORMAT is `json`.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, Final

_KNOWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; what is beyond it was given as `extra`."""


class JSONFormatter(logging.Formatter):
    """A record as `{"time", "level", "logger", "message"}`, with what was given as `extra`, and the error's traceback.

    `time` is ISO 8601 in UTC to the microsecond. What has no form in JSON stands as text. A line never holds a line
    break, whatever is in the message.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        found: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        found |= {name: value for name, value in vars(record).items() if name not in _KNOWN}
        if record.exc_info:
            found["error"] = self.formatException(record.exc_info)
        return json.dumps(found, ensure_ascii=False, default=str, allow_nan=True)
