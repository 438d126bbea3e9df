"""What a worker is told of files that are merged on read: a head for each scan, and a row for each part of a file.

The head goes in the plan, as JSON: version, the columns that the scan has (an Arrow schema with the metadata by which
columns are found in files, in base64), which of them are read, how they are found, and how many rows are enough. The
rows are pages like any other, with columns `PARTS`:

========================  ==========================================================================================
location, size, format    of the data file
start, limit              of its bytes, as `storage.tables.merge_on_read.read_rows` has them
constants                 an Arrow stream of one row: columns that are the same in all rows of the file; NULL: none
positions                 deleted rows, the first and then each one's distance from the one before; NULL: none
keys                      which keys of equality deletes delete its rows, by ``key``
key, key_rows, key_schema of a row that is no file but such keys: the number, their rows as an Arrow stream, and the
                          columns as the table has them
========================  ==========================================================================================
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal, cast

import numpy as np
import pyarrow as pa

from functions.merged_files import FilePart, MergedFiles
from storage.errors import CorruptError, UnsupportedError
from storage.tables.project import constants_of
from storage.tables.snapshot import EqualityDelete, FileSet, LoadedDeletes, Matching, Snapshot

__all__ = ["PARTS", "Head", "MergePart", "head_of", "opened_head", "parts_of", "rows_of"]

VERSION: Final = 1
PARTS: Final = pa.schema([
    ("location", pa.string()), ("size", pa.int64()), ("format", pa.string()), ("start", pa.int64()),
    ("limit", pa.int64()), ("constants", pa.large_binary()), ("positions", pa.large_list(pa.int64())),
    ("keys", pa.list_(pa.int32())), ("key", pa.int32()), ("key_rows", pa.large_binary()),
    ("key_schema", pa.large_binary()),
])  # fmt: skip
_FORMATS: Final = frozenset(("parquet", "orc", "avro"))
_MATCHINGS: Final = frozenset(("name", "field_id", "physical_name"))


@dataclass(frozen=True)
class Head:
    """What is the same for all files of a scan.

    schema : the columns that the scan has
    read : those that are wanted; the others are NULL
    live : the column behind them that is true in every row
    rows : that each task has to give, if there are as many; 0: all
    """

    schema: pa.Schema
    read: frozenset[str]
    live: str
    rows: int
    matching: Matching
    name_mapping: Mapping[str, int] | None


@dataclass(frozen=True)
class MergePart:
    """A part of one file, whose snapshot has no other: what `read_rows` takes."""

    snapshot: Snapshot
    deletes: LoadedDeletes | None
    part: tuple[int, int]


def head_of(merged: MergedFiles, names: Sequence[str], wanted: Sequence[str]) -> dict[str, Any]:
    """Return the head of a scan of columns ``names`` of which some are wanted, as JSON values."""
    snapshot = merged.snapshot
    schema = pa.schema([each for each in snapshot.schema if each.name in names])
    return {
        "version": VERSION,
        "schema": base64.b64encode(schema.serialize().to_pybytes()).decode(),
        "read": list(wanted),
        "live": merged.live,
        "rows": 0,
        "matching": snapshot.matching,
        "name_mapping": None if snapshot.name_mapping is None else dict(snapshot.name_mapping),
    }


def opened_head(values: Mapping[str, Any]) -> Head:
    """Return the head that JSON values are. Raises `UnsupportedError` for one of another version."""
    if values.get("version") != VERSION:
        raise UnsupportedError(
            "files to merge are told in another version; deploy workers before coordinators",
            version=values.get("version"), reads=VERSION, differs="plan",
        )  # fmt: skip
    try:
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(values["schema"])))
        if values["matching"] not in _MATCHINGS:
            raise ValueError(values["matching"])
        return Head(
            schema, frozenset(map(str, values["read"])), str(values["live"]), int(values["rows"]), values["matching"],
            values["name_mapping"],
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise CorruptError("the head of files to merge does not decode", reason=repr(error)[:200]) from None


def rows_of(merged: MergedFiles, parts: Sequence[FilePart]) -> pa.RecordBatch:
    """Return the rows that tell of parts of files; keys come first."""
    files = merged.snapshot.files
    deletes = [merged.deletes.get(part.index) for part in parts]
    numbers: dict[int, tuple[int, EqualityDelete]] = {}
    keys = [[_number(numbers, each) for each in own.equality] if own is not None else [] for own in deletes]
    known: dict[tuple[Any, ...], bytes | None] = {}
    columns = [
        pa.array([files.paths[part.index] for part in parts], pa.string()),
        pa.array([int(files.sizes[part.index]) for part in parts], pa.int64()),
        pa.array([files.formats.get(part.index, "parquet") for part in parts], pa.string()),
        pa.array([part.start for part in parts], pa.int64()),
        pa.array([part.limit for part in parts], pa.int64()),
        pa.array([_constants(merged.snapshot, part.index, known) for part in parts], pa.large_binary()),
        _distances([None if own is None or not len(own.positions) else own.positions for own in deletes]),
        pa.array(keys, PARTS.field("keys").type),
    ]
    columns += [pa.nulls(len(parts), field.type) for field in list(PARTS)[len(columns) :]]
    told = [
        {"key": number, "key_rows": _written(delete.keys), "key_schema": delete.schema.serialize().to_pybytes()}
        for number, delete in numbers.values()
    ]
    batches = [pa.RecordBatch.from_pylist(told, schema=PARTS), pa.RecordBatch.from_arrays(columns, schema=PARTS)]
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0] if told else batches[1]


def _distances(positions: Sequence[np.ndarray | None]) -> pa.Array:
    """Return lists of each position's distance from the one before it in its list."""
    lengths = [0 if each is None else len(each) for each in positions]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    every = np.concatenate([np.empty(0, np.int64), *(each for each in positions if each is not None)])
    distances = np.diff(every, prepend=0)
    firsts = offsets[:-1][np.asarray(lengths, dtype=np.int64) > 0]
    distances[firsts] = every[firsts]
    mask = pa.array([each is None for each in positions], pa.bool_())
    return pa.LargeListArray.from_arrays(
        pa.array(offsets), pa.array(distances), type=PARTS.field("positions").type, mask=mask
    )


