"""Which metadata file is an Iceberg table's current one: a field of its catalog entry, changed by compare-and-swap."""

from __future__ import annotations

from dataclasses import replace

from catalog.tables import Managed, TableEntry, Tables
from storage.errors import ConflictError, InvalidError, NotFoundError
from storage.tables.write import TableSpec

__all__ = ["CatalogPointer", "adopted"]


class CatalogPointer:
    """The pointer of one table; see `storage.tables.iceberg.commit.Pointer`."""

    def __init__(self, tables: Tables, entry: TableEntry) -> None:
        self._tables = tables
        self._namespace, self._name, self._id = entry.namespace, entry.name, entry.id

    async def read(self) -> str | None:
        """Return the location of the metadata file. Raises `NotFoundError` if the table was dropped or renamed."""
        entry = await self._tables.get(self._namespace, self._name)
        if entry.id != self._id:
            raise NotFoundError("no such table", table=f"{self._namespace}.{self._name}")
        return _managed(entry).metadata_location

    async def swap(self, expected: str | None, new: str, spec: TableSpec | None = None) -> None:
        """Replace the location, and the shape if one is given, in one transaction. Raises `ConflictError`."""

        def alter(entry: TableEntry) -> TableEntry:
            managed = _managed(entry)
            if managed.metadata_location == new:
                return entry
            if managed.metadata_location != expected:
                raise ConflictError(
                    "the table has another metadata file now", expected=expected, found=managed.metadata_location
                )
            changed = replace(managed, metadata_location=new)
            return replace(entry, managed=changed if spec is None else adopted(changed, spec))

        await self._tables.change(self._namespace, self._name, self._id, alter)


def _managed(entry: TableEntry) -> Managed:
    if entry.managed is None:
        raise InvalidError("the table is external; it is only read", table=f"{entry.namespace}.{entry.name}")
    return entry.managed


def adopted(managed: Managed, spec: TableSpec) -> Managed:
    """Return the catalog's knowledge of a table that has got the shape of ``spec``.

    Records of the log name a schema by its number, so a number that is taken by other columns is never given again:
    the spec gets the next one.
    """
    if spec.schema.equals(managed.spec.schema, check_metadata=True):
        number = managed.spec.schema_id
    elif managed.schemas.get(spec.schema_id, spec.schema).equals(spec.schema, check_metadata=True):
        number = spec.schema_id
    else:
        number = max(managed.schemas) + 1
    shaped = replace(spec, schema_id=number, table_id=managed.spec.table_id)
    return replace(managed, spec=shaped, schemas={**managed.schemas, number: spec.schema})
