"""Iceberg tables of format versions 1, 2 and 3, read without a catalog or from a catalog's metadata file.

`load` is the format's part of the contract in `storage.tables`; `storage.tables.iceberg.catalogs` finds the metadata
file of a table in a SQL or REST catalog. How the parts work together is in docs/design/004-iceberg-reader.md.
"""

from storage.tables.iceberg.reader import IcebergSnapshot, load

__all__ = ["IcebergSnapshot", "load"]