def _constants(snapshot: Snapshot, index: int, known: dict[tuple[Any, ...], bytes | None]) -> bytes | None:
    """Return a file's constants; files of one partition share them."""
    constants = constants_of(snapshot, index)
    key = tuple((name, value) for name, value in constants.items())
    if key not in known:
        known[key] = _stream(constants)
    return known[key]


def _number(numbers: dict[int, tuple[int, EqualityDelete]], delete: EqualityDelete) -> int:
    """Return the number of keys; files that share them share the object."""
    return numbers.setdefault(id(delete), (len(numbers), delete))[0]


def _stream(constants: Mapping[str, pa.Scalar]) -> bytes | None:
    if not constants:
        return None
    arrays = [pa.repeat(each, 1) if each.is_valid else pa.nulls(1, each.type) for each in constants.values()]
    return _written(pa.Table.from_arrays(arrays, names=list(constants)))


def _written(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return cast(bytes, sink.getvalue().to_pybytes())


def _read(data: bytes) -> pa.Table:
    with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
        return reader.read_all()


def parts_of(head: Head, batches: Iterable[pa.RecordBatch]) -> Iterator[MergePart]:
    """Yield the parts that rows tell of. Raises `CorruptError` for rows that tell of none."""
    try:
        found = list(batches)
        table = pa.Table.from_batches(found).cast(PARTS) if found else PARTS.empty_table()
        keys = table.filter(table.column("key").is_valid())
        known = {row["key"]: _keys(row) for row in keys.to_pylist()}
        files = table.filter(table.column("key").is_null()).select(PARTS.names[:8]).combine_chunks()
        positions = _positions(files.column("positions"))
        constants: dict[bytes, Mapping[str, pa.Array]] = {}
        for row, deleted in zip(files.drop_columns(["positions"]).to_pylist(), positions, strict=True):
            yield _part(head, row, deleted, known, constants)
    except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise CorruptError("what a task is told of files to merge does not decode", reason=repr(error)[:200]) from None


def _positions(column: pa.ChunkedArray) -> Iterator[np.ndarray]:
    """Yield the positions that lists of distances are; empty for NULL."""
    for chunk in column.chunks:
        offsets = chunk.offsets.to_numpy()
        values = chunk.values.to_numpy(zero_copy_only=False)
        for start, limit in pairwise(offsets):
            yield np.cumsum(values[start:limit], dtype=np.int64)


def _keys(row: Mapping[str, Any]) -> EqualityDelete:
    keys = _read(row["key_rows"])
    schema = pa.ipc.read_schema(pa.py_buffer(row["key_schema"]))
    return EqualityDelete(tuple(map(int, keys.column_names)), keys, schema)


def _columns(table: pa.Table) -> Mapping[str, pa.Array]:
    return {name: table.column(name).combine_chunks() for name in table.column_names}


def _part(
    head: Head, row: Mapping[str, Any], positions: np.ndarray, known: Mapping[int, EqualityDelete],
    constants: dict[bytes, Mapping[str, pa.Array]],
) -> MergePart:  # fmt: skip
    form, told = row["format"], row["constants"] or b""
    if form not in _FORMATS:
        raise ValueError(form)
    if told not in constants:
        constants[told] = _columns(_read(told)) if told else {}
    equality = tuple(known[number] for number in row["keys"] or ())
    formats = {} if form == "parquet" else {0: cast("Literal['orc', 'avro']", form)}
    files = FileSet(
        [str(row["location"])], np.array([int(row["size"])]), np.array([-1]), partitions=constants[told],
        formats=formats,
    )  # fmt: skip
    snapshot = Snapshot("parquet", "", 0, 0, head.schema, files, head.matching, name_mapping=head.name_mapping)
    deletes = LoadedDeletes(positions, equality) if len(positions) or equality else None
    return MergePart(snapshot, deletes, (int(row["start"]), int(row["limit"])))
