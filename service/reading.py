"""What the statements of a process share: the engine's session and what was learnt of tables."""

from __future__ import annotations

from dataclasses import dataclass, field

from catalog.indexes import Indexes
from functions.index.models import Models
from functions.lookup import Memory
from functions.scan import ScanCache
from functions.session import Session
from functions.tail_scan import TailScanCache
from service.snapshots import SnapshotCache
from storage.tables.footers import FooterCache

__all__ = ["Reading"]


@dataclass(frozen=True)
class Reading:
    """Caches that only make statements faster."""

    session: Session
    snapshots: SnapshotCache
    indexes: Indexes
    models: Models
    footers: FooterCache = field(default_factory=FooterCache)
    scans: ScanCache = field(default_factory=ScanCache)
    tail_scans: TailScanCache = field(default_factory=TailScanCache)
    looked_up: Memory = field(default_factory=Memory)
