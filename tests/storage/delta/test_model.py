"""Random histories and random damage against a plain dictionary."""

import asyncio
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import FirnlineError
from storage.tables.delta import DeltaSnapshot
from tests.support.delta_build import TABLE, Lake, add, checkpoint, inline_vector, metadata, protocol, remove

FIRST = [protocol(3, 7, ["deletionVectors", "v2Checkpoint"]), metadata()]
VECTORS = [None, inline_vector([1]), inline_vector([2, 3])]

Key = tuple[str, int]
STEP = st.fixed_dictionaries(
    {
        "touch": st.lists(
            st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 2)), max_size=5, unique_by=lambda one: one[1:]
        ),
        "checkpoint": st.sampled_from(["", "", "", "classic", "parts", "json", "sidecars"]),
        "clean": st.booleans(),
        "load": st.booleans(),
    }
)


def key_of(snapshot: DeltaSnapshot, index: int) -> Key:
    deletes = snapshot.files.deletes.get(index)
    cardinality = 0 if deletes is None else deletes.vector.cardinality
    return snapshot.files.paths[index].removeprefix(f"{TABLE}/"), cardinality


def observe(snapshot: DeltaSnapshot) -> dict[Key, int]:
    found = {key_of(snapshot, index): int(snapshot.files.n_rows[index]) for index in range(len(snapshot.files))}
    assert len(found) == len(snapshot.files)
    stats = snapshot.files.stats("id")
    if stats is not None and len(found):
        assert stats.minimum.to_pylist() == snapshot.files.n_rows.tolist()
    return found


def add_of(key: Key, serial: int) -> dict[str, Any]:
    return add(key[0], vector=VECTORS[key[1]], stats={"numRecords": serial, "minValues": {"id": serial}})


async def write_checkpoint(lake: Lake, version: int, kind: str, state: dict[Key, int]) -> None:
    files = [add_of(key, serial) for key, serial in state.items()]
    name = f"{version:020}.checkpoint"
    if kind == "classic":
        await lake.log(f"{name}.parquet", checkpoint([*FIRST, *files]))
    elif kind == "parts":
        await lake.log(f"{name}.{1:010}.{2:010}.parquet", checkpoint(files))
        await lake.log(f"{name}.{2:010}.{2:010}.parquet", checkpoint(FIRST))
    elif kind == "json":
        await lake.log(f"{name}.uid.json", "\n".join(map(json.dumps, [*FIRST, *files])))
    else:
        await lake.log(f"_sidecars/{version}.parquet", checkpoint(files))
        sidecar = {"sidecar": {"path": f"{version}.parquet", "sizeInBytes": 1, "modificationTime": 1}}
        await lake.log(f"{name}.uid.parquet", checkpoint([*FIRST, sidecar]))
    await lake.log("_last_checkpoint", json.dumps({"version": version}))


async def run(steps: list[dict[str, Any]]) -> None:
    lake, state, history = Lake(), dict[Key, int](), list[dict[Key, int]]()
    known, oldest, serial = None, 0, 0
    for version, step in enumerate(steps):
        actions = []
        for is_add, file, vector in step["touch"]:
            key = (f"f{file}", vector)
            serial += 1
            if is_add:
                state[key] = serial
                actions.append(add_of(key, serial))
            else:
                state.pop(key, None)
                actions.append(remove(key[0], vector=VECTORS[vector]))
        await lake.commit(version, *(FIRST if version == 0 else []), *actions)
        history.append(dict(state))
        if step["checkpoint"]:
            await write_checkpoint(lake, version, step["checkpoint"], state)
            if step["clean"]:
                for old in range(oldest, version):
                    await lake.delete(f"_delta_log/{old:020}.json")
                oldest = version
        if step["load"]:
            known = await lake.load(known)
            assert observe(known) == state
    assert observe(await lake.load()) == state
    assert observe(await lake.load(known)) == state
    for version in range(oldest, len(steps)):
        assert observe(await lake.load(known, version=version)) == history[version]


@given(st.lists(STEP, min_size=1, max_size=14))
@settings(max_examples=60, deadline=None)
def test_any_history_reads_as_its_dictionary(steps: list[dict[str, Any]]) -> None:
    asyncio.run(run(steps))


async def damage(seed: int) -> None:
    chance = random.Random(seed)
    lake = Lake()
    await lake.commit(0, *FIRST, add("a", stats={"numRecords": 1}), add("b", vector=VECTORS[1]))
    await lake.commit(1, remove("a"), add("c%20d"))
    await lake.log(f"{1:020}.checkpoint.parquet", checkpoint([*FIRST, add("b", vector=VECTORS[1]), add("c%20d")]))
    await lake.log("_last_checkpoint", '{"version": 1}')
    await lake.commit(2, add("e"))
    keys = [meta.key async for meta in lake.blobs.list("t/")]
    for _ in range(chance.randint(1, 3)):
        key = chance.choice(keys)
        data = bytearray((await lake.blobs.get(key))[0])
        if chance.random() < 0.2:
            data = data[: chance.randrange(len(data) + 1)]
        for _ in range(chance.randint(1, 4) if data else 0):
            data[chance.randrange(len(data))] = chance.randrange(256)
        await lake.blobs.put(key, bytes(data))
    for at in ({}, {"version": 0}, {"version": 2}, {"timestamp_ms": lake.clock.at_ms + 1}):
        try:
            snapshot = await lake.load(**at)
            list(snapshot.files.paths)
            snapshot.files.stats("id")
            for deletes in snapshot.files.deletes.values():
                await deletes.load(lake.stores())
        except FirnlineError:
            pass


@pytest.mark.parametrize("start", range(0, 600, 100))
def test_a_damaged_log_gives_an_error_of_ours_or_a_snapshot(start: int) -> None:
    for seed in range(start, start + 100):
        asyncio.run(damage(seed))
