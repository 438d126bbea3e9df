"""Which delete files apply to which data file, by the rules of the spec's "Scan Planning".

1. A deletion vector applies to the data file that it names, unless that file is newer. Position delete files are
   then ignored for the file.
2. A position delete file applies to data files that are not newer (sequence number <= its own), of the same spec and
   partition; one that names a single data file applies to that one only.
3. An equality delete file applies to data files that are strictly older, of the same spec and partition, or of any
   partition when its own spec is unpartitioned.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from storage.errors import CorruptError, UnsupportedError
from storage.stores import normalize
from storage.tables.iceberg.delete_files import DeleteCache, DeleteVector, EqualityDeletes, FileDeletes, PositionDeletes
from storage.tables.iceberg.manifests import EQUALITY_DELETES, DeleteEntry, Manifest
from storage.tables.iceberg.metadata import PartitionSpec, TableMetadata
from storage.tables.snapshot import Deletes

__all__ = ["match_deletes"]

_PartitionKey = tuple[int, tuple[Any, ...]]


def match_deletes(
    manifests: Sequence[Manifest], metadata: TableMetadata, schema_id: int, cache: DeleteCache
) -> dict[int, Deletes]:
    """Return data file index (in the order of ``manifests``) → its delete information; files without have none.

    Raises
    ------
    CorruptError
        two deletion vectors name one data file, or an equality delete file names no or unknown columns
    UnsupportedError
        an equality delete file compares a nested field, or has a format that cannot be read
    """
    entries = [entry for manifest in manifests for entry in manifest.deletes]
    if not entries:
        return {}
    specs = {manifest.spec.spec_id: manifest.spec for manifest in manifests}
    index = _Index(metadata, schema_id, specs, {path for manifest in manifests for path in manifest.paths})
    for entry in entries:
        index.add(entry)
    found: dict[int, Deletes] = {}
    start = 0
    for manifest in manifests:
        for row, path in enumerate(manifest.paths):
            deletes = index.of(manifest, row, path, cache)
            if deletes is not None:
                found[start + row] = deletes
        start += len(manifest.paths)
    return found


@dataclass(frozen=True, slots=True)
class _Positions:
    """A position delete file with what narrows it."""

    sequence_number: int
    file: PositionDeletes
    path_bounds: tuple[bytes, bytes] | None

    def may_name(self, raw_path: str) -> bool:
        """Tell whether the file can name a data file: its bounds compare only with paths written the same way."""
        if self.path_bounds is None:
            return True
        low, high = self.path_bounds
        raw = raw_path.encode()
        scheme = raw.partition(b":/")[0]
        if low.partition(b":/")[0] != scheme or high.partition(b":/")[0] != scheme:
            return True
        return low <= raw and (raw <= high or raw.startswith(high))  # a bound may be cut without being raised


class _Index:
    """Delete files by what they apply to."""

    def __init__(
        self, metadata: TableMetadata, schema_id: int, specs: Mapping[int, PartitionSpec], data_files: set[str]
    ) -> None:
        self._metadata, self._schema_id, self._specs, self._data_files = metadata, schema_id, specs, data_files
        self._keys: dict[int, Callable[[tuple[Any, ...]], tuple[Any, ...]]] = {}
        self._vectors: dict[str, tuple[int, DeleteVector]] = {}
        self._by_path: dict[str, list[_Positions]] = defaultdict(list)
        self._by_partition: dict[_PartitionKey, list[_Positions]] = defaultdict(list)
        self._equal: dict[_PartitionKey, list[tuple[int, EqualityDeletes]]] = defaultdict(list)
        self._equality_of: dict[tuple[_PartitionKey, int], tuple[EqualityDeletes, ...]] = {}
        self._equal_everywhere: list[tuple[int, EqualityDeletes]] = []

    def add(self, entry: DeleteEntry) -> None:
        if entry.content == EQUALITY_DELETES:
            self._add_equality(entry)
        elif entry.format == "puffin":
            self._add_vector(entry)
        else:
            self._add_positions(entry)

    def _add_positions(self, entry: DeleteEntry) -> None:
        _check_format(entry)
        positions = _Positions(entry.sequence_number, PositionDeletes(entry.path, entry.format), entry.path_bounds)
        only = entry.referenced or self._only_file(entry)
        if only is not None:
            self._by_path[only].append(positions)
        else:
            self._by_partition[self._key(entry.spec_id, entry.partition)].append(positions)

    def _only_file(self, entry: DeleteEntry) -> str | None:
        """Return the data file that both bounds of a position delete file name in full, if it is one of ours."""
        if entry.path_bounds is None or entry.path_bounds[0] != entry.path_bounds[1]:
            return None
        only = normalize(entry.path_bounds[0].decode("utf-8", "replace"))
        return only if only in self._data_files else None

    def _add_vector(self, entry: DeleteEntry) -> None:
        if entry.referenced is None or entry.offset is None or entry.size is None:
            raise CorruptError("an iceberg deletion vector does not say where it is or what it is of", file=entry.path)
        if entry.referenced in self._vectors:
            raise CorruptError("two iceberg deletion vectors name one data file", file=entry.referenced)
        vector = DeleteVector(entry.path, entry.offset, entry.size)
        self._vectors[entry.referenced] = (entry.sequence_number, vector)

    def _add_equality(self, entry: DeleteEntry) -> None:
        _check_format(entry)
        deletes = EqualityDeletes(entry.path, entry.format, tuple(self._columns(entry)))
        if self._specs[entry.spec_id].is_unpartitioned:
            self._equal_everywhere.append((entry.sequence_number, deletes))
        else:
            self._equal[self._key(entry.spec_id, entry.partition)].append((entry.sequence_number, deletes))

    def _columns(self, entry: DeleteEntry) -> Iterable[pa.Field]:
        if not entry.equality_ids:
            raise CorruptError("an iceberg equality delete file names no columns", file=entry.path)
        for number in entry.equality_ids:
            found = self._metadata.find_field(number, self._schema_id)
            if found is None:
                raise CorruptError(
                    "an iceberg equality delete file names an unknown column", field_id=number, file=entry.path
                )
            column, is_top_level = found
            if not is_top_level:
                raise UnsupportedError(
                    "iceberg equality deletes on a nested field cannot be applied", field=column.name, file=entry.path
                )
            yield column

    def of(self, manifest: Manifest, row: int, path: str, cache: DeleteCache) -> FileDeletes | None:
        """Return what applies to one data file, or None."""
        sequence = int(manifest.sequence_numbers[row])
        key = self._key(manifest.spec.spec_id, manifest.partitions[row])
        vector = self._vectors.get(path)
        applied = vector[1] if vector is not None and sequence <= vector[0] else None
        positions: tuple[PositionDeletes, ...] = ()
        if applied is None:
            positions = tuple(self._positions(path, manifest.raw_paths[row], key, sequence))
        equality = self._equality(key, sequence)
        if applied is None and not positions and not equality:
            return None
        return FileDeletes(path, applied, positions, equality, cache)

    def _equality(self, key: _PartitionKey, sequence: int) -> tuple[EqualityDeletes, ...]:
        """Return the equality deletes of a partition and age; files that share both share the tuple."""
        if (key, sequence) not in self._equality_of:
            candidates = (*self._equal_everywhere, *self._equal.get(key, ()))
            self._equality_of[key, sequence] = tuple(deletes for number, deletes in candidates if sequence < number)
        return self._equality_of[key, sequence]

    def _positions(self, path: str, raw_path: str, key: _PartitionKey, sequence: int) -> Iterable[PositionDeletes]:
        for candidate in self._by_path.get(path, ()):
            if sequence <= candidate.sequence_number:
                yield candidate.file
        for candidate in self._by_partition.get(key, ()):
            if sequence <= candidate.sequence_number and candidate.may_name(raw_path):
                yield candidate.file

    def _key(self, spec_id: int, partition: tuple[Any, ...]) -> _PartitionKey:
        """Return spec and values such that equal partitions have equal keys, whatever their types once were."""
        if spec_id not in self._keys:
            self._keys[spec_id] = self._canonical(self._specs[spec_id])
        return spec_id, self._keys[spec_id](partition)

    def _canonical(self, spec: PartitionSpec) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
        decimals = [self._is_decimal(part.source_id) for part in spec.fields]

        def canonical(partition: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(_canonical(v, is_decimal) for v, is_decimal in zip(partition, decimals, strict=True))

        return canonical

    def _is_decimal(self, number: int | None) -> bool:
        if number is None:
            return False
        try:
            found = self._metadata.find_field(number, self._schema_id)
        except UnsupportedError:
            return False
        return found is not None and bool(pa.types.is_decimal(found[0].type))


def _canonical(value: Any, is_decimal: bool) -> Any:
    """Decimals by value, since their width follows the precision; floats by their bits, so that NaN equals NaN."""
    if is_decimal and isinstance(value, bytes):
        return int.from_bytes(value, "big", signed=True)
    return struct.pack("<d", value) if isinstance(value, float) else value


def _check_format(entry: DeleteEntry) -> None:
    if entry.format not in ("parquet", "orc", "avro"):
        raise UnsupportedError(
            "iceberg delete files of this format cannot be read", format=entry.format, file=entry.path
        )
