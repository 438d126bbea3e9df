"""A statement that is planned: what there is to run, and of which tables."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa
from datafusion import ExecutionPlan

from functions.scan import TableScan
from service.loading import Loaded, TableName

if TYPE_CHECKING:
    from functions.stages import Stages

__all__ = ["Planned"]


@dataclass
class Planned:
    """A statement ready to run: rows that planning already gave, the plan of the others, and the tables it reads."""

    schema: pa.Schema
    plan: ExecutionPlan | None = None
    rows: Sequence[pa.RecordBatch] = ()
    scans: Mapping[str, TableScan] = field(default_factory=dict)
    late: bool = False
    """Whether its scans filter while they decode."""
    tables: Mapping[TableName, Loaded] = field(default_factory=dict)
    """By the names of the plan."""
    stages: Stages | None = None
    """What runs in place of ``plan``: tasks on workers."""
    here: Callable[[], Awaitable[ExecutionPlan]] | None = None
    """Of a statement with ``stages``: plans it for this process, should the workers refuse them."""

    @property
    def remote(self) -> bool:
        """Whether a file that it scans lies in an object store."""
        return any(scan.snapshot.location.startswith("s3://") for scan in self.scans.values())

    @property
    def locations(self) -> list[str]:
        """The files that it scans."""
        return [location for scan in self.scans.values() for location in scan.files]
