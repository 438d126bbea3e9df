"""Which files an import reads, in which format, and their bytes."""

from __future__ import annotations

import glob
import gzip
import hashlib
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import zstandard

from service.ingest.decode import RowFormat
from storage.errors import InvalidError, NotFoundError

__all__ = ["Source", "find_sources", "open_arrow", "open_source"]

_FORMATS: dict[str, RowFormat] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".ipc": "arrow",
    ".feather": "arrow",
}
_PACKED = {".gz": "gzip", ".zst": "zstd"}
_BUFFER_BYTES = 1 << 20
_PIECE_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Source:
    """One file, or standard input.

    path : None is standard input
    encoding : ``gzip``, ``zstd`` or empty
    size : bytes on disk; 0: unknown
    identity : names this very content for idempotency keys; None where nothing does
    """

    name: str
    path: Path | None
    form: RowFormat
    encoding: str = ""
    delimiter: str = ","
    size: int = 0
    identity: str | None = None


def find_sources(names: Sequence[str], form: RowFormat | None) -> list[Source]:
    """Return the files that names and patterns mean, in order, each once.

    Raises `NotFoundError` for a name that means no file, `InvalidError` for one whose format is not told.
    """
    found: dict[str, Source] = {}
    for name in names:
        for path in _paths(name):
            source = _source(path, form)
            found.setdefault(source.name, source)
    return list(found.values())


def _paths(name: str) -> list[Path | None]:
    if name == "-":
        return [None]
    path = Path(name)
    if path.is_file():
        return [path]
    if path.is_dir():
        raise InvalidError(f"this is a folder; write {name.rstrip('/')}/* for the files in it", path=name)
    matches = [Path(each) for each in sorted(glob.glob(name, recursive=True)) if Path(each).is_file()]  # noqa: PTH207
    if not matches:
        raise NotFoundError("no such file", path=name)
    return list(matches)


def _source(path: Path | None, form: RowFormat | None) -> Source:
    if path is None:
        if form is None:
            raise InvalidError("say what comes on standard input: --format csv, ndjson, json, arrow or parquet")
        return Source("standard input", None, form)
    endings = [ending.lower() for ending in path.suffixes]
    encoding = _PACKED.get(endings[-1], "") if endings else ""
    plain = endings[-2] if encoding and len(endings) > 1 else endings[-1] if endings and not encoding else ""
    form = form or _FORMATS.get(plain)
    if form is None:
        raise InvalidError("the name does not tell the format; add --format", path=str(path))
    if encoding and form == "parquet":
        raise InvalidError("a Parquet file is compressed inside; unpack this one first", path=str(path))
    state = path.stat()
    text = f"{path.resolve()}\0{state.st_size}\0{state.st_mtime_ns}"
    delimiter = "\t" if plain == ".tsv" else ","
    return Source(str(path), path, form, encoding, delimiter, state.st_size, hashlib.sha256(text.encode()).hexdigest())


class _Counting(io.RawIOBase):
    """A file that knows how far it was read, compressed or not."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self.file = file
        self.n_read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self.file.read(len(view))
        view[: len(data)] = data
        self.n_read += len(data)
        return len(data)


class _Unzstd(io.RawIOBase):
    """A zstd file that says so when it is cut off."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._held = b""
        self._packed = b""
        self._decompressor = zstandard.ZstdDecompressor()
        self._frame: zstandard.ZstdDecompressionObj | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        while not self._held:
            self._packed = self._packed or self._file.read(_PIECE_BYTES)
            if not self._packed:
                if self._frame is not None:
                    raise EOFError("the zstd file is cut off")
                return 0
            frame = self._frame = self._frame or self._decompressor.decompressobj()
            self._held = frame.decompress(self._packed)
            self._packed = frame.unused_data if frame.eof else b""
            self._frame = None if frame.eof else frame
        data, self._held = self._held[: len(view)], self._held[len(view) :]
        view[: len(data)] = data
        return len(data)


@dataclass
class Opened:
    """An open source. ``n_read`` is of its bytes on disk."""

    stream: BinaryIO
    _counting: _Counting

    @property
    def n_read(self) -> int:
        return self._counting.n_read

    def close(self) -> None:
        """Close it."""
        self.stream.close()
        if self._counting.file is not sys.stdin.buffer:
            self._counting.file.close()


def open_source(source: Source) -> Opened:
    """Open a source and undo its compression. Raises `NotFoundError`, `InvalidError`."""
    try:
        file = source.path.open("rb") if source.path is not None else sys.stdin.buffer
    except OSError as error:
        raise NotFoundError(f"the file cannot be opened: {error.strerror}", path=source.name) from None
    counting = _Counting(file)
    plain = io.BufferedReader(counting, _BUFFER_BYTES)
    stream: BinaryIO = plain
    if source.encoding == "gzip":
        stream = cast(BinaryIO, gzip.open(plain))  # noqa: SIM115
    elif source.encoding == "zstd":
        stream = io.BufferedReader(_Unzstd(plain), _BUFFER_BYTES)
    return Opened(stream, counting)


def open_arrow(stream: BinaryIO) -> pa.RecordBatchReader:
    """Open an Arrow IPC stream, or a file, which is its stream between two magics."""
    buffered = stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(cast(Any, stream))
    if buffered.peek(6)[:6] == b"ARROW1":
        buffered.read(8)
    return pa.ipc.open_stream(buffered)
