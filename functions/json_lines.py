"""Log lines as JSON: one object a line, whatever is in it, for the processes that serve and for those they start.

A line has ``time``, ``level``, ``logger``, ``message``; what the work at hand is known by (`functions.log_context`):
``statement_id``, ``task_id``, ``request_id``; ``trace_id``; ``error``, an exception's class, and its ``trace``; and the
values that the record brings. Texts are cut, so that a line is no longer than readers of lines take.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from functions.log_context import logged_facts
from functions.tracing import trace_id

__all__ = ["JsonFormatter", "log_json", "log_line"]

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_TEXT_MAX = 4_000
"""Of one text, in characters of four bytes at most; a line of 64 KiB is what a worker's parent reads."""
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _cut(record.getMessage()),
            **logged_facts(),
            "trace_id": trace_id(),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["trace"] = self.formatException(record.exc_info)[-_TEXT_MAX:]
        line |= {key: _cut(value) for key, value in vars(record).items() if key not in _STANDARD and value is not None}
        found = {key: value for key, value in line.items() if value is not None}
        return json.dumps(found, default=str, ensure_ascii=False)


def _cut(value: Any) -> Any:
    return value if not isinstance(value, str) or len(value) <= _TEXT_MAX else value[:_TEXT_MAX] + "…"


def log_json(level: str = "info", stream: TextIO | None = None) -> logging.Handler:
    """Send this process's logs as JSON lines to ``stream``, standard error by default; return what does."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    return handler


def log_line(text: str, **extra: Any) -> bool:
    """Log a line that another process logged as if this one had; False if it is no line of `JsonFormatter`."""
    if not text.startswith('{"time"'):
        return False
    try:
        line = json.loads(text)
        logger, level, message = logging.getLogger(line.pop("logger")), _LEVELS[line.pop("level")], line.pop("message")
    except (ValueError, KeyError):
        return False
    logger.log(level, "%s", message, extra={**line, **extra})
    return True
