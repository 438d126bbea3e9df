"""The stored format: golden files, limits, and every kind of damage found and named."""

from __future__ import annotations

from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import CorruptError, FirnlineError, InvalidError, TooLargeError, UnsupportedError
from storage.log import BODY_BYTES_MAX, Position, Record, RecordKind
from storage.log.journal import Journal, read_journal
from storage.log.records import decode_record, encode_record
from storage.log.segments import (
    decode_base,
    decode_segment,
    encode_base,
    encode_seal,
    encode_segment,
    slot_key,
    slot_of,
)
from storage.log.tail import Entry

GOLDEN = Path(__file__).parents[2] / "golden" / "log"
SLOT = Position(5, 41)
RECORDS = [
    Record("orders", 3, RecordKind.APPEND, b"a body that does not get smaller", "key-1"),
    Record("orders", 3, RecordKind.UPSERT, b"a body that gets smaller " * 40, None),
    Record("\u96ea", 4_000_000_000, RecordKind.DELETE, b"", "\u00e9"),
]
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
records = st.builds(
    Record, texts, st.integers(0, 2**32 - 1), st.sampled_from(RecordKind), st.binary(max_size=300), st.none() | texts
)


def encoded() -> list[bytes]:
    return [encode_record(record, 1) for record in RECORDS]


def segment() -> bytes:
    return encode_segment(SLOT, encoded(), created_ms=1_700_000_000_000, writer=0xF123)


def decoded(data: bytes, slot: Position = SLOT) -> list[Record]:
    found = decode_segment(data, slot, "the-key")
    return [decode_record(record, "the-key") for record in found.records]


@given(st.lists(records, min_size=1, max_size=5), st.integers(1, 2**62), st.integers(0, 2**62))
def test_what_was_encoded_is_decoded(written: list[Record], epoch: int, sequence: int) -> None:
    slot = Position(epoch, sequence)
    data = encode_segment(slot, [encode_record(one, 1) for one in written], created_ms=7, writer=9)
    assert decoded(data, slot) == written
    assert decode_segment(data, slot, "k").next_slot == Position(epoch, sequence + len(written))
    assert slot_of("log", slot_key("log", slot)) == slot


@given(st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 2**40)), min_size=2, max_size=2))
def test_keys_sort_as_positions_do(pairs: list[tuple[int, int]]) -> None:
    first, second = (Position(*pair) for pair in pairs)
    assert (first < second) == (slot_key("log", first) < slot_key("log", second))


def test_golden_files_are_read_and_written_byte_for_byte(tmp_path: Path) -> None:
    """The compressed bytes are the library's; so a segment is built again from the golden file's own records."""
    golden = (GOLDEN / "v1.segment").read_bytes()
    assert decoded(golden) == RECORDS
    found = decode_segment(golden, SLOT, "k")
    assert encode_segment(SLOT, found.records, created_ms=found.created_ms, writer=0xF123) == golden
    seal = (GOLDEN / "v1.seal").read_bytes()
    assert decode_segment(seal, SLOT, "k").next_slot == Position(9, 41)
    assert encode_seal(SLOT, 9, created_ms=1_700_000_000_000, writer=0xF123) == seal
    base = (GOLDEN / "v1.base").read_bytes()
    assert decode_base(base, "base") == 41
    assert encode_base(41) == base
    contents = read_journal(GOLDEN / "v1.journal", "wal/0")
    assert contents is not None
    assert [decode_record(one, "") for entry in contents.entries for one in entry.records] == RECORDS
    journal = Journal(tmp_path / "journal", "wal/0", 5)
    journal.replace(contents.entries[:1])
    journal.append(contents.entries[1])
    journal.close()
    assert (tmp_path / "journal").read_bytes() == (GOLDEN / "v1.journal").read_bytes()
    assert contents.entries == [
        Entry(Position(5, 41), found.records[:2]),
        Entry(Position(5, 43), found.records[2:]),
    ]


def test_a_bit_flipped_anywhere_is_found_and_the_segment_named() -> None:
    data = segment()
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptError, match="segment=the-key"):
            decode_segment(bytes(flipped), SLOT, "the-key")


def test_a_damaged_body_names_its_record() -> None:
    data = bytearray(segment())
    data[-20] ^= 4
    with pytest.raises(CorruptError, match="segment=the-key record=2 sequence=43"):
        decode_segment(bytes(data), SLOT, "the-key")


def test_a_truncated_segment_is_told_from_a_damaged_one() -> None:
    data = segment()
    for limit in range(len(data)):
        with pytest.raises(CorruptError, match="truncated"):
            decode_segment(data[:limit], SLOT, "k")
    with pytest.raises(CorruptError, match="follow"):
        decode_segment(data + b"x", SLOT, "k")


def test_records_that_were_swapped_are_found() -> None:
    first, second, third = encoded()
    data = segment()
    header = len(data) - len(first) - len(second) - len(third)
    for payload in (second + first + third, first + first + third):
        with pytest.raises(CorruptError):
            decode_segment((data[:header] + payload)[: len(data)], SLOT, "k")


def test_a_segment_under_another_key_is_refused() -> None:
    with pytest.raises(CorruptError, match="under this key"):
        decode_segment(segment(), Position(5, 42), "k")


def test_a_newer_version_is_refused_by_name() -> None:
    import struct
    import zlib

    data = bytearray(segment())
    data[8] = 2
    data[68:72] = struct.pack("<I", zlib.crc32(data[:68]))
    with pytest.raises(UnsupportedError, match="format=2"):
        decode_segment(bytes(data), SLOT, "k")


@pytest.mark.parametrize(
    "bad",
    [
        Record("", 0, RecordKind.APPEND, b""),
        Record("x" * 257, 0, RecordKind.APPEND, b""),
        Record("t", -1, RecordKind.APPEND, b""),
        Record("t", 2**32, RecordKind.APPEND, b""),
        Record("t", 0, RecordKind.APPEND, b"", ""),
        Record("t", 0, RecordKind.APPEND, b"", "k" * 257),
        Record("\ud800", 0, RecordKind.APPEND, b""),
    ],
)
def test_a_record_out_of_its_limits_is_refused(bad: Record) -> None:
    with pytest.raises(InvalidError):
        encode_record(bad, 1)


def test_a_body_past_its_limit_is_refused() -> None:
    with pytest.raises(TooLargeError):
        encode_record(Record("t", 0, RecordKind.APPEND, bytes(BODY_BYTES_MAX + 1)), 1)


def test_a_bomb_is_not_unpacked() -> None:
    """The body says 10 bytes, its frame 64 MiB: refused before a byte is allocated for it."""
    import struct
    import zlib

    frame = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    head = struct.pack("<IBBHHHII", 20 + 1 + len(frame) + 4, 1, 1, 1, 0, 0, 0, 10) + b"t" + frame
    with pytest.raises(CorruptError, match="sizes differ"):
        decode_record(head + struct.pack("<I", zlib.crc32(head)), "k")


@given(st.binary(max_size=200))
def test_any_bytes_at_all_raise_an_error_of_ours(data: bytes) -> None:
    for read in (
        lambda: decode_segment(data, SLOT, "k"),
        lambda: decode_segment(segment()[:72] + data, SLOT, "k"),
        lambda: decode_base(data, "k"),
    ):
        with pytest.raises(FirnlineError):
            read()
