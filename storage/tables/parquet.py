"""Parquet tables: one file, a glob, or a (Hive-partitioned) folder, read as one table by column name.

The schema is the union of the files' schemas by name, types widened where Arrow can do it without loss. There is no
log: a listing is the version, and its etag changes with every file that comes, goes or is replaced.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from storage.blobs import BlobMeta
from storage.errors import InvalidError, NotFoundError, UnsupportedError
from storage.stores import Stores
from storage.tables.footers import Footer, FooterCache
from storage.tables.project import without_views
from storage.tables.snapshot import At, ColumnStats, FileSet, Snapshot

__all__ = ["ParquetSnapshot", "load"]

NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class ParquetSnapshot(Snapshot):
    """A snapshot that remembers each file's etag, since a listed file may be replaced under its name."""

    etags: tuple[str, ...] = ()


async def load(
    stores: Stores, location: str, at: At, known: Snapshot | None, footers: FooterCache | None = None
) -> Snapshot:
    """Resolve a file, glob or folder (see `storage.tables`). One listing, and the footers that are not cached yet.

    Raises
    ------
    NotFoundError
        nothing lies there
    InvalidError
        time travel was asked for, or the folder is a Delta or Iceberg table
    UnsupportedError
        two files hold one column with types that have no common type
    """
    if at != At():
        raise InvalidError(
            "a Parquet table has no versions; time travel needs a Delta or Iceberg table", table=location
        )
    listed = await _listing(stores, location)
    etag = _etag(listed)
    if known is not None and known.etag == etag:
        return known
    cache = footers or FooterCache()
    read = await cache.read(stores, [(path, meta.size, meta.etag) for path, meta in listed])
    paths = [path for path, _ in listed]
    partitions = _hive_partitions(location, paths)
    schema = _union(paths, read, partitions)
    files = FileSet(
        paths=paths,
        sizes=np.array([meta.size for _, meta in listed], dtype=np.int64),
        n_rows=np.array([footer.metadata.num_rows for footer in read], dtype=np.int64),
        partitions=partitions,
        stats=_Stats(read, schema),
    )
    newest_ms = max(meta.modified_ms for _, meta in listed)
    return ParquetSnapshot(
        "parquet", location, int(etag[:12], 16), newest_ms, schema, files,
        partition_columns=tuple(partitions), etag=etag, etags=tuple(meta.etag for _, meta in listed),
    )  # fmt: skip


async def _listing(stores: Stores, location: str) -> list[tuple[str, BlobMeta]]:
    if _GLOB.search(location):
        fixed = location[: _GLOB.search(location).start()].rpartition("/")[0]  # type: ignore[union-attr]
        pattern = _glob_regex(location)
        found = [(path, meta) async for path, meta in stores.list(fixed + "/") if pattern.fullmatch(path)]
        found = [(path, meta) for path, meta in found if meta.size > 0] or await _literal(stores, location)
    else:
        try:
            return [(location, await stores.head(location))]
        except NotFoundError:
            found = await _folder(stores, location)
    if not found:
        raise NotFoundError("no Parquet file lies at this location", location=location)
    return found


async def _literal(stores: Stores, location: str) -> list[tuple[str, BlobMeta]]:
    """Return the file whose name is the pattern itself, if there is one."""
    try:
        return [(location, await stores.head(location))]
    except NotFoundError:
        return []


async def _folder(stores: Stores, location: str) -> list[tuple[str, BlobMeta]]:
    found: list[tuple[str, BlobMeta]] = []
    async for path, meta in stores.list(location + "/"):
        inside = path.removeprefix(location + "/")
        if inside.startswith("_delta_log/"):
            raise InvalidError("this folder is a Delta table; read it with delta('…')", location=location)
        if inside.startswith("metadata/") and inside.endswith(".metadata.json"):
            raise InvalidError("this folder is an Iceberg table; read it with iceberg('…')", location=location)
        hidden = any(part[:1] in "_." and "=" not in part for part in inside.split("/"))
        if meta.size > 0 and not hidden:
            found.append((path, meta))
    named = [entry for entry in found if entry[0].lower().endswith((".parquet", ".parq", ".pq"))]
    return named or found


