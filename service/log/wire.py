"""The bytes of the log's HTTP interface: a JSON header behind its length (4 bytes, little-endian), then a payload.

=======================================  ===============================  ==============================================
request                                  header                           payload
=======================================  ===============================  ==============================================
``POST /v1/log/<shard>/append``          n_records, ack, n_keys, since     key hashes (uint64, little-endian), then the
                                                                          records as `storage.log.records` has them
answer: receipt                          epoch, sequence, n_records, ack
``GET …/read?start=&bytes_max=``
answer: range                            start, limit, epoch, more,       the records
                                         entries: [epoch, first, n, bytes]
``GET …/find?table=&key=``
answer: receipt, or an empty header
``POST …/flush``
answer                                   limit
=======================================  ===============================  ==============================================

An error is a problem document with the members of `FirnlineError.to_wire`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from service.log.owned import EntryRange
from storage.errors import InvalidError
from storage.log import AckMode, Position, Receipt
from storage.log.access import Touched
from storage.log.records import split_records
from storage.log.tail import Entry

__all__ = [
    "decode_append",
    "decode_range",
    "decode_receipt",
    "encode_append",
    "encode_range",
    "encode_receipt",
    "pack",
    "unpack",
]

_LENGTH = struct.Struct("<I")


def pack(header: dict[str, Any], *payload: bytes) -> bytes:
    """Return header and payload as one body."""
    text = json.dumps(header, separators=(",", ":")).encode()
    return b"".join((_LENGTH.pack(len(text)), text, *payload))


def unpack(body: bytes) -> tuple[dict[str, Any], memoryview]:
    """Return header and payload. Raises `InvalidError`."""
    try:
        (n,) = _LENGTH.unpack_from(body)
        header = json.loads(body[_LENGTH.size : _LENGTH.size + n])
    except (struct.error, ValueError) as error:
        raise InvalidError("the body is none of the log's", reason=str(error)) from None
    if not isinstance(header, dict):
        raise InvalidError("the body's header is no object")
    return header, memoryview(body)[_LENGTH.size + n :]


def encode_append(records: list[bytes], ack: AckMode | None, touched: Touched | None) -> bytes:
    """The body of an append."""
    header: dict[str, Any] = {"n_records": len(records), "ack": ack.value if ack else None}
    keys = b""
    if touched is not None:
        keys = np.ascontiguousarray(touched.keys, "<u8").tobytes()
        header |= {"n_keys": len(touched.keys), "since": list(touched.since) if touched.since else None}
    return pack(header, keys, *records)


def decode_append(body: bytes) -> tuple[list[bytes], AckMode | None, Touched | None]:
    """What `encode_append` was given, the records verified. Raises `InvalidError`, `CorruptError`."""
    header, payload = unpack(body)
    try:
        ack = AckMode(header["ack"]) if header.get("ack") else None
        touched = None
        n_keys = header.get("n_keys")
        if n_keys is not None:
            since = header.get("since")
            keys = np.frombuffer(payload[: 8 * n_keys], "<u8")
            touched = Touched(keys, (int(since[0]), int(since[1])) if since else None)
            payload = payload[8 * n_keys :]
        n_records = int(header["n_records"])
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise InvalidError("the append's header does not read", reason=repr(error)) from None
    return split_records(bytes(payload), n_records, 0, "the request"), ack, touched


def encode_receipt(receipt: Receipt | None) -> bytes:
    """The answer to an append, or to a search."""
    if receipt is None:
        return pack({})
    position = receipt.position
    return pack(
        {"epoch": position.epoch, "sequence": position.sequence, "n": receipt.n_records, "ack": receipt.ack.value}
    )


def decode_receipt(body: bytes) -> Receipt | None:
    """What `encode_receipt` was given."""
    header, _payload = unpack(body)
    if not header:
        return None
    return Receipt(Position(header["epoch"], header["sequence"]), header["n"], AckMode(header["ack"]))


def encode_range(found: EntryRange) -> bytes:
    """The answer to a read."""
    entries = [[entry.first.epoch, entry.first.sequence, len(entry.records), entry.n_bytes] for entry in found.entries]
    header = {"start": found.start, "limit": found.limit, "epoch": found.epoch, "more": found.more, "entries": entries}
    return pack(header, *(record for entry in found.entries for record in entry.records))


def decode_range(body: bytes) -> EntryRange:
    """What `encode_range` was given, each record verified. Raises `CorruptError`."""
    header, payload = unpack(body)
    entries: list[Entry] = []
    start = 0
    for epoch, first, n, n_bytes in _rows(header["entries"]):
        records = split_records(bytes(payload[start : start + n_bytes]), n, first, "the owner's answer")
        entries.append(Entry(Position(epoch, first), records))
        start += n_bytes
    return EntryRange(header["start"], header["limit"], entries, header["epoch"], header["more"])


def _rows(entries: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
    return entries
