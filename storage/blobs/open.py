"""From an authority to its `Blobs`: the one place where a URL's scheme chooses a backend."""

from __future__ import annotations

from storage.blobs import Blobs
from storage.blobs.local import LocalBlobs
from storage.blobs.s3_options import S3Options
from storage.clock import Clock
from storage.errors import InvalidError

__all__ = ["S3Options", "open_blobs"]


def open_blobs(root: str, *, s3: S3Options, clock: Clock) -> Blobs:
    """Return the blobs of ``file://`` (keys are absolute paths without their slash), ``file:///folder`` or
    ``s3://bucket``. Connects to nothing. Raises `InvalidError` for anything else.
    """
    scheme, separator, rest = root.partition("://")
    if separator and scheme == "file":
        return LocalBlobs("/" + rest.strip("/"), clock)
    bucket = rest.rstrip("/")
    if separator and scheme == "s3" and bucket and "/" not in bucket:
        # Imported here: a lake of local files does without obstore.
        from storage.blobs.s3 import S3Blobs

        return S3Blobs(bucket, s3, clock)
    raise InvalidError("no such store; use file:// or s3://bucket", root=root)
