"""Arrow IPC and Parquet bodies: bounded before they are unfolded, and validated before they are used."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from service.ingest.columns import Decoded
from service.ingest.conform import UNFOLDED_BYTES_MAX, conform
from service.ingest.ipc_bounds import check_ipc_stream
from storage.errors import InvalidError, TooLargeError

__all__ = ["decode_arrow", "decode_parquet"]

_FILE_MAGIC = b"ARROW1"
_BATCH_ROWS = 16_384


def decode_arrow(body: bytes, schema: pa.Schema) -> Decoded:
    """Return the rows of an Arrow IPC stream, or of a file, in ``schema``. Raises `InvalidError`, `TooLargeError`."""
    try:
        if body.startswith(_FILE_MAGIC):
            # A file is its stream between two magics.
            body = body[8:]
        check_ipc_stream(body, UNFOLDED_BYTES_MAX)
        with pa.ipc.open_stream(pa.py_buffer(body)) as reader:
            rows = reader.read_all()
        rows.validate(full=True)
        return Decoded(conform(rows, schema))  # names that are no UTF-8 come to light here
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidError(f"the body is no Arrow IPC stream: {str(error)[:200]}") from None


def decode_parquet(body: bytes, schema: pa.Schema) -> Decoded:
    """Return the rows of a Parquet file in ``schema``. Raises `InvalidError`, `TooLargeError`."""
    try:
        with pq.ParquetFile(pa.BufferReader(body), pre_buffer=False) as first:
            strings = [
                field.name
                for field in first.schema_arrow
                if pa.types.is_string(field.type) or pa.types.is_binary(field.type)
            ]
        batches = []
        n_bytes = 0
        # Dictionaries are kept, so that a small file of long repeated strings stays small until it is measured.
        with pq.ParquetFile(pa.BufferReader(body), read_dictionary=strings, pre_buffer=False) as file:
            source = file.schema_arrow
            for batch in file.iter_batches(_BATCH_ROWS, use_threads=False):
                n_bytes += batch.nbytes
                if n_bytes > UNFOLDED_BYTES_MAX:
                    raise TooLargeError("the file is too large once it is unpacked", bytes_max=UNFOLDED_BYTES_MAX)
                batches.append(batch)
        rows = pa.Table.from_batches(batches, batches[0].schema if batches else source)
        rows.validate(full=True)
        return Decoded(conform(rows, schema))  # names that are no UTF-8 come to light here
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidError(f"the body is no Parquet file that can be read: {str(error)[:200]}") from None
