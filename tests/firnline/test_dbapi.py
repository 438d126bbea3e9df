"""The DB-API module held to PEP 249, on a real lake, and as pandas uses it."""

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from firnline import dbapi
from storage.errors import NotFoundError, SqlError

ROWS = "SELECT * FROM (VALUES (1, 'a', DATE '2024-01-01'), (2, NULL, NULL), (3, 'c', NULL)) AS t(n, s, d) ORDER BY n"


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dbapi.Connection]:
    with dbapi.connect(tmp_path_factory.mktemp("lake")) as found:
        yield found


@pytest.fixture
def cursor(connection: dbapi.Connection) -> Iterator[dbapi.Cursor]:
    with connection.cursor() as found:
        yield found


def test_the_module_names_its_level() -> None:
    assert (dbapi.apilevel, dbapi.threadsafety, dbapi.paramstyle) == ("2.0", 2, "named")


def test_the_exceptions_form_pep_249s_tree() -> None:
    assert issubclass(dbapi.Warning, Exception) and issubclass(dbapi.Error, Exception)
    assert issubclass(dbapi.InterfaceError, dbapi.Error) and issubclass(dbapi.DatabaseError, dbapi.Error)
    for name in (
        "DataError",
        "OperationalError",
        "IntegrityError",
        "InternalError",
        "ProgrammingError",
        "NotSupportedError",
    ):
        assert issubclass(getattr(dbapi, name), dbapi.DatabaseError)
        assert getattr(dbapi.Connection, name) is getattr(dbapi, name)


def test_rows_are_fetched_one_by_one_some_and_all(cursor: dbapi.Cursor) -> None:
    cursor.execute(ROWS)
    assert cursor.fetchone() == (1, "a", dt.date(2024, 1, 1))
    assert cursor.fetchmany() == [(2, None, None)]
    assert cursor.fetchmany(5) == [(3, "c", None)]
    assert cursor.fetchone() is None
    assert cursor.fetchmany(2) == []
    assert cursor.fetchall() == []
    assert cursor.rowcount == 3


def test_arraysize_is_what_fetchmany_takes(cursor: dbapi.Cursor) -> None:
    cursor.execute(ROWS)
    cursor.arraysize = 2
    assert len(cursor.fetchmany()) == 2


def test_a_cursor_iterates(cursor: dbapi.Cursor) -> None:
    assert [row[0] for row in cursor.execute(ROWS)] == [1, 2, 3]


def test_the_description_has_seven_items_and_types_that_compare(cursor: dbapi.Cursor) -> None:
    cursor.execute("SELECT 1 AS n, 'x' AS s, CAST(1.5 AS DECIMAL(10, 2)) AS p, now() AS t, X'00' AS b")
    assert cursor.description is not None
    assert all(len(column) == 7 for column in cursor.description)
    assert [column[0] for column in cursor.description] == ["n", "s", "p", "t", "b"]
    kinds = [column[1] for column in cursor.description]
    assert kinds == [dbapi.NUMBER, dbapi.STRING, dbapi.NUMBER, dbapi.DATETIME, dbapi.BINARY]
    assert kinds[1] != dbapi.NUMBER and kinds[0] != dbapi.ROWID and dbapi.NUMBER != dbapi.STRING
    assert cursor.description[2][4:6] == (10, 2)


def test_before_execute_there_is_nothing(cursor: dbapi.Cursor) -> None:
    assert cursor.description is None
    assert cursor.rowcount == -1
    for fetch in (cursor.fetchone, cursor.fetchall, cursor.fetchmany, cursor.fetch_arrow_table):
        with pytest.raises(dbapi.InterfaceError):
            fetch()


def test_parameters_by_name_and_by_number(cursor: dbapi.Cursor) -> None:
    assert cursor.execute("SELECT :a + :b AS n", {"a": 1, "b": 2}).fetchall() == [(3,)]
    assert cursor.execute("SELECT $1 AS s, $2 AS p", ["it's; --", Decimal("1.5")]).fetchall() == [
        ("it's; --", Decimal("1.5"))
    ]
    assert cursor.execute("SELECT 1 AS n", ()).fetchall() == [(1,)]


