"""May we read this table? Reader versions 1 to 3, and of the reader features exactly those that are implemented."""

from __future__ import annotations

from storage.errors import CorruptError, UnsupportedError
from storage.tables.delta.actions import Metadata, Protocol

__all__ = ["READER_FEATURES", "check_readable", "mapping_mode"]

READER_FEATURES = frozenset(
    {
        "columnMapping",
        "deletionVectors",
        "timestampNtz",
        "typeWidening",
        "typeWidening-preview",
        "v2Checkpoint",
        "vacuumProtocolCheck",
        "variantShredding",
        "variantShredding-preview",
        "variantType",
        "variantType-preview",
    }
)
"""Reader features that are read right. Everything else is refused by name. Those of variants change nothing in a table
without such a column, and a column of that type is refused: delta-rs names them for tables that have none."""

_READER_VERSION_MAX = 3


def check_readable(table: str, protocol: Protocol, metadata: Metadata) -> None:
    """Return if the table can be read exactly. Raises `UnsupportedError` naming the feature, `CorruptError`."""
    version = protocol.min_reader_version
    if version < 1:
        raise CorruptError("the delta protocol names an impossible reader version", table=table, reader_version=version)
    if version > _READER_VERSION_MAX:
        raise UnsupportedError(
            "the delta table needs a newer reader version than Firnline knows",
            table=table,
            reader_version=version,
            known=_READER_VERSION_MAX,
        )
    if version == _READER_VERSION_MAX and protocol.reader_features is None:
        raise CorruptError("the delta protocol of reader version 3 names no reader features", table=table)
    if unknown := sorted((protocol.reader_features or frozenset()) - READER_FEATURES):
        raise UnsupportedError(
            "the delta table uses a reader feature that Firnline does not support",
            table=table,
            feature=",".join(unknown),
        )
    if metadata.provider != "parquet":
        raise UnsupportedError(
            "the delta table's data files are not Parquet", table=table, provider=repr(metadata.provider)
        )


def mapping_mode(table: str, protocol: Protocol, metadata: Metadata) -> str:
    """Return the column mapping mode in force: ``none``, ``name`` or ``id``."""
    features = protocol.reader_features or frozenset()
    if protocol.min_reader_version != 2 and "columnMapping" not in features:
        return "none"
    mode = metadata.configuration.get("delta.columnMapping.mode", "none").lower()
    if mode not in ("none", "name", "id"):
        raise UnsupportedError("unknown delta column mapping mode", table=table, mode=mode)
    return mode
