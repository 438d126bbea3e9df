"""`DeltaWriter`: commits to a Delta table by put-if-absent of the next file of its log.

The put is the only act that matters: before it nothing happened, after it everything has. Each attempt lists the log
first, since a version whose file was cleaned up long ago must not be made again from a stale snapshot. A commit whose
fate a lost reply hides is read back and known by its id. Design note: ``docs/design/008-delta-writer.md``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from storage.clock import Clock
from storage.errors import (
    ConflictError,
    FirnlineError,
    IndeterminateError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)
from storage.stores import Stores
from storage.tables.delta.actions import Metadata, Protocol
from storage.tables.delta.conflicts import check_still_true
from storage.tables.delta.evolve import evolve, new_table
from storage.tables.delta.load import newest_state
from storage.tables.delta.log import commit_location, list_log
from storage.tables.delta.protocol import check_readable, mapping_mode
from storage.tables.delta.replay import TableState
from storage.tables.delta.schema import physical_name, read_schema
from storage.tables.delta.snapshot import DeltaSnapshot
from storage.tables.delta.travel import uses_commit_timestamps
from storage.tables.delta.writable import check_allowed, check_writable
from storage.tables.delta.write_actions import (
    Action,
    add_actions,
    app_id,
    commit_info,
    encode,
    metadata_action,
    protocol_action,
    remove_actions,
    transaction_action,
)
from storage.tables.delta.write_checkpoint import is_due, write_checkpoint
from storage.tables.snapshot import Snapshot
from storage.tables.write import Change, Committed, DataFile, TableSpec

__all__ = ["DeltaWriter"]

_ATTEMPTS_MAX = 60
_PUT_TRIES = 4
_DELAY_S, _DELAY_MAX_S = 0.005, 0.5


@dataclass(frozen=True)
class _Draft:
    """A commit that was not put yet. ``time_ms`` is what a reader will take for its time, if it says so itself."""

    version: int
    data: bytes
    commit_id: str
    time_ms: int | None
    metadata: Metadata


class DeltaWriter:
    """A `storage.tables.write.TableWriter` of the Delta table at ``location`` (normalized)."""

    def __init__(self, stores: Stores, location: str, clock: Clock) -> None:
        self._stores, self._location, self._clock = stores, location.rstrip("/"), clock

    async def create(
        self, spec: TableSpec, files: tuple[DataFile, ...] = (), facts: Mapping[str, str] | None = None
    ) -> Committed:
        """Make the table, with rows if ``files`` are given. Raises `ConflictError` if one lies there already."""
        if (await list_log(self._stores, self._location)).latest is not None:
            raise self._taken()
        change = Change("create table", files, facts=facts or {})
        protocol, metadata = new_table(spec, self._clock.now_ms())
        draft = await asyncio.to_thread(self._draft, None, change, protocol, metadata)
        done_ms = await self._put(draft)
        if done_ms is None:
            raise self._taken()
        return Committed(0, done_ms)

    async def commit(self, base: Snapshot, change: Change) -> Committed:
        """Commit a change that was computed from ``base``; see `storage.tables.write.TableWriter.commit`.

        Raises `UnsupportedError` for a table with a writer feature that we do not fulfil.
        """
        start = _state_of(base)
        if not {file.location for file in change.add}.isdisjoint(change.remove):
            raise InvalidError("a change adds and removes one file", table=self._location)
        commit_id = self._clock.new_id()
        state = start
        for attempt in range(1, _ATTEMPTS_MAX + 1):
            state = await newest_state(self._stores, self._location, state)
            draft = await asyncio.to_thread(self._draft_on, start, state, change, commit_id)
            done_ms = await self._put(draft)
            if done_ms is not None:
                await self._checkpoint(draft)
                return Committed(draft.version, done_ms, attempt)
            await self._pause(attempt)
        raise ConflictError(
            "other writers committed first, again and again; try again", table=self._location, attempts=_ATTEMPTS_MAX
        )

    def watermark(self, snapshot: Snapshot, log: str) -> int:
        """Return up to which sequence (exclusive) the snapshot holds the log's records of this table; 0: none."""
        return _state_of(snapshot).transactions.get(app_id(log), 0)

    def _draft_on(self, start: TableState, state: TableState, change: Change, commit_id: str) -> _Draft:
        """Check that the change may be made of ``state``, and write it down. Raises `ConflictError`."""
        check_readable(self._location, state.protocol, state.metadata)
        check_writable(self._location, state.protocol, state.metadata)
        check_allowed(self._location, state.metadata, change)
        check_still_true(self._location, start, state, change)
        protocol, metadata = state.protocol, state.metadata
        if change.spec is not None:
            protocol, metadata = evolve(
                self._location, state, change.spec, change.remove, was_empty=not any(map(len, start.batches))
            )
        return self._draft(state, change, protocol, metadata, commit_id)

    def _draft(
        self,
        state: TableState | None,
        change: Change,
        protocol: Protocol,
        metadata: Metadata,
        commit_id: str | None = None,
    ) -> _Draft:
        now_ms, commit_id = self._clock.now_ms(), commit_id or self._clock.new_id()
        info = commit_info(change, commit_id, now_ms, state.version if state else None)
        time_ms = None
        if uses_commit_timestamps(metadata):
            time_ms = max(now_ms, state.timestamp_ms + 1) if state else now_ms
            info["commitInfo"] = {"inCommitTimestamp": time_ms, **info["commitInfo"]}
        actions: list[Action] = [info]
        if state is None or protocol != state.protocol:
            actions.append(protocol_action(protocol))
        if state is None or metadata != state.metadata:
            actions.append(metadata_action(metadata))
        if change.watermark is not None:
            actions.append(transaction_action(change.watermark, now_ms))
        if state is not None:
            actions += remove_actions(self._location, state, change, now_ms)
        actions += self._adds(change, protocol, metadata, now_ms)
        return _Draft(state.version + 1 if state else 0, encode(actions), commit_id, time_ms, metadata)

    def _adds(self, change: Change, protocol: Protocol, metadata: Metadata, now_ms: int) -> list[Action]:
        if not change.add:
            return []
        mode = mapping_mode(self._location, protocol, metadata)
        schema = read_schema(self._location, metadata.schema_json, mode)
        return add_actions(
            self._location,
            change.add,
            _partitions(schema, metadata),
            metadata.configuration,
            now_ms,
            data_change=change.data_change,
            always=[physical_name(schema.field(name)) for name in _wanted(metadata) if name in schema.names],
        )

    async def _put(self, draft: _Draft) -> int | None:
        """Return when the commit was made, None if the version is another's.

        Raises `UnavailableError`, `IndeterminateError` when its fate cannot be learned.
        """
        blobs, key = self._stores.resolve(commit_location(self._location, draft.version))
        doubtful, cause = False, None
        for attempt in range(1, _PUT_TRIES + 1):
            try:
                meta = await blobs.put(key, draft.data, if_absent=True)
                return meta.modified_ms if draft.time_ms is None else draft.time_ms
            except ConflictError:
                doubtful = True  # whose it is shows only when it is read
            except UnavailableError as error:
                cause = cause or error
                await self._pause(attempt)
                continue
            except IndeterminateError:
                doubtful = True
            try:
                data, meta = await blobs.get(key)
            except (NotFoundError, UnavailableError):
                await self._pause(attempt)
                continue
            if _commit_id(data) != draft.commit_id:
                return None
            return meta.modified_ms if draft.time_ms is None else draft.time_ms
        facts = {"table": self._location, "version": draft.version}
        if doubtful:
            raise IndeterminateError("a commit may have happened; load the table and look for it", **facts)
        raise UnavailableError("the commit could not be stored; nothing happened", **facts) from cause

    async def _checkpoint(self, draft: _Draft) -> None:
        """Write the version's checkpoint if one is due; its failure is no one's loss, for the commit is made."""
        if is_due(draft.version, draft.metadata):
            with contextlib.suppress(FirnlineError, pa.ArrowException, ValueError, TypeError, KeyError):
                await write_checkpoint(self._stores, self._location, draft.version, self._clock)

    async def _pause(self, attempt: int) -> None:
        """Wait longer each time, and never as long as another writer."""
        await asyncio.sleep(self._clock.uniform(0, min(_DELAY_S * 2**attempt, _DELAY_MAX_S)))

    def _taken(self) -> ConflictError:
        return ConflictError("a delta table lies here already; choose another location", table=self._location)


