"""Manifest lists and manifests: which files a snapshot has, in columns, one array element per live file.

Entries with status *deleted* are left out. A sequence number that an entry leaves null is the manifest's own. Both
kinds of file are immutable, so what is decoded here is kept for as long as a snapshot that uses it.

Source: Iceberg spec, "Manifests", "Manifest Lists", "Sequence Number Inheritance".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from storage.errors import CorruptError, InvalidError, UnsupportedError
from storage.stores import join, normalize
from storage.tables.iceberg.avro import AvroFile, open_avro
from storage.tables.iceberg.metadata import PartitionSpec, partition_spec

__all__ = ["DATA", "EQUALITY_DELETES", "POSITION_DELETES", "DeleteEntry", "Manifest", "ManifestFile", "Sparse"]
__all__ += ["absolute", "read_manifest", "read_manifest_list"]

DATA, POSITION_DELETES, EQUALITY_DELETES = 0, 1, 2
_DELETED = 2

_LIST_NAMES = {
    "manifest_path": 500,
    "partition_spec_id": 502,
    "content": 517,
    "sequence_number": 515,
}
_FILE_NAMES = {
    "content": 134,
    "file_path": 100,
    "file_format": 101,
    "partition": 102,
    "record_count": 103,
    "file_size_in_bytes": 104,
    "null_value_counts": 110,
    "nan_value_counts": 137,
    "lower_bounds": 125,
    "upper_bounds": 128,
    "equality_ids": 135,
    "referenced_data_file": 143,
    "content_offset": 144,
    "content_size_in_bytes": 145,
}
_ENTRY_NAMES = {"status": 0, "sequence_number": 3, "data_file": 2}
_ENTRY_NAMES |= {f"data_file.{name}": number for name, number in _FILE_NAMES.items()}


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One row of a manifest list.

    spec_id : None when only the manifest itself says it (version 1 without a list)
    """

    path: str
    spec_id: int | None
    content: int
    sequence_number: int


@dataclass(frozen=True, slots=True)
class Sparse:
    """Values of one column for some rows.

    rows : int32[k], increasing
    values : array[k] without nulls
    """

    rows: np.ndarray
    values: pa.Array


@dataclass(frozen=True, slots=True)
class DeleteEntry:
    """A live delete file (or deletion vector) as its manifest describes it.

    referenced : the only data file it is about, as a location, or None
    offset, size : byte range of a deletion vector within the file, or None
    path_bounds : smallest and greatest data file named within, as written and perhaps truncated, or None
    """

    path: str
    content: int
    format: str
    sequence_number: int
    spec_id: int
    partition: tuple[Any, ...]
    n_rows: int
    equality_ids: tuple[int, ...]
    referenced: str | None
    offset: int | None
    size: int | None
    path_bounds: tuple[bytes, bytes] | None


@dataclass(frozen=True, slots=True)
class Manifest:
    """The live data files and delete files of one manifest.

    raw_paths : paths as written; `paths` are locations
    partitions : values of the spec's fields, in its order, as Avro holds them (dates as days, decimals as bytes)
    lower, upper : field id → bounds as Iceberg serialises single values
    """

    spec: PartitionSpec
    paths: list[str]
    raw_paths: list[str]
    formats: list[str]
    n_rows: np.ndarray
    sizes: np.ndarray
    sequence_numbers: np.ndarray
    partitions: list[tuple[Any, ...]]
    lower: Mapping[int, Sparse]
    upper: Mapping[int, Sparse]
    null_counts: Mapping[int, Sparse]
    nan_counts: Mapping[int, Sparse]
    deletes: tuple[DeleteEntry, ...]


def absolute(path: str, base: str) -> str:
    """Return the location of a path that table metadata names; a relative one is taken from the table's ``base``."""
    if path.startswith(("s3://", "file:///")) and "//" not in path[8:] and "/." not in path and path[-1] != "/":
        return path
    try:
        return normalize(path, base=base)
    except InvalidError as error:
        raise UnsupportedError(
            "the iceberg metadata names a file that cannot be reached; only s3:// and local paths can be", path=path
        ) from error


def read_manifest_list(data: bytes, source: str, base: str) -> tuple[ManifestFile, ...]:
    """Decode a manifest list.

    Raises
    ------
    CorruptError
        the file is damaged; the message names it
    """
    avro = open_avro(data, source, _LIST_NAMES)
    try:
        return tuple(_manifest_file(record, base) for record in avro.records())
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptError("a malformed iceberg manifest list", file=source, reason=repr(error)) from error


def _manifest_file(record: Mapping[str, Any], base: str) -> ManifestFile:
    return ManifestFile(
        path=absolute(record["f500"], base),
        spec_id=record.get("f502"),
        content=record.get("f517") or DATA,
        sequence_number=record.get("f515") or 0,
    )


def read_manifest(data: bytes, file: ManifestFile, specs: Mapping[int, PartitionSpec], base: str) -> Manifest:
    """Decode the live entries of a manifest.

    Raises
    ------
    CorruptError
        the file is damaged; the message names it
    UnsupportedError
        it names a kind of file that is not known, or a path that cannot be reached
    """
    try:
        spec = _spec(open_avro(data, file.path, {}), file, specs)
        names = _ENTRY_NAMES | {f"data_file.partition.{field.name}": field.field_id for field in spec.fields}
        entries = _Entries(file, spec, base)
        for record in open_avro(data, file.path, names).records():
            if record["f0"] != _DELETED:
                entries.add(record)
        return entries.freeze()
    except (KeyError, TypeError, ValueError, OverflowError, pa.ArrowException) as error:
        raise CorruptError("a malformed iceberg manifest", file=file.path, reason=repr(error)) from error


