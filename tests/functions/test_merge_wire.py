"""What a worker is told of files to merge is what the planning process knows, and nothing damaged is taken for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from functions.merge_wire import PARTS, head_of, opened_head, parts_of, rows_of
from functions.merged_files import FilePart, MergedFiles, merged_files
from storage.errors import CorruptError, UnsupportedError
from storage.tables.snapshot import EqualityDelete, FileSet, LoadedDeletes, Snapshot

GOLDEN = Path(__file__).parents[1] / "golden" / "tasks"


def _field(name: str, kind: pa.DataType, number: int) -> pa.Field:
    return pa.field(name, kind, metadata={b"PARQUET:field_id": str(number).encode()})


def _merged(folder: Path) -> MergedFiles:
    schema = pa.schema([_field("id", pa.int64(), 1), _field("p", pa.date32(), 2), _field("s", pa.string(), 3)])
    files = FileSet(
        ["s3://lake/t/a.parquet", "s3://lake/t/b.orc"], np.array([1000, 2000]), np.array([10, -1]),
        partitions={"p": pa.array([19000, None], pa.date32())}, formats={1: "orc"},
    )  # fmt: skip
    snapshot = Snapshot("iceberg", "s3://lake/t", 7, 0, schema, files, "field_id", name_mapping={"id": 1})
    keys = EqualityDelete((1,), pa.table({"1": [4, 5]}), pa.schema([schema.field("id")]))
    deletes = {0: LoadedDeletes(np.array([0, 3, 9]), (keys,)), 1: LoadedDeletes(np.empty(0, np.int64), (keys,))}
    return merged_files(snapshot, [0, 1], deletes, str(folder))


def test_parts_come_back_as_they_were_told(tmp_path: Path) -> None:
    merged = _merged(tmp_path)
    rows = rows_of(merged, [FilePart(0, 0, 500), FilePart(1, 0, 2**63 - 1)])
    head = opened_head(json.loads(json.dumps(head_of(merged, ["id", "s"], ["id"]))))
    first, second = parts_of(head, [rows])
    assert head.schema.names == ["id", "s"]
    assert head.schema.field("id").metadata == merged.snapshot.schema.field("id").metadata
    assert (head.read, head.matching, head.name_mapping) == ({"id"}, "field_id", {"id": 1})
    assert first.part == (0, 500)
    assert first.deletes is not None
    assert first.deletes.positions.tolist() == [0, 3, 9]
    assert first.deletes.equality[0].keys.to_pydict() == {"1": [4, 5]}
    assert first.deletes.equality[0].schema.field("id").metadata == merged.snapshot.schema.field("id").metadata
    assert first.snapshot.files.partitions["p"][0].as_py().isoformat() == "2022-01-08"
    assert second.snapshot.files.formats == {0: "orc"}
    assert second.snapshot.files.partitions["p"].null_count == 1
    assert list(parts_of(head, [])) == []


def test_golden_bytes_are_read(tmp_path: Path) -> None:
    """Workers read what coordinators of this release write: a change of these bytes is another version."""
    head, rows = GOLDEN / "merge-head-1.json", GOLDEN / "merge-parts-1.arrow"
    merged = _merged(tmp_path)
    told = head_of(merged, ["id", "s"], ["id"])
    parts = rows_of(merged, [FilePart(0, 0, 500), FilePart(1, 0, 2**63 - 1)])
    if not head.exists():
        head.write_text(json.dumps(told) + "\n")
        with pa.ipc.new_stream(str(rows), PARTS) as writer:
            writer.write_batch(parts)
    assert json.loads(head.read_text()).keys() == told.keys()
    with pa.ipc.open_stream(str(rows)) as stream:
        found = list(parts_of(opened_head(json.loads(head.read_text())), list(stream)))
    assert [each.snapshot.files.paths[0] for each in found] == ["s3://lake/t/a.parquet", "s3://lake/t/b.orc"]
    assert found[0].deletes is not None
    assert found[0].deletes.positions.tolist() == [0, 3, 9]


def test_another_version_is_refused_and_says_that_releases_differ(tmp_path: Path) -> None:
    told = head_of(_merged(tmp_path), ["id"], ["id"])
    with pytest.raises(UnsupportedError) as caught:
        opened_head({**told, "version": 2})
    assert caught.value.facts["differs"] == "plan"


@pytest.mark.parametrize("change", [{"schema": "x"}, {"matching": "colour"}, {"read": 5}, {"rows": "many"}])
def test_a_damaged_head_is_an_error(tmp_path: Path, change: dict[str, object]) -> None:
    with pytest.raises(CorruptError):
        opened_head({**head_of(_merged(tmp_path), ["id"], ["id"]), **change})


@pytest.mark.parametrize("change", [{"format": "csv"}, {"keys": [3]}, {"constants": b"x"}, {"size": None}])
def test_damaged_rows_are_an_error(tmp_path: Path, change: dict[str, object]) -> None:
    merged = _merged(tmp_path)
    head = opened_head(head_of(merged, ["id"], ["id"]))
    [keys, row] = rows_of(merged, [FilePart(0, 0, 500)]).to_pylist()
    with pytest.raises(CorruptError):
        list(parts_of(head, [pa.RecordBatch.from_pylist([keys, {**row, **change}], schema=PARTS)]))
