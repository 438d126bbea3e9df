"""From the engine's schemas to those of answers: without metadata, and without types that many clients cannot take."""

from __future__ import annotations

import pyarrow as pa
from datafusion import DataFrame, SessionContext

from functions.records import plain
from service.own_functions import shown_name

__all__ = ["answered", "retyped", "settled", "without_metadata"]

_VIEWS = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}


def without_metadata(schema: pa.Schema) -> pa.Schema:
    """Return the schema without metadata at any level, which is ours and not the client's."""
    return pa.schema([plain(each) for each in schema])


def settled(context: SessionContext, frame: DataFrame) -> pa.Schema:
    """Return the schema of the frame's rows.

    The engine settles the types of a union only when it optimizes: until then a NULL in its first branch has none.
    """
    schema: pa.Schema = frame.schema()
    if not any(pa.types.is_null(each.type) for each in schema):
        return schema
    optimized = context.create_dataframe_from_logical_plan(frame.optimized_logical_plan()).schema()
    return pa.schema([pa.field(a.name, b.type, b.nullable) for a, b in zip(schema, optimized, strict=True)])


def answered(schema: pa.Schema) -> pa.Schema:
    """Return the schema of an answer: without metadata, and view types, which many clients cannot take, plain."""
    fields = [each.with_name(shown_name(each.name)).with_type(_VIEWS.get(each.type, each.type)) for each in schema]
    return without_metadata(pa.schema(fields))


def retyped(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return the engine's batch with exactly ``schema``, which differs at most in view types and metadata."""
    columns = [
        column.cast(field.type) if column.type in _VIEWS else column
        for column, field in zip(batch.columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
