"""Some rows of a Parquet file in one ranged read: where each row group's and page's bytes lie, known beforehand.

A *slice* is a range of rows of one file. What its bytes are follows from a `FileLayout`, which is read from the footer
(and page index) once and kept in the index, so a slice needs neither. The bytes are decoded by giving them a footer of
their own: a Parquet file in memory that holds just these pages.

Source: Apache Parquet format, "File format", "Page index"; Thrift compact protocol.
"""

from __future__ import annotations

from storage.tables.slices.decode import decode
from storage.tables.slices.layout import BLOCK_ROWS, FileLayout, Slice, SliceRead
from storage.tables.slices.plan import plan_reads
from storage.tables.slices.read import read_layouts
from storage.tables.slices.stored import pack, unpack

__all__ = ["BLOCK_ROWS", "FileLayout", "Slice", "SliceRead", "decode", "pack", "plan_reads", "read_layouts", "unpack"]
