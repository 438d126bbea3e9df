"""Logs are one JSON object a line."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from service.logs import configure_logs


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = root.handlers, root.level
    stream = io.StringIO()
    configure_logs("info", stream)
    yield stream
    root.handlers = before
    root.setLevel(level)


def test_a_line_holds_the_event_and_its_values_whatever_they_are(lines: io.StringIO) -> None:
    logging.getLogger("firnline.x").info("done %s", "so", extra={"statement_id": "s1", "odd": object(), "none": None})
    line = json.loads(lines.getvalue())
    assert (line["event"], line["level"], line["logger"]) == ("done so", "info", "firnline.x")
    assert line["statement_id"] == "s1"
    assert "none" not in line
    assert line["time"].endswith("+00:00")


def test_a_trace_is_a_value_and_not_more_lines(lines: io.StringIO) -> None:
    try:
        raise ValueError("x\ny")
    except ValueError:
        logging.getLogger("firnline.x").exception("failed")
    assert "ValueError" in json.loads(lines.getvalue())["trace"]
    assert lines.getvalue().count("\n") == 1


def test_a_cut_connection_is_no_news_and_other_errors_of_the_server_are(
    lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("uvicorn"), "propagate", True)  # as before anyone configured uvicorn's own
    logging.getLogger("uvicorn.error").error("ASGI callable returned without completing response.")
    assert lines.getvalue() == ""
    logging.getLogger("uvicorn.error").error("other")
    assert json.loads(lines.getvalue())["event"] == "other"
