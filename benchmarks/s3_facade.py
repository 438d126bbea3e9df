"""An S3 API over a folder, with a delay in front of every request and a count of them.

For benchmarks of round trips, where moto and LocalStack are too slow, and for tests that need a store to fail at will.
Path style, no credentials checked, one process. It passes the conformance suite of `storage.blobs.Blobs`; conditional
puts, ranges, ListObjectsV2, single and multiple deletes and multipart uploads are S3's. User metadata lives in memory.

    python -m benchmarks.s3_facade --root DIR --port 9000 --delay-ms 20 --log requests.ndjson

A bucket is a folder of DIR. ``GET /_requests`` answers the counts as JSON; ``POST /_reset`` clears them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from email.utils import formatdate
from pathlib import Path
from typing import TextIO

from benchmarks.http_server import Request, Response, serve_http
from benchmarks.s3_listing import list_objects, xml_error
from benchmarks.s3_multipart import Uploads, keys_to_delete, plain_body
from storage.blobs.keys import key_fault
from storage.blobs.local_files import etag_of, open_file, read_range, remove_file
from storage.blobs.local_put import Condition, put_file
from storage.clock import Clock, SystemClock
from storage.errors import ConflictError, FirnlineError

__all__ = ["Fault", "S3Facade", "serve"]

Fault = Callable[[Request], str | None]
"""Asked about every request: None to answer it; "drop before" or "drop after" to close the connection before or after
it took effect; "after 500 InternalError" or "503 SlowDown", say, to answer that after or instead of doing it."""


class S3Facade:
    """Answers S3 requests from the folder ``root``; see the module's docstring."""

    def __init__(self, root: Path, clock: Clock, *, fault: Fault | None = None, log: TextIO | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self.fault = fault
        self._root = root
        self._clock = clock
        self._log = log
        self._metadata: dict[tuple[str, str], tuple[str, dict[str, str]]] = {}
        self._uploads = Uploads(clock)

    def act(self, request: Request) -> Response | None:
        """Answer one request, or None to drop the connection."""
        if request.path == "/_requests":
            return Response(200, json.dumps(dict(self.counts)).encode(), {"Content-Type": "application/json"})
        if request.path == "/_reset":
            self.counts.clear()
            return Response(200)
        fault = (self.fault(request) if self.fault is not None else None) or ""
        when, _, error = fault.partition(" ") if fault.startswith(("drop", "after")) else ("before", "", fault)
        if fault == "drop before":
            return None
        response = _error(error) if fault and when == "before" else self._answer(request)
        self._count(request, response)
        if fault == "drop after":
            return None
        return _error(error) if when == "after" else response

    def _count(self, request: Request, response: Response) -> None:
        bucket_only = request.path.rstrip("/").count("/") < 2
        kind = "LIST" if request.method == "GET" and bucket_only else request.method
        n_out = 0 if request.method == "HEAD" else len(response.body)
        self.counts.update({"total": 1, kind: 1, "bytes_out": n_out, "bytes_in": len(request.body)})
        if kind == "GET" and request.path.endswith(".parquet"):
            self.counts["data"] += 1
        if self._log is not None:
            line = {"t": time.monotonic(), "kind": kind, "path": request.path, "query": request.query}
            line |= {"range": request.headers.get("range"), "status": response.status, "bytes": n_out}
            self._log.write(json.dumps(line) + "\n")

    def _answer(self, request: Request) -> Response:
        bucket, _, key = request.path.removeprefix("/").partition("/")
        folder = self._root / bucket
        if bucket in ("", ".", ".."):
            return xml_error(405, "MethodNotAllowed")
        if not key and request.method == "PUT":
            folder.mkdir(exist_ok=True)
            return Response(200)
        if not folder.is_dir():
            return xml_error(404, "NoSuchBucket")
        if not key:
            return self._answer_bucket(request, bucket, folder)
        if key_fault(key) is not None:
            return xml_error(400, "InvalidArgument")
        try:
            return self._answer_object(request, bucket, key, folder / key)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            reading = request.method in ("GET", "HEAD")
            return xml_error(404, "NoSuchKey") if reading else xml_error(400, "InvalidArgument")
        except ConflictError:
            return xml_error(412, "PreconditionFailed")
        except FirnlineError as error:
            return xml_error(500, type(error).__name__)

    def _answer_bucket(self, request: Request, bucket: str, folder: Path) -> Response:
        if request.method == "HEAD":
            return Response(200)
        if request.method == "GET" and "location" in request.query:
            return Response(200, b"<LocationConstraint/>", {"Content-Type": "application/xml"})
        if request.method == "GET":
            return list_objects(bucket, folder, request.query)
        if request.method == "POST" and "delete" in request.query:
            for key in keys_to_delete(request.body):
                if key_fault(key) is None:
                    remove_file(folder / key)
            return Response(200, b"<DeleteResult/>", {"Content-Type": "application/xml"})
        return xml_error(405, "MethodNotAllowed")

    def _answer_object(self, request: Request, bucket: str, key: str, path: Path) -> Response:
        if request.method in ("GET", "HEAD"):
            return self._read(request, bucket, key, path)
        if request.method == "DELETE":
            if "uploadId" in request.query:
                self._uploads.abort(request.query["uploadId"])
            else:
                remove_file(path)
            return Response(204)
        if "uploads" in request.query or "uploadId" in request.query:
            whole = self._uploads.act(request, bucket, key)
            if isinstance(whole, Response):
                return whole
            etag = self._put(request, bucket, key, path, whole)
            return self._uploads.completed(key, etag)
        if request.method == "PUT":
            return Response(200, headers={"ETag": f'"{self._put(request, bucket, key, path, plain_body(request))}"'})
        return xml_error(405, "MethodNotAllowed")

    def _put(self, request: Request, bucket: str, key: str, path: Path, body: bytes) -> str:
        """Write the object and return its etag. Raises `ConflictError`."""
        if_match = request.headers.get("if-match")
        condition = Condition(request.headers.get("if-none-match") == "*", if_match.strip('"') if if_match else None)
        etag = put_file(key, path, body, condition, self._clock).etag
        tags = {name: value for name, value in request.headers.items() if name.startswith("x-amz-meta-")}
        self._metadata[bucket, key] = (etag, tags)
        return etag

    def _read(self, request: Request, bucket: str, key: str, path: Path) -> Response:
        with open_file(path) as file:
            status = os.fstat(file.fileno())
            etag = etag_of(status)
            headers = {
                "ETag": f'"{etag}"',
                "Last-Modified": formatdate(status.st_mtime, usegmt=True),
                "Accept-Ranges": "bytes",
                "Content-Type": "binary/octet-stream",
            }
            known_etag, tags = self._metadata.get((bucket, key), ("", {}))
            headers |= tags if known_etag == etag else {}
            if (wanted := request.headers.get("if-match")) not in (None, "*") and wanted.strip('"') != etag:
                return xml_error(412, "PreconditionFailed")
            if (unwanted := request.headers.get("if-none-match")) is not None and unwanted.strip('"') in ("*", etag):
                return Response(304, headers=headers)
            return _respond(request, headers, file.fileno(), status.st_size)


def _error(fault: str) -> Response:
    status, _, code = fault.partition(" ")
    return xml_error(int(status), code)


def _respond(request: Request, headers: dict[str, str], descriptor: int, size: int) -> Response:
    """The blob, or the part of it that the Range header asks for."""
    asked = request.headers.get("range", "")
    if not asked.startswith("bytes="):
        if request.method == "HEAD":
            return Response(200, headers={**headers, "Content-Length": str(size)})
        return Response(200, read_range(descriptor, 0, size), headers)
    first, _, last = asked.removeprefix("bytes=").partition("-")
    if first:
        start, limit = int(first), min(int(last) + 1 if last else size, size)
    else:
        start, limit = max(size - int(last), 0), size
    if start >= limit:
        return xml_error(416, "InvalidRange")
    headers["Content-Range"] = f"bytes {start}-{limit - 1}/{size}"
    if request.method == "HEAD":
        return Response(206, headers={**headers, "Content-Length": str(limit - start)})
    return Response(206, read_range(descriptor, start, limit), headers)


def serve(facade: S3Facade, *, port: int = 0, delay_ms: float = 0) -> AbstractAsyncContextManager[str]:
    """Serve on the loopback, on a free port if it is 0; yields the URL."""
    return serve_http(facade.act, port=port, delay_s=delay_ms / 1000)


async def _main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.s3_facade", description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, required=True, help="the folder whose folders are the buckets")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay-ms", type=float, default=0)
    parser.add_argument("--log", type=Path, help="append one JSON line for each request")
    options = parser.parse_args()
    log = options.log.open("a", buffering=1) if options.log else None
    options.root.mkdir(parents=True, exist_ok=True)
    facade = S3Facade(options.root, SystemClock(), log=log)
    async with serve(facade, port=options.port, delay_ms=options.delay_ms) as url:
        print(f"listening on {url}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(_main())
