"""Deletion vectors: inline, beside the table and elsewhere; and what damage does to them."""

import uuid

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import CorruptError, UnsupportedError
from storage.tables.delta.vectors import DeletionVector, DeltaDeletes, decode_bitmap, decode_z85
from tests.support.delta_build import (
    TABLE,
    Z85,
    Lake,
    add,
    bitmap,
    encode_z85,
    inline_vector,
    metadata,
    protocol,
    stored_vector,
    vector_file,
)

pytestmark = pytest.mark.anyio

IDENTITY = uuid.UUID("61d16c75-6994-46b7-a15b-8b538852e50e")
FILE = f"deletion_vector_{IDENTITY}.bin"


async def lake_with(vector: object) -> Lake:
    lake = Lake()
    await lake.commit(0, protocol(3, 7, ["deletionVectors"]), metadata(), add("a"), add("b", vector=vector))
    return lake


async def positions(lake: Lake) -> list[int]:
    snapshot = await lake.load()
    ((index, deletes),) = snapshot.files.deletes.items()
    assert snapshot.files.paths[index] == f"{TABLE}/b"
    assert hash(deletes) == hash(next(iter((await lake.load()).files.deletes.values())))
    loaded = await deletes.load(lake.stores())
    assert loaded.positions.dtype == np.int64
    return loaded.positions.tolist()


async def test_an_inline_vector_is_decoded() -> None:
    assert await positions(await lake_with(inline_vector([3, 4, 7, 11, 18, 29]))) == [3, 4, 7, 11, 18, 29]


async def test_the_inline_vector_of_the_protocol_decodes_to_its_rows() -> None:
    """The example of the Delta protocol, "Deletion Vectors", JSON Example 2."""
    example = {
        "storageType": "i",
        "pathOrInlineDv": "wi5b=000010000siXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L",
        "sizeInBytes": 40,
        "cardinality": 6,
    }
    assert await positions(await lake_with(example)) == [3, 4, 7, 11, 18, 29]


async def test_the_path_of_the_protocol_decodes_to_its_file() -> None:
    """The example of the Delta protocol, "Deletion Vectors", JSON Example 1."""
    first, second = bitmap([9]), bitmap([1, 1 << 33])
    data, offsets = vector_file(first, second)
    vector = {
        "storageType": "u",
        "pathOrInlineDv": "ab^-aqEH.-t@S}K{vb[*k^",
        "offset": offsets[1],
        "sizeInBytes": len(second),
        "cardinality": 2,
    }
    lake = await lake_with(vector)
    await lake.put("ab/deletion_vector_d2c639aa-8816-431a-aaf6-d3fe2512ff61.bin", data)
    assert await positions(lake) == [1, 1 << 33]


async def test_a_vector_may_lie_at_an_absolute_url() -> None:
    data, offsets = vector_file(bitmap([5]))
    vector = stored_vector(bitmap([5]), offsets[0], 1, IDENTITY)
    vector |= {"storageType": "p", "pathOrInlineDv": "s3a://lake/else%20where.bin"}
    lake = await lake_with(vector)
    await lake.blobs.put("else where.bin", data)
    assert await positions(lake) == [5]


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"sizeInBytes": 5}, "wrong size|too short|checksum"),
        ({"sizeInBytes": 500}, "too short"),
        ({"offset": 2}, "too short"),
        ({"offset": -1}, "impossible place"),
        ({"cardinality": 2}, "cardinality"),
        ({"pathOrInlineDv": "tooshort"}, "does not decode"),
        ({"pathOrInlineDv": "~" * 20}, "does not decode"),
    ],
)
async def test_a_descriptor_that_does_not_fit_is_corrupt(change: dict[str, object], cause: str) -> None:
    data, offsets = vector_file(bitmap([5]))
    lake = await lake_with(stored_vector(bitmap([5]), offsets[0], 1, IDENTITY) | change)
    await lake.put(FILE, data)
    with pytest.raises(CorruptError, match=cause):
        await positions(lake)


async def test_a_vector_file_that_is_missing_or_damaged_is_named() -> None:
    data, offsets = vector_file(bitmap([5, 6, 7]))
    lake = await lake_with(stored_vector(bitmap([5, 6, 7]), offsets[0], 3, IDENTITY))
    with pytest.raises(CorruptError, match=f"missing file={TABLE}/{FILE}"):
        await positions(lake)
    for place in range(offsets[0], len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1
        await lake.put(FILE, bytes(damaged))
        with pytest.raises(CorruptError, match=FILE):
            await positions(lake)


async def test_an_unknown_kind_of_vector_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="kind of delta deletion vector"):
        await positions(await lake_with(inline_vector([1]) | {"storageType": "x"}))


@given(st.sets(st.integers(0, (1 << 63) - 1), max_size=50))
@settings(max_examples=50, deadline=None)
def test_any_rows_survive_a_bitmap(rows: set[int]) -> None:
    assert decode_bitmap(bitmap(sorted(rows)), "f", len(rows)).tolist() == sorted(rows)


@given(st.binary(max_size=64), st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_bitmap_or_corrupt(data: bytes, cardinality: int) -> None:
    for tried in (data, bitmap([])[:4] + data):
        try:
            assert len(decode_bitmap(tried, "f", cardinality)) == cardinality
        except CorruptError as error:
            assert error.facts["file"] == "f"


@given(st.lists(st.binary(min_size=4, max_size=4), max_size=10).map(b"".join))
def test_z85_decodes_what_was_encoded(data: bytes) -> None:
    assert decode_z85(encode_z85(data)) == data


@given(st.text(alphabet=Z85 + "~é", max_size=60))
def test_any_text_is_a_vector_or_corrupt(text: str) -> None:
    async def decode() -> None:
        await DeltaDeletes(TABLE, "f", DeletionVector("i", text, None, 20, 1)).load(object())

    with pytest.raises(CorruptError):
        decode().send(None)