def _state_of(snapshot: Snapshot) -> TableState:
    if not isinstance(snapshot, DeltaSnapshot):
        raise InvalidError("not a snapshot of a delta table", format=snapshot.format, location=snapshot.location)
    return snapshot.state


def _commit_id(data: bytes) -> str | None:
    """The id in a commit's first line, where we write it; None for another writer's commit."""
    try:
        info = json.loads(data.partition(b"\n")[0]).get("commitInfo") or {}
    except (ValueError, AttributeError, RecursionError):
        return None
    return info.get("txnId") if isinstance(info, dict) else None


def _partitions(schema: pa.Schema, metadata: Metadata) -> dict[str, tuple[str, pa.Field]]:
    """Name in `DataFile.partition` → physical name and column, of the table's own partitions."""
    names = {
        part["column"]: part["name"]
        for part in _own(metadata, "firnline.partition_by")
        if part.get("transform") == "identity"
    }
    return {
        names.get(name, name): (physical_name(schema.field(name)), schema.field(name))
        for name in metadata.partition_columns
    }


def _wanted(metadata: Metadata) -> list[str]:
    """Columns that queries look rows up by."""
    return [*_own(metadata, "firnline.primary_key"), *(sort["column"] for sort in _own(metadata, "firnline.order_by"))]


def _own(metadata: Metadata, name: str) -> list[Any]:
    found: list[Any] = json.loads(metadata.configuration.get(name, "[]"))
    return found
