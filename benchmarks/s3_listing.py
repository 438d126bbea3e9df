"""ListObjectsV2 over a folder, and S3's error documents, for `benchmarks.s3_facade`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import escape

from benchmarks.http_server import Response
from storage.blobs import BlobMeta
from storage.blobs.local_files import list_files

__all__ = ["list_objects", "xml_error"]

_XML = {"Content-Type": "application/xml"}
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


def xml_error(status: int, code: str) -> Response:
    """An S3 error document."""
    body = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
    return Response(status, body.encode(), dict(_XML))


def list_objects(bucket: str, folder: Path, query: dict[str, str]) -> Response:
    """One page: keys and common prefixes in UTF-8 order, together at most ``max-keys`` (1000)."""
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    token = bytes.fromhex(query.get("continuation-token", "")).decode()
    after = token or query.get("start-after") or None
    n_max = min(int(query.get("max-keys", 1000)), 1000)
    page: list[BlobMeta | str] = []
    truncated = False
    for meta in list_files(folder, prefix, after):
        item = _common_prefix(meta.key, prefix, delimiter) or meta
        if item == token or (page and item == page[-1]):
            continue
        if truncated := len(page) == n_max:
            break
        page.append(item)
    url = query.get("encoding-type") == "url"
    text = quote if url else escape
    rows = [_row(item, text) for item in page]
    next_token = f"<NextContinuationToken>{_last(page[-1]).encode().hex()}</NextContinuationToken>" if truncated else ""
    body = (
        f"<?xml version='1.0' encoding='UTF-8'?><ListBucketResult xmlns='{_NAMESPACE}'><Name>{escape(bucket)}</Name>"
        f"<Prefix>{text(prefix)}</Prefix><Delimiter>{text(delimiter)}</Delimiter><MaxKeys>{n_max}</MaxKeys>"
        f"{'<EncodingType>url</EncodingType>' if url else ''}<KeyCount>{len(page)}</KeyCount>"
        f"<IsTruncated>{str(truncated).lower()}</IsTruncated>{next_token}{''.join(rows)}</ListBucketResult>"
    )
    return Response(200, body.encode(), dict(_XML))


def _common_prefix(key: str, prefix: str, delimiter: str) -> str | None:
    end = key.find(delimiter, len(prefix)) if delimiter else -1
    return key[: end + len(delimiter)] if end >= 0 else None


def _last(item: BlobMeta | str) -> str:
    return item if isinstance(item, str) else item.key


def _row(item: BlobMeta | str, text: Callable[[str], str]) -> str:
    if isinstance(item, str):
        return f"<CommonPrefixes><Prefix>{text(item)}</Prefix></CommonPrefixes>"
    modified = datetime.fromtimestamp(item.modified_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return (
        f"<Contents><Key>{text(item.key)}</Key><LastModified>{modified}</LastModified>"
        f"<ETag>&quot;{item.etag}&quot;</ETag><Size>{item.size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
    )
