"""ALTER TABLE: the table's own metadata is changed first, then what the catalog knows of it.

A crash in between leaves a table whose columns are newer than the catalog's; `adopt` is what the next statement that
meets it does. Older schemas stay known, since records of the log may have them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import count

import pyarrow as pa

from catalog.pointers import adopted
from catalog.tables import TableEntry
from functions.widen import Rewritten, discard, rewrite_wider
from service.write.context import Outcome, Work
from service.write.mutate import committed_before, repeated
from service.write.properties import checked_properties, property_name
from service.write.retry import LostError, retried
from service.write.spec import check_column_type, field_id, numbered
from service.write.statements import (
    AddColumn,
    AlterTable,
    AlterType,
    DropColumn,
    RenameColumn,
    RenameTable,
    SetProperties,
)
from service.write.types import type_name
from storage.errors import ConflictError, InvalidError, NotFoundError, SqlError, UnsupportedError
from storage.tables.snapshot import FIELD_ID, Snapshot
from storage.tables.write import Change, TableSpec

__all__ = ["adopt", "alter_table", "check_columns"]


async def alter_table(work: Work, statement: AlterTable) -> Outcome:
    """Change a table's columns, properties or name.

    Raises
    ------
    SqlError
        no such column
    InvalidError
        the column is part of the key, or of the partitioning or order
    UnsupportedError
        a type that the table's rows cannot be read as
    """
    if isinstance(statement.action, RenameTable):
        return await _rename_table(work, statement, statement.action)

    rewritten = Rewritten()

    async def once() -> Outcome:
        entry = await work.managed(statement.table)
        assert entry.managed is not None
        base = await work.load(entry)
        await adopt(work, entry, base)
        if await committed_before(work, entry):
            return repeated(entry)
        spec = _changed(entry, statement)
        shown = f"{entry.namespace}.{entry.name}"
        if spec is None:
            await discard(work.stores, rewritten)
            return Outcome(f"table {shown} is so already")
        change = Change("alter", spec=spec, facts=work.facts)
        if isinstance(statement.action, AlterType) and entry.format == "delta":
            change = await rewrite_wider(work.stores, work.engine.clock, base, change, spec, rewritten)
        try:
            await work.writer(entry).commit(base, change)
        except ConflictError as error:
            raise LostError(error.message, **error.facts) from error
        rewritten.by_source.clear()  # they are the table's now, whatever the catalog answers
        await _tell_catalog(work, entry, spec)
        return Outcome(f"altered table {shown}")

    try:
        return await retried(work, once)
    except ConflictError:
        await discard(work.stores, rewritten)
        raise


async def _tell_catalog(work: Work, entry: TableEntry, spec: TableSpec) -> None:
    def alter(found: TableEntry) -> TableEntry:
        if found.managed is None:
            return found
        return replace(found, managed=adopted(found.managed, spec))

    await work.engine.tables.change(entry.namespace, entry.name, entry.id, alter)


async def _rename_table(work: Work, statement: AlterTable, action: RenameTable) -> Outcome:
    await work.engine.tables.rename(statement.table, action.new)
    return Outcome(f"renamed table {'.'.join(statement.table)} to {'.'.join(action.new)}")


async def adopt(work: Work, entry: TableEntry, snapshot: Snapshot) -> None:
    """Let the catalog know columns that the table has got meanwhile. Raises `LostError` if there were any."""
    assert entry.managed is not None
    spec = entry.managed.spec
    if _same(snapshot.schema, spec.schema):
        return
    if await work.managed((entry.namespace, entry.name)) != entry:
        raise LostError("the table's columns were changed meanwhile")
    known = {each.name: each for each in spec.schema}
    by_id = {field_id(each): each for each in spec.schema}
    numbers = count(spec.last_column_id + 1)
    fields = []
    for each in snapshot.schema:
        tagged = (each.metadata or {}).get(FIELD_ID)
        old = by_id.get(int(tagged)) if tagged is not None else known.get(each.name)
        if old is not None and _bare(old.type) == _bare(each.type):
            fields.append(old.with_name(each.name).with_nullable(each.nullable))
        elif tagged is not None:
            fields.append(_ids_only(each))
        elif old is not None:
            fields.append(pa.field(each.name, each.type, each.nullable, old.metadata))
        else:
            fields.append(numbered(pa.field(each.name, each.type, each.nullable), numbers))
    schema = pa.schema(fields)
    renamed = {old.name: new.name for new in schema if (old := by_id.get(field_id(new))) is not None}
    if any(name not in renamed for name in spec.primary_key):
        raise InvalidError(
            "another writer dropped a column of the table's primary key", table=f"{entry.namespace}.{entry.name}"
        )
    last = max([spec.last_column_id, *_all_ids(schema)])
    new = replace(
        spec,
        schema=schema,
        schema_id=max(entry.managed.schemas) + 1,
        last_column_id=last,
        primary_key=tuple(renamed[name] for name in spec.primary_key),
    )
    await _tell_catalog(work, entry, new)
    raise LostError("the table's columns were changed meanwhile")


async def check_columns(work: Work, entry: TableEntry, read: Snapshot | None) -> None:
    """Raise `LostError` if the table that a query read has other columns than ``entry``, which are told the catalog.

    To be asked before rows that were read are written: those with fewer columns would end the others' values.
    """
    if read is not None:
        await adopt(work, entry, read)


def _same(left: pa.Schema, right: pa.Schema) -> bool:
    return left.names == right.names and all(
        _bare(one.type) == _bare(other.type) for one, other in zip(left, right, strict=True)
    )


def _bare(kind: pa.DataType) -> str:
    """Return the type without what children of lists and maps are called."""
    if pa.types.is_struct(kind):
        return "struct<" + ", ".join(f"{each.name}: {_bare(each.type)}" for each in kind) + ">"
    if pa.types.is_map(kind):
        return f"map<{_bare(kind.key_type)}, {_bare(kind.item_type)}>"
    if pa.types.is_list(kind):
        return f"list<{_bare(kind.value_type)}>"
    return str(kind)


def _ids_only(field: pa.Field) -> pa.Field:
    tagged = (field.metadata or {}).get(FIELD_ID)
    kind = field.type
    if pa.types.is_struct(kind):
        kind = pa.struct([_ids_only(kind.field(index)) for index in range(kind.num_fields)])
    elif pa.types.is_map(kind):
        kind = pa.map_(_ids_only(kind.key_field), _ids_only(kind.item_field))
    elif pa.types.is_list(kind):
        kind = pa.list_(_ids_only(kind.value_field))
    return pa.field(field.name, kind, field.nullable, {FIELD_ID: tagged} if tagged is not None else None)


def _all_ids(schema: pa.Schema) -> list[int]:
    found: list[int] = []
    stack = list(schema)
    while stack:
        each = stack.pop()
        if each.metadata and FIELD_ID in each.metadata:
            found.append(int(each.metadata[FIELD_ID]))
        stack.extend(each.type.field(index) for index in range(each.type.num_fields))
    return found


def _changed(entry: TableEntry, statement: AlterTable) -> TableSpec | None:
    """Return the new shape; None if the table has it."""
    assert entry.managed is not None
    spec = entry.managed.spec
    fresh = max(entry.managed.schemas) + 1
    match statement.action:
        case AddColumn(added, if_not_exists):
            if any(each.name.lower() == added.name.lower() for each in spec.schema):
                if if_not_exists:
                    return None
                raise SqlError("the table has such a column already", column=added.name)
            check_column_type(added, entry.format)
            numbers = count(spec.last_column_id + 1)
            schema = spec.schema.append(numbered(added, numbers))
            return replace(spec, schema=schema, schema_id=fresh, last_column_id=next(numbers) - 1)
        case DropColumn(name, if_exists):
            if name not in spec.schema.names and if_exists:
                return None
            at = _place(spec, name)
            _check_free(spec, name)
            if len(spec.schema) == 1:
                raise InvalidError("a table needs a column; DROP TABLE drops it", column=name)
            return replace(spec, schema=spec.schema.remove(at), schema_id=fresh)
        case RenameColumn(old, new):
            return _renamed(spec, old, new, fresh)
        case AlterType(name, kind):
            return _widened(spec, entry.format, name, kind, fresh)
        case SetProperties(given, unset):
            return _with_properties(spec, given, unset)
    raise UnsupportedError("this ALTER TABLE is not supported")


def _place(spec: TableSpec, name: str) -> int:
    if name not in spec.schema.names:
        raise SqlError(f"no such column: {name}; the columns are {', '.join(spec.schema.names)}")
    return int(spec.schema.get_field_index(name))


def _check_free(spec: TableSpec, name: str) -> None:
    number = field_id(spec.schema.field(name))
    if name in spec.primary_key:
        raise InvalidError("a column of the primary key cannot be dropped", column=name)
    if any(each.column_id == number for each in spec.partition_by):
        raise InvalidError("the table is partitioned by this column, which cannot be dropped", column=name)
    if any(each.column_id == number for each in spec.order_by):
        raise InvalidError("the table is sorted by this column, which cannot be dropped", column=name)


def _renamed(spec: TableSpec, old: str, new: str, fresh: int) -> TableSpec:
    at = _place(spec, old)
    if old == new:
        raise InvalidError("the column has this name", column=old)
    if any(each.name.lower() == new.lower() for each in spec.schema if each.name != old):
        raise SqlError("the table has such a column already", column=new)
    schema = spec.schema.set(at, spec.schema.field(at).with_name(new))
    key = tuple(new if name == old else name for name in spec.primary_key)
    return replace(spec, schema=schema, schema_id=fresh, primary_key=key)


_WIDER: Mapping[pa.DataType, tuple[pa.DataType, ...]] = {
    pa.int8(): (pa.int16(), pa.int32(), pa.int64()),
    pa.int16(): (pa.int32(), pa.int64()),
    pa.int32(): (pa.int64(),),
    pa.float32(): (pa.float64(),),
}


def _widened(spec: TableSpec, format_: str, name: str, kind: pa.DataType, fresh: int) -> TableSpec | None:
    at = _place(spec, name)
    field = spec.schema.field(at)
    if _bare(field.type) == _bare(kind):
        return None
    decimals = pa.types.is_decimal(kind) and pa.types.is_decimal(field.type)
    wider = decimals and kind.scale == field.type.scale and kind.precision > field.type.precision
    if not wider and kind not in _WIDER.get(field.type, ()):
        raise UnsupportedError(
            "a column's type can only become wider: an integer, REAL to DOUBLE, or a decimal of more digits",
            column=name, type=type_name(field.type), asked=type_name(kind),
        )  # fmt: skip
    check_column_type(pa.field(name, kind), format_)
    return replace(spec, schema=spec.schema.set(at, field.with_type(kind)), schema_id=fresh)


def _with_properties(spec: TableSpec, given: Mapping[str, str], unset: tuple[str, ...]) -> TableSpec | None:
    left_out = [property_name(name) for name in unset]
    for name in left_out:
        if name not in spec.properties:
            raise NotFoundError("the table has no such property", property=name)
    kept = {name: value for name, value in spec.properties.items() if name not in left_out}
    properties = kept | checked_properties(given, spec.schema)
    return None if properties == dict(spec.properties) else replace(spec, properties=properties)
