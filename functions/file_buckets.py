"""Which buckets each data file of a snapshot has, where its table is partitioned by columns or by ``bucket``."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping, Sequence

from functions.stage_aligned import FileBucket
from storage.tables.snapshot import Snapshot

__all__ = ["buckets_of"]

_VALUES = (int, str, bytes, dt.date, type(None))
"""No floats, of which 0.0 equals -0.0."""
_BUCKET = re.compile(r"bucket\[(\d+)\]")


def buckets_of(snapshots: Iterable[Snapshot]) -> dict[str, Sequence[FileBucket]]:
    """Return the buckets by the files' locations. Those of a column that was ever renamed are left out, since what a
    file calls it is not known. Of Delta tables nothing is said: their scans have partition columns as literals."""
    found: dict[str, Sequence[FileBucket]] = {}
    for snapshot in snapshots:
        if snapshot.format == "iceberg":
            found.update(_of_iceberg(snapshot))
    return found


def _of_iceberg(snapshot: Snapshot) -> Mapping[str, Sequence[FileBucket]]:
    # Imported here: a process that never meets the format never pays for it.
    from storage.tables.iceberg.reader import IcebergSnapshot

    if not isinstance(snapshot, IcebergSnapshot) or snapshot.state is None:
        return {}
    names = _lasting_names(snapshot.state.metadata.schemas.values())
    found: dict[str, Sequence[FileBucket]] = {}
    for manifest in snapshot.state.manifests.values():
        fields: list[tuple[int, str, int]] = []
        for place, each in enumerate(manifest.spec.fields):
            bucket = _BUCKET.fullmatch(each.transform)
            name = names.get(each.source_id) if each.source_id is not None else None
            if name is not None and (bucket is not None or each.transform == "identity"):
                fields.append((place, name, int(bucket[1]) if bucket is not None else 0))
        if not fields:
            continue
        for path, values in zip(manifest.paths, manifest.partitions, strict=True):
            found[path] = [
                FileBucket(name, n_buckets, values[place])
                for place, name, n_buckets in fields if isinstance(values[place], _VALUES)
            ]  # fmt: skip
    return found


def _lasting_names(schemas: Iterable[Mapping[str, object]]) -> dict[int, str]:
    """Return the names of top-level fields that never had another, and that no other field ever had, by their ids."""
    pairs: set[tuple[int, str]] = set()
    for schema in schemas:
        fields = schema.get("fields")
        for each in fields if isinstance(fields, list) else ():
            pairs.add((each["id"], each["name"]))
    ids, names = [each for each, _name in pairs], [name for _id, name in pairs]
    return {id_: name for id_, name in pairs if ids.count(id_) == 1 and names.count(name) == 1}
