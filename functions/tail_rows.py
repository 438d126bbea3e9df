"""The rows of one table's tail, brought forward record by record. Does no IO.

They lie in *runs*: consecutive records in one table each, the newest last, merged as soon as an older run is not much
larger than what follows it, so a row is copied a logarithmic number of times. A run has a bounded number of rows, so
that overriding a row copies few others.

With a primary key a run has at most one row of each key, and a key is in one run only: its newest. A deletion is a row
too, with nulls beside its key. What a newer run overrides is found by the keys' hashes and then by the keys themselves.

Each row has a *row id*, given once and growing with the records, which stays when its run is merged or filtered. Ids
grow through the runs, so an index from keys to ids (`functions.tail_index`) serves a state and all that follow it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from catalog.tables import TableEntry
from functions.keys import key_columns, key_hashes, last_indices
from functions.records import decode, key_names, plain, project
from storage.log import LogRecord, RecordKind

__all__ = ["Run", "TailLine", "TailRows"]

_BATCH_ROWS = 16_384
_RUN_ROWS = 65_536
_FEW = 16
_ROW_BYTES = 41
"""Of a row's sequence, hash, id and deletion, and of its entry in an index."""


@dataclass(frozen=True)
class Run:
    """Rows, each with the sequence of its record; ``hashes`` of their keys (columns ``names``), and the deletions.

    ids : int64[n], growing
    hashed : by other columns, a row and the hashes from it on, as `functions.tail_index` keeps them
    """

    names: tuple[str, ...]
    rows: pa.Table
    sequences: np.ndarray
    hashes: np.ndarray
    deleted: np.ndarray
    ids: np.ndarray
    hashed: dict[tuple[str, ...], tuple[int, np.ndarray]] = field(default_factory=dict, compare=False)

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def where(self, mask: np.ndarray) -> Run:
        """Return the rows where ``mask`` (bool[n]) holds."""
        if mask.all():
            return self
        rows = self.rows.filter(pa.array(mask))
        return Run(self.names, rows, self.sequences[mask], self.hashes[mask] if len(self.hashes) else self.hashes,
                    self.deleted[mask] if len(self.deleted) else self.deleted, self.ids[mask])  # fmt: skip

    def parts(self) -> list[Run]:
        """Return the rows in runs of a bounded number of rows, which are not copied."""
        return [self._slice(start, start + _RUN_ROWS) for start in range(0, len(self), _RUN_ROWS)]

    def _slice(self, start: int, limit: int) -> Run:
        return Run(
            self.names, self.rows.slice(start, limit - start),
            self.sequences[start:limit], self.hashes[start:limit], self.deleted[start:limit],
            self.ids[start:limit],
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


@dataclass
class TailLine:
    """What the successive states of one table's tail share.

    n_ids, n_states : that were given so far
    indexes : by the columns of a key, the last that was made; read and set as a whole
    """

    n_ids: int = 0
    n_states: int = 0
    indexes: dict[tuple[str, ...], Any] = field(default_factory=dict)

    def next_state(self) -> int:
        """Return a number above those of all earlier states."""
        self.n_states += 1
        return self.n_states

    def next_ids(self, n: int) -> np.ndarray:
        """Return ``n`` row ids above all earlier ones."""
        self.n_ids += n
        return np.arange(self.n_ids - n, self.n_ids)


@dataclass(frozen=True)
class TailRows:
    """What a table's records from some sequence on leave of its rows. Never changes.

    schema : the snapshot's, which rows are fitted to
    keys_named : the primary key's columns as ``schema`` names them
    state : differs whenever the rows could
    number : of this state in its line; a state has rows of its own or of earlier states only
    """

    schema: pa.Schema
    keys_named: tuple[str, ...]
    runs: tuple[Run, ...] = ()
    state: object = field(default_factory=object)
    line: TailLine = field(default_factory=TailLine, compare=False)
    number: int = 0

    @classmethod
    def empty(cls, entry: TableEntry, schema: pa.Schema) -> TailRows:
        """Return a tail without rows."""
        return cls(schema, key_names(entry, schema))

    def fits(self, entry: TableEntry, schema: pa.Schema) -> bool:
        """Whether the rows have the columns of ``schema``."""
        return self.schema.equals(schema, check_metadata=True) and self.keys_named == key_names(entry, schema)

    @cached_property
    def first_ids(self) -> np.ndarray:
        """Of each run: int64[n_runs], growing."""
        return np.array([run.ids[0] for run in self.runs], np.int64)

    @cached_property
    def n_bytes(self) -> int:
        return sum(run.rows.nbytes + _ROW_BYTES * len(run) for run in self.runs)

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
        return self._followed_by(tuple(run for run in kept if len(run)))

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
        return self._followed_by(tuple(runs))

    def _followed_by(self, runs: tuple[Run, ...]) -> TailRows:
        return TailRows(self.schema, self.keys_named, runs, line=self.line, number=self.line.next_state())

    def _part(self, records: list[LogRecord], entry: TableEntry) -> Run:
        """Return the rows of records of one schema and kind."""
        first = records[0].record
        decoded = [decode(each.record) for each in records]
        sequences = np.repeat([each.position.sequence for each in records], [batch.num_rows for batch in decoded])
        rows = project(pa.Table.from_batches(decoded).combine_chunks(), entry, first.schema_id, self.schema)
        deleted = np.full(len(sequences), first.kind is RecordKind.DELETE)
        whole = self._whole(rows)
        hashes = key_hashes(whole, self.keys_named) if self.keys_named else np.empty(0, np.uint64)
        return Run(self.keys_named, whole, sequences, hashes, deleted, self.line.next_ids(len(sequences)))

    def _whole(self, rows: pa.Table) -> pa.Table:
        """Return the rows with all columns: nulls in those that a deletion lacks."""
        fields = [plain(each).with_nullable(True) for each in self.schema]
        columns = [
            rows.column(each.name) if each.name in rows.column_names else pa.nulls(rows.num_rows, each.type)
            for each in fields
        ]
        return pa.Table.from_arrays(columns, schema=pa.schema(fields))

    def _without_earlier(self, run: Run) -> Run:
        kept = np.zeros(len(run), dtype=bool)
        kept[last_indices(run.rows, self.keys_named)] = True
        return run.where(kept)

    def _not_in(self, run: Run, newer: Run, hashes: np.ndarray) -> Run:
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


def _joined(runs: Sequence[Run]) -> Run:
    if len(runs) == 1:
        return runs[0]
    return Run(
        runs[0].names,
        pa.concat_tables([run.rows for run in runs]).combine_chunks(),
        np.concatenate([run.sequences for run in runs]),
        np.concatenate([run.hashes for run in runs]),
        np.concatenate([run.deleted for run in runs]),
        np.concatenate([run.ids for run in runs]),
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