def _glob_regex(pattern: str) -> re.Pattern[str]:
    """Translate a glob: ``*`` and ``?`` stay within a folder, ``**`` crosses folders, ``[…]`` and ``[!…]`` are sets."""
    out, position = "", 0
    while position < len(pattern):
        rest = pattern[position:]
        if rest.startswith("**/"):
            out, position = out + "(?:.*/)?", position + 3
        elif rest.startswith("**"):
            out, position = out + ".*", position + 2
        elif rest[0] == "*":
            out, position = out + "[^/]*", position + 1
        elif rest[0] == "?":
            out, position = out + "[^/]", position + 1
        elif rest[0] == "[" and (closing := rest.find("]", 3 if rest[1:2] in ("!", "^") else 2)) > 0:
            out, position = out + _glob_set(rest[1:closing]), position + closing + 1
        else:
            out, position = out + re.escape(rest[0]), position + 1
    return re.compile(out, re.DOTALL)


def _glob_set(inner: str) -> str:
    """Translate what stands between the brackets of a set; a range that runs backwards holds nothing."""
    negated = inner[0] in "!^"
    members = inner[1:] if negated else inner
    parts = []
    for low, high in re.findall(r"(.)(?:-(.))?", members, re.DOTALL):
        if not high:
            parts.append(re.escape(low))
        elif low <= high:
            parts.append(f"{re.escape(low)}-{re.escape(high)}")
    if not parts:
        return "[^/]" if negated else "(?!)"
    return f"[^/{''.join(parts)}]" if negated else f"[{''.join(parts)}]"


def _etag(listed: Sequence[tuple[str, BlobMeta]]) -> str:
    digest = hashlib.sha256()
    for path, meta in listed:
        digest.update(f"{path}\0{meta.size}\0{meta.etag}\n".encode())
    return digest.hexdigest()


def _hive_partitions(location: str, paths: Sequence[str]) -> dict[str, pa.Array]:
    """Return the ``key=value`` folders below the location as columns, for keys that every file has."""
    match = _GLOB.search(location)
    root = location[: match.start()].rpartition("/")[0] if match else location
    rows = []
    for path in paths:
        folders = path.removeprefix(root).strip("/").split("/")[:-1]
        pairs = [folder.partition("=") for folder in folders if folder.find("=") > 0]
        rows.append({unquote(key): None if value == NULL_PARTITION else unquote(value) for key, _, value in pairs})
    keys = [key for key in rows[0] if all(key in row for row in rows)]
    return {key: _typed([row[key] for row in rows]) for key in keys}


def _typed(values: list[str | None]) -> pa.Array:
    present = [value for value in values if value is not None]
    if present and all(re.fullmatch(r"-?(0|[1-9]\d{0,17})", value) for value in present):
        return pa.array([None if value is None else int(value) for value in values], pa.int64())
    if present and all(re.fullmatch(r"\d{4}-\d\d-\d\d", value) for value in present):
        try:
            return pa.array([None if v is None else dt.date.fromisoformat(v) for v in values], pa.date32())
        except ValueError:
            pass
    return pa.array(values, pa.string())


def _union(paths: Sequence[str], footers: Sequence[Footer], partitions: dict[str, pa.Array]) -> pa.Schema:
    seen = {footer.fingerprint: (path, footer.schema) for path, footer in zip(paths, footers, strict=True)}
    merged = pa.schema([])
    names: dict[str, str] = {}
    for path, schema in seen.values():
        _check_names(schema, path, len(seen))
        fields = schema if len(seen) == 1 else [_named(field, names) for field in schema]
        plain = without_views(pa.schema([pa.field(field.name, field.type) for field in fields]))
        try:
            merged = _unified(merged, plain)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise UnsupportedError(
                "a file's column has no common type with the files before it", file=path, reason=str(error)
            ) from error
    kept = [field for field in merged if field.name not in partitions]
    return pa.schema(kept + [pa.field(name, values.type) for name, values in partitions.items()])


