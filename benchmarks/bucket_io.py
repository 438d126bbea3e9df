"""pyiceberg's file access for a bucket that is a folder: names say ``s3://``, bytes go to the folder."""

from __future__ import annotations

from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.typedef import EMPTY_DICT, Properties

__all__ = ["ROOT", "FolderBucketIO"]

ROOT = "benchmark.root"
"""Catalog property: the folder whose folders are the buckets."""


class FolderBucketIO(PyArrowFileIO):
    """Writes ``s3://bucket/key`` to ``ROOT/bucket/key``."""

    @staticmethod
    def parse_location(location: str, properties: Properties = EMPTY_DICT) -> tuple[str, str, str]:
        scheme, _, rest = location.partition("://")
        if scheme == "s3":
            return "file", "", f"{properties[ROOT]}/{rest}"
        return PyArrowFileIO.parse_location(location, properties)
