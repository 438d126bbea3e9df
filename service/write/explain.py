"""EXPLAIN of a statement that writes: the way its rows take, and the plan of the query that feeds it."""

from __future__ import annotations

import pyarrow as pa

from service.write.compose import Text, quoted
from service.write.context import Work
from service.write.feed import answer
from service.write.modify import select_target
from service.write.statements import CopyTo, CreateTable, Delete, Insert, Merge, Update, Write
from storage.errors import UnsupportedError

__all__ = ["explain"]


async def explain(work: Work, write: Write) -> pa.Table:
    """Return rows of (plan_type, plan): first the route, then what EXPLAIN says of the query."""
    text = Text(work.parsed.sql).add("EXPLAIN ")
    route = await _route(work, write)
    match write:
        case Insert(source=source) | CreateTable(source=source):
            if source is None:
                return _rows([("write", route)])
            text.add(source)
        case Update() | Delete():
            entry = await work.managed(write.table)
            assert entry.managed is not None
            schema = entry.managed.spec.schema
            names = schema.names if isinstance(write, Update) else []
            select = select_target(work, write, schema, names, quoted(*write.table))
            text.append(select)
        case Merge():
            alias = quoted(write.alias or write.table[1])
            text.add(f"SELECT * FROM {quoted(*write.table)} AS {alias} JOIN ", write.source, " ON (", write.on, ")")
        case CopyTo(query=query) if query is not None:
            text.add(query)
        case _:
            raise UnsupportedError("EXPLAIN shows queries, and this statement has none", statement=type(write).__name__)
    found = (await answer(work, text)).rows
    plans = list(zip(found.column(0).to_pylist(), found.column(1).to_pylist(), strict=True))
    return _rows([("write", route), *plans])


def _rows(rows: list[tuple[str, str]]) -> pa.Table:
    return pa.table({"plan_type": [kind for kind, _ in rows], "plan": [plan for _, plan in rows]})


async def _route(work: Work, write: Write) -> str:
    """Say in one line what becomes of the rows."""
    if isinstance(write, CreateTable):
        return f"create {'.'.join(write.table)} ({write.format}): rows are written as files of its first commit"
    if isinstance(write, CopyTo) or not isinstance(write, Insert | Update | Delete | Merge):
        return "write one file"
    entry = await work.managed(write.table)
    assert entry.managed is not None
    key, shard = entry.managed.spec.primary_key, entry.managed.shard
    head = f"{type(write).__name__.lower()} {entry.namespace}.{entry.name} ({entry.format}): "
    if isinstance(write, Insert) and write.overwrite:
        return head + "one commit replaces all files"
    if key:
        what = "upserts" if isinstance(write, Insert) else "upserts and deletes"
        return head + f"{what} by ({', '.join(key)}) in log {shard}"
    if isinstance(write, Insert):
        return head + f"appends in log {shard}, or files and a commit if the rows are many"
    return head + f"log {shard} is folded, then one commit replaces the files whose rows change"