def test_executemany_runs_each(cursor: dbapi.Cursor) -> None:
    assert cursor.executemany("SELECT $1 AS n", [[1], [2]]).fetchall() == [(2,)]


def test_columns_of_one_name_stay_apart(cursor: dbapi.Cursor) -> None:
    cursor.execute("SELECT a.n, b.n FROM (SELECT 1 AS n) a CROSS JOIN (SELECT 2 AS n) b")
    assert cursor.fetchall() == [(1, 2)]


def test_nanoseconds_are_cut_to_microseconds(cursor: dbapi.Cursor) -> None:
    cursor.execute("SELECT CAST('2024-01-01T00:00:00.123456789' AS TIMESTAMP) AS t")
    assert cursor.fetchall() == [(dt.datetime(2024, 1, 1, 0, 0, 0, 123456),)]


def test_rows_come_as_arrow_too(cursor: dbapi.Cursor) -> None:
    table = cursor.execute(ROWS).fetch_arrow_table()
    assert isinstance(table, pa.Table) and table.num_rows == 3
    assert cursor.execute(ROWS).fetch_record_batch().read_all().num_rows == 3


def test_errors_are_translated_and_keep_their_cause(cursor: dbapi.Cursor) -> None:
    with pytest.raises(dbapi.ProgrammingError) as caught:
        cursor.execute("SELEC 1")
    assert isinstance(caught.value.__cause__, SqlError)
    with pytest.raises(dbapi.ProgrammingError) as caught:
        cursor.execute("SELECT * FROM nowhere")
    assert isinstance(caught.value.__cause__, NotFoundError)
    with pytest.raises(dbapi.NotSupportedError):
        cursor.execute("GRANT SELECT ON t TO reader")
    assert cursor.execute("SELECT 1 AS n").fetchall() == [(1,)]


def test_there_are_no_transactions(connection: dbapi.Connection) -> None:
    connection.commit()
    with pytest.raises(dbapi.NotSupportedError):
        connection.rollback()


def test_closed_things_say_so(tmp_path: Path) -> None:
    connection = dbapi.connect(tmp_path)
    cursor = connection.cursor()
    cursor.close()
    cursor.close()
    with pytest.raises(dbapi.InterfaceError, match="cursor is closed"):
        cursor.execute("SELECT 1")
    connection.close()
    connection.close()
    for use in (connection.cursor, connection.commit, connection.rollback):
        with pytest.raises(dbapi.InterfaceError, match="connection is closed"):
            use()


def test_sizes_are_taken_and_ignored(cursor: dbapi.Cursor) -> None:
    cursor.setinputsizes([1])
    cursor.setoutputsize(10, 1)


def test_the_constructors_make_what_they_name() -> None:
    assert dbapi.Date(2024, 2, 29) == dt.date(2024, 2, 29)
    assert dbapi.Time(1, 2, 3) == dt.time(1, 2, 3)
    assert dbapi.Timestamp(2024, 2, 29, 1, 2, 3) == dt.datetime(2024, 2, 29, 1, 2, 3)
    assert dbapi.Binary(b"x") == b"x"
    moment = dt.datetime(2024, 2, 29, 1, 2, 3).timestamp()
    assert dbapi.DateFromTicks(moment) == dt.date(2024, 2, 29)
    assert dbapi.TimeFromTicks(moment) == dt.time(1, 2, 3)
    assert dbapi.TimestampFromTicks(moment) == dt.datetime(2024, 2, 29, 1, 2, 3)


@pytest.mark.filterwarnings("ignore:pandas only supports SQLAlchemy")
def test_pandas_reads_through_it(connection: dbapi.Connection) -> None:
    frame = pd.read_sql("SELECT value AS n FROM range(3) WHERE value > :low ORDER BY n", connection, params={"low": 0})  # type: ignore[call-overload]
    assert frame["n"].tolist() == [1, 2]
