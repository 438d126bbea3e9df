"""The rows of one table's tail, brought forward record by record. Does no IO.

They lie in *runs*: consecutive records in one table each, the newest last, merged as soon as an older run is not much
larger than what follows it, so a row is copied a logarithmic number of times. A run has a bounded number of rows, so
that overriding a row copies few others.

With a primary key a run has at most one row of each key, and a key is in one run only: its newest. A deletion is a row
too, with nulls beside its key. What a newer run overrides is found by the keys' hashes and then by the keys themselves.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa

from catalog.tables import TableEntry
from functions.keys import key_columns, key_hashes, last_indices
from functions.records import decode, key_names, plain, project
from storage.log import LogRecord, RecordKind

__all__ = ["TailRows"]

_BATCH_ROWS = 16_384
_RUN_ROWS = 65_536
_FEW = 16


@dataclass(frozen=True)
class _Run:
    """Rows, each with the sequence of its record; ``hashes`` of their keys (columns ``names``), and the deletions."""

    names: tuple[str, ...]
    rows: pa.Table
    sequences: np.ndarray
    hashes: np.ndarray
    deleted: np.ndarray

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def where(self, mask: np.ndarray) -> _Run:
        """Return the rows where ``mask`` (bool[n]) holds."""
        if mask.all():
            return self
        rows = self.rows.filter(pa.array(mask))
        return _Run(self.names, rows, self.sequences[mask], self.hashes[mask] if len(self.hashes) else self.hashes,
                    self.deleted[mask] if len(self.deleted) else self.deleted)  # fmt: skip

    def parts(self) -> list[_Run]:
        """Return the rows in runs of a bounded number of rows, which are not copied."""
        return [self._slice(start, start + _RUN_ROWS) for start in range(0, len(self), _RUN_ROWS)]

    def _slice(self, start: int, limit: int) -> _Run:
        return _Run(
            self.names, self.rows.slice(start, limit - start),
            self.sequences[start:limit], self.hashes[start:limit], self.deleted[start:limit],
        )  # fmt: skip

    @cached_property
    def live(self) -> tuple[pa.RecordBatch, ...]:
        """Rows that are not deletions."""
        live = self.rows.filter(pa.array(~self.deleted)) if self.deleted.any() else self.rows
        return tuple(batch for batch in live.to_batches(max_chunksize=_BATCH_ROWS) if batch.num_rows)

    @cached_property
    def keys(self) -> tuple[pa.RecordBatch, ...]:
        """Keys of all rows."""
        return tuple(key_columns(self.rows, self.names).to_batches(max_chunksize=_BATCH_ROWS))


@dataclass(frozen=True)
class TailRows:
    """What a table's records from some sequence on leave of its rows. Never changes.

    schema : the snapshot's, which rows are fitted to
    keys_named : the primary key's columns as ``schema`` names them
    state : differs whenever the rows could
    """

    schema: pa.Schema
    keys_named: tuple[str, ...]
    runs: tuple[_Run, ...] = ()
    state: object = field(default_factory=object)

    @classmethod
    def empty(cls, entry: TableEntry, schema: pa.Schema) -> TailRows:
        """Return a tail without rows."""
        return cls(schema, key_names(entry, schema))

    def fits(self, entry: TableEntry, schema: pa.Schema) -> bool:
        """Whether the rows have the columns of ``schema``."""
        return self.schema.equals(schema, check_metadata=True) and self.keys_named == key_names(entry, schema)

    @cached_property
    def n_bytes(self) -> int:
        return sum(run.rows.nbytes + 17 * len(run) for run in self.runs)

    @cached_property
    def batches(self) -> tuple[pa.RecordBatch, ...]:
        """Live rows."""
        return tuple(itertools.chain.from_iterable(run.live for run in self.runs))

    @cached_property
    def keys(self) -> tuple[pa.RecordBatch, ...] | None:
        """Keys that were written or deleted; None without a primary key."""
        if not self.keys_named:
            return None
        return tuple(itertools.chain.from_iterable(run.keys for run in self.runs))

    def since(self, sequence: int) -> TailRows:
        """Return what the records from a sequence on leave; of a key its last record, if that is not older."""
        if not any(len(run) and run.sequences.min() < sequence for run in self.runs):
            return self
        kept = (run.where(run.sequences >= sequence) for run in self.runs)
        return TailRows(self.schema, self.keys_named, tuple(run for run in kept if len(run)))

    def then(self, records: Sequence[LogRecord], entry: TableEntry) -> TailRows:
        """Return the rows brought forward by the records that follow. Raises as `functions.records.rows_of`."""
        parts = [self._part(list(group), entry) for _shape, group in itertools.groupby(records, _shape_of)]
        parts = [part for part in parts if len(part)]
        if not parts:
            return self
        new = _joined(parts)
        runs = list(self.runs)
        if self.keys_named:
            new = self._without_earlier(new)
            hashes = np.sort(new.hashes)
            runs = [kept for run in runs if len(kept := self._not_in(run, new, hashes))]
        runs += new.parts()
        while len(runs) > 1 and len(runs[-2]) <= 2 * len(runs[-1]) and len(runs[-2]) + len(runs[-1]) <= _RUN_ROWS:
            last = runs.pop()
            runs[-1] = _joined([runs[-1], last])
        return TailRows(self.schema, self.keys_named, tuple(runs))

    def _part(self, records: list[LogRecord], entry: TableEntry) -> _Run:
        """Return the rows of records of one schema and kind."""
        first = records[0].record
        decoded = [decode(each.record) for each in records]
        sequences = np.repeat([each.position.sequence for each in records], [batch.num_rows for batch in decoded])
        rows = project(pa.Table.from_batches(decoded).combine_chunks(), entry, first.schema_id, self.schema)
        deleted = np.full(len(sequences), first.kind is RecordKind.DELETE)
        whole = self._whole(rows)
        hashes = key_hashes(whole, self.keys_named) if self.keys_named else np.empty(0, np.uint64)
        return _Run(self.keys_named, whole, sequences, hashes, deleted)

    def _whole(self, rows: pa.Table) -> pa.Table:
        """Return the rows with all columns: nulls in those that a deletion lacks."""
        fields = [plain(each).with_nullable(True) for each in self.schema]
        columns = [
            rows.column(each.name) if each.name in rows.column_names else pa.nulls(rows.num_rows, each.type)
            for each in fields
        ]
        return pa.Table.from_arrays(columns, schema=pa.schema(fields))

    def _without_earlier(self, run: _Run) -> _Run:
        kept = np.zeros(len(run), dtype=bool)
        kept[last_indices(run.rows, self.keys_named)] = True
        return run.where(kept)

    def _not_in(self, run: _Run, newer: _Run, hashes: np.ndarray) -> _Run:
        """Return the rows of ``run`` whose keys ``newer`` does not have; ``hashes`` are its, in order."""
        met = _among(run.hashes, hashes)
        if not met.any():
            return run
        places = np.flatnonzero(met)
        names = list(self.keys_named)
        both = [run.rows.select(names).take(pa.array(places)), newer.rows.select(names)]
        # Of a key that both have, the last row is the newer run's.
        last = last_indices(pa.concat_tables(both), names)
        met[places[last[last < len(places)]]] = False
        return run.where(~met)


def _joined(runs: Sequence[_Run]) -> _Run:
    if len(runs) == 1:
        return runs[0]
    return _Run(
        runs[0].names,
        pa.concat_tables([run.rows for run in runs]).combine_chunks(),
        np.concatenate([run.sequences for run in runs]),
        np.concatenate([run.hashes for run in runs]),
        np.concatenate([run.deleted for run in runs]),
    )


def _shape_of(record: LogRecord) -> tuple[int, RecordKind]:
    return record.record.schema_id, record.record.kind


def _among(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Return where ``values`` are among others, at least one: bool[n]."""
    if len(ordered) > _FEW:
        places = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
        met: np.ndarray = ordered[places] == values
        return met
    found = np.zeros(len(values), dtype=bool)
    for each in ordered:
        found |= values == each
    return found
