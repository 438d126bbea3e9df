"""One wide table in two formats in many files, in a lake behind an S3 API, with its indexes; made once and kept.

Rows lie sorted by ``id``, whose values grow by 2 to 6 and are all even, so that an odd one between two is in no file.
``token``, 32 hexadecimal digits, is a hash of the row's number: no order, no row twice. The catalog is a SQLite file.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.lookup_options import LookupOptions
from benchmarks.planning_tables import facade
from benchmarks.s3_facade import S3Facade, serve
from catalog.writers import writer_of
from functions.layout import write_files
from service.components import open_engine
from service.engine import Engine
from service.settings import EngineSettings
from service.statement import Statement
from storage.blobs.s3_options import S3Options
from storage.clock import SystemClock
from storage.tables.write import Change

__all__ = [
    "BUCKET",
    "FORMATS",
    "LAKE",
    "WideTables",
    "engine_settings",
    "row_ids",
    "store",
    "tokens",
    "wide_rows",
    "wide_tables",
]

BUCKET = "lookup"
LAKE = f"s3://{BUCKET}/lake"
FORMATS = ("delta", "iceberg")
FILES_A_COMMIT = 100
MADE = "made.json"
VERSION = 2
COLUMNS = (
    "id BIGINT NOT NULL, token VARCHAR NOT NULL, ts TIMESTAMP, customer BIGINT, amount DECIMAL(12, 2), price DOUBLE, "
    "score DOUBLE, latitude REAL, longitude REAL, quantity INT, priority INT, status VARCHAR, country VARCHAR, "
    "note VARCHAR, device VARCHAR, paid BOOLEAN"
)


@dataclass(frozen=True, slots=True)
class WideTables:
    """The made lake: ``root`` is the folder of the bucket; ``locations`` are the tables' folders by their format, and
    by the format and ``_source`` what names the newest version."""

    root: Path
    n_files: int
    file_rows: int
    locations: dict[str, str]

    @property
    def catalog(self) -> str:
        """URL of the lake's catalog."""
        return f"sqlite://{self.root / 'catalog.db'}"

    @property
    def n_rows(self) -> int:
        return self.n_files * self.file_rows


def engine_settings(tables: WideTables, endpoint: str) -> EngineSettings:
    """Return how an engine opens the lake."""
    s3 = S3Options(endpoint=endpoint, region="us-east-1", access_key_id="x", secret_access_key="x")
    return EngineSettings(lake=LAKE, catalog=tables.catalog, s3=s3)


@contextmanager
def store(tables: WideTables, delay_ms: float) -> Iterator[str]:
    """Serve the lake's bucket with a delay in front of every request."""
    with facade(tables.root, delay_ms=delay_ms) as endpoint:
        yield endpoint


def wide_tables(options: LookupOptions) -> WideTables:
    """Return the lake, made where it is not there yet."""
    root = options.build / f"lookup-{options.files}x{options.file_rows}"
    wanted = {"version": VERSION, "files": options.files, "rows": options.file_rows}
    try:
        made = json.loads((root / MADE).read_text())
    except (OSError, ValueError):
        made = {}
    tables = WideTables(root, options.files, options.file_rows, made.get("locations", {}))
    if {key: made.get(key) for key in wanted} != wanted:
        shutil.rmtree(root, ignore_errors=True)
        (root / BUCKET).mkdir(parents=True)
        tables = replace(tables, locations=asyncio.run(_make(tables)))
        (root / MADE).write_text(json.dumps(wanted | {"locations": tables.locations}))
    return tables


def row_ids(tables: WideTables) -> np.ndarray:
    """Return the ids of all rows in order: int64[n_rows]."""
    steps = np.random.default_rng(7).integers(1, 4, tables.n_rows) * 2
    return np.cumsum(steps)


def tokens(numbers: np.ndarray) -> list[str]:
    """Return the tokens of rows by their numbers."""
    return [hashlib.blake2b(int(number).to_bytes(8, "little"), digest_size=16).hexdigest() for number in numbers]


