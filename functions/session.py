"""One DataFusion session per process: its configuration, name resolution and object stores.

The session is shared by all statements of the process, since DataFusion caches file footers per session. Names are
resolved through `Names`, which a statement fills while it alone plans (`Session.planning`).
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import pyarrow as pa
import pyarrow.dataset as ds
from datafusion import DataFrame, ExecutionPlan, RuntimeEnvBuilder, SessionConfig, SessionContext, SQLOptions, udf
from datafusion.catalog import CatalogProvider, SchemaProvider, Table

from functions.native_threads import settle_at_exit
from functions.object_stores import BucketClients
from functions.spill import bound_spill, spill_bytes
from storage.blobs.s3_options import S3Options
from storage.clock import Clock

if TYPE_CHECKING:
    from functions.statement_time import Moment, StatementTime

__all__ = ["OWN_FUNCTIONS", "READ_ONLY", "TIME_WORDS", "Names", "Session", "SessionOptions", "stub"]

P = ParamSpec("P")
T = TypeVar("T")
CATALOG = "firnline"
SCANS = "scans"
"""Hidden namespace through which native scans are made; never listed."""
REMOTE_PARTITIONS = 16
"""Streams of a plan over an object store: they wait more than they work. With 20 ms a request, TPC-H Q6 took 0.27 of
the time of 2 streams, and Q3 0.40, for the same requests and 5 % more CPU time; 32 gained nothing more."""
OWN_FUNCTIONS = frozenset(("time_bucket", "l2_distance", "l2_squared_distance"))
"""What statements call the functions of `functions.sql_functions`."""
_UNCUT = {
    "datafusion.optimizer.enable_dynamic_filter_pushdown": "true",
    "datafusion.optimizer.enable_round_robin_repartition": "true",
    "datafusion.optimizer.prefer_existing_sort": "false",
    "datafusion.optimizer.enable_piecewise_merge_join": "false",
    "datafusion.optimizer.hash_join_single_partition_threshold": "1048576",
    "datafusion.optimizer.hash_join_single_partition_threshold_rows": "131072",
}
"""The engine's own values of what `functions.stages` sets for plans that are cut; a test holds them to it."""
TIME_WORDS = frozenset(("now", "current_timestamp", "current_date", "current_time", "today"))
"""A statement without any of these asks for no time."""
READ_ONLY = SQLOptions().with_allow_ddl(False).with_allow_dml(False).with_allow_statements(False)


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """Values that steer the engine.

    memory_bytes : pool of sorts, joins and aggregates before they spill or fail; 0 means unbounded
    spill_dir : where they spill; None means the system's temporary folder
    target_partitions : concurrent streams of one plan; 0 means one per core, and more over an object store
    """

    memory_bytes: int = 0
    spill_dir: str | None = None
    target_partitions: int = 0
    s3: S3Options = field(default_factory=S3Options)


@dataclass
class Names:
    """What the names of one statement mean.

    lookup : (namespace, table) → table, or None; called while the statement plans
    namespaces : all of them, for ``information_schema``
    tables : namespace → its table names, likewise
    """

    lookup: Callable[[str, str], Table | None]
    namespaces: Callable[[], list[str]]
    tables: Callable[[str], list[str]]


