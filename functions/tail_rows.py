"""The rows of one table's tail, brought forward record by record. Does no IO.

They lie in *runs*: consecutive records in one table each, the newest last, merged as soon as an older run is not much
larger than what follows it, so a row is copied a logarithmic number of times.

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
import pyarrow.compute as pc

from catalog.tables import TableEntry
from functions.keys import key_columns, key_hashes, last_indices
from functions.records import decode, key_names, plain, project
from storage.log import LogRecord, RecordKind

__all__ = ["TailRows"]

_BATCH_ROWS = 16_384
_FEW = 16


@dataclass(frozen=True)
class _Run:
    """Rows, each with the sequence of its record; ``hashes`` of their keys, and which are deletions, if keyed."""

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
        return _Run(rows, self.sequences[mask], self.hashes[mask] if len(self.hashes) else self.hashes,
                    self.deleted[mask] if len(self.deleted) else self.deleted)  # fmt: skip

    def then(self, later: _Run) -> _Run:
        """Return the rows of both."""
        return _Run(
            pa.concat_tables([self.rows, later.rows]).combine_chunks(),
            np.concatenate((self.sequences, later.sequences)),
            np.concatenate((self.hashes, later.hashes)),
            np.concatenate((self.deleted, later.deleted)),
        )

    @cached_property
    def live(self) -> tuple[pa.RecordBatch, ...]:
        """Rows that are not deletions."""
        live = self.rows.filter(pa.array(~self.deleted)) if self.deleted.any() else self.rows
        return tuple(batch for batch in live.to_batches(max_chunksize=_BATCH_ROWS) if batch.num_rows)

    def keys(self, names: Sequence[str]) -> tuple[pa.RecordBatch, ...]:
        """Keys of all rows."""
        return tuple(key_columns(self.rows, names).to_batches(max_chunksize=_BATCH_ROWS))


@dataclass
class TailRows:
    """What a table's records from some sequence on leave of its rows.

    schema : the snapshot's, which rows are fitted to
    keys_named : the primary key's columns as ``schema`` names them
    state : differs whenever the rows could
    """

    schema: pa.Schema
    keys_named: tuple[str, ...]
    runs: list[_Run] = field(default_factory=list)
    state: object = field(default_factory=object)

    @classmethod
    def empty(cls, entry: TableEntry, schema: pa.Schema) -> TailRows:
        """Return a tail without rows."""
        return cls(schema, key_names(entry, schema))

    def fits(self, entry: TableEntry, schema: pa.Schema) -> bool:
        """Whether the rows have the columns of ``schema``."""
        return self.schema.equals(schema, check_metadata=True) and self.keys_named == key_names(entry, schema)

    @property
    def n_bytes(self) -> int:
        return sum(run.rows.nbytes + 17 * len(run) for run in self.runs)

    @property
    def batches(self) -> tuple[pa.RecordBatch, ...]:
        """Live rows."""
        return tuple(itertools.chain.from_iterable(run.live for run in self.runs))

    @property
    def keys(self) -> tuple[pa.RecordBatch, ...] | None:
        """Keys that were written or deleted; None without a primary key."""
        if not self.keys_named:
            return None
        return tuple(itertools.chain.from_iterable(run.keys(self.keys_named) for run in self.runs))

    def forget(self, before: int) -> None:
        """Leave out the records before a sequence; what is left of a key is its last record, if that is not older."""
        if not any(len(run) and run.sequences.min() < before for run in self.runs):
            return
        self.runs = [kept for run in self.runs if len(kept := run.where(run.sequences >= before))]
        self.state = object()

    def add(self, records: Sequence[LogRecord], entry: TableEntry) -> None:
        """Bring the rows forward. What raises (`functions.records.rows_of`) adds nothing."""
        parts = [self._part(list(group), entry) for _shape, group in itertools.groupby(records, _shape_of)]
        parts = [part for part in parts if len(part)]
        if not parts:
            return
        new = parts[0]
        for part in parts[1:]:
            new = new.then(part)
        if self.keys_named:
            new = self._without_earlier(new)
            self.runs = [kept for run in self.runs if len(kept := self._not_in(run, new))]
        self.runs.append(new)
        while len(self.runs) > 1 and len(self.runs[-2]) <= 2 * len(self.runs[-1]):
            last = self.runs.pop()
            self.runs[-1] = self.runs[-1].then(last)
        self.state = object()

    def _part(self, records: list[LogRecord], entry: TableEntry) -> _Run:
        """Return the rows of records of one schema and kind."""
        first = records[0].record
        decoded = [decode(each.record) for each in records]
        sequences = np.repeat([each.position.sequence for each in records], [batch.num_rows for batch in decoded])
        rows = project(pa.Table.from_batches(decoded).combine_chunks(), entry, first.schema_id, self.schema)
        deleted = np.full(len(sequences), first.kind is RecordKind.DELETE)
        whole = self._whole(rows)
        hashes = key_hashes(whole, self.keys_named) if self.keys_named else np.empty(0, np.uint64)
        return _Run(whole, sequences, hashes, deleted)

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

    def _not_in(self, run: _Run, newer: _Run) -> _Run:
        """Return the rows of ``run`` whose keys ``newer`` does not have."""
        met = _among(run.hashes, newer.hashes)
        if not met.any():
            return run
        places = np.flatnonzero(met)
        names = list(self.keys_named)
        both = [run.rows.select(names).take(pa.array(places)), newer.rows.select(names)]
        # Of a key that both have, the last row is the newer run's.
        last = last_indices(pa.concat_tables(both), names)
        met[places[last[last < len(places)]]] = False
        return run.where(~met)


def _shape_of(record: LogRecord) -> tuple[int, RecordKind]:
    return record.record.schema_id, record.record.kind


def _among(values: np.ndarray, few: np.ndarray) -> np.ndarray:
    """Return where ``values`` are among others: bool[n]."""
    if len(few) <= _FEW:
        found = np.zeros(len(values), dtype=bool)
        for each in few:
            found |= values == each
        return found
    among: np.ndarray = pc.is_in(pa.array(values), value_set=pa.array(few)).to_numpy(zero_copy_only=False)
    return among
