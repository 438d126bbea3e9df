"""The compactor in an AWS Lambda function: each scheduled event is one pass over the lake, within the function's time.

A pass that is cut off does no harm: what it committed stays, and the next one goes on from there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from functions.fold_log import TableFold
from service.compaction import PassProgress, PassReport, compact_lake
from service.compactor import open_compaction, summary
from service.lambda_endpoint import Context, left_ms
from service.settings import EngineSettings
from storage.clock import Clock, SystemClock
from storage.errors import UnavailableError

__all__ = ["LambdaCompactor"]

_log = logging.getLogger("firnline.compaction")


class LambdaCompactor:
    """Makes a pass for each event."""

    def __init__(self, settings: EngineSettings, clock: Clock | None = None) -> None:
        # It appends nothing, so it never owns a log.
        self._settings = replace(settings, create=False, log=replace(settings.log, may_own=False, url=None))
        self._clock = clock or SystemClock()

    def handle(self, _event: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """Return what the pass did; ``complete`` is false when its time was up before it was done.

        Raises `UnavailableError` that names the tables that could not be compacted, after all others were.
        """
        started_s = self._clock.monotonic_s()
        folds: list[TableFold] = []
        report = asyncio.run(self._pass(left_ms(context) / 1000, folds))
        found = summary(report) if report is not None else _so_far(folds)
        found["complete"] = report is not None
        found["ms"] = int((self._clock.monotonic_s() - started_s) * 1000)
        _log.log(logging.INFO if report is not None else logging.WARNING, "pass", extra=found)
        if report is not None and report.errors:
            raise UnavailableError(
                "these tables could not be compacted; the others were: "
                + "; ".join(f"{table}: {type(error).__name__}: {error}" for table, error in report.errors.items())
            )
        return found

    async def _pass(self, left_s: float, folds: list[TableFold]) -> PassReport | None:
        """Return the report, or None when the time was up; ``folds`` has what was done by then."""
        try:
            async with asyncio.timeout(left_s) as limit, open_compaction(self._settings, self._clock) as compaction:
                return await compact_lake(compaction, progress=PassProgress(fold=folds.append))
        except TimeoutError:
            if not limit.expired():
                raise
            return None


def _so_far(folds: list[TableFold]) -> dict[str, Any]:
    done = [each for each in folds if each.error is None and each.folded.committed is not None]
    return {
        "folded": {"rows": sum(each.folded.n_rows for each in done), "commits": len(done)},
        "errors": {each.table: f"{type(each.error).__name__}: {each.error}" for each in folds if each.error},
    }