class _Stub(ds.Dataset):  # type: ignore[misc]
    """A table with a schema and no rows, to plan with."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema

    @property
    def schema(self) -> pa.Schema:
        return self._schema

    def scanner(self, *_args: Any, **_options: Any) -> Any:
        raise TypeError("a stub has no rows to read")

    def get_fragments(self, filter: Any = None) -> Any:  # noqa: ARG002
        raise TypeError("a stub has no rows to read")


def stub(schema: pa.Schema) -> Table:
    """Return a table that plans like one of ``schema`` and must not be executed."""
    return Table(_Stub(schema))


class Session:
    """Wraps the process's `SessionContext`. Planning is serialised; execution is not."""

    def __init__(self, options: SessionOptions, clock: Clock) -> None:
        settle_at_exit()
        self.options = options
        self.footers: set[str] = set()
        """Files in object stores whose footers the engine has read (`functions.engine_reads`)."""
        self.context = SessionContext(_config(options), _runtime(options))
        bound_spill(self.context, spill_bytes(options.spill_dir))
        self.running = self.context.enable_url_table()
        """Runs plans: of the same runtime, with settings of its own. Joins look at settings once more when a partition
        starts, and those of ``context`` change while other statements are planned."""
        self._buckets = BucketClients(self.context, options.s3, clock)
        self._functions: set[str] = set()
        self._options_now: Mapping[str, str] = _UNCUT
        self._partitions = self._partitions_now = options.target_partitions or os.cpu_count() or 1
        self._memory = SessionContext()
        """Only makes tables of batches: the other one's catalog is ours, and takes none."""
        self._lock = threading.RLock()
        self._planner = ThreadPoolExecutor(1, "planning")
        self._time: StatementTime | None = None
        self._provider = _Catalog()
        self.context.register_catalog_provider(CATALOG, self._provider)

    async def in_planner(self, act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``act`` in the one thread that plans. Statements that wait for their turn hold no thread that the
        stores need, without which the one whose turn it is could not go on.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._planner, lambda: act(*args, **kwargs))

    def close(self) -> None:
        """Take no more work; what runs ends by itself."""
        self._planner.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def planning(
        self, names: Names, *, remote: bool = False, tasks: int = 0, broadcast_bytes: int | None = None
    ) -> Iterator[SessionContext]:
        """Hold the session for one statement, whose names are ``names``; ``remote`` if it reads an object store,
        ``tasks`` if its plan is to be cut into so many, and ``broadcast_bytes`` as `functions.stages` has it."""
        with self._lock:
            own = REMOTE_PARTITIONS if remote and not self.options.target_partitions else 0
            self._set_partitions(tasks or own)
            self._set_cut(tasks, broadcast_bytes)
            self._provider.names = names
            try:
                yield self.context
            finally:
                self._provider.names = None

    def plan_of(self, frame: DataFrame, again: Callable[[], DataFrame]) -> ExecutionPlan:
        """Return the plan of a query, while the session is held (`planning`); ``again`` gives the query anew.

        The engine moves sorts below a union, there leaves out columns that are constant in each of its inputs, as the
        scans of a partitioned table are, and then may refuse its own plan. In such a plan sorts stay where they are.
        """
        try:
            return frame.execution_plan()
        except Exception as error:
            if "SanityCheckPlan" not in str(error):
                raise
        self.context.sql("SET datafusion.optimizer.repartition_sorts = false")
        try:
            return again().execution_plan()
        finally:
            self.context.sql("SET datafusion.optimizer.repartition_sorts = true")

    def _set_partitions(self, partitions: int) -> None:
        """Set how many streams plans have from now on; 0 means the configured number."""
        wanted = partitions or self._partitions
        if wanted != self._partitions_now:
            self.context.sql(f"SET datafusion.execution.target_partitions = {wanted}")
            self._partitions_now = wanted

    def _set_cut(self, tasks: int, broadcast_bytes: int | None) -> None:
        """Set for how many tasks plans from now on are made to be cut; 0: for none."""
        wanted: Mapping[str, str] = _UNCUT
        if tasks:
            from functions.stages import BROADCAST_BYTES, DISTRIBUTED_OPTIONS, broadcast_options

            given = BROADCAST_BYTES if broadcast_bytes is None else broadcast_bytes
            wanted = {**DISTRIBUTED_OPTIONS, **broadcast_options(tasks, given)}
        for name, value in wanted.items():
            if value != self._options_now[name]:
                self.context.sql(f"SET {name} = {value}")
        self._options_now = wanted

    def add_functions(self, words: frozenset[str]) -> None:
        """Make the functions of `functions.sql_functions` known that are among a statement's words."""
        missing = words & OWN_FUNCTIONS - self._functions
        if not missing:
            return
        # Imported here: most processes never call one.
        from functions.sql_functions import functions_of

        with self._lock:
            for name in sorted(missing):
                for each in functions_of(name):
                    self.context.register_udf(udf(each.run, list(each.inputs), each.output, "immutable", each.name))
                self._functions.add(name)

    def moment(self) -> Moment:
        """Return what ``now()`` and its like are to mean in a statement that has one of `TIME_WORDS`."""
        # Imported here: most processes are never asked for the time.
        from functions.statement_time import StatementTime

        with self._lock:
            if self._time is None:
                self._time = StatementTime(self.context, _config(self.options))
            return self._time.take()

    def set_moment(self, moment: Moment) -> None:
        """Let the plans that are made while the session is held (`planning`) see this moment."""
        assert self._time is not None
        self._time.set(moment)

    def open_buckets(self, buckets: Sequence[str]) -> None:
        """Make these S3 buckets readable by plans. Call from a thread without an event loop. Raises as
        `functions.object_stores.BucketClients.open`."""
        with self._lock:
            for bucket in buckets:
                self._buckets.open(bucket)

    def native_scan(self, urls: list[str], *, late: bool = False) -> Table:
        """Return a native Parquet scan over exactly these percent-encoded URLs, whose schemas agree.

        With ``late`` it evaluates filters while it decodes (see `functions.adaptive`).
        """
        with self._lock:
            for url in urls:
                if url.startswith("s3://"):
                    self._buckets.open(url.split("/", 3)[2])
            options = " OPTIONS ('format.pushdown_filters' 'true')" if late else ""
            listed = ", ".join("'" + url.replace("'", "%27") + "'" for url in urls)
            self.context.sql(
                f"CREATE EXTERNAL TABLE {CATALOG}.{SCANS}.made STORED AS PARQUET LOCATION ({listed}){options}"
            )
            return self._provider.scans.take()

    def plan(self, sql: str, tables: dict[str, Table]) -> ExecutionPlan:
        """Return a plan of ``sql``, in which ``tables`` are named ``scans.NAME``."""
        with self._lock:
            self._provider.scans.tables.update(tables)
            try:
                return self.context.sql(sql).execution_plan()
            finally:
                self._provider.scans.tables.clear()

    def memory_table(self, batches: Sequence[pa.RecordBatch]) -> Table:
        """Return a table of the batches, at least one, which are not copied."""
        shares = min(self._partitions, len(batches))
        with self._lock:
            self._memory.register_record_batches("made", [list(batches[start::shares]) for start in range(shares)])
            table: Table = self._memory.catalog().schema().table("made")
            self._memory.deregister_table("made")
            return table

    def view(self, sql: str, tables: dict[str, Table]) -> Table:
        """Return a view of ``sql``, in which ``tables`` are named ``scans.NAME``."""
        with self._lock:
            self._provider.scans.tables.update(tables)
            try:
                return Table(self.context.sql(sql))
            finally:
                self._provider.scans.tables.clear()