def _unified(merged: pa.Schema, plain: pa.Schema) -> pa.Schema:
    """Unite two schemas; how strings are encoded and which zone shows an instant differ between writers, and yield."""
    try:
        return pa.unify_schemas([merged, plain], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.unify_schemas([_neutral(merged), _neutral(plain)], promote_options="permissive")


def _neutral(schema: pa.Schema) -> pa.Schema:
    """Return the schema with dictionaries as their values and instants in UTC."""
    return pa.schema([field.with_type(_neutral_type(field.type)) for field in schema])


def _neutral_type(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(type_):
        return _neutral_type(type_.value_type)
    return pa.timestamp(type_.unit, "UTC") if pa.types.is_timestamp(type_) and type_.tz else type_


def _named(field: pa.Field, names: dict[str, str]) -> pa.Field:
    """Give a column the spelling in which it was met first: names that differ only in case are one column."""
    return field.with_name(names.setdefault(field.name.lower(), field.name))


def _check_names(schema: pa.Schema, path: str, n_schemas: int) -> None:
    """Raise `UnsupportedError` for a file with two columns that a union by name could not tell apart."""
    names = schema.names if n_schemas == 1 else [name.lower() for name in schema.names]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UnsupportedError("a file holds two columns of one name", column=twice, file=path)


class _Stats:
    """Per-file bounds from the row groups' statistics, computed for a column when first asked."""

    def __init__(self, footers: Sequence[Footer], schema: pa.Schema) -> None:
        self._footers = footers
        self._schema = schema
        self._known: dict[str, ColumnStats | None] = {}

    def __call__(self, name: str) -> ColumnStats | None:
        if name not in self._known:
            self._known[name] = self._compute(name)
        return self._known[name]

    def _compute(self, name: str) -> ColumnStats | None:
        index = self._schema.get_field_index(name)
        if index < 0 or pa.types.is_nested(self._schema.field(index).type):
            return None
        type_ = self._schema.field(index).type
        try:
            rows = [_file_bounds(footer, name) for footer in self._footers]
            minimum = pa.array([row[0] for row in rows], type_)
            maximum = pa.array([row[1] for row in rows], type_)
        except (pa.ArrowException, OverflowError, ValueError, OSError):  # bounds that do not decode prove nothing
            return None
        return ColumnStats(minimum, maximum, pa.array([row[2] for row in rows], pa.int64()))


def _file_bounds(footer: Footer, name: str) -> tuple[object, object, int | None]:
    metadata = footer.metadata
    stored = name if name in footer.schema.names else _folded(name, footer.schema.names)
    if stored is None:  # written before the column existed: null in every row
        return None, None, metadata.num_rows
    positions = [i for i in range(metadata.num_columns) if metadata.schema.column(i).path == stored]
    if len(positions) != 1:  # a nested column, or one whose path looks like this name
        return None, None, None
    position = positions[0]
    if metadata.schema.column(position).physical_type == "INT96":
        return None, None, None
    low, high, nulls = [], [], 0
    for group in range(metadata.num_row_groups):
        stats = metadata.row_group(group).column(position).statistics
        if stats is None or not stats.has_null_count:
            return None, None, None
        nulls += stats.null_count
        if stats.has_min_max and stats.min == stats.min and stats.max == stats.max:  # some writers' bounds are NaN
            low.append(stats.min)
            high.append(stats.max)
        elif stats.null_count < metadata.row_group(group).num_rows:
            return None, None, None
    return (min(low) if low else None), (max(high) if high else None), nulls


def _folded(name: str, stored: Sequence[str]) -> str | None:
    found = [each for each in stored if each.lower() == name.lower()]
    return found[0] if len(found) == 1 else None
