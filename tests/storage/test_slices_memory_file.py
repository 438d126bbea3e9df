"""Files in memory that are kept open between look-ups give each look-up its own rows, and nothing else."""

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.blobs.memory import MemoryBlobs
from storage.clock import SystemClock
from storage.errors import CorruptError
from storage.stores import Stores
from storage.tables.slices import FileLayout, Slice, decode, plan_reads, read_layouts

pytestmark = pytest.mark.anyio

N, PAGE = 8_192, 512
COLUMNS = ["number", "text", "fixed", "day", "kind", "share"]


def _rows() -> pa.Table:
    rng = np.random.default_rng(1)
    return pa.table(
        {
            "number": np.arange(N),
            # Long and short by turns, so that pages differ in length and slots are made anew.
            "text": [None if i % 11 == 0 else str(rng.bytes((i // PAGE % 3) * 20)) for i in range(N)],
            "fixed": pa.array([i.to_bytes(8, "little") for i in range(N)], pa.binary(8)),
            "day": pa.array(np.arange(N, dtype=np.int32), pa.date32()),
            "kind": pa.array([i % 3 for i in range(N)], pa.int32()),
            "share": pa.array([i / 7 if i % 5 else None for i in range(N)], pa.float64()),
        }
    )


ROWS = _rows()


async def _file(**options: object) -> tuple[bytes, FileLayout]:
    sink = io.BytesIO()
    options = {"compression": "zstd", "use_dictionary": False, "max_rows_per_page": PAGE, **options}
    pq.write_table(ROWS, sink, row_group_size=N, write_page_index=True, write_batch_size=PAGE, **options)
    data = sink.getvalue()
    blobs = MemoryBlobs(SystemClock())
    etag = (await blobs.put("a", data)).etag
    [layout] = await read_layouts(Stores(lambda _root: blobs), [("s3://b/a", len(data), etag)])
    assert isinstance(layout, FileLayout)
    layout.file_schema.templates.clear()  # files of one schema share what is open
    return data, layout


def _decoded(data: bytes, layout: FileLayout, row: int, columns: list[str]) -> pa.Table:
    plan = plan_reads(layout, [Slice(row, row + 1)], columns)
    [(first, batch)] = decode(layout, plan, [data[start:limit] for start, limit in plan.ranges])
    return pa.Table.from_batches([batch]).slice(row - first, 1)


def _is_open(layout: FileLayout) -> bool:
    return any(layout.file_schema.templates.values())


@pytest.mark.parametrize(
    "options", [{}, {"compression": "none"}, {"compression": "lz4"}, {"write_page_checksum": True}]
)
async def test_an_answer_stays_what_it_was_while_others_are_decoded(options: dict[str, object]) -> None:
    data, layout = await _file(**options)
    rows = [*range(0, N, 251), 0, N - 1]
    found = [_decoded(data, layout, row, COLUMNS) for row in rows]
    assert _is_open(layout)
    assert pa.concat_tables(found).equals(ROWS.take(rows))


async def test_columns_have_files_of_their_own() -> None:
    data, layout = await _file()
    for columns in (["number"], ["text", "share"], ["number"], COLUMNS, ["text"]):
        for row in (5, N - 5):
            assert _decoded(data, layout, row, columns).equals(ROWS.slice(row, 1).select(columns))
    assert _is_open(layout)


async def test_dictionaries_are_read_from_files_of_their_own() -> None:
    data, layout = await _file(use_dictionary=["kind"])
    for row in (600, 20, 7_000):
        assert _decoded(data, layout, row, ["kind"]).equals(ROWS.slice(row, 1).select(["kind"]))
    assert not _is_open(layout)


async def test_threads_do_not_see_each_others_pages() -> None:
    data, layout = await _file()
    rows = [row * 37 % N for row in range(400)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda row: _decoded(data, layout, row, COLUMNS), rows))
    assert pa.concat_tables(found).equals(ROWS.take(rows))


@pytest.mark.parametrize("column", COLUMNS)
async def test_a_chunk_with_too_few_values_is_damage_and_is_not_filled_up_with_what_was_there_before(
    column: str,
) -> None:
    data, layout = await _file(compression="none")
    _decoded(data, layout, 0, [column])
    assert _is_open(layout)
    plan = plan_reads(layout, [Slice(PAGE, PAGE + 1)], [column])
    [area] = plan.areas
    [piece] = area.pieces
    # The pages of twice as many rows are asked for, and those of the second half are missing.
    twice = replace(
        piece, limit=piece.limit + PAGE, chunks=[(*chunk[:4], 2 * PAGE, chunk[5]) for chunk in piece.chunks]
    )
    wrong = replace(plan, areas=(replace(area, limit=area.limit + PAGE, pieces=(twice,)),))
    whole = plan_reads(layout, [Slice(0, 2 * PAGE)], [column])
    decode(layout, whole, [data[start:limit] for start, limit in whole.ranges])
    with pytest.raises(CorruptError):
        decode(layout, wrong, [data[start:limit] for start, limit in plan.ranges])
    assert _decoded(data, layout, 7, [column]).equals(ROWS.slice(7, 1).select([column]))
