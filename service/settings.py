"""What the engine is told: values only. `service.components` makes live objects of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from storage.blobs.s3_options import S3Options
from storage.log import AckMode
from storage.log.settings import LogSettings

__all__ = ["EngineSettings", "EtcdAccess", "FunctionAccess", "LogAccess"]


@dataclass(frozen=True, slots=True)
class EtcdAccess:
    """Who asks etcd, and how it is known: PEM files, or a user of etcd's own. Used with an ``etcd`` catalog only."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class LogAccess:
    """How a process reaches the lake's logs, and whether it may own them.

    ack : what an append that does not say gets; None: ``fsync`` where there is a journal, else ``object``
    journal : local folder of the journals; None: in a local lake, beside its log; an S3 lake then has none
    shards : how many logs a lake gets that has none yet
    may_own : whether this process may append by itself; if not, it asks the owner, or the server at ``via_url``
    url, secret : of this process's own HTTP interface, as owner; without, it lets the log go when another wants it
    via_url, via_secret : of a server on this machine that owns the logs when nobody does
    lease_ttl_s : how long after its last sign of life an owner is replaced
    wait_s : how long an append or a read waits for an owner before it gives up
    poll_s : how often an owner looks what became of its logs in the catalog; None: chosen by the lake's place
    idle_s : an owner without ``url`` that appended nothing for so long lets the log go
    """

    ack: AckMode | None = None
    journal: str | None = None
    shards: int = 1
    may_own: bool = True
    url: str | None = None
    secret: str | None = field(default=None, repr=False)
    via_url: str | None = None
    via_secret: str | None = field(default=None, repr=False)
    lease_ttl_s: float = 6.0
    wait_s: float = 10.0
    poll_s: float | None = None
    idle_s: float = 300.0
    writer: LogSettings = field(default_factory=LogSettings)


@dataclass(frozen=True, slots=True)
class FunctionAccess:
    """Where tasks run, see `functions.invoke.open`, and on which terms.

    secret : that they are signed with; None: one of its own, for workers that this process starts
    tasks_max : of a statement at once; 0: as many as the workers take
    max_usd : that a statement may be estimated to cost; 0: no limit
    prices : in place of the list's (`service.cost.prices_of`)
    lambda_endpoint : of AWS's Lambda; None: AWS's own
    concurrency : tasks that the workers run at once; 0: as the platform says
    memory_bytes : that a worker process of this machine may hold; 0: no limit
    timeout_ms : of one task
    ca_file : PEM file of the CA that signed an https worker's certificate; None: the system's
    broadcast_bytes : of all copies of a join's smaller side (`functions.stages.broadcast_options`)
    """

    place: str = "inline"
    secret: str | None = field(default=None, repr=False)
    tasks_max: int = 0
    max_usd: float = 0.0
    prices: str = ""
    lambda_endpoint: str | None = None
    concurrency: int = 0
    memory_bytes: int = 0
    timeout_ms: int = 900_000
    ca_file: str | None = None
    broadcast_bytes: int = 128 << 20


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Settings of one engine. Plain values, so that they travel to worker processes.

    lake : location of the lake (a folder or ``s3://bucket/prefix``), which holds its catalog too
    catalog : URL of the KV store, see `catalog.kv.open`; None: ``catalog.db`` in a local lake, a blob in an S3 lake
    allow : location prefixes that statements may read; None: all (embedded use)
    memory_bytes : the engine's pool for sorts, joins and aggregates; 0: unbounded
    index_memory_bytes : for the models of indexes
    spill_dir : where they spill; None: the system's temporary folder
    target_partitions : concurrent streams of one plan; 0: one per core
    create : make the lake's folder when it is missing
    compact : fold the logs in the background of this process (`service.compaction.background`)
    traces : record spans (`functions.tracing`); a process whose settings say so begins with it
    """

    lake: str = "./lake"
    catalog: str | None = None
    allow: tuple[str, ...] | None = None
    memory_bytes: int = 0
    index_memory_bytes: int = 512 << 20
    spill_dir: str | None = None
    target_partitions: int = 0
    create: bool = True
    compact: bool = False
    traces: bool = False
    s3: S3Options = field(default_factory=S3Options)
    etcd: EtcdAccess = field(default_factory=EtcdAccess)
    log: LogAccess = field(default_factory=LogAccess)
    functions: FunctionAccess = field(default_factory=FunctionAccess)
