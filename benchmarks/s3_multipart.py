"""Multipart uploads and the other request bodies that S3 clients send, for `benchmarks.s3_facade`."""

from __future__ import annotations

import hashlib
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from benchmarks.http_server import Request, Response
from storage.clock import Clock

__all__ = ["Uploads", "keys_to_delete", "plain_body"]

_XML = {"Content-Type": "application/xml"}


class Uploads:
    """The parts of the uploads under way, in memory."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._parts: dict[str, dict[int, bytes]] = {}

    def act(self, request: Request, bucket: str, key: str) -> Response | bytes:
        """Begin an upload or take a part; the whole body when the request completes the upload."""
        if request.method == "POST" and "uploads" in request.query:
            upload_id = self._clock.new_id()
            self._parts[upload_id] = {}
            body = f"<UploadId>{upload_id}</UploadId><Bucket>{escape(bucket)}</Bucket><Key>{escape(key)}</Key>"
            return Response(
                200, f"<InitiateMultipartUploadResult>{body}</InitiateMultipartUploadResult>".encode(), _XML
            )
        parts = self._parts.get(request.query.get("uploadId", ""))
        if parts is None:
            return Response(404, b"<Error><Code>NoSuchUpload</Code><Message/></Error>", dict(_XML))
        if request.method == "PUT":
            data = plain_body(request)
            parts[int(request.query["partNumber"])] = data
            return Response(200, headers={"ETag": f'"{hashlib.md5(data).hexdigest()}"'})
        listed = ElementTree.fromstring(request.body)
        numbers = [int(element.text or 0) for element in listed.iter() if element.tag.endswith("PartNumber")]
        self.abort(request.query["uploadId"])
        return b"".join(parts[number] for number in numbers)

    def completed(self, key: str, etag: str) -> Response:
        """The answer to a completed upload."""
        body = f"<Key>{escape(key)}</Key><ETag>&quot;{etag}&quot;</ETag>"
        xml = f"<CompleteMultipartUploadResult>{body}</CompleteMultipartUploadResult>"
        return Response(200, xml.encode(), dict(_XML))

    def abort(self, upload_id: str) -> None:
        """Forget the parts."""
        self._parts.pop(upload_id, None)


def plain_body(request: Request) -> bytes:
    """The body without aws-chunked framing, if it has any."""
    if not request.headers.get("x-amz-content-sha256", "").startswith("STREAMING-"):
        return request.body
    data, at = bytearray(), 0
    while True:
        end = request.body.index(b"\r\n", at)
        n_bytes = int(request.body[at:end].partition(b";")[0], 16)
        if n_bytes == 0:
            return bytes(data)
        data += request.body[end + 2 : end + 2 + n_bytes]
        at = end + 2 + n_bytes + 2


def keys_to_delete(body: bytes) -> list[str]:
    """The keys that a DeleteObjects request names."""
    return [element.text or "" for element in ElementTree.fromstring(body).iter() if element.tag.endswith("Key")]
