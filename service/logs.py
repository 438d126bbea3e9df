"""A server's logs: JSON lines (`functions.json_lines`), one line per statement among them.

A statement's line says its id, its request's id and trace, how it ended, how long it took, what it read, sent and cost.
It holds neither the SQL (unless ``FIRN_LOG_SQL`` is set) nor parameters, since both carry data, and no token: only the
token's id.
"""

from __future__ import annotations

import logging
from typing import TextIO

from functions.json_lines import JsonFormatter, log_json

__all__ = ["JsonFormatter", "configure_logs"]

_CUT = "ASGI callable returned without completing response."


def _is_news(record: logging.LogRecord) -> bool:
    """Cutting off a result that failed in mid-stream is on purpose, and its statement's own line says so."""
    return record.msg != _CUT


def configure_logs(level: str = "info", stream: TextIO | None = None) -> None:
    """Send this process's logs as JSON lines to ``stream``, standard error by default."""
    log_json(level, stream).addFilter(_is_news)
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
