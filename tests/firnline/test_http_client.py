"""A lake behind a URL: the client against the real service over a real socket, and against servers that misbehave."""

import asyncio
import datetime as dt
import os
import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

import firnline
from firnline.connection import Connection, connect
from firnline.settings import Settings
from firnline.wire_params import to_wire
from service.app import AppSettings
from service.statement import Limits
from storage.errors import (
    CancelledError,
    CorruptError,
    IndeterminateError,
    InternalError,
    InvalidError,
    LimitError,
    OverloadedError,
    SqlError,
    StatementTimeoutError,
    UnauthenticatedError,
    UnavailableError,
)
from tests.support.http_app import SECRET, app_over, serving
from tests.support.patient_runner import PATIENT, PatientRunner


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(app_over(PatientRunner())) as found:
        yield found


@pytest.fixture
def lake(url: str) -> Iterator[Connection]:
    with connect(url, settings=Settings()) as connection:
        yield connection


def test_an_answer_is_the_same_as_in_process(lake: Connection) -> None:
    answer = lake.sql("SELECT value AS n, CAST(value AS VARCHAR) AS s FROM range(3) ORDER BY n")
    assert answer.to_pylist() == [{"n": 0, "s": "0"}, {"n": 1, "s": "1"}, {"n": 2, "s": "2"}]


def test_the_receipt_is_the_servers(lake: Connection) -> None:
    answer = lake.sql("SELECT value FROM range(1000)")
    assert answer.receipt.rows == 1000
    assert len(answer.receipt.statement_id) == 32


def test_a_large_answer_streams(lake: Connection) -> None:
    with lake.stream("SELECT value AS n FROM range(1000000)") as stream:
        assert sum(batch.num_rows for batch in stream) == 1_000_000


def test_an_empty_answer_keeps_its_columns(lake: Connection) -> None:
    assert lake.sql("SELECT value AS n FROM range(3) WHERE value > 5").column_names == ["n"]


def test_a_problem_document_becomes_the_exception_that_was_raised(lake: Connection) -> None:
    with pytest.raises(SqlError) as caught:
        lake.sql("SELEC 1")
    assert (caught.value.facts["line"], caught.value.facts["column"]) == (1, 1)
    assert str(caught.value).count("line=1") == 1


def test_an_error_after_many_rows_is_the_servers_own(lake: Connection) -> None:
    with pytest.raises(SqlError, match="a late error"):
        lake.sql("CALL late 3")
    assert lake.sql("SELECT 1 AS one").num_rows == 1


def test_limits_travel(lake: Connection) -> None:
    with pytest.raises(StatementTimeoutError):
        lake.sql(PATIENT, timeout_ms=200)
    with pytest.raises(LimitError, match="max"):
        lake.sql("SELECT * FROM range(11)", max_rows=10)


def test_closing_a_stream_cancels_the_statement(lake: Connection) -> None:
    stream = lake.stream("CALL late 50")
    next(stream)
    stream.close()
    assert list(stream) == []


def test_closing_from_another_thread_ends_the_wait(url: str) -> None:
    with connect(url, settings=Settings()) as lake:
        stream = lake.stream("CALL late 200")
        next(stream)
        timer = threading.Timer(0.05, stream.close)
        timer.start()
        with pytest.raises((CancelledError, SqlError)):
            for _ in range(1000):
                if next(stream, None) is None:
                    raise CancelledError("the stream is at its end")
        timer.join()


def test_a_token_is_sent_and_a_wrong_one_refused() -> None:
    with serving(app_over(PatientRunner(), tokens=True)) as url:
        with connect(url, token=SECRET, settings=Settings()) as lake:
            assert lake.sql("SELECT 1 AS one").num_rows == 1
        with connect(url, settings=Settings(token=SECRET)) as lake:
            assert lake.sql("SELECT 1 AS one").num_rows == 1
        for token in (None, "firn_wrong"):
            with connect(url, token=token, settings=Settings()) as lake, pytest.raises(UnauthenticatedError):
                lake.sql("SELECT 1 AS one")


def test_a_token_does_not_cross_the_network_in_the_clear() -> None:
    with pytest.raises(InvalidError, match="https"):
        connect("http://lake.example:8080", token="firn_secret", settings=Settings())
    connect("http://lake.example:8080", token="firn_secret", settings=Settings(allow_http=True)).close()
    connect("https://lake.example", token="firn_secret", settings=Settings()).close()


def test_the_servers_limits_hold() -> None:
    settings = AppSettings(limits=Limits(result_rows_max=5))
    with (
        serving(app_over(PatientRunner(), settings=settings)) as url,
        connect(url, settings=Settings()) as lake,
        pytest.raises(LimitError),
    ):
        lake.sql("SELECT * FROM range(6)", max_rows=100)


def test_nobody_there_is_unavailable() -> None:
    with (
        connect("http://127.0.0.1:9", settings=Settings()) as lake,
        pytest.raises(UnavailableError, match="is it running"),
    ):
        lake.sql("SELECT 1")


