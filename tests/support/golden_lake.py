"""A whole lake as one release left it: data files, logs with rows that no table has, indexes, the catalog.

``python -m tests.support.golden_lake`` writes ``tests/golden/lake/v1.tar.gz``. That is for a release whose stored forms
are others: add a file then, and keep the ones that there are; they are what old servers leave in lakes.
"""

from __future__ import annotations

import asyncio
import tarfile
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.s3_facade import S3Facade, serve
from service.components import open_engine
from service.settings import EngineSettings
from storage.clock import SystemClock
from tests.support.lakes import Lake
from tests.support.moto import moto_options

__all__ = ["ANSWERS", "GOLDEN", "open_unpacked"]

GOLDEN = Path(__file__).parents[1] / "golden" / "lake"
ANSWERS: dict[str, list[tuple[object, ...]]] = {
    "SELECT count(*), sum(id), count(note) FROM events": [(120, 7140, 80)],
    "SELECT count(*), sum(n) FROM users": [(49, 1175 + 1000 + 7)],
    "SELECT k, n FROM users WHERE k IN (3, 4, 5, 60) ORDER BY k": [(3, 1003), (5, 5), (60, 7)],
    "SELECT k, n FROM users WHERE k = 49": [(49, 49)],
    "SELECT count(*), max(day) FROM days": [(4, "2026-03-04")],
}
"""What its statements say, then and ever after."""
_SETUP = (
    "CREATE TABLE events (id BIGINT, note VARCHAR) USING delta",
    "CREATE TABLE users (k BIGINT, n BIGINT, PRIMARY KEY (k)) USING delta",
    "CREATE TABLE days (day VARCHAR, n INT) USING iceberg",
    "INSERT INTO events SELECT value, 'note ' || value FROM generate_series(0, 79)",
    "INSERT INTO users SELECT value, value FROM generate_series(0, 49)",
    "INSERT INTO days VALUES ('2026-03-01', 1), ('2026-03-02', 2)",
    "OPTIMIZE events", "OPTIMIZE users", "OPTIMIZE days",
    "CREATE INDEX by_k ON users (k)",
    "CREATE INDEX by_id ON events (id)",
    "UPDATE users SET n = 1003 WHERE k = 3",
    "OPTIMIZE users",
    "DELETE FROM users WHERE k = 4",
    "DELETE FROM users WHERE k = 46",
    "INSERT INTO users VALUES (60, 7)",
    "INSERT INTO events SELECT value, CAST(NULL AS VARCHAR) FROM generate_series(80, 119)",
    "INSERT INTO days VALUES ('2026-03-03', 3), ('2026-03-04', 4)",
)  # fmt: skip
"""What comes last stays in the log."""


@asynccontextmanager
async def open_golden(root: Path, *, create: bool = False) -> AsyncIterator[Lake]:
    """Open the lake ``s3://bucket/lake`` whose bucket lies in ``root``."""
    (root / "bucket").mkdir(exist_ok=create)
    async with serve(S3Facade(root, SystemClock())) as endpoint:
        settings = EngineSettings("s3://bucket/lake", s3=moto_options(endpoint), create=create)
        async with open_engine(settings) as engine:
            from service.statement import Receipt

            yield Lake(engine, root, Receipt())


@asynccontextmanager
async def open_unpacked(version: str, folder: Path) -> AsyncIterator[Lake]:
    """Open a copy of a release's lake."""
    with tarfile.open(GOLDEN / f"{version}.tar.gz") as packed:
        packed.extractall(folder, filter="data")
    async with open_golden(folder, create=True) as lake:
        yield lake


async def main() -> None:
    """Write the lake of this release."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        async with open_golden(Path(folder), create=True) as lake:
            for sql in _SETUP:
                await lake.table(sql)
            for sql, answer in ANSWERS.items():
                found = await lake.rows(sql)
                print(sql, found, "" if found == answer else f"WANTED {answer}")
        with tarfile.open(GOLDEN / "v1.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as packed:
            packed.add(Path(folder) / "bucket", "bucket", filter=_anonymous)


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


if __name__ == "__main__":
    asyncio.run(main())
