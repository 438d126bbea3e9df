"""Random programs run alike on the memory, SQLite and blob backends and on a plain dictionary."""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.kv import KV, Put
from catalog.kv.blob import BlobKV
from catalog.kv.memory import MemoryKV
from catalog.kv.sqlite import SqliteKV
from catalog.kv.state import HistoryLimits
from storage.blobs.memory import MemoryBlobs
from storage.errors import NotFoundError
from tests.support.clock import ManualClock

KEYS = st.sampled_from(["a", "a/", "a/b", "b", "é", "\U0010ffff"])
LEASES = st.one_of(st.none(), st.integers(1, 4))
PUTS = st.lists(
    st.builds(Put, KEYS, st.one_of(st.none(), st.binary(max_size=3)), LEASES), max_size=4, unique_by=lambda put: put.key
)
COMPARES = st.dictionaries(KEYS, st.integers(0, 6), max_size=2)
STEPS = st.one_of(
    st.tuples(st.just("txn"), COMPARES, PUTS),
    st.tuples(st.just("txn"), st.just({}), PUTS),
    st.tuples(st.just("grant"), st.integers(1, 20)),
    st.tuples(st.just("keepalive"), st.integers(1, 4)),
    st.tuples(st.just("revoke"), st.integers(1, 4)),
    st.tuples(st.just("pass"), st.integers(1, 8)),
    st.tuples(st.just("get"), KEYS),
    st.tuples(st.just("range"), st.one_of(st.just(""), KEYS)),
)


class PlainMap:
    """The contract in the fewest words: what the backends are held against."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.entries: dict[str, tuple[bytes, int, int | None]] = {}
        self.leases: dict[int, tuple[int, int]] = {}
        self.revision = self.last_lease = 0
        self.events: list[tuple[str, bytes | None, int]] = []

    def change(self, puts: list[Put]) -> None:
        puts = [put for put in puts if put.value is not None or put.key in self.entries]
        self.revision += bool(puts)
        for put in puts:
            self.entries.pop(put.key, None)
            if put.value is not None:
                self.entries[put.key] = (put.value, self.revision, put.lease)
            self.events.append((put.key, put.value, self.revision))

    def end(self, leases: list[int]) -> None:
        for lease in leases:
            self.leases.pop(lease, None)
        self.change([Put(key, None) for key, (_v, _r, lease) in sorted(self.entries.items()) if lease in leases])

    def run(self, step: tuple) -> object:
        now = self.clock.now_ms()
        self.end([lease for lease, (_ttl, ends) in self.leases.items() if ends <= now])
        match step:
            case ("txn", compares, puts):
                if any((self.entries[key][1] if key in self.entries else 0) != at for key, at in compares.items()):
                    return (False, self.revision)
                if any(put.value is not None and put.lease not in (None, *self.leases) for put in puts):
                    return NotFoundError
                self.change(puts)
                return (True, self.revision)
            case ("grant", ttl):
                self.last_lease += 1
                self.leases[self.last_lease] = (ttl, now + ttl)
                return self.last_lease
            case ("keepalive", lease):
                if lease not in self.leases:
                    return NotFoundError
                self.leases[lease] = (self.leases[lease][0], now + self.leases[lease][0])
            case ("revoke", lease):
                self.end([lease])
            case ("get", key):
                return (key, *self.entries[key][:2]) if key in self.entries else None
            case ("range", prefix):
                found = [(key, *entry[:2]) for key, entry in self.entries.items() if key.startswith(prefix)]
                return (sorted(found, key=lambda entry: entry[0].encode()), self.revision)
        return None


async def run(kv: KV, step: tuple) -> object:
    try:
        match step:
            case ("txn", compares, puts):
                result = await kv.txn(compares, puts)
                return (result.succeeded, result.revision)
            case ("grant", ttl):
                return await kv.lease_grant(ttl / 1000)
            case ("keepalive", lease):
                return await kv.lease_keepalive(lease)
            case ("revoke", lease):
                return await kv.lease_revoke(lease)
            case ("get", key):
                entry = await kv.get(key)
                return entry and (entry.key, entry.value, entry.revision)
            case ("range", prefix):
                entries, revision = await kv.range(prefix)
                return ([(entry.key, entry.value, entry.revision) for entry in entries], revision)
    except NotFoundError:
        return NotFoundError
    return None


async def events(kv: KV, n: int) -> list[tuple[str, bytes | None, int]]:
    watch = kv.watch("", 1)
    found = [await anext(watch) for _ in range(n)]
    await watch.aclose()
    return [(event.key, event.value, event.revision) for event in found]


def by_revision(changes: list[tuple[str, bytes | None, int]]) -> list[tuple[int, str, bytes | None]]:
    """Changes of one revision have no order among them."""
    return sorted((revision, key, value) for key, value, revision in changes)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=25))
def test_every_backend_answers_as_a_plain_map_does(steps: list[tuple]) -> None:
    async def compare() -> None:
        clock, plain_clock = ManualClock(), ManualClock()
        plain = PlainMap(plain_clock)
        history = HistoryLimits(events_max=1000)
        with tempfile.TemporaryDirectory() as folder:
            kvs: list[KV] = [
                MemoryKV(clock, history=history),
                SqliteKV(Path(folder) / "kv.sqlite", clock, history=history),
                BlobKV(MemoryBlobs(clock), "head", clock, history=history),
            ]
            for step in steps:
                if step[0] == "pass":
                    clock.advance(step[1])
                    plain_clock.advance(step[1])
                expected = plain.run(step)
                for kv in kvs:
                    assert await run(kv, step) == expected, (kv, step)
            for kv in kvs:
                assert await run(kv, ("range", "")) == plain.run(("range", ""))
                seen = await events(kv, len(plain.events))
                assert [revision for _key, _value, revision in seen] == [at for _key, _value, at in plain.events]
                assert by_revision(seen) == by_revision(plain.events)
                await kv.close()

    asyncio.run(compare())