def _config(options: SessionOptions) -> SessionConfig:
    config = (
        SessionConfig()
        .with_create_default_catalog_and_schema(False)
        .with_default_catalog_and_schema(CATALOG, "default")
        .with_information_schema(True)
        .set("datafusion.execution.parquet.coerce_int96", "us")
        .set("datafusion.execution.parquet.schema_force_view_types", "false")
        .set("datafusion.execution.time_zone", "UTC")
        # Its heap panics at NaN: DISTINCT and GROUP BY of floats with ORDER BY … LIMIT.
        .set("datafusion.optimizer.enable_topk_aggregation", "false")
        # It takes a computed column for the one of that name that it is computed of: wrong rows, or plans refused.
        .set("datafusion.optimizer.enable_leaf_expression_pushdown", "false")
        # It takes "x IS NOT TRUE" for one that may be NULL where it stands twice, and so refuses its own plan.
        .set("datafusion.execution.skip_physical_aggregate_schema_check", "true")
    )
    return config.with_target_partitions(options.target_partitions or os.cpu_count() or 1)


def _runtime(options: SessionOptions) -> RuntimeEnvBuilder:
    runtime = RuntimeEnvBuilder()
    runtime = (
        runtime.with_disk_manager_specified(options.spill_dir)
        if options.spill_dir
        else (runtime.with_disk_manager_os())
    )
    return runtime.with_fair_spill_pool(options.memory_bytes) if options.memory_bytes else runtime


class _Scans(SchemaProvider):
    """Catches what ``CREATE EXTERNAL TABLE`` makes, and names the parts of a view while it is planned."""

    def __init__(self) -> None:
        self.tables: dict[str, Table] = {}
        self._made: Table | None = None

    @property
    def table_names(self) -> list[str]:  # type: ignore[override]
        return []

    def register_table(self, _name: str, table: Any) -> None:
        self._made = Table(table)

    def take(self) -> Table:
        made, self._made = self._made, None
        if made is None:
            raise RuntimeError("DataFusion made no table")
        return made

    def table(self, name: str) -> Table | None:
        return self.tables.get(name)

    def table_exist(self, name: str) -> bool:
        return name in self.tables


class _Namespace(SchemaProvider):
    def __init__(self, names: Names, namespace: str) -> None:
        self._names, self._namespace = names, namespace

    @property
    def table_names(self) -> list[str]:  # type: ignore[override]
        return self._names.tables(self._namespace)

    def table(self, name: str) -> Table | None:
        return self._names.lookup(self._namespace, name)

    def table_exist(self, name: str) -> bool:
        return name in self._names.tables(self._namespace)


class _Catalog(CatalogProvider):
    def __init__(self) -> None:
        self.names: Names | None = None
        self.scans = _Scans()

    def schema_names(self) -> set[str]:
        return set(self.names.namespaces()) if self.names else set()

    def schema(self, name: str) -> Any:
        if self.names is None or name == SCANS:
            return self.scans if name == SCANS else None
        return _Namespace(self.names, name) if name in self.names.namespaces() else None
