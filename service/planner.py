"""Plans one query: names to snapshots, snapshots to scans, scans to a physical plan."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
from datafusion import ExecutionPlan, LogicalPlan, SessionContext
from datafusion.catalog import Table

from catalog.tables import DEFAULT_NAMESPACE, TableEntry
from functions import tracing
from functions.errors import is_panic, translate
from functions.predicate import TableFilter
from functions.predicate import scans as scans_of
from functions.prune import may_match
from functions.scan import TableScan
from functions.session import CATALOG, TIME_WORDS, Names, stub
from service.answer_schema import retyped, without_metadata
from service.coordinate.choose import tasks_to_merge
from service.coordinate.tasks import SHUFFLED_TASKS_MAX, Tasks
from service.exact import exact_literals
from service.explain import with_tables
from service.listing import listing
from service.loading import Loaded, Loading, TableName
from service.parsed import Parsed, TableRef
from service.planned import Planned
from service.query_text import QueryText
from service.reading import Reading
from service.route import Routed
from service.statement import Statement
from service.table_scans import TableScans, check_forced, may_look_up, n_bytes
from storage.errors import FirnlineError, LimitError, NotFoundError, UnavailableError
from storage.tables.snapshot import At, Snapshot

if TYPE_CHECKING:
    from functions.gap_fill import Gaps
    from functions.stage_aligned import Buckets
    from functions.stages import Stages
    from service.coordinate.fan_out import FanOut

__all__ = ["Planner"]

_NAMES_TABLES = frozenset(("from", "table", "show", "describe", "desc"))
"""A statement without any of these words names no table, and needs no catalog."""

T = TypeVar("T")


class Planner:
    """The planning of one statement; used once. Names of ``given`` mean those rows."""

    def __init__(
        self, reading: Reading, loading: Loading, statement: Statement, parsed: Parsed, late: bool,
        given: Mapping[str, pa.Table] | None = None, fan_out: FanOut | None = None,
    ) -> None:  # fmt: skip
        self._reading, self._session, self._loading = reading, reading.session, loading
        self._stores, self._receipt = loading.stores, loading.receipt
        self._statement, self._parsed = statement, parsed
        self._text = QueryText(reading.session, parsed)
        self._tables: dict[TableName, Loaded | FirnlineError] = {}
        self._rows = {(DEFAULT_NAMESPACE, name): rows for name, rows in (given or {}).items()}
        self._given: dict[TableName, Table] = {}
        self._late = late
        self._fan_out = fan_out
        self._tasks = Tasks()
        self._cut_scans: Mapping[TableName, TableScan] = {}
        self._scan_bytes = 0
        self._failure: FirnlineError | None = None
        self._asked: set[TableName] = set()
        self._filters: dict[TableName, list[TableFilter]] = {}
        self._loop = asyncio.get_running_loop()
        self._making = TableScans(reading, loading, parsed.words, statement.route, self._only_explains)

    async def plan(self) -> Planned:
        """Return the plan. Raises a `FirnlineError` that names what is wrong and where."""
        if not self._parsed.words.isdisjoint(_NAMES_TABLES):
            await self._loading.names()
        own = await listing(self._parsed, self._loading, self._reading.models)
        if own is not None:
            return Planned(own.schema, rows=own.to_batches())
        if self._text.moment is None and not self._parsed.words.isdisjoint(TIME_WORDS):
            self._text.moment = await self._session.in_planner(self._session.moment)
        for name, rows in self._rows.items():
            batches = rows.to_batches() or [pa.RecordBatch.from_pylist([], schema=rows.schema)]
            self._given[name] = await self._session.in_planner(self._session.memory_table, batches)
        with tracing.span("load"):
            await self._load_tables()
        if self._text.functions:
            await asyncio.to_thread(self._session.add_functions, self._text.functions)
        if self._only_describes:
            return await self._session.in_planner(self._collect_catalog, {})
        await self._keep_exact()
        if self._text.may_compare_zero:
            await self._session.in_planner(self._over_stubs, self._text.find_zeros)
        lists_catalog = "information_schema" in self._parsed.words
        if lists_catalog or self._may_prune() or self._may_look_up():
            with tracing.span("prune"):
                wanted = await self._session.in_planner(self._wanted_files)
        else:
            wanted = {name: np.ones(len(self._snapshot(name).files), dtype=bool) for name in self._tables}
        meant = {name: self._loaded(name) for name in wanted}
        routes = {} if lists_catalog else await self._making.routes(meant, wanted, self._filters)
        scans = await self._make_scans(meant, wanted, routes)
        if self._fan_out is not None and scans and not lists_catalog:
            n_files, checked = self._n_scanned(scans), not self._only_explains
            self._tasks = await self._fan_out.choose(self._statement, self._scan_bytes, n_files, checked=checked)
            self._receipt.workers_differ = self._tasks.differ
            if self._tasks.n_tasks:
                self._cut_scans = await self._scans_to_cut(scans, meant, wanted, routes)
        finish = self._collect_catalog if lists_catalog else self._physical
        with tracing.span("plan"):
            planned = await self._session.in_planner(finish, scans)
        self._count(planned.scans)
        check_forced(self._statement.route, planned.scans)
        return planned

    # Names and snapshots

    @property
    def _only_describes(self) -> bool:
        return self._parsed.tokens[0].is_word("SHOW", "DESCRIBE", "DESC")

    @property
    def _entries(self) -> Mapping[TableName, TableEntry]:
        return self._loading.entries

    async def _load_tables(self) -> None:
        """Load, all at once, the tables that the statement's words may mean; a failure counts only if one is used."""
        every = (*self._entries, *self._loading.refused)
        named = [name for name in every if name[1] in self._parsed.words and name not in self._given]
        refs = [(DEFAULT_NAMESPACE, generated) for generated in self._parsed.refs]
        loaded = await asyncio.gather(*map(self._load, [*named, *refs]))
        for name, found in zip([*named, *refs], loaded, strict=True):
            if found is not None:
                self._tables[name] = found

    async def _load(self, name: TableName) -> Loaded | FirnlineError | None:
        """Return the table, or why there is none; None for one that was made at once, and is given."""
        try:
            ref = self._parsed.refs.get(name[1]) if name[0] == DEFAULT_NAMESPACE else None
            if ref is None:
                meant = self._loading.entry(name)
                assert meant is not None
                return await self._loading.load(meant, tail=not self._only_describes)
            if ref.changes is not None:
                self._given[name] = await self._changes(ref)
                return None
            if ref.filled is not None:
                self._given[name] = await self._filled(*ref.filled)
                return None
            if ref.location is not None and ref.format is not None:
                found = await self._reading.snapshots.resolve(self._stores, ref.format, ref.location, ref.at, {})
                return Loaded(found)
            original = (ref.namespace or DEFAULT_NAMESPACE, ref.name or "")
            entry = self._loading.entry(original)
            if entry is None:
                return translate(
                    ValueError(f"table '{'.'.join(original)}' not found"), self._parsed.sql, self._listed()
                )
            return await self._loading.load(entry, ref.at)
        except FirnlineError as error:
            return error

    async def _changes(self, ref: TableRef) -> Table:
        """Return the table that ``table_changes`` makes."""
        # Imported here: most processes never compare versions.
        from service.changes import changes_table

        assert ref.changes is not None
        start, limit = ref.changes
        entry = self._loading.entry((ref.namespace or DEFAULT_NAMESPACE, ref.name or ""))
        if entry is None:
            raise NotFoundError("no such table", table=f"{ref.namespace or DEFAULT_NAMESPACE}.{ref.name}")
        loaded = await self._loading.load(entry, At(version=limit))
        limits = self._statement.limits
        return await changes_table(self._reading, self._loading, loaded, start, limit, limits.scan_bytes_max)

    async def _filled(self, query: Parsed, gaps: Gaps) -> Table:
        """Return the table that ``gap_fill`` makes."""
        # Imported here: most statements fill no gaps.
        from service.gap_fill import filled_table

        statement = replace(self._statement, route="auto")
        given = {name: rows for (_, name), rows in self._rows.items()}
        planner = Planner(self._reading, self._loading, statement, query, self._late, given)
        planner._text.moment = self._text.moment
        planned = await planner.plan()
        try:
            return await filled_table(self._session, planned, gaps)
        except BaseException as error:
            raise self._translated(error) from error

    def _listed(self) -> list[str]:
        return [f"{namespace}.{table}" for namespace, table in self._entries]

    # Planning over empty tables

    async def _keep_exact(self) -> None:
        """Bind the literals that would be compared with decimals as doubles."""
        literals = exact_literals(self._parsed.tokens, self._text.params.keys())
        if literals and any(map(_has_decimals, self._tables.values())):
            plan = await self._session.in_planner(self._stub_plan)
            self._text.bind(literals, plan.display_indent())

    def _stub_plan(self) -> LogicalPlan:
        return self._over_stubs(
            lambda context: self._text.written(context, self._text.explained).optimized_logical_plan()
        )

    def _over_stubs(self, work: Callable[[SessionContext], T]) -> T:
        with self._session.planning(self._names(self._stub)) as context:
            try:
                return work(context)
            except BaseException as error:
                raise self._translated(error) from error

    def _wanted_files(self) -> dict[TableName, np.ndarray]:
        """Plan over stubs; return for each table that the plan scans which of its files it may want."""
        plan = self._stub_plan()
        return {name: self._mask(name, plan) for name in self._asked}

    def _may_prune(self) -> bool:
        """Tell whether planning over stubs can save anything: a table that filters prune, or one that failed to load
        and may not even be meant."""
        found = self._tables.values()
        return any(isinstance(each, FirnlineError) or self._making.may_prune(each) for each in found)

    def _may_look_up(self) -> bool:
        loaded = [each for each in self._tables.values() if not isinstance(each, FirnlineError)]
        return may_look_up(self._parsed.words, self._loading, loaded)

    def _loaded(self, name: TableName) -> Loaded:
        found = self._tables[name]
        if isinstance(found, FirnlineError):
            raise found
        return found

    def _snapshot(self, name: TableName) -> Snapshot:
        return self._loaded(name).snapshot

    def _mask(self, name: TableName, plan: LogicalPlan) -> np.ndarray:
        snapshot = self._snapshot(name)
        every = np.ones(len(snapshot.files), dtype=bool)
        loaded = self._loaded(name)
        if not self._making.may_prune(loaded) and not self._loading.indexes_of(loaded):
            return every
        found = [s for s in scans_of(plan) if (s.schema or DEFAULT_NAMESPACE, s.table) == name]
        # Scans inside scalar subqueries have no node that the walk reaches, but the plan's text has them all.
        shown = _count_scans(plan.display_indent(), name)
        if shown > len(found):
            return every
        self._filters[name] = found
        masks = [~every, *(may_match(snapshot, each.predicate) for each in found)]
        return np.asarray(np.logical_or.reduce(masks))

    def _stub(self, name: TableName) -> Table | None:
        if name in self._given:
            return self._given[name]
        found = self._tables.get(name)
        if found is None:
            if name not in self._entries and name not in self._loading.refused:
                return None
            found = asyncio.run_coroutine_threadsafe(self._load(name), self._loop).result()
            if found is None:
                return self._given.get(name)
            self._tables[name] = found
        if isinstance(found, FirnlineError):
            self._failure = self._failure or found
            return None
        self._asked.add(name)
        return stub(without_metadata(found.snapshot.schema))

    def _names(self, table: Any) -> Names:
        def lookup(namespace: str, name: str) -> Table | None:
            found: Table | None = table((namespace, name))
            return found

        def listed(namespace: str) -> list[str]:
            return [*(n for s, n in self._entries if s == namespace), *self._generated(namespace)]

        return Names(lookup, self._namespaces, listed)

    def _generated(self, namespace: str) -> list[str]:
        return [*self._parsed.refs, *(name for _, name in self._given)] if namespace == DEFAULT_NAMESPACE else []

    def _namespaces(self) -> list[str]:
        return list(self._loading.namespaces) or [DEFAULT_NAMESPACE]

    def _translated(self, error: BaseException) -> BaseException:
        if self._failure is not None:
            return self._failure
        if not isinstance(error, Exception) and not is_panic(error):
            return error
        found = translate(error, self._parsed.sql, self._listed())
        if isinstance(found, NotFoundError) and self._receipt.catalog_stale:
            return UnavailableError("the catalog does not answer, and this process does not know the table; retry")
        return found

    # Scans and the physical plan

    async def _make_scans(
        self, meant: Mapping[TableName, Loaded], wanted: Mapping[TableName, np.ndarray],
        routes: Mapping[TableName, Routed],
    ) -> dict[TableName, TableScan]:  # fmt: skip
        limit = self._statement.limits.scan_bytes_max
        total = sum(n_bytes(meant[name], mask, routes.get(name)) for name, mask in wanted.items())
        self._scan_bytes = total
        if limit and total > limit:
            raise LimitError(
                "the statement would scan more than its limit; filter by a partition or a sorted column",
                scan_bytes=total, max_bytes=limit,
            )  # fmt: skip
        self._late = self._late and not self._remote(wanted) and self._making.may_be_late(meant, self._filters)
        return await self._scans(wanted, meant, wanted, routes)

    async def _scans(
        self, names: Collection[TableName], meant: Mapping[TableName, Loaded], wanted: Mapping[TableName, np.ndarray],
        routes: Mapping[TableName, Routed], *, cut: bool = False,
    ) -> dict[TableName, TableScan]:  # fmt: skip
        works = [
            self._making.scan(
                meant[name], wanted[name], routes.get(name), late=self._late, filters=self._filters.get(name, ()),
                cut=cut,
            )
            for name in names
        ]  # fmt: skip
        try:
            return dict(zip(names, await asyncio.gather(*works), strict=True))
        except BaseException as error:
            raise self._translated(error) from error

    async def _scans_to_cut(
        self, scans: Mapping[TableName, TableScan], meant: Mapping[TableName, Loaded],
        wanted: Mapping[TableName, np.ndarray], routes: Mapping[TableName, Routed],
    ) -> dict[TableName, TableScan]:  # fmt: skip
        """Return the scans as tasks can run them, where they have rows that only this process reads."""
        names = [name for name, scan in scans.items() if scan.here_only]
        made = dict(scans) | await self._scans(names, meant, wanted, routes, cut=True)
        merged = max((files.n_bytes for scan in made.values() for files in scan.merged), default=0)
        self._tasks = replace(self._tasks, n_tasks=tasks_to_merge(self._tasks.n_tasks, merged))
        return made

    def _n_scanned(self, scans: Mapping[TableName, TableScan]) -> int:
        return sum(each.n_scanned for each in scans.values())

    @property
    def _only_explains(self) -> bool:
        return self._parsed.explained > 0 and not any(each.is_word("ANALYZE") for each in self._parsed.tokens[1:3])

    def _remote(self, names: Iterable[TableName]) -> bool:
        """Tell whether any table lies in an object store, where a request costs more than decoding."""
        return any(not self._snapshot(name).location.startswith("file://") for name in names)

    def _count(self, scans: Mapping[str, TableScan]) -> None:
        receipt = self._receipt
        for shown, scan in scans.items():
            receipt.snapshots[shown] = scan.snapshot.version
            receipt.files_total += scan.n_files
            receipt.files_scanned += scan.n_scanned
            receipt.files_pruned += scan.n_files - scan.n_scanned
            receipt.slow_files += scan.n_slow
            if scan.route:
                receipt.routes[shown] = scan.route
            if scan.tail is not None:
                receipt.log[shown] = scan.tail.limit
                receipt.tail_rows += scan.tail.n_rows

    def _shown(self, name: TableName) -> str:
        ref = self._parsed.refs.get(name[1]) if name[0] == DEFAULT_NAMESPACE else None
        if ref is None:
            return f"{name[0]}.{name[1]}"
        return ref.location or f"{ref.namespace or DEFAULT_NAMESPACE}.{ref.name}"

    def _physical(self, scans: Mapping[TableName, TableScan]) -> Planned:
        used: dict[TableName, TableScan] = {}

        def table(name: TableName) -> Table | None:
            if name in self._given:
                return self._given[name]
            if name in scans:
                used[name] = scans[name]
            return scans[name].table if name in scans else None

        remote = self._remote(scans)
        stages = self._cut(remote, scans) if self._tasks.n_tasks else None
        with self._session.planning(self._names(table), remote=remote) as context:
            try:
                frame = self._text.frame(context)
                schema = self._text.schema(context, frame)
                shown = {self._shown(name): scan for name, scan in used.items()}
                first = [with_tables(schema, shown, self._tasks.describe(stages))] if self._parsed.explained else []
                loaded = {name: self._loaded(name) for name in used}
                if stages is not None and not self._only_explains and self._tasks.runs(stages):
                    return Planned(
                        schema, None, first, shown, False, loaded, stages, partial(self._here, table, remote)
                    )
                plan = self._text.plan(context, frame)
                return Planned(schema, plan, first, shown, self._late and not remote, loaded)
            except BaseException as error:
                raise self._translated(error) from error

    async def _here(self, table: Callable[[TableName], Table | None], remote: bool) -> ExecutionPlan:
        """Return the plan of a statement that was cut, as one."""

        def plan() -> ExecutionPlan:
            with self._session.planning(self._names(table), remote=remote) as context:
                try:
                    return self._text.plan(context)
                except BaseException as error:
                    raise self._translated(error) from error

        return await self._session.in_planner(plan)

    def _cut(self, remote: bool, scans: Mapping[TableName, TableScan]) -> Stages:
        """Return the statement's stages, or those of the one that it explains."""
        from functions.file_buckets import buckets_of

        def table(name: TableName) -> Table | None:
            if name in self._given:
                return self._given[name]
            return self._cut_scans[name].table if name in self._cut_scans else None

        buckets = buckets_of(each.snapshot for each in scans.values()) if len(scans) > 1 else {}
        stages = self._split(table, remote, self._tasks.n_tasks, buckets)
        if self._tasks.shuffles_too_widely(stages):
            stages = self._split(table, remote, SHUFFLED_TASKS_MAX, buckets)
        if self._fan_out is not None:
            self._tasks = self._fan_out.priced(
                self._tasks, stages, self._n_scanned(scans), self._statement, checked=not self._only_explains
            )
        return stages

    def _split(
        self, table: Callable[[TableName], Table | None], remote: bool, n_tasks: int, buckets: Buckets
    ) -> Stages:
        from functions.stages import split

        copied = self._tasks.broadcast_bytes
        with self._session.planning(
            self._names(table), remote=remote, tasks=n_tasks, broadcast_bytes=copied
        ) as context:
            try:
                plan = self._text.plan(context, text=self._text.explained)
                merges = {
                    path: files
                    for scan in self._cut_scans.values() for files in scan.merged for path in files.stands
                }  # fmt: skip
                return split(context, plan, buckets, merges, self._reading.footers.at if remote else None)
            except BaseException as error:
                raise self._translated(error) from error

    # Statements about the catalog

    def _collect_catalog(self, scans: Mapping[TableName, TableScan]) -> Planned:
        """Run at once, while names still resolve: the engine lists the catalog during execution."""

        def table(name: TableName) -> Table | None:
            found = scans[name].table if name in scans else self._stub(name)
            self._failure = None if "information_schema" in self._parsed.words else self._failure
            return found

        with self._session.planning(self._names(table)) as context:
            try:
                frame = self._text.frame(context)
                schema = self._text.schema(context, frame)
                return Planned(schema, rows=[retyped(batch, schema) for batch in frame.collect()])
            except BaseException as error:
                raise self._translated(error) from error


def _count_scans(plan: str, name: TableName) -> int:
    """Return how often a plan's text scans the table, however its name is qualified there."""
    namespace, table = (re.escape(part) for part in name)
    return len(re.findall(rf"^ *TableScan: (?:(?:{CATALOG}\.)?{namespace}\.)?{table}(?=\s|$)", plan, re.MULTILINE))


def _has_decimals(table: Loaded | FirnlineError) -> bool:
    """Tell whether a column may hold decimals: nested ones may, and those of a table that is loaded later."""
    if isinstance(table, FirnlineError):
        return False
    return any(pa.types.is_decimal(field.type) or pa.types.is_nested(field.type) for field in table.snapshot.schema)