def wide_rows(ids: np.ndarray, first: int) -> pa.Table:
    """Return the rows of these ids; ``first`` is the number of the first."""
    n = len(ids)
    rng = np.random.default_rng(first)
    words = pa.array([f"{word} {n}" for n in range(2_000) for word in ("ordered", "packed", "left at the door")])
    status = pa.array(["new", "paid", "packed", "shipped", "returned"])
    countries = pa.array(["DE", "FR", "GB", "IN", "JP", "US"])
    devices = pa.array(["android", "ios", "linux", "macos", "windows"])
    cents = rng.integers(100, 10_000_000, n)
    return pa.table(
        {
            "id": ids,
            "token": tokens(np.arange(first, first + n)),
            "ts": pa.array(1_700_000_000_000_000 + ids * 1_000, pa.timestamp("us")),
            "customer": rng.integers(0, 1_000_000, n),
            "amount": pa.array(cents, pa.int64()).cast(pa.decimal128(21, 2)).cast(pa.decimal128(12, 2)),
            "price": np.round(rng.lognormal(3, 1, n), 2),
            "score": rng.random(n),
            "latitude": rng.uniform(-90, 90, n).astype(np.float32),
            "longitude": rng.uniform(-180, 180, n).astype(np.float32),
            "quantity": rng.integers(1, 20, n).astype(np.int32),
            "priority": rng.integers(0, 5, n).astype(np.int32),
            "status": status.take(pa.array(rng.integers(0, 5, n))),
            "country": countries.take(pa.array(rng.integers(0, 6, n))),
            "note": words.take(pa.array(rng.integers(0, len(words), n))),
            "device": devices.take(pa.array(rng.integers(0, 5, n))),
            "paid": rng.random(n) < 0.8,
        }
    )


async def _make(tables: WideTables) -> dict[str, str]:
    locations = {}
    async with (
        serve(S3Facade(tables.root, SystemClock())) as endpoint,
        open_engine(engine_settings(tables, endpoint)) as engine,
    ):
        for form in FORMATS:
            await _sql(
                engine, f"CREATE TABLE wide_{form} ({COLUMNS}) USING {form} ORDER BY (id) WITH (lookup = 'true')"
            )
        ids = row_ids(tables)
        for start in range(0, tables.n_files, FILES_A_COMMIT):
            await _commit(engine, tables, ids, range(start, min(start + FILES_A_COMMIT, tables.n_files)))
        for form in FORMATS:
            await _sql(engine, f"CREATE INDEX {form}_by_id ON wide_{form} (id) USING learned")
            await _sql(engine, f"CREATE INDEX {form}_by_token ON wide_{form} (token) USING locator")
            entry = await engine.tables.get("default", f"wide_{form}")
            locations |= {form: entry.location, f"{form}_source": entry.source}
    return locations


async def _commit(engine: Engine, tables: WideTables, ids: np.ndarray, numbers: range) -> None:
    """Add files to both tables, one commit each; no file is merged with another."""
    n = tables.file_rows
    rows = [wide_rows(ids[number * n : (number + 1) * n], number * n) for number in numbers]
    for form in FORMATS:
        entry = await engine.tables.get("default", f"wide_{form}")
        assert entry.managed is not None
        loaded = await engine.describe_table("default", f"wide_{form}")
        files = []
        for each in rows:
            files += await write_files(
                engine.stores, engine.clock, entry.location, loaded.snapshot.schema, entry.managed.spec, each,
                table_format=form,  # type: ignore[arg-type]
            )  # fmt: skip
        writer = writer_of(entry, engine.stores, engine.tables, engine.clock)
        await writer.commit(loaded.snapshot, Change("insert", tuple(files)))


async def _sql(engine: Engine, sql: str) -> None:
    result = await engine.run(Statement(sql, "benchmark"))
    async for _ in result.batches:
        pass
