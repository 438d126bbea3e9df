"""Who owns each of the lake's logs, how far each is folded, and how many there are, over any `KV`.

==================  ====================================================================================================
``log/shards``      how many logs the lake has, and its id; written once
``log/<s>/epoch``   the last epoch that was granted and where its journal is; stays
``log/<s>/owner``   who has that epoch; goes with the owner's KV lease
``log/<s>/folded``  the sequence before which every record is in its table; only ever raised
``log/<s>/wanted``  someone waits for the log; goes with a KV lease
==================  ====================================================================================================

An epoch is granted in one transaction that sees the last one and that nobody alive owns the log, so it is greater than
all before and granted once. If the catalog was restored from an older copy, the log itself knows of later epochs: its
claim then fails, and is made again with ``at_least``. The log's own fence (`storage.log`) depends on none of this.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

from catalog.kv import KV, Entry, Put
from catalog.log_lease import LogLease
from catalog.process import Process, is_dead
from storage.clock import Clock
from storage.errors import CorruptError, FirnlineError, InvalidError

__all__ = ["SHARDS_MAX", "LogCatalog", "LogOwner", "LogShards", "LogsState", "ShardState", "shard_of"]

SHARDS_MAX = 256
_PREFIX = "log/"
_WANTED_TTL_S = 5.0


@dataclass(frozen=True)
class LogOwner:
    """Who appends to a log.

    instance : of the process's open lake; a process may have several
    url, secret : of its HTTP interface (`service.log.routes`); None if it has none
    """

    epoch: int
    instance: str
    process: Process
    url: str | None = None
    secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class ShardState:
    """What the catalog knows of one log.

    epoch : the last that was granted; 0 for a log that nobody wrote yet
    journal : path of the journal of that epoch on ``journal_host``, empty for the lake's own place; None without one
    wanted_by : the instance that waits for the log
    """

    epoch: int = 0
    journal: str | None = None
    journal_host: str = ""
    owner: LogOwner | None = None
    folded: int = 0
    wanted_by: str | None = None
    revisions: Mapping[str, int] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class LogShards:
    """How many logs the lake has, and the lake's id, which its journals carry."""

    n: int
    lake_id: str


@dataclass(frozen=True)
class LogsState:
    """All logs of a lake as of one read."""

    shards: LogShards | None = None
    by_shard: Mapping[int, ShardState] = field(default_factory=dict)

    def of(self, shard: int) -> ShardState:
        """Return what is known of a log; that of an unknown one is empty."""
        return self.by_shard.get(shard, ShardState())


class LogCatalog:
    """The catalog's view of the logs. Holds no state of its own."""

    def __init__(self, kv: KV, clock: Clock) -> None:
        self._kv, self._clock = kv, clock

    async def load(self) -> LogsState:
        """Return the state of all logs, in one read."""
        entries, _revision = await self._kv.range(_PREFIX)
        return _state(tuple(entries))

    async def shards(self, n_new: int = 1) -> LogShards:
        """Return how many logs the lake has; one that has none yet gets ``n_new``, for good."""
        return await _shards(self._kv, n_new, self._clock.new_id())

    async def claim(
        self, shard: int, owner: LogOwner, journal: str | None, ttl_s: float, *, at_least: int = 0
    ) -> LogLease | None:
        """Grant the next epoch to ``owner`` (whose own ``epoch`` is ignored); None if another is alive, or was faster.

        The lease is kept alive until it is released.
        """
        entries, revision = await self._kv.range(f"{_PREFIX}{shard}/")
        state = ShardState()
        for entry in entries:
            state = _with(state, entry.key.split("/", 2)[2], entry)
        if state.owner is not None and state.owner.instance != owner.instance and not is_dead(state.owner.process):
            return None
        # No smaller than the revision of the transaction that grants it, so that it also grows past a lost record.
        epoch = max(state.epoch + 1, revision + 1, at_least)
        keys = {name: f"{_PREFIX}{shard}/{name}" for name in ("owner", "epoch", "wanted")}
        compares = {keys[name]: state.revisions.get(name, 0) for name in ("owner", "epoch")}
        granted = {"v": 1, "epoch": epoch, "journal": journal, "host": owner.process.host}
        started_s = self._clock.monotonic_s()
        lease = await self._kv.lease_grant(ttl_s)
        try:
            puts = [
                Put(keys["owner"], _encode_owner(replace(owner, epoch=epoch)), lease),
                Put(keys["epoch"], json.dumps(granted).encode()),
                # Whoever else waits says so again.
                Put(keys["wanted"], None),
            ]
            taken = (await self._kv.txn(compares, puts)).succeeded
        except FirnlineError:
            # It may have happened; without its lease the record goes, and the epoch is never used.
            await self._forget(lease)
            raise
        if not taken:
            await self._forget(lease)
            return None
        return LogLease(self._kv, self._clock, epoch, lease, ttl_s, started_s)

    async def _forget(self, lease: int) -> None:
        try:
            await self._kv.lease_revoke(lease)
        except FirnlineError:
            return  # it runs out by itself

    async def raise_folded(self, shard: int, sequence: int) -> None:
        """Raise the mark; a lower one changes nothing."""
        key = f"{_PREFIX}{shard}/folded"
        while True:
            entry = await self._kv.get(key)
            if entry is not None and int(_read(entry)["sequence"]) >= sequence:
                return
            value = json.dumps({"v": 1, "sequence": sequence}).encode()
            if (await self._kv.txn({key: entry.revision if entry else 0}, [Put(key, value)])).succeeded:
                return

    async def want(self, shard: int, instance: str) -> None:
        """Ask the owner to let go of the log; it does if it has no HTTP interface. Forgotten after a few seconds."""
        lease = await self._kv.lease_grant(_WANTED_TTL_S)
        value = json.dumps({"v": 1, "instance": instance}).encode()
        await self._kv.txn({}, [Put(f"{_PREFIX}{shard}/wanted", value, lease)])


