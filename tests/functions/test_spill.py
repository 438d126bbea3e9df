"""What does not fit into memory goes to disk, up to a bound; past it the statement ends and says so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from datafusion import SessionConfig, SessionContext

from functions.errors import translate
from functions.session import Session, SessionOptions
from functions.spill import bound_spill, spill_bytes
from storage.clock import SystemClock
from storage.errors import LimitError

_SORT = "SELECT value, md5(CAST(value AS VARCHAR)) AS h FROM generate_series(1, 1500000) ORDER BY h"


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(SessionOptions(30 << 20, str(tmp_path), 1), SystemClock())


def test_a_sort_spills_and_leaves_nothing(session: Session, tmp_path: Path) -> None:
    assert sum(batch.num_rows for batch in session.context.sql(_SORT).collect()) == 1_500_000
    session.close()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_sort_past_the_bound_ends_and_says_what_to_do(session: Session) -> None:
    bound_spill(session.context, 10 << 20)
    with pytest.raises(Exception, match="disk space") as caught:
        session.context.sql(_SORT).collect()
    error = translate(caught.value)
    assert isinstance(error, LimitError)
    assert error.facts["limit"] == "spill"
    assert "larger disk" in str(error)
    assert session.context.sql("SELECT 1").collect()[0].num_rows == 1


def test_a_session_may_spill_most_of_what_is_free(tmp_path: Path, session: Session) -> None:
    free = shutil.disk_usage(tmp_path).free
    assert 0.8 * free < spill_bytes(str(tmp_path)) < 0.95 * free
    assert spill_bytes(str(tmp_path / "nothing")) == 0
    assert spill_bytes(None) > 0
    ask = "SHOW datafusion.runtime.max_temp_directory_size"
    own = SessionContext(SessionConfig().with_information_schema(True)).sql(ask).collect()[0].to_pylist()
    assert session.context.sql(ask).collect()[0].to_pylist() != own
