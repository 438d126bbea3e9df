"""What the engine is told: values only. `service.components` makes live objects of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from storage.blobs.s3_options import S3Options

__all__ = ["EngineSettings", "EtcdAccess"]


@dataclass(frozen=True, slots=True)
class EtcdAccess:
    """Who asks etcd, and how it is known: PEM files, or a user of etcd's own. Used with an ``etcd`` catalog only."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Settings of one engine. Plain values, so that they travel to worker processes.

    lake : location of the lake (a folder or ``s3://bucket/prefix``), which holds its catalog too
    catalog : URL of the KV store, see `catalog.kv.open`; None: ``catalog.db`` in a local lake, a blob in an S3 lake
    allow : location prefixes that statements may read; None: all (embedded use)
    memory_bytes : the engine's pool for sorts, joins and aggregates; 0: unbounded
    spill_dir : where they spill; None: the system's temporary folder
    target_partitions : concurrent streams of one plan; 0: one per core
    create : make the lake's folder when it is missing
    """

    lake: str = "./lake"
    catalog: str | None = None
    allow: tuple[str, ...] | None = None
    memory_bytes: int = 0
    spill_dir: str | None = None
    target_partitions: int = 0
    create: bool = True
    s3: S3Options = field(default_factory=S3Options)
    etcd: EtcdAccess = field(default_factory=EtcdAccess)
