"""Members that are NOT NULL inside structs: checked, and given a value where their parent is null.

Parquet has nothing below a null parent, but its writer looks at the child's own nulls.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from service.ingest.errors import WrongValue

__all__ = ["checked_child"]


def checked_child(array: pa.Array, field: pa.Field, step: str, parent_null: pa.Array | None = None) -> pa.Array:
    """Return a child array for a field. Raises `WrongValue` for a null that stands in a parent that is there."""
    if field.nullable or not array.null_count:
        return array
    lost = array.is_null() if parent_null is None else pc.and_not(array.is_null(), parent_null)
    if pc.any(lost).as_py():
        raise WrongValue("the member is NOT NULL; give it a value", step)
    return _filled(array)


def _filled(array: pa.Array) -> pa.Array:
    """Return the array with some value in the place of each null."""
    kind = array.type
    if pa.types.is_struct(kind):
        fields = [kind.field(index) for index in range(kind.num_fields)]
        children = [
            array.field(index) if field.nullable or not array.field(index).null_count else _filled(array.field(index))
            for index, field in enumerate(fields)
        ]
        return pa.StructArray.from_arrays(children, fields=fields)
    if pa.types.is_map(kind):
        return pa.MapArray.from_arrays(array.offsets, array.keys, array.items, type=kind)
    if pa.types.is_list(kind):
        return pa.ListArray.from_arrays(array.offsets, array.values, type=kind)
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return array.fill_null("" if pa.types.is_string(kind) else b"")
    return array.fill_null(pa.scalar(False if pa.types.is_boolean(kind) else 0, kind))
