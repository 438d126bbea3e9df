"""Damage to what slices are read by: an error that says so, or the right rows; never a hang, a crash or other rows."""

from __future__ import annotations

import io
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.errors import CorruptError, UnsupportedError
from storage.tables.slices import FileLayout, Slice, decode, pack, plan_reads, unpack
from storage.tables.slices import stored as stored_form
from storage.tables.slices.footer import parse_footer, parse_offset_index
from storage.tables.slices.layout import Chunks
from storage.tables.slices.thrift import STRUCT, ThriftReader
from tests.storage.test_slices import NESTED, layout_of, layout_or_reason, parquet

pytestmark = pytest.mark.anyio

GOLDEN = Path(__file__).parents[1] / "golden" / "slices"
SMALL = NESTED.slice(0, 2_000)
DATA = parquet(SMALL, row_group_size=1_000, write_page_checksum=True)
PAGED = parquet(NESTED.slice(0, 20_000), write_page_index=True, data_page_size=5_000)
FOOTER = DATA[-8 - int.from_bytes(DATA[-8:-4], "little") : -8]
FUZZ = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=150)


def damage(data: bytes, cuts: list[tuple[float, int]], keep: float) -> bytes:
    """Flip bits at some places (parts of the length), and keep only the first part."""
    out = bytearray(data)
    for place, bits in cuts:
        out[min(int(place * len(out)), len(out) - 1)] ^= bits
    return bytes(out[: int(keep * len(out))])


PLACES = st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=4)
KEEP = st.one_of(st.just(1.0), st.floats(0, 1))


@FUZZ
@given(PLACES, KEEP)
async def test_a_damaged_footer_is_an_error_or_a_layout_within_the_file(
    places: list[tuple[float, int]], keep: float
) -> None:
    footer = damage(FOOTER, places, keep)
    whole = DATA[: len(DATA) - 8 - len(FOOTER)] + footer + len(footer).to_bytes(4, "little") + b"PAR1"
    try:
        layout, _requests = await layout_or_reason(whole)
    except CorruptError:
        return
    if isinstance(layout, str):
        return
    chunks = layout.chunks
    assert (chunks.start >= 0).all()
    assert (chunks.start + chunks.size <= len(whole)).all()
    [stored] = unpack(pack([layout]))
    assert stored.n_rows == layout.n_rows


@FUZZ
@given(PLACES)
async def test_a_damaged_page_index_is_an_error_or_a_layout_within_the_file(places: list[tuple[float, int]]) -> None:
    length = int.from_bytes(PAGED[-8:-4], "little") + 8
    group = pq.ParquetFile(io.BytesIO(PAGED)).metadata.row_group(0)
    chunks = [group.column(i) for i in range(group.num_columns)]
    end = max((each.dictionary_page_offset or each.data_page_offset) + each.total_compressed_size for each in chunks)
    middle = damage(PAGED[end:-length], places, 1.0)
    try:
        layout, _requests = await layout_or_reason(PAGED[:end] + middle + PAGED[-length:])
    except CorruptError:
        return
    assert isinstance(layout, FileLayout)
    assert (layout.chunks.page_start + layout.chunks.page_size <= len(PAGED)).all()


@FUZZ
@given(st.binary(max_size=200))
def test_any_bytes_are_an_error_or_end(data: bytes) -> None:
    for act in (
        lambda: parse_footer(data, 1 << 40),
        lambda: ThriftReader(data).skip(STRUCT),
        lambda: parse_offset_index(data, None, 10),  # type: ignore[arg-type]
    ):
        with suppress(CorruptError, UnsupportedError, AttributeError):
            act()


@FUZZ
@given(PLACES, KEEP)
async def test_damaged_stored_layouts_are_an_error(places: list[tuple[float, int]], keep: float) -> None:
    stored = pack([await layout_of(PAGED)] * 3)
    damaged = damage(stored, places, keep)
    if damaged != stored:
        with pytest.raises(CorruptError):
            unpack(damaged)


@FUZZ
@given(PLACES, st.integers(0, 3))
async def test_damaged_pages_with_checksums_are_an_error_or_the_right_rows(
    places: list[tuple[float, int]], cut: int
) -> None:
    layout = await layout_of(DATA)
    plan = plan_reads(layout, [Slice(1_005, 1_010)], SMALL.column_names)
    parts = [damage(DATA[start:limit], places, 1.0) for start, limit in plan.ranges]
    parts[0] = parts[0][: len(parts[0]) - cut]
    try:
        [(first, batch)] = decode(layout, plan, parts)
    except CorruptError:
        return
    assert len(batch) == 1_000
    assert first == 1_000


async def test_stored_layouts_of_another_kind_are_refused() -> None:
    for data in (b"", b"FLAY", b"PAR1" + bytes(100), b"FLAY\x02" + bytes(100), b"FLAY\x01" + bytes(100)):
        with pytest.raises(CorruptError):
            unpack(data)


async def test_layouts_are_stored_in_few_bytes_and_shared_schemas_once() -> None:
    columns = {f"column_{i}": np.random.default_rng(i).integers(0, 1 << 40, 4_000) for i in range(16)}
    one = await layout_of(parquet(pa.table(columns), row_group_size=1_000))
    shifted = [
        FileLayout(one.n_rows, f"etag-{n}", one.block_rows, one.file_schema, one.group_rows, one.chunks)
        for n in range(1_000)
    ]
    stored = pack(shifted)
    assert len(stored) < 300 * 4 * 1_000
    assert unpack(stored)[999].etag == "etag-999"
    assert unpack(stored)[5:7][1].etag == "etag-6"
    assert len({layout.file_schema for layout in unpack(stored)}) == 1


async def test_layouts_in_memory_take_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {f"column_{i}": np.arange(20_000) for i in range(16)}
    one = await layout_of(parquet(pa.table(columns), row_group_size=1_000))
    data = pack([one] * 500)
    most = unpack(data).n_bytes
    monkeypatch.setattr(stored_form, "_KEPT_BYTES_MAX", most // 20)
    tracemalloc.start()
    found = unpack(data)
    assert all(each.n_rows == 20_000 for each in found)
    used, _peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 1.25 * found.n_bytes < most


async def test_layouts_without_places_are_stored_too() -> None:
    bare = FileLayout(10, "", np.array([0, 4, 10]))
    [stored] = unpack(pack([bare]))
    assert (stored.n_rows, stored.block_rows.tolist()) == (10, [0, 4, 10])
    assert len(stored.chunks.start) == len(Chunks().start) == 0
    assert list(unpack(pack([]))) == []


async def test_the_golden_layouts_are_read_as_they_were_written() -> None:
    whole, paged = unpack((GOLDEN / "v1.layouts").read_bytes())
    assert (whole.n_rows, whole.etag, whole.block_rows.tolist()) == (2_000, "m1", [0, 1_000, 2_000])
    assert (paged.n_rows, paged.etag, len(paged.block_rows)) == (20_000, "", 4)
    assert whole.schema.equals(NESTED.schema)
    assert whole.chunks.start.tolist()[:3] == [4, 5374, 6580]
    assert paged.chunks.page_first.tolist() == [0, 8, 12, 14, 22, 29, 30, 36, 44]
    assert paged.chunks.page_row.tolist()[:4] == [0, 3072, 6144, 9216]
    again = unpack(pack([whole, paged]))[1]
    for name in (
        "start",
        "head",
        "size",
        "extra",
        "codec",
        "coded",
        "page_first",
        "page_row",
        "page_start",
        "page_size",
    ):
        assert getattr(again.chunks, name).tolist() == getattr(paged.chunks, name).tolist()
