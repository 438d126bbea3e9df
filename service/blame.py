"""Which file a reading error came from. The engine's decoder does not say, so the files are tried one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from functions.errors import ReadError
from functions.execute import stream
from functions.scan import TableScan, file_url
from functions.session import Session
from storage.errors import CorruptError, FirnlineError

__all__ = ["name_the_file"]

FILES_TRIED_MAX = 64
SECONDS_MAX = 10.0


async def name_the_file(session: Session, error: FirnlineError, scans: Iterable[TableScan]) -> FirnlineError:
    """Return the error with the file it came from, if it is a `ReadError` and the file is found in bounded time."""
    if not isinstance(error, ReadError):
        return error
    paths = [path for scan in scans for path in scan.files][:FILES_TRIED_MAX]
    found = paths[0] if len(paths) == 1 else None
    try:
        if found is None:
            async with asyncio.timeout(SECONDS_MAX):
                found = await _first_unreadable(session, paths)
    except TimeoutError:
        pass
    facts = {"file": found, **error.facts} if found else error.facts
    return CorruptError(error.message, **facts)


async def _first_unreadable(session: Session, paths: list[str]) -> str | None:
    for path in paths:
        try:
            table = await session.in_planner(session.native_scan, [file_url(path)])
            plan = session.context.read_table(table).execution_plan()
            async for _batch in stream(session.context, plan):
                pass
        except Exception:  # noqa: BLE001 - whatever fails here is what failed before
            return path
    return None