def test_a_closed_connection_says_so(url: str) -> None:
    lake = connect(url, settings=Settings())
    lake.close()
    with pytest.raises(InvalidError, match="closed"):
        lake.sql("SELECT 1")


class Misbehaving:
    """A server that answers the first statements as it is told, and counts them."""

    def __init__(self, *answers: tuple[int, bytes, bytes]) -> None:
        self.answers = list(answers)
        self.n_requests = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.n_requests += 1
        status, kind, body = self.answers.pop(0) if self.answers else (404, b"text/plain", b"nothing")
        headers = [(b"content-type", kind), (b"retry-after", b"0")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": status == 200})
        if status == 200:
            raise asyncio.CancelledError  # the server cuts the connection


BUSY = (429, b"application/problem+json", b'{"title":"OverloadedError","status":429,"detail":"too many statements"}')


def test_a_busy_server_is_asked_again() -> None:
    server = Misbehaving(BUSY, BUSY, (400, b"application/problem+json", b'{"title":"SqlError","detail":"no"}'))
    with serving(server) as url, connect(url, settings=Settings()) as lake, pytest.raises(SqlError, match=r"^no$"):
        lake.sql("SELECT 1")
    assert server.n_requests == 3


def test_a_server_that_stays_busy_is_given_up() -> None:
    server = Misbehaving(*[BUSY] * 9)
    with serving(server) as url, connect(url, settings=Settings()) as lake, pytest.raises(OverloadedError):
        lake.sql("SELECT 1")
    assert server.n_requests == 4


@pytest.mark.parametrize(("status", "kind"), [(502, UnavailableError), (504, IndeterminateError), (500, InternalError)])
def test_a_proxys_page_is_read_by_its_status(status: int, kind: type[Exception]) -> None:
    server = Misbehaving(*[(status, b"text/html", b"<html>oops</html>")] * 4)
    with serving(server) as url, connect(url, settings=Settings()) as lake, pytest.raises(kind):
        lake.sql("SELECT 1")


def test_another_server_is_recognised_as_such() -> None:
    with (
        serving(Misbehaving()) as url,
        connect(url, settings=Settings()) as lake,
        pytest.raises(firnline.NotFoundError, match="is the URL right"),
    ):
        lake.sql("SELECT 1")


class Linked:
    """A server whose answers are elsewhere; remembers what it was asked for there."""

    def __init__(self, status: int, place: str | None = None) -> None:
        self.status, self.place = status, place
        self.seen: list[dict[bytes, bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await Misbehaving()(scope, receive, send)
            return
        headers = dict(scope["headers"])
        elsewhere = self.place if self.place is not None else f"http://{headers[b'host'].decode()}/bucket/body?sig=1"
        status, body = 303, b"{}"
        if scope["path"] == "/bucket/body":
            self.seen.append(headers)
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, pa.schema([("n", pa.int64())])) as writer:
                writer.write_table(pa.table({"n": [1, 2]}))
            status, body = self.status, sink.getvalue().to_pybytes()
        sent = [(b"location", elsewhere.encode()), (b"x-statement-id", b"s1")] if status == 303 else []
        await send({"type": "http.response.start", "status": status, "headers": sent})
        await send({"type": "http.response.body", "body": body})


def test_an_answer_that_is_elsewhere_is_read_there_without_the_token() -> None:
    server = Linked(200)
    with serving(server) as url, connect(url, settings=Settings(), token="secret") as lake:
        answer = lake.sql("SELECT 1")
        assert answer.to_pylist() == [{"n": 1}, {"n": 2}]
        assert answer.receipt.statement_id == "s1"
    assert [b"authorization" in each for each in server.seen] == [False]


def test_a_place_that_does_not_give_the_answer_says_so() -> None:
    for server, kind in ((Linked(403), UnavailableError), (Linked(200, ""), CorruptError)):
        with serving(server) as url, connect(url, settings=Settings()) as lake, pytest.raises(kind):
            lake.sql("SELECT 1")


def test_parameters_travel_as_json() -> None:
    assert to_wire([1, 1.5, None, True, "x"]) == [1, 1.5, None, True, "x"]
    assert to_wire({"d": dt.date(2024, 2, 29), "n": Decimal("1.10")}) == {"d": "2024-02-29", "n": "1.10"}


@pytest.mark.parametrize("value", [b"bytes", float("nan"), object()])
def test_a_parameter_without_a_json_form_is_refused(value: object) -> None:
    with pytest.raises(InvalidError, match=r"no JSON form.*\$2"):
        to_wire([1, value])
    with pytest.raises(InvalidError, match="a sequence"):
        to_wire("text")


def test_the_environments_proxy_is_not_asked(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert os.environ["HTTP_PROXY"]
    with connect(url, settings=Settings()) as lake:
        assert lake.sql("SELECT 1 AS one").num_rows == 1
