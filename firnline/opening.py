"""Settings of the environment laid out for an engine in this process, and for a server."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from firnline.embedded import OpenRunner
from firnline.settings import Settings
from service.settings import EngineSettings
from service.statement import Limits, Runner

__all__ = ["engine_settings", "limits", "open_runner"]


def engine_settings(lake: str, settings: Settings) -> EngineSettings:
    """Return the settings of an engine on ``lake`` that may read every location."""
    return EngineSettings(
        lake=lake,
        catalog=settings.catalog,
        memory_bytes=settings.memory_bytes,
        spill_dir=settings.spill_dir,
        target_partitions=settings.target_partitions,
        s3=settings.s3_options(),
    )


def limits(settings: Settings) -> Limits:
    """Return the limits of a statement in this process: none that nobody asked for."""
    return Limits(
        timeout_ms=settings.statement_timeout_ms or 0,
        memory_bytes=settings.memory_bytes,
        result_rows_max=settings.result_rows_max,
        result_bytes_max=settings.result_bytes_max,
        scan_bytes_max=settings.scan_bytes_max,
    )


def open_runner(lake: str, settings: Settings) -> OpenRunner:
    """Return what opens an engine on the lake; its libraries are imported here, not before."""
    from service.components import open_engine

    prepared = engine_settings(lake, settings)

    def opener() -> AbstractAsyncContextManager[Runner]:
        return open_engine(prepared)

    return opener
