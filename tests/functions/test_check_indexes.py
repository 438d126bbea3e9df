"""What a check says of indexes: nothing of sound ones, and each kind of damage by name."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from catalog.kv import Put
from functions.check import Report, check
from functions.index.segment import Segment
from storage.stores import normalize
from tests.support.lakes import Lake, open_lake

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["delta", "iceberg"])
async def lake(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Lake]:
    async with open_lake(tmp_path) as opened:
        rows = "SELECT value AS id, value * 7 % 100 AS v, value % 4 AS p FROM generate_series(1, 400) AS g(value)"
        await opened.table(f"CREATE TABLE t USING {request.param} PARTITIONED BY (p) ORDER BY (id) AS {rows}")
        await opened.table("CREATE INDEX i ON t (id) USING learned")
        await opened.table("CREATE INDEX j ON t (v) USING locator")
        yield opened


async def checked(lake: Lake, *, deep: bool = False) -> Report:
    engine = lake.engine
    return await check(engine.stores, engine.kv, engine.clock, normalize(str(lake.folder)), deep=deep)


@pytest.mark.parametrize("deep", [False, True])
async def test_sound_indexes_have_no_findings(lake: Lake, deep: bool) -> None:
    report = await checked(lake, deep=deep)
    assert report.sound
    assert not report.findings
    assert report.counts["indexes"] == 2
    assert report.counts["index_segments"] == 2
    assert report.counts["index_keys"] == 800


async def test_an_index_that_does_not_find_rows_is_an_error(lake: Lake) -> None:
    engine = lake.engine
    (entry,) = await engine.tables.all()
    index = next(each for each in await engine.indexes.of(entry.id) if each.name == "i")
    (segment,) = await engine.models.segments(index)
    assert isinstance(segment, Segment)
    # The files in another order: each key is where another file is.
    wrong = replace(
        segment, paths=segment.paths[::-1], sizes=segment.sizes[::-1].copy(), etags=list(segment.etags)[::-1],
        layouts=[segment.layouts[number] for number in range(len(segment.paths))][::-1],
    )  # fmt: skip
    data = wrong.encode()
    ref = replace(index.segments[0], checksum=hashlib.sha256(data).hexdigest())
    await engine.indexes.change(entry.id, "i", lambda old: replace(old, segments=(ref,)), inline={ref.id: data})
    report = await checked(lake)
    assert not report.sound
    assert {finding.severity for finding in report.findings} == {"error"}
    assert all("default.t: index i" in finding.where for finding in report.findings)
    assert "are not where it says" in report.findings[0].what


async def test_a_segment_that_is_missing_and_an_entry_that_cannot_be_read_are_warnings(lake: Lake) -> None:
    engine = lake.engine
    (entry,) = await engine.tables.all()
    index = next(each for each in await engine.indexes.of(entry.id) if each.name == "i")
    await engine.kv.txn({}, [Put(f"segment/{entry.id}/{index.segments[0].id}", None)])
    await engine.kv.txn({}, [Put(f"index/{entry.id}/odd", b"?"), Put("index/gone/x", b"{}")])
    report = await checked(lake)
    assert report.sound
    said = sorted((finding.severity, finding.what) for finding in report.findings)
    assert [severity for severity, _what in said] == ["warning"] * 3
    assert any("cannot be read: NotFoundError" in what for _severity, what in said)


async def test_an_index_of_a_column_that_is_no_more_is_a_note(lake: Lake) -> None:
    await lake.table("ALTER TABLE t DROP COLUMN v")
    report = await checked(lake)
    notes = [finding for finding in report.findings if "index j" in finding.where]
    assert [(finding.severity, "no column v" in finding.what) for finding in notes] == [("note", True)]
