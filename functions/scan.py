"""From a snapshot to a DataFusion table: native scans over explicit file lists wherever they are right.

1. Prune: drop the files that no filter of the statement can want (`functions.prune`).
2. Sort the rest by how they must be read. Files whose columns are the table's own, but for names, casts of plain
   types and columns that are constant or missing, go to native scans, one per distinct file schema and partition
   value, united in a view. The others go to `functions.merge_scan`, each with its reason.
3. The made table is remembered by the snapshot's etag and the chosen files, so a repeated query asks nothing twice.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

import numpy as np
import pyarrow as pa
from datafusion.catalog import Table

from functions.constant_floats import files_that_hide_nan
from functions.errors import ReadError, translate
from functions.literals import identifier
from functions.merge_scan import MergeScan
from functions.merged_files import MergedFiles, merged_files
from functions.scan_columns import filled_columns, is_plain, named_alike, select_list
from functions.session import SCANS, Session
from functions.tail import TableTail
from storage.errors import CorruptError, FirnlineError, UnsupportedError
from storage.stores import Stores
from storage.tables.footers import Footer, FooterCache
from storage.tables.known_nan import without_nan
from storage.tables.merge_on_read import Fetch, blocking_fetch, read_rows
from storage.tables.project import constants_of
from storage.tables.snapshot import LoadedDeletes, Snapshot

__all__ = ["ScanCache", "TableScan", "file_url", "make_scan"]

KNOWN_NUMBERS_MAX = 8
"""Beyond so many sets of columns without NaN among a table's files, what all have in common is used, since each set is
another native scan."""
UNION_BRANCHES_MAX = 1_000
"""A view with more native scans costs more to plan (0.4 ms a branch) than merge-on-read costs to read."""
FOREVER = 2**63 - 1


@dataclass(frozen=True)
class TableScan:
    """A table ready to be planned, and what a plan's reader should know of it.

    table : what names resolve to
    n_files, n_scanned, n_slow : files of the snapshot, files that pruning left, files that are merged on read
    n_native_scans : distinct native scans in the view
    slow_reasons : why files are merged on read → how many
    tail : rows of the log that ``table`` has too; None for a table that no log feeds, or as of an earlier version
    route : how its rows are found, where an index has a say
    here_only : whether some of its rows come from readers of this process, so that its plan has no bytes
    merged : files that are merged on read, in a scan that was made to be cut
    deletes : delete information of its files, by their numbers
    """

    snapshot: Snapshot
    table: Table
    files: tuple[str, ...]
    n_files: int
    n_native_scans: int
    n_slow: int
    slow_reasons: dict[str, int] = field(default_factory=dict)
    tail: TableTail | None = None
    route: str = ""
    here_only: bool = False
    merged: tuple[MergedFiles, ...] = ()
    deletes: Mapping[int, LoadedDeletes] = field(default_factory=dict, repr=False)

    @property
    def n_scanned(self) -> int:
        return len(self.files)


class ScanCache:
    """The most recently used scans of this process."""

    def __init__(self, entries_max: int = 64) -> None:
        self._entries_max = entries_max
        self._scans: OrderedDict[tuple[str, str, bytes], TableScan] = OrderedDict()

    def get(self, key: tuple[str, str, bytes]) -> TableScan | None:
        found = self._scans.get(key)
        if found is not None:
            self._scans.move_to_end(key)
        return found

    def put(self, key: tuple[str, str, bytes], scan: TableScan) -> None:
        self._scans[key] = scan
        while len(self._scans) > self._entries_max:
            self._scans.popitem(last=False)


@dataclass
class _Branch:
    """Files that one native scan reads, with the columns it selects."""

    urls: list[str]
    columns: list[str]
    plain: bool
    """The scan's own columns are the table's, in order: no view is needed around it."""


async def make_scan(
    session: Session, stores: Stores, snapshot: Snapshot, wanted: np.ndarray, footers: FooterCache, cache: ScanCache,
    *, late: bool = False, with_nan: Collection[str] = (), cut: bool = False,
) -> TableScan:  # fmt: skip
    """Return a table over the files of ``snapshot`` where ``wanted`` (bool[n_files]) holds.

    Parameters
    ----------
    late : whether its native scans evaluate filters while they decode (see `functions.adaptive`)
    with_nan : floating-point columns of which statistics prove nothing, since the statement may want NaN
    cut : whether its plan is to be cut into tasks, and so never run as it is (`functions.merged_files`)

    Raises
    ------
    ForbiddenError
        a file lies outside what may be reached
    CorruptError
        a file is damaged, naming it
    """
    columns = "\0".join(sorted(with_nan)).encode()
    keys = {}
    for way in (False, True):
        chosen = hashlib.sha256(np.packbits(wanted).tobytes() + bytes([late, way]) + columns).digest()
        keys[way] = snapshot.location, snapshot.etag, chosen
    found = cache.get(keys[cut]) if snapshot.etag else None
    if found is not None:
        return found
    indices = [int(index) for index in np.flatnonzero(wanted)]
    for index in indices:
        stores.resolve(snapshot.files.paths[index])
    branches, slow = await _sort(stores, snapshot, indices, footers, frozenset(with_nan))
    other = cache.get(keys[not cut]) if snapshot.etag else None
    loaded = dict(other.deletes) if other is not None else await _load_deletes(stores, snapshot, slow)
    fetch = blocking_fetch(stores)
    try:
        made = _Made(snapshot, branches, slow, loaded, fetch, late)
        table, merged = await session.in_planner(_make_table, session, made, cut=cut)
    except Exception as error:
        raise await _with_its_file(session, branches, error) from error
    reasons: dict[str, int] = {}
    for reason in slow.values():
        reasons[reason] = reasons.get(reason, 0) + 1
    paths = tuple(snapshot.files.paths[index] for index in indices)
    here_only = (bool(slow) or not branches) and not cut
    scan = TableScan(
        snapshot, table, paths, len(snapshot.files), len(branches), len(slow), reasons,
        here_only=here_only, merged=merged, deletes=loaded,
    )  # fmt: skip
    cache.put(keys[cut], scan)
    return scan


async def _with_its_file(session: Session, branches: Sequence[_Branch], error: Exception) -> FirnlineError:
    """Return what hindered the scans; a file that the engine cannot decode is named."""
    found = translate(error)
    if isinstance(found, ReadError):
        for url in (url for branch in branches for url in branch.urls):
            try:
                await session.in_planner(session.native_scan, [url])
            except Exception as again:  # noqa: BLE001 - whatever fails for one file failed before for all
                return CorruptError("a data file cannot be decoded", file=unquote(url), **translate(again).facts)
    return found


async def _sort(
    stores: Stores, snapshot: Snapshot, indices: Sequence[int], footers: FooterCache, with_nan: frozenset[str]
) -> tuple[list[_Branch], dict[int, str]]:
    """Return the native branches, and the other files with the reason why."""
    files = snapshot.files
    slow: dict[int, str] = {}
    native = []
    for index in indices:
        if index in files.deletes:
            slow[index] = "deleted rows"
        elif index in files.formats:
            slow[index] = files.formats[index]
        else:
            native.append(index)
    etags = getattr(snapshot, "etags", None)
    keys = {i: (files.paths[i], int(files.sizes[i]), etags[i] if etags else "") for i in native}
    read = await footers.read(stores, list(keys.values()))
    hiding = await files_that_hide_nan(stores, footers, list(keys.values()), read)
    branches: dict[tuple[object, ...], _Branch] = {}
    selects: dict[tuple[object, ...], list[str] | str] = {}
    filled: dict[bytes, list[str]] = {}
    known = [(with_nan, frozenset[str]())] * len(native)
    if with_nan and native:
        # The statistics of all files may have to be decoded.
        known = await asyncio.to_thread(_known_numbers, snapshot, native, read, with_nan)
    for index, footer, (doubted, numbers) in zip(native, read, known, strict=True):
        if footer.metadata.num_rows == 0:
            continue
        if footer.fingerprint not in filled:
            filled[footer.fingerprint] = filled_columns(snapshot, footer.schema)
        constants = constants_of(snapshot, index)
        used = tuple(constants[name].as_py() if name in constants else None for name in filled[footer.fingerprint])
        group = (footer.fingerprint, used, doubted, numbers)
        if group not in selects:
            selects[group] = select_list(snapshot, constants, footer.schema, doubted, numbers)
        columns = selects[group]
        if isinstance(columns, str):
            slow[index] = columns
            continue
        if keys[index] in hiding:
            slow[index] = "NaN beside one number"
            continue
        if group not in branches:
            plain = columns == select_list(snapshot, constants, footer.schema) and is_plain(snapshot, footer.schema)
            branches[group] = _Branch([], columns, plain)
        branches[group].urls.append(file_url(files.paths[index]))
    kept = list(branches.values())
    if len(kept) > UNION_BRANCHES_MAX:
        beyond = {url for branch in kept[UNION_BRANCHES_MAX:] for url in branch.urls}
        slow.update({i: "too many partitions" for i in native if file_url(files.paths[i]) in beyond})
        kept = kept[:UNION_BRANCHES_MAX]
    return kept, slow


def _known_numbers(
    snapshot: Snapshot, indices: Sequence[int], footers: Sequence[Footer], with_nan: frozenset[str]
) -> list[tuple[frozenset[str], frozenset[str]]]:
    """Return for each file which columns of the table its snapshot does not know to be without NaN, and which columns
    of the file its footer says are."""
    stats = {name: snapshot.files.stats(name) for name in with_nan}
    sure = {name: each.without_nan for name, each in stats.items() if each is not None and each.without_nan is not None}
    doubted = [frozenset(name for name in with_nan if name not in sure or not sure[name][at]) for at in indices]
    known = list(zip(doubted, (without_nan(footer.metadata) for footer in footers), strict=True))
    if len(set(known)) <= KNOWN_NUMBERS_MAX:
        return known
    told = frozenset.intersection(*(numbers for _doubted, numbers in known))
    return [(frozenset.union(*doubted), told)] * len(known)


def file_url(location: str) -> str:
    """Percent-encode a location as DataFusion decodes it."""
    scheme, _, rest = location.partition("://")
    authority, _, key = rest.partition("/")
    return f"{scheme}://{authority}/{quote(key, safe='/=-_.~')}"


async def _load_deletes(stores: Stores, snapshot: Snapshot, slow: dict[int, str]) -> dict[int, LoadedDeletes]:
    with_deletes = [index for index in slow if index in snapshot.files.deletes]
    loaded = await asyncio.gather(*[snapshot.files.deletes[index].load(stores) for index in with_deletes])
    return dict(zip(with_deletes, loaded, strict=True))


@dataclass(frozen=True)
class _Made:
    """What a table is made of."""

    snapshot: Snapshot
    branches: list[_Branch]
    slow: dict[int, str]
    deletes: dict[int, LoadedDeletes]
    fetch: Fetch
    late: bool


def _make_table(session: Session, made: _Made, *, cut: bool) -> tuple[Table, tuple[MergedFiles, ...]]:
    branches, late = made.branches, made.late
    if not branches and not made.slow:
        return _empty(session, made.snapshot.schema, cut=cut), ()
    if len(branches) == 1 and not made.slow and branches[0].plain:
        return session.native_scan(branches[0].urls, late=late), ()
    tables: dict[str, Table] = {}
    selects = []
    for position, branch in enumerate(branches):
        tables[f"n{position}"] = session.native_scan(branch.urls, late=late)
        selects.append(f"SELECT {', '.join(branch.columns)} FROM {SCANS}.n{position}")
    merged: tuple[MergedFiles, ...] = ()
    if made.slow:
        names = ", ".join(identifier(name) for name in made.snapshot.schema.names)
        found = _for_tasks(session, made) if cut else None
        if found is not None:
            tables["merged"], files, columns = found
            merged = (files,)
            selects.append(f"SELECT {columns} FROM {SCANS}.merged WHERE {identifier(files.live)}")
        else:
            tables["merged"] = _merged(session, made)
            selects.append(f"SELECT * FROM (SELECT {names} FROM {SCANS}.merged LIMIT {FOREVER})")
    return session.view(" UNION ALL ".join(selects), tables), merged


def _merged(session: Session, made: _Made) -> Table:
    """Return the files that are merged on read as this process reads them."""
    read = _reader(made.snapshot, made.deletes, made.fetch)
    return Table(MergeScan(_plain(made.snapshot), sorted(made.slow), read, session.options.target_partitions or 2))


def _for_tasks(session: Session, made: _Made) -> tuple[Table, MergedFiles, str] | None:
    """Return the files that are merged on read as tasks will read them, and the columns to select; None if the table
    has a type that Parquet files do not give back, or there is no place for files."""
    try:
        columns = ", ".join(named_alike(each, each.name) for each in made.snapshot.schema)
        files = merged_files(made.snapshot, sorted(made.slow), made.deletes, session.options.spill_dir)
    except (pa.ArrowException, OSError, UnsupportedError):
        return None
    table = session.native_scan(files.urls)
    fields = [pa.field(each.name, each.type) for each in table.schema]
    return (table, files, columns) if fields[:-1] == list(_plain(made.snapshot)) else None


def _plain(snapshot: Snapshot) -> pa.Schema:
    return pa.schema([pa.field(each.name, each.type) for each in snapshot.schema])


def _empty(session: Session, schema: pa.Schema, *, cut: bool) -> Table:
    """Return a table without rows. It has a stream, without rows too: the engine cannot sort what has none."""
    plain = pa.schema([pa.field(each.name, each.type) for each in schema])
    if cut:
        return session.memory_table([pa.RecordBatch.from_pylist([], schema=plain)])
    tables = {"none": Table(MergeScan(plain, [], lambda _index, _schema: iter(()), 1))}
    return session.view(f"SELECT * FROM {SCANS}.none LIMIT {FOREVER}", tables)


def _reader(
    snapshot: Snapshot, loaded: dict[int, LoadedDeletes], fetch: Fetch
) -> Callable[[int, pa.Schema], Iterator[pa.RecordBatch]]:
    def read(index: int, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        selection = pa.schema([snapshot.schema.field(name) for name in schema.names])
        for batch in read_rows(fetch, snapshot, index, selection, loaded.get(index)):
            yield pa.RecordBatch.from_arrays(batch.columns, schema=schema) if len(schema) else batch

    return read
