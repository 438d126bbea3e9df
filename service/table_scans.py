"""How the rows of a statement's tables are had: by an index and a scan of what it leaves, or by a scan alone."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from functions.lookup_scan import with_found, with_plan
from functions.predicate import TableFilter, between_numbers
from functions.records import key_names
from functions.scan import TableScan, make_scan
from functions.tail_scan import with_tail
from service.loading import Loaded, Loading, TableName
from service.reading import Reading
from service.route import Asking, Routed, choose
from service.statement import Route
from storage.errors import InvalidError
from storage.tables.snapshot import Snapshot

__all__ = ["TableScans", "check_forced", "may_look_up", "n_bytes"]

_CONDITIONS = frozenset(("where", "on", "having", "qualify"))
"""A statement without any of these words asks for no keys."""
_COMPARES = _CONDITIONS | {
    "using", "natural", "in", "exists", "any", "some", "intersect", "except", "order", "min", "max",
}  # fmt: skip
"""A statement without any of these words has nothing that statistics could prove."""
_JOINS = frozenset(("join", "in", "exists", "any", "some", "all", "intersect", "except"))
_LIMITS = frozenset(("limit", "fetch"))
_LARGE_BYTES = 4 << 20
"""A file of so many bytes takes longer to read than its filters take to be known: a millisecond."""


def may_look_up(words: frozenset[str], loading: Loading, tables: Sequence[Loaded]) -> bool:
    """Tell whether a table with an index may be asked for keys; which, is read off the plan over stubs."""
    return not words.isdisjoint(_CONDITIONS) and any(map(loading.indexes_of, tables))


def n_bytes(loaded: Loaded, mask: np.ndarray, routed: Routed | None) -> int:
    """Return about how many bytes the table's scan reads, its tail's among them.

    Parameters
    ----------
    mask : bool[n_files], what pruning left
    """
    sizes, tail = loaded.snapshot.files.sizes, loaded.tail.n_bytes if loaded.tail is not None else 0
    if routed is None or routed.plan is None:
        return int(sizes[mask].sum()) + tail
    return int(sizes[mask & ~routed.plan.covered].sum()) + routed.plan.n_bytes + tail


def check_forced(route: Route, scans: Mapping[str, TableScan]) -> None:
    """Raise `InvalidError` if look-ups were asked for and no index serves any table."""
    if route != "lookup" or any(each.route.startswith("lookup") for each in scans.values()):
        return
    reasons = [f"{shown}: {each.route.removeprefix('scan: ') or 'has no index'}" for shown, each in scans.items()]
    raise InvalidError(
        "no index serves any table of the statement; leave the route out, or pin an index's columns",
        reason="; ".join(reasons) or "it reads no table",
    )


@dataclass(frozen=True)
class TableScans:
    """Makes the scans of one statement.

    words : of the statement; a column that is not among them, nor among those that a scan gives, is not read
    explains : whether the statement is only explained, and reads no data
    """

    reading: Reading
    loading: Loading
    words: frozenset[str]
    route: Route
    explains: bool

    async def routes(
        self, tables: Mapping[TableName, Loaded], wanted: Mapping[TableName, np.ndarray],
        filters: Mapping[TableName, Sequence[TableFilter]],
    ) -> dict[TableName, Routed]:  # fmt: skip
        """Return how the rows of each table with an index are found.

        Parameters
        ----------
        wanted : table → bool[n_files], what pruning left
        filters : of all scans of a table; a table is missing whose filters are not known
        """
        indexed = [name for name in wanted if self.loading.indexes_of(tables[name])]
        if not may_look_up(self.words, self.loading, list(tables.values())):
            return dict.fromkeys(indexed, Routed("no condition asks for keys"))
        models, memory = self.reading.models, self.reading.looked_up
        asking = [self._asking(tables[name], wanted[name], filters.get(name, ())) for name in indexed]
        chosen = await asyncio.gather(*(choose(models, memory, each, self.route) for each in asking))
        return dict(zip(indexed, chosen, strict=True))

    def _asking(self, loaded: Loaded, mask: np.ndarray, filters: Sequence[TableFilter]) -> Asking:
        named = self.words.union(*(each.columns for each in filters))
        schema = loaded.snapshot.schema
        columns = {each for each in schema.names if each in named}
        if loaded.tail is not None and loaded.entry is not None and loaded.tail.keys:
            columns |= set(key_names(loaded.entry, schema))
        return Asking(
            loaded.snapshot, self.loading.indexes_of(loaded), [each.predicate for each in filters],
            [each for each in schema.names if each in columns], mask,
        )  # fmt: skip

    def may_be_late(
        self, tables: Mapping[TableName, Loaded], filters: Mapping[TableName, Sequence[TableFilter]]
    ) -> bool:
        """Tell whether scans may evaluate filters while they decode.

        Joins then filter the rows of the one side by values of the other, and what they filter by tells -0.0 from 0.0,
        while the joins do not.
        """
        may_join = len(tables) > 1 or not self.words.isdisjoint(_JOINS)
        return not any(
            (may_join or len(filters.get(name, ())) != 1) and self._compared_floats(loaded.snapshot)
            for name, loaded in tables.items()
        )

    def may_prune(self, loaded: Loaded) -> bool:
        """Tell whether to know a table's filters can save anything but a look-up: files, or row groups of one."""
        files = loaded.snapshot.files
        return len(files) > 1 or (
            int(files.sizes.sum()) >= _LARGE_BYTES and bool(self._compared_floats(loaded.snapshot))
        )

    def _compared_floats(self, snapshot: Snapshot) -> frozenset[str]:
        if self.words.isdisjoint(_COMPARES):
            return frozenset()
        return frozenset(field.name for field in snapshot.schema if pa.types.is_floating(field.type))

    def _with_nan(self, snapshot: Snapshot, filters: Sequence[TableFilter]) -> frozenset[str]:
        """Return the columns of which rows with NaN may be wanted, so that statistics, which leave NaN out, prove
        nothing."""
        floats = self._compared_floats(snapshot)
        # With a limit the engine counts all rows of what lies within the bounds, NaN among them.
        if not floats or not filters or not self.words.isdisjoint(_LIMITS):
            return floats
        return floats - frozenset.intersection(*(between_numbers(each.predicate) for each in filters))

    async def scan(
        self, loaded: Loaded, mask: np.ndarray, routed: Routed | None, *, late: bool,
        filters: Sequence[TableFilter] = (), cut: bool = False,
    ) -> TableScan:  # fmt: skip
        """Return the table of the files where ``mask`` (bool[n_files]) holds, and of its tail.

        Parameters
        ----------
        filters : of all scans of the table; none if they are not known
        cut : whether its plan is to be cut into tasks (`functions.scan.make_scan`)
        """
        reading, snapshot, tail = self.reading, loaded.snapshot, loaded.tail
        session, stores = reading.session, self.loading.stores
        with_nan = self._with_nan(snapshot, filters)
        key = key_names(loaded.entry, snapshot.schema) if tail is not None and loaded.entry is not None else ()

        async def of_files(wanted: np.ndarray) -> TableScan:
            return await make_scan(
                session,
                stores,
                snapshot,
                wanted,
                reading.footers,
                reading.scans,
                late=late,
                with_nan=with_nan,
                cut=cut,
            )

        async def whole(wanted: np.ndarray) -> TableScan:
            if tail is None:
                return await of_files(wanted)
            return await with_tail(session, snapshot, wanted, tail, key, of_files, reading.tail_scans)

        if routed is None:
            return await whole(mask)
        if routed.plan is None:
            return replace(await whole(mask), route=routed.text)
        if self.explains:
            return replace(await with_plan(routed.plan, mask, whole), route=routed.text)
        counted, receipt = stores.scoped(), self.loading.receipt
        scan, found = await with_found(session, counted, routed.plan, mask, tail, key, whole, reading.looked_up)
        receipt.requests += counted.count.requests
        receipt.bytes_scanned += counted.count.bytes
        distrusted = f" files_changed={len(found.distrusted)}" if found.distrusted else ""
        return replace(scan, route=routed.text + distrusted)
