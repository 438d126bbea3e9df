"""Which file a reading error came from. The engine's decoder does not say, so the files are tried one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from functions.errors import PanicError, ReadError, is_panic
from functions.execute import stream
from functions.scan import TableScan, file_url
from functions.session import Session
from storage.errors import CorruptError, FirnlineError, InternalError

__all__ = ["name_the_file"]

FILES_TRIED_MAX = 64
SECONDS_MAX = 10.0


async def name_the_file(session: Session, error: FirnlineError, scans: Iterable[TableScan]) -> FirnlineError:
    """Return the error of the file that cannot be decoded, if one is found in bounded time.

    Only a `ReadError` and a `PanicError` are looked into; they come back as a class of our tree.
    """
    if not isinstance(error, (ReadError, PanicError)):
        return error
    paths = [path for scan in scans for path in _native(scan)][:FILES_TRIED_MAX]
    found = paths[0] if len(paths) == 1 and isinstance(error, ReadError) else None
    try:
        if found is None:
            async with asyncio.timeout(SECONDS_MAX):
                found = await _first_unreadable(session, paths)
    except TimeoutError:
        pass
    if isinstance(error, ReadError):
        return CorruptError(error.message, **({"file": found} if found else {}), **error.facts)
    if found:
        return CorruptError("a data file makes the query engine fail; it is damaged or unusual", file=found)
    return InternalError(error.message, **error.facts)


def _native(scan: TableScan) -> list[str]:
    """Return the files of a scan that the engine's own reader can have met."""
    files = scan.snapshot.files
    others = {files.paths[index] for index in files.formats}
    return [path for path in scan.files if path not in others]


async def _first_unreadable(session: Session, paths: list[str]) -> str | None:
    for path in paths:
        try:
            table = await session.in_planner(session.native_scan, [file_url(path)])
            plan = session.context.read_table(table).execution_plan()
            async for _batch in stream(session.context, plan):
                pass
        except BaseException as error:
            if isinstance(error, Exception) or is_panic(error):  # whatever fails here is what failed before
                return path
            raise
    return None
