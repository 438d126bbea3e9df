"""Structured logs: one JSON object a line, one line per statement.

A statement's line says its id, its request's id, how it ended, how long it took, and what it read and sent. It holds
neither the SQL nor its parameters, since both carry data, and no token: only the token's id.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

__all__ = ["JsonFormatter", "configure_logs"]

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_CUT = "ASGI callable returned without completing response."


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON: time, level, logger, event, then the record's extra values."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD and value is not None}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def _is_news(record: logging.LogRecord) -> bool:
    """Cutting off a result that failed in mid-stream is on purpose, and its statement's own line says so."""
    return record.msg != _CUT


def configure_logs(level: str = "info", stream: TextIO | None = None) -> None:
    """Send this process's logs as JSON lines to ``stream``, standard error by default."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(_is_news)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
