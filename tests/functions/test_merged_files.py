"""Files that stand for others: their ranges cover each part of each file once, and they go with who made them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datafusion import SessionConfig, SessionContext
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.merged_files import FOREVER, LIVE, FilePart, MergedFiles, merged_files
from functions.scratch import Scratch
from storage.tables.snapshot import FileSet, Snapshot

SCHEMA = pa.schema([
    ("a", pa.int64()), ("s", pa.string()), ("n", pa.struct([("x", pa.int32()), ("y", pa.list_(pa.string()))])),
    ("m", pa.map_(pa.string(), pa.decimal128(20, 3))), ("t", pa.timestamp("us", "UTC")), ("f", pa.float32()),
])  # fmt: skip


def _snapshot(sizes: list[int], schema: pa.Schema = SCHEMA) -> Snapshot:
    paths = [f"file:///t/{number}" for number in range(len(sizes))]
    files = FileSet(paths, np.array(sizes, np.int64), np.full(len(sizes), 1_000_000))
    return Snapshot("delta", "file:///t", 0, 0, schema, files)


def _made(sizes: list[int], folder: Path) -> MergedFiles:
    return merged_files(_snapshot(sizes), range(len(sizes)), {}, str(folder))


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(0, 40 << 20), min_size=1, max_size=12), data=st.data())
def test_any_cuts_of_the_files_have_each_byte_of_each_real_file_once(
    sizes: list[int], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    merged = _made(sizes, tmp_path_factory.mktemp("stands"))
    found: dict[int, list[FilePart]] = {}
    for path in merged.stands:
        length = Path(path).stat().st_size
        cuts = sorted({0, length, *data.draw(st.lists(st.integers(0, length), max_size=6))})
        for start, limit in pairwise(cuts):
            for part in merged.parts(path, start, limit):
                found.setdefault(part.index, []).append(part)
    assert set(found) == set(range(len(sizes)))
    for parts in found.values():
        ordered = sorted(parts, key=lambda each: each.start)
        assert ordered[0].start == 0
        assert ordered[-1].limit == FOREVER
        assert all(left.limit == right.start for left, right in pairwise(ordered))


def test_the_engine_sees_columns_and_sizes_and_takes_no_answer_from_them(tmp_path: Path) -> None:
    merged = _made([100 << 20, 200 << 20], tmp_path)
    [path] = merged.stands
    assert Path(path).stat().st_size == 300 << 20
    assert Path(path).stat().st_blocks * 512 < 1 << 20
    assert pq.read_schema(path).names == [*SCHEMA.names, LIVE]
    context = SessionContext(SessionConfig().with_target_partitions(4))
    context.sql("SET datafusion.execution.parquet.schema_force_view_types = false")
    context.sql(f"CREATE EXTERNAL TABLE stands STORED AS PARQUET LOCATION '{path}'")
    table = context.table("stands").schema()
    assert [each.type for each in table][:-1] == SCHEMA.types
    for sql in ("count(*)", "count(a)", "max(a)"):
        plan = context.sql(f"SELECT {sql} FROM stands WHERE {LIVE}").execution_plan().display_indent()
        assert "AggregateExec" in plan
        assert "4 groups" in plan


def test_a_table_may_have_a_column_of_the_same_name(tmp_path: Path) -> None:
    schema = pa.schema([(LIVE, pa.int64())])
    merged = merged_files(_snapshot([10], schema), [0], {}, str(tmp_path))
    assert merged.live == f"{LIVE}_"


def test_files_are_gone_with_the_value(tmp_path: Path) -> None:
    merged = _made([1000], tmp_path)
    assert list(tmp_path.iterdir())
    del merged
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_leaves_goes_with_the_next_folder_and_that_of_a_living_one_stays(tmp_path: Path) -> None:
    program = (
        "import sys, time; from functions.scratch import Scratch\n"
        "made = Scratch(sys.argv[1]); (made.folder / 'x').write_text('x'); print(made.folder, flush=True)\n"
        "time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    _age(folder)
    Scratch(str(tmp_path)).close()
    assert folder.exists()
    process.kill()
    process.wait()
    process.stdout.close()
    Scratch(str(tmp_path)).close()
    assert not folder.exists()


def _age(folder: Path) -> None:
    old_s = time.time() - 3600
    os.utime(folder, (old_s, old_s))
