"""Statements that write, as parsed. Expressions and queries stay pieces of the statement's text (`Span`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa

from service.cursor import Span, TableName

__all__ = [
    "AddColumn",
    "AlterTable",
    "AlterType",
    "Assignment",
    "CopyFrom",
    "CopyTo",
    "CreateIndex",
    "CreateTable",
    "Delete",
    "DropColumn",
    "DropIndex",
    "DropTable",
    "Insert",
    "Merge",
    "MergeClause",
    "OnConflict",
    "Optimize",
    "Partition",
    "RenameColumn",
    "RenameTable",
    "Restore",
    "SetProperties",
    "Sort",
    "Truncate",
    "Update",
    "Vacuum",
    "Write",
]


@dataclass(frozen=True, slots=True)
class Partition:
    """``column``, ``bucket(16, column)``, …; ``transform`` as Iceberg writes it."""

    column: str
    transform: str = "identity"


@dataclass(frozen=True, slots=True)
class Sort:
    """One column of ORDER BY."""

    column: str
    descending: bool = False


@dataclass(frozen=True)
class CreateTable:
    """``columns`` is None for CREATE TABLE … AS SELECT, whose query is ``source``."""

    table: TableName
    columns: tuple[pa.Field, ...] | None
    primary_key: tuple[str, ...] = ()
    format: str = "delta"
    partition_by: tuple[Partition, ...] = ()
    order_by: tuple[Sort, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    source: Span | None = None
    if_not_exists: bool = False


@dataclass(frozen=True, slots=True)
class DropTable:
    """``purge``: its files too."""

    table: TableName
    if_exists: bool = False
    purge: bool = False


@dataclass(frozen=True, slots=True)
class Truncate:
    """All rows go."""

    table: TableName


@dataclass(frozen=True, slots=True)
class AddColumn:
    """A column of nulls."""

    field: pa.Field
    if_not_exists: bool = False


@dataclass(frozen=True, slots=True)
class DropColumn:
    """Files keep the values; no reader sees them."""

    name: str
    if_exists: bool = False


@dataclass(frozen=True, slots=True)
class RenameColumn:
    """The same column by another name."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class AlterType:
    """A wider type for a column."""

    name: str
    type: pa.DataType


@dataclass(frozen=True, slots=True)
class RenameTable:
    """The same table by another name."""

    new: TableName


@dataclass(frozen=True)
class SetProperties:
    """Properties that are set and unset."""

    set: Mapping[str, str] = field(default_factory=dict)
    unset: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AlterTable:
    """One change of a table's shape."""

    table: TableName
    action: AddColumn | DropColumn | RenameColumn | AlterType | RenameTable | SetProperties


@dataclass(frozen=True, slots=True)
class Assignment:
    """``column = value``; value None is DEFAULT, which is NULL."""

    column: str
    value: Span | None


@dataclass(frozen=True, slots=True)
class OnConflict:
    """``columns`` empty: any; ``assignments`` empty: DO NOTHING."""

    columns: tuple[str, ...] = ()
    assignments: tuple[Assignment, ...] = ()
    where: Span | None = None


@dataclass(frozen=True, slots=True)
class Insert:
    """``columns`` None: all, in order. ``source`` None: DEFAULT VALUES."""

    table: TableName
    columns: tuple[str, ...] | None
    source: Span | None
    overwrite: bool = False
    on_conflict: OnConflict | None = None
    alias: str | None = None
    by_name: bool = False


@dataclass(frozen=True, slots=True)
class Update:
    """``source``: what stands behind FROM."""

    table: TableName
    alias: str | None
    assignments: tuple[Assignment, ...]
    source: Span | None = None
    where: Span | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """``source``: what stands behind USING."""

    table: TableName
    alias: str | None
    source: Span | None = None
    where: Span | None = None


@dataclass(frozen=True, slots=True)
class MergeClause:
    """One WHEN.

    when : ``not matched`` is a row of the source alone, ``not matched by source`` one of the table alone
    columns, values : of INSERT; both None for INSERT *
    assignments : of UPDATE; None for UPDATE SET *
    """

    when: Literal["matched", "not matched", "not matched by source"]
    condition: Span | None
    action: Literal["update", "delete", "insert", "nothing"]
    assignments: tuple[Assignment, ...] | None = ()
    columns: tuple[str, ...] | None = None
    values: tuple[Span | None, ...] | None = None


@dataclass(frozen=True, slots=True)
class Merge:
    """``source`` includes its alias."""

    table: TableName
    alias: str | None
    source: Span
    source_alias: str
    on: Span
    clauses: tuple[MergeClause, ...]


@dataclass(frozen=True)
class CopyFrom:
    """Rows of files into a table."""

    table: TableName
    columns: tuple[str, ...] | None
    location: str
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CopyTo:
    """Rows of a query into a file."""

    query: Span | None
    table: TableName | None
    location: str
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Optimize:
    """Fold the log, then merge small files."""

    table: TableName
    where: Span | None = None


@dataclass(frozen=True, slots=True)
class Vacuum:
    """``retain_hours`` None: as the table has it."""

    table: TableName
    retain_hours: float | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Restore:
    """One of ``version`` and ``timestamp_ms`` is set."""

    table: TableName
    version: int | None = None
    timestamp_ms: int | None = None


@dataclass(frozen=True)
class CreateIndex:
    """``name`` None: made of the table's and the columns'. ``kind`` None: as the table's files are sorted."""

    table: TableName
    name: str | None
    columns: tuple[str, ...]
    kind: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    if_not_exists: bool = False


@dataclass(frozen=True, slots=True)
class DropIndex:
    """The rows stay as they are."""

    table: TableName
    name: str
    if_exists: bool = False


Write = (
    CreateTable | DropTable | Truncate | AlterTable | Insert | Update | Delete | Merge | CopyFrom | CopyTo | Optimize
    | Vacuum | Restore | CreateIndex | DropIndex
)  # fmt: skip
