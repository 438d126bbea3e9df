"""Logs are one JSON object a line."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from functions import tracing
from functions.json_lines import JsonFormatter, log_line
from functions.log_context import logged_as
from service.logs import configure_logs
from storage.errors import CorruptError


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
    assert (line["message"], line["level"], line["logger"]) == ("done so", "info", "firnline.x")
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
    assert json.loads(lines.getvalue())["message"] == "other"


def test_a_line_names_the_statement_the_task_and_the_trace_of_its_work(lines: io.StringIO) -> None:
    log = logging.getLogger("firnline.x")
    trace = "0af7651916cd43dd8448eb211c80319c"
    with (
        logged_as(statement_id="s1"),
        logged_as(task_id="2.7"),
        tracing.within(tracing.named(f"00-{trace}-b7ad6b7169203331-01")),
    ):
        log.info("inside")
    log.info("outside")
    inside, outside = map(json.loads, lines.getvalue().splitlines())
    assert (inside["statement_id"], inside["task_id"], inside["trace_id"]) == ("s1", "2.7", trace)
    assert not {"statement_id", "task_id", "trace_id"} & outside.keys()


def test_an_error_is_named_by_its_class(lines: io.StringIO) -> None:
    try:
        raise CorruptError("a checksum does not hold")
    except CorruptError:
        logging.getLogger("firnline.x").exception("failed")
    assert json.loads(lines.getvalue())["error"] == "CorruptError"


def test_whatever_a_text_holds_it_stays_one_line_and_a_short_one(lines: io.StringIO) -> None:
    odd = 'a\nb\r\n"c"\\ \x00\u2028 ' + "é" * 100_000
    logging.getLogger("firnline.x").info("%s", odd, extra={"sql": odd})
    assert lines.getvalue().count("\n") == 1
    assert len(lines.getvalue().encode()) < 1 << 16
    line = json.loads(lines.getvalue())
    assert line["message"].startswith('a\nb\r\n"c"\\ \x00')
    assert line["sql"] == line["message"]


def test_a_line_of_a_worker_is_logged_as_it_is(lines: io.StringIO) -> None:
    record = logging.makeLogRecord({"name": "firnline.y", "levelno": 30, "levelname": "WARNING", "msg": "100% so"})
    assert log_line(JsonFormatter().format(record), pid=7)
    line = json.loads(lines.getvalue())
    assert (line["logger"], line["level"], line["message"], line["pid"]) == ("firnline.y", "warning", "100% so", 7)
    for text in ("Traceback", "{}", '{"time": 3}', '{"time'):
        assert not log_line(text)
