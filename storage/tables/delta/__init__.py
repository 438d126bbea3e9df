"""Delta tables: our own reader of the Delta transaction protocol, incremental and exact.

Source: "Delta Transaction Log Protocol", https://github.com/delta-io/delta/blob/master/PROTOCOL.md.
Design note: ``docs/design/003-delta-reader.md``. A reader feature that is not implemented here is refused by name.

The rooms of this package, in the order a load passes them: `log` (which files of ``_delta_log`` make a version),
`actions` and `checkpoint` (decode them), `files` and `replay` (reconcile them to the live files), `protocol` and
`schema` (may we read it, and as what), `partitions`, `stats`, `vectors` (what the planner and the scan need),
`load` (the whole act).
"""

from storage.tables.delta.load import load
from storage.tables.delta.replay import TableState
from storage.tables.delta.snapshot import DeltaSnapshot

__all__ = ["DeltaSnapshot", "TableState", "load"]