async def shard_of(kv: KV, table_id: str) -> int:
    """Return which log the rows of a new table go through; told by its id, so that tables spread evenly."""
    return zlib.crc32(table_id.encode()) % (await _shards(kv, 1, table_id)).n


async def _shards(kv: KV, n_new: int, new_id: str) -> LogShards:
    if not 0 < n_new <= SHARDS_MAX:
        raise InvalidError("a lake has 1 to 256 logs", shards=n_new)
    while (entry := await kv.get("log/shards")) is None:
        await kv.txn({"log/shards": 0}, [Put("log/shards", json.dumps({"v": 1, "n": n_new, "id": new_id}).encode())])
    return _decode_shards(entry)


@lru_cache(maxsize=8)
def _state(entries: tuple[Entry, ...]) -> LogsState:
    """Remembered, since every statement asks and logs seldom change hands."""
    shards = None
    found: dict[int, ShardState] = {}
    for entry in entries:
        if entry.key == "log/shards":
            shards = _decode_shards(entry)
            continue
        _, number, what = entry.key.split("/", 2)
        found[int(number)] = _with(found.get(int(number), ShardState()), what, entry)
    return LogsState(shards, found)


def _with(state: ShardState, what: str, entry: Entry) -> ShardState:
    """Return the state with what one of its keys says."""
    document = _read(entry)
    state = replace(state, revisions={**state.revisions, what: entry.revision})
    try:
        if what == "epoch":
            return replace(state, epoch=document["epoch"], journal=document["journal"], journal_host=document["host"])
        if what == "owner":
            return replace(state, owner=LogOwner(**document["owner"] | {"process": Process(**document["process"])}))
        if what == "folded":
            return replace(state, folded=document["sequence"])
        if what == "wanted":
            return replace(state, wanted_by=document["instance"])
    except (KeyError, TypeError) as error:
        raise CorruptError("a catalog entry cannot be read", key=entry.key, reason=repr(error)) from error
    return state


def _encode_owner(owner: LogOwner) -> bytes:
    document = asdict(owner)
    return json.dumps({"v": 1, "process": document.pop("process"), "owner": document}).encode()


def _decode_shards(entry: Entry) -> LogShards:
    document = _read(entry)
    try:
        return LogShards(document["n"], document["id"])
    except KeyError as error:
        raise CorruptError("a catalog entry cannot be read", key=entry.key, reason=repr(error)) from error


def _read(entry: Entry) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(entry.value)
        version = document["v"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptError("a catalog entry cannot be read", key=entry.key, reason=repr(error)) from error
    if version != 1:
        raise CorruptError("a newer Firnline wrote this catalog entry; upgrade", key=entry.key, version=version)
    return document
