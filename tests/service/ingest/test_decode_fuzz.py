"""Whatever a body holds, decoding ends in rows of the schema or in an error of ours; never in anything else."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.ingest.decode import RowFormat, decode
from storage.errors import InvalidError
from tests.service.ingest.test_decode import ROW, SCHEMA, ipc, parquet

NAMES = st.sampled_from([*SCHEMA.names, "other", ""])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))


def body_of(form: RowFormat) -> list[bytes]:
    rows = [ROW | {"id": number} for number in range(20)] + [{"id": 99}]
    table = decode(json.dumps(rows).encode(), "json", SCHEMA).rows
    if form == "arrow":
        views = pa.table({"id": [1], "name": pa.array(["a"], pa.string_view()), "tags": [["x"]]})
        folded = pa.table({"id": [1], "name": pa.array(["a"]).dictionary_encode()})
        return [ipc(table), ipc(table, compression="zstd"), ipc(table, compression="lz4"), ipc(views), ipc(folded)]
    if form == "parquet":
        return [parquet(table)]
    if form == "ndjson":
        return ["\n".join(map(json.dumps, rows)).encode()]
    if form == "csv":
        return [b'id,name,price,at,tags\n1,"a""b",1.5,2026-01-01,"[""x""]"\n2,,,,\n' * 5]
    return [json.dumps(rows).encode()]


def damaged(body: bytes, chance: random.Random) -> bytes:
    """The body with a few bytes flipped, lost or added."""
    data = bytearray(body)
    for _ in range(chance.choice([1, 1, 2, 5, 20])):
        place, kind = chance.randrange(len(data) + 1), chance.random()
        if kind < 0.7 and place < len(data):
            data[place] ^= 1 << chance.randrange(8)
        elif kind < 0.85:
            del data[place : place + chance.randrange(1, 50)]
        else:
            data[place:place] = chance.randbytes(chance.randrange(1, 9))
    return bytes(data)


def attempt(body: bytes, form: RowFormat) -> None:
    try:
        table = decode(body, form, SCHEMA).rows
    except InvalidError as error:
        assert str(error)
        return
    table.validate(full=True)
    assert table.schema.equals(SCHEMA, check_metadata=True)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.dictionaries(NAMES, VALUES, max_size=5) | VALUES, max_size=4))
def test_any_json_is_rows_or_an_error(rows: list[Any]) -> None:
    body = json.dumps(rows).encode("utf-8", "surrogatepass")
    attempt(body, "json")
    attempt("\n".join(map(json.dumps, rows)).encode("utf-8", "surrogatepass"), "ndjson")


@settings(max_examples=80, deadline=None)
@given(st.text(alphabet=st.sampled_from('id,name\n\r"0123. \x00é;'), max_size=60))
def test_any_csv_is_rows_or_an_error(text: str) -> None:
    attempt(text.encode(), "csv")
    attempt(b"id,name,tags\n" + text.encode(), "csv")


@pytest.mark.parametrize("form", ["json", "ndjson", "csv"])
def test_damaged_text_is_rows_or_an_error(form: RowFormat) -> None:
    chance = random.Random(7)
    bodies = body_of(form)
    for _ in range(100):
        attempt(damaged(chance.choice(bodies), chance), form)


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_damaged_binary_bodies_end_in_no_crash(form: str) -> None:
    """In a process of its own, which has little memory and tells its end."""
    program = (
        "import random, resource\n"
        "resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))\n"
        "from tests.service.ingest.test_decode_fuzz import attempt, body_of, damaged\n"
        f"chance, bodies = random.Random(11), body_of({form!r})\n"
        "for _ in range(100):\n"
        f"    attempt(damaged(chance.choice(bodies), chance), {form!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
