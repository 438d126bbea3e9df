"""Where answers go: tables for people, and the machine formats as the same bytes that the server sends."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

import pyarrow as pa

from firnline.cli.options import OutputFormat
from firnline.result import ResultStream
from firnline.show import Expanded, render
from service.encode import encode
from service.statement import Format, Receipt, Result

__all__ = ["Style", "footer", "write_answer"]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(slots=True)
class Style:
    """How answers look.

    rows_max : of a table that is shown; None shows all
    timing : whether the footer says what an answer cost
    """

    format: OutputFormat = "table"
    color: bool = False
    fit: bool = False
    """To the width of the terminal."""
    expanded: Expanded = "auto"
    rows_max: int | None = None
    timing: bool = False


def write_answer(stream: ResultStream, style: Style, out: BinaryIO) -> None:
    """Read the answer to its end and write it. Raises the statement's error."""
    if style.format == "table":
        _write_table(stream, style, out)
        return
    for chunk in _encoded(stream, style.format):
        out.write(chunk)
    if style.format == "json":
        out.write(b"\n")
    out.flush()


def footer(receipt: Receipt, n_rows: int, style: Style) -> str:
    """Return the line under a table: how many rows there are, and with ``timing`` what they cost."""
    parts = [f"{n_rows:,} row{'' if n_rows == 1 else 's'}"]
    if style.timing:
        parts.append(_duration(receipt.wall_ms))
        if receipt.files_total:
            parts.append(f"{receipt.files_scanned:,} of {receipt.files_total:,} files")
        if receipt.bytes_scanned:
            parts.append(f"{_bytes(receipt.bytes_scanned)} read")
    return f"({', '.join(parts)})"


def _write_table(stream: ResultStream, style: Style, out: BinaryIO) -> None:
    batches: list[pa.RecordBatch] = []
    n_rows = n_kept = 0
    for batch in stream:
        n_rows += batch.num_rows
        if style.rows_max is None or n_kept < style.rows_max:
            kept = batch if style.rows_max is None else batch.slice(0, style.rows_max - n_kept)
            batches.append(kept)
            n_kept += kept.num_rows
    width = shutil.get_terminal_size((120, 24)).columns if style.fit else None
    table = pa.Table.from_batches(batches, stream.schema)
    lines = [render(table, width=width, color=style.color, expanded=style.expanded)]
    if n_kept < n_rows:
        lines.append(f" … {n_rows - n_kept:,} more rows")
    note = footer(stream.receipt, n_rows, style)
    lines.append(f"\x1b[2m{note}\x1b[0m" if style.color else note)
    out.write(("\n".join(lines) + "\n").encode("utf-8", "replace"))
    out.flush()


def _encoded(stream: ResultStream, form: OutputFormat) -> Iterator[bytes]:
    """Drive the encoder, which is asynchronous, from this thread; its batches come from blocking reads."""

    async def batches() -> AsyncIterator[pa.RecordBatch]:
        for batch in stream:
            yield batch
        result.receipt = stream.receipt

    result = Result(stream.schema, batches(), stream.receipt)
    chunks = encode(cast(Format, form), result, statement_id=result.receipt.statement_id)
    with asyncio.Runner() as runner:
        while (chunk := runner.run(_next(chunks))) is not None:
            yield bytes(chunk)


async def _next(chunks: AsyncIterator[bytes | memoryview]) -> bytes | memoryview | None:
    return await anext(chunks, None)


def _duration(ms: float) -> str:
    if ms < 1000:
        return f"{ms:.3g} ms" if ms < 100 else f"{ms:.0f} ms"
    seconds = ms / 1000
    return f"{seconds:.2f} s" if seconds < 60 else f"{int(seconds // 60)} min {seconds % 60:.0f} s"


def _bytes(count: float) -> str:
    for unit in _UNITS:
        if count < 1024 or unit == _UNITS[-1]:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    raise AssertionError(count)