def _spec(avro: AvroFile, file: ManifestFile, specs: Mapping[int, PartitionSpec]) -> PartitionSpec:
    """Return the spec of a manifest: the table's, or else the copy in the manifest's own header."""
    own_id = int(avro.header.get("partition-spec-id", b"0") or b"0")
    spec_id = own_id if file.spec_id is None else file.spec_id
    if spec_id in specs:
        return specs[spec_id]
    fields = json.loads(avro.header["partition-spec"])
    return partition_spec(spec_id, fields["fields"] if isinstance(fields, dict) else fields)


class _Entries:
    """Collects entries row by row and turns them into columns."""

    def __init__(self, file: ManifestFile, spec: PartitionSpec, base: str) -> None:
        self._file, self._spec, self._base = file, spec, base
        self._paths: list[str] = []
        self._raw: list[str] = []
        self._formats: list[str] = []
        self._numbers: list[tuple[int, int, int]] = []
        self._partitions: list[tuple[Any, ...]] = []
        self._lower: _Columns = {}
        self._upper: _Columns = {}
        self._nulls: _Columns = {}
        self._nans: _Columns = {}
        self._deletes: list[DeleteEntry] = []
        self._names = [f"f{field.field_id}" for field in spec.fields]

    def add(self, record: Mapping[str, Any]) -> None:
        file = record["f2"]
        content = file.get("f134")
        content = self._file.content if content is None else content
        sequence = record.get("f3")
        sequence = self._file.sequence_number if sequence is None else sequence
        partition = self._partition(file.get("f102") or {})
        if content == DATA:
            self._add_data(file, sequence, partition)
        else:
            self._deletes.append(_delete(file, content, sequence, self._spec.spec_id, partition, self._base))

    def _partition(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        if all(name in values for name in self._names):
            return tuple(values[name] for name in self._names)
        if len(values) == len(self._names):
            return tuple(values.values())
        return tuple(values.get(name) for name in self._names)

    def _add_data(self, file: Mapping[str, Any], sequence: int, partition: tuple[Any, ...]) -> None:
        row = len(self._raw)
        path = file["f100"]
        self._raw.append(path)
        self._paths.append(absolute(path, self._base))
        self._formats.append(file["f101"].lower())
        self._numbers.append((file["f103"], file["f104"], sequence))
        self._partitions.append(partition)
        _collect(self._nulls, row, file.get("f110"))
        _collect(self._nans, row, file.get("f137"))
        _collect(self._lower, row, file.get("f125"))
        _collect(self._upper, row, file.get("f128"))

    def freeze(self) -> Manifest:
        numbers = np.array(self._numbers, dtype=np.int64).reshape(-1, 3)
        return Manifest(
            spec=self._spec,
            paths=self._paths,
            raw_paths=self._raw,
            formats=self._formats,
            n_rows=numbers[:, 0],
            sizes=numbers[:, 1],
            sequence_numbers=numbers[:, 2],
            partitions=self._partitions,
            lower=_frozen(self._lower, pa.binary()),
            upper=_frozen(self._upper, pa.binary()),
            null_counts=_frozen(self._nulls, pa.int64()),
            nan_counts=_frozen(self._nans, pa.int64()),
            deletes=tuple(self._deletes),
        )


_Columns = dict[int, tuple[list[int], list[Any]]]


def _collect(columns: _Columns, row: int, pairs: Iterable[Mapping[str, Any]] | None) -> None:
    if not pairs:
        return
    for pair in pairs:
        key, value = pair.values()
        column = columns.get(key)
        if column is None:
            column = columns[key] = ([], [])
        column[0].append(row)
        column[1].append(value)


def _frozen(columns: _Columns, type_: pa.DataType) -> dict[int, Sparse]:
    return {key: Sparse(np.array(rows, np.int32), pa.array(values, type_)) for key, (rows, values) in columns.items()}


_FILE_PATH_ID = 2147483546
"""Field id of ``file_path`` in positional delete files."""


def _delete(
    file: Mapping[str, Any], content: int, sequence: int, spec_id: int, partition: tuple[Any, ...], base: str
) -> DeleteEntry:
    if content not in (POSITION_DELETES, EQUALITY_DELETES):
        raise UnsupportedError("an iceberg manifest holds an unknown kind of file", content=content, file=file["f100"])
    referenced = file.get("f143")
    low, high = _value(file.get("f125"), _FILE_PATH_ID), _value(file.get("f128"), _FILE_PATH_ID)
    return DeleteEntry(
        path=absolute(file["f100"], base),
        content=content,
        format=file["f101"].lower(),
        sequence_number=sequence,
        spec_id=spec_id,
        partition=partition,
        n_rows=file["f103"],
        equality_ids=tuple(file.get("f135") or ()),
        referenced=absolute(referenced, base) if referenced and content == POSITION_DELETES else None,
        offset=file.get("f144"),
        size=file.get("f145"),
        path_bounds=(low, high) if low is not None and high is not None else None,
    )


def _value(pairs: Sequence[Mapping[str, Any]] | None, key: int) -> bytes | None:
    for pair in pairs or ():
        found, value = pair.values()
        if found == key:
            return bytes(value)
    return None


def table_base(location: str, metadata_file: str) -> str:
    """Return the table's folder: what its metadata says, or the parent of the folder of the metadata file."""
    if ":/" in location or location.startswith("/"):
        try:
            return normalize(location)
        except InvalidError:
            pass  # another scheme; only what is relative to it would be lost
    return join(metadata_file, "..", "..")
