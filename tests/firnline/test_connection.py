"""A lake in this process, as plain threads see it."""

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pytest

import firnline
from firnline.connection import Connection, connect_runner
from firnline.result import ResultTable
from storage.errors import CancelledError, InvalidError, LimitError, SqlError, StatementTimeoutError
from tests.support.patient_runner import PATIENT, open_patient_runner
from tests.support.runner import open_nothing, open_sql_runner


@pytest.fixture
def lake() -> Iterator[Connection]:
    with connect_runner(open_patient_runner) as connection:
        yield connection


def test_an_answer_behaves_as_an_arrow_table(lake: Connection) -> None:
    answer = lake.sql("SELECT value AS n, CAST(value AS VARCHAR) AS s FROM range(3) ORDER BY n")
    assert isinstance(answer, ResultTable)
    assert answer.num_rows == len(answer) == 3
    assert answer.column_names == ["n", "s"]
    assert answer.to_pylist() == [{"n": 0, "s": "0"}, {"n": 1, "s": "1"}, {"n": 2, "s": "2"}]
    assert answer["n"].to_pylist() == answer.column(0).to_pylist() == [0, 1, 2]
    assert answer == answer.arrow()
    assert answer.slice(1).num_rows == 2
    assert answer.receipt.rows == 3
    assert answer.receipt.statement_id


def test_an_answer_goes_to_other_libraries(lake: Connection) -> None:
    answer = lake.sql("SELECT value AS n FROM range(3)")
    assert answer.to_polars().equals(pl.DataFrame({"n": [0, 1, 2]}))
    assert pl.DataFrame(answer).height == 3
    assert answer.to_pandas()["n"].sum() == 3
    assert pa.table(answer).num_rows == 3
    assert duckdb.sql("SELECT sum(n) FROM answer").fetchone() == (3,)


def test_an_answer_shows_itself_as_a_table(lake: Connection) -> None:
    assert repr(lake.sql("SELECT 1 AS one, NULL AS nothing")).splitlines() == [
        " one  nothing",
        " ───  ───────",
        "   1  NULL",
        "(1 row)",
    ]


def test_an_answer_without_rows_keeps_its_columns(lake: Connection) -> None:
    answer = lake.sql("SELECT value AS n FROM range(3) WHERE value > 5")
    assert answer.num_rows == 0
    assert answer.column_names == ["n"]


def test_a_stream_gives_batches_as_they_come(lake: Connection) -> None:
    with lake.stream("SELECT value AS n FROM range(100000)") as stream:
        assert stream.schema.names == ["n"]
        assert sum(batch.num_rows for batch in stream) == 100_000
        assert stream.receipt.rows == 100_000


def test_a_stream_is_an_arrow_reader(lake: Connection) -> None:
    assert pl.DataFrame(lake.stream("SELECT value AS n FROM range(10)")).height == 10
    assert lake.stream("SELECT value AS n FROM range(10)").reader().read_all().num_rows == 10


def test_a_closed_stream_is_at_its_end(lake: Connection) -> None:
    stream = lake.stream(PATIENT)
    stream.close()
    stream.close()
    assert list(stream) == []


def test_errors_come_as_they_are(lake: Connection) -> None:
    with pytest.raises(SqlError) as caught:
        lake.sql("SELEC 1")
    assert caught.value.facts["line"] == 1
    with pytest.raises(firnline.SqlError, match="a late error"):
        lake.sql("CALL late 2")
    assert lake.sql("SELECT 1 AS one").num_rows == 1


def test_limits_stop_a_statement(lake: Connection) -> None:
    with pytest.raises(StatementTimeoutError, match="timeout_ms=300"):
        lake.sql(PATIENT, timeout_ms=300)
    with pytest.raises(LimitError, match="result_rows_max=10"):
        lake.sql("SELECT * FROM range(11)", max_rows=10)
    assert lake.sql("SELECT * FROM range(10)", max_rows=10).num_rows == 10


def test_ctrl_c_cancels_the_statement_and_the_connection_lives_on(lake: Connection) -> None:
    timer = threading.Timer(0.5, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        lake.sql(PATIENT)
    timer.join()
    assert lake.sql("SELECT 1 AS one").to_pylist() == [{"one": 1}]


def test_closing_a_stream_from_another_thread_cancels_its_reader(lake: Connection) -> None:
    stream = lake.stream(PATIENT)
    timer = threading.Timer(0.5, stream.close)
    timer.start()
    with pytest.raises(CancelledError):
        stream.read_all()
    timer.join()
    assert lake.sql("SELECT 1 AS one").num_rows == 1


def test_threads_share_a_connection(lake: Connection) -> None:
    found: list[int] = []

    def ask(number: int) -> None:
        found.append(lake.sql(f"SELECT {number} AS n").to_pylist()[0]["n"])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(16))


def test_a_closed_connection_says_so() -> None:
    connection = connect_runner(open_sql_runner)
    connection.close()
    connection.close()
    with pytest.raises(InvalidError, match="the connection is closed"):
        connection.sql("SELECT 1")


def test_a_lake_that_does_not_open_raises_on_connect() -> None:
    with pytest.raises(SqlError, match="the lake is not there"):
        connect_runner(open_nothing)


def test_a_connection_left_open_ends_with_its_last_reference() -> None:
    connection = connect_runner(open_sql_runner)
    before = threading.active_count()
    del connection
    assert threading.active_count() < before


def test_a_folder_that_cannot_be_made_is_the_callers_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidError, match=r"the lake's folder cannot be made.*reason=Not a directory"):
        firnline.connect(tmp_path / "file" / "lake")
