"""Commits to an Iceberg table: files that are put once, then one compare-and-swap of the catalog's pointer.

A commit writes its manifests, their list and the next metadata file under names of its own, and becomes true when the
pointer is swapped from the metadata file that it was made from. Of concurrent commits one wins; the others begin again
from the newer file, as rule 2 of `storage.tables.write` says. Files of a try that lost are removed.

pyiceberg is imported where a commit is made, not here: reading a watermark must not cost its import.

How it fits together is in docs/design/009-iceberg-writer.md.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from storage.clock import Clock
from storage.errors import (
    ConflictError,
    FirnlineError,
    IndeterminateError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)
from storage.stores import Stores, join
from storage.tables.iceberg.puts import delete_quietly, put_all, put_hint
from storage.tables.iceberg.reader import IcebergSnapshot
from storage.tables.snapshot import Snapshot
from storage.tables.write import Change, Committed, DataFile, TableSpec, Watermark

if TYPE_CHECKING:
    from storage.tables.iceberg.attempt import Attempt

__all__ = ["WATERMARK", "IcebergWriter", "MemoryPointer", "Pointer", "commit_attempts", "watermark_of"]

WATERMARK = "firnline.log."
"""Table property, followed by the log's name: all of the log's records before it are in the table."""
ATTEMPTS_MAX = 60
_PAUSE_S, _PAUSE_MAX_S = 0.01, 0.5


class Pointer(Protocol):
    """Where the location of a table's current metadata file is kept."""

    async def read(self) -> str | None:
        """Return the location; None before the first. Raises `NotFoundError` if the table was dropped."""
        ...

    async def swap(self, expected: str | None, new: str, spec: TableSpec | None = None) -> None:
        """Replace the location, and the table's shape if one is given, in one transaction.

        Raises `ConflictError` if it is not ``expected``, `NotFoundError` if the table was dropped.
        """
        ...


class MemoryPointer:
    """A pointer of this process, for a table that no catalog knows yet."""

    def __init__(self, location: str | None = None) -> None:
        self.location = location

    async def read(self) -> str | None:
        return self.location

    async def swap(self, expected: str | None, new: str, spec: TableSpec | None = None) -> None:  # noqa: ARG002
        if self.location != expected:
            raise ConflictError("the table has another metadata file now", expected=expected, found=self.location)
        self.location = new


class IcebergWriter:
    """Commits to one Iceberg table. See `storage.tables.write.TableWriter`.

    Parameters
    ----------
    location : of the table's folder
    pointer : names its current metadata file
    """

    def __init__(self, stores: Stores, location: str, clock: Clock, pointer: Pointer) -> None:
        self._stores, self._location, self._clock, self._pointer = stores, location, clock, pointer

    async def create(
        self, spec: TableSpec, files: tuple[DataFile, ...] = (), facts: Mapping[str, str] | None = None
    ) -> Committed:
        """Make the table. See `TableWriter.create`."""
        await _import_library()
        from storage.tables.iceberg.attempt import first_attempt

        if await self._pointer.read() is not None:
            raise ConflictError("the table exists already", location=self._location)
        attempt = await asyncio.to_thread(first_attempt, self._location, self._clock, spec, files, facts or {})
        await self._publish(attempt, None)
        return Committed(attempt.snapshot_id, attempt.timestamp_ms)

    async def commit(self, base: Snapshot, change: Change) -> Committed:
        """Commit a change. See `TableWriter.commit`."""
        if not isinstance(base, IcebergSnapshot) or base.state is None:
            raise InvalidError("the change was not computed from a snapshot of an iceberg table", table=self._location)
        await _import_library()
        from storage.tables.iceberg.attempt import next_attempt

        async def make(metadata_location: str) -> Attempt:
            return await next_attempt(self._stores, self._location, self._clock, metadata_location, base, change)

        return await commit_attempts(self, make)

    async def restore(
        self, version: int, facts: Mapping[str, str] | None = None, watermark: Watermark | None = None
    ) -> Committed:
        """Give the table the rows and columns that it had at snapshot ``version``, as a new snapshot.

        The watermark stays, or moves as ``watermark`` says: rows of the log that were folded since then are not folded
        again.

        Raises
        ------
        ConflictError
            the watermark is not where it was expected
        NotFoundError
            no such snapshot, or it has expired
        """
        await _import_library()
        from storage.tables.iceberg.restore import restore_attempt

        async def make(metadata_location: str) -> Attempt:
            return await restore_attempt(
                self._stores, self._location, self._clock, metadata_location, version, facts or {}, watermark
            )

        return await commit_attempts(self, make)

    def watermark(self, snapshot: Snapshot, log: str) -> int:
        """Return up to which sequence the snapshot holds the log's records."""
        return watermark_of(snapshot.properties, log)

    async def metadata_location(self) -> str:
        """Return the location of the current metadata file. Raises `NotFoundError`."""
        location = await self._pointer.read()
        if location is None:
            raise NotFoundError("the table has no metadata yet", location=self._location)
        return location

    async def publish(self, attempt: Attempt, expected: str | None) -> None:
        """Make one try true. Raises `ConflictError` if the table changed, and removes the files of the try."""
        await self._publish(attempt, expected)

    async def pause(self, attempt: int) -> None:
        """Wait a little and at random, before the next try."""
        await asyncio.sleep(self._clock.uniform(0, min(_PAUSE_S * 2**attempt, _PAUSE_MAX_S)))

    async def _publish(self, attempt: Attempt, expected: str | None) -> None:
        new = attempt.metadata_location
        # The metadata file last: who lists the folder instead of asking the catalog never meets one with files missing.
        await put_all(self._stores, self._clock, {k: v for k, v in attempt.files.items() if k != new})
        await put_all(self._stores, self._clock, {new: attempt.files[new]})
        await self._swap(attempt, expected)
        await put_hint(self._stores, join(self._location, "metadata", "version-hint.text"), new)

    async def _swap(self, attempt: Attempt, expected: str | None) -> None:
        """Swap the pointer. Raises `ConflictError` if it certainly did not happen, and removes the try's files."""
        is_doubtful = False
        for number in range(3):
            try:
                await self._pointer.swap(expected, attempt.metadata_location, attempt.spec)
                return
            except ConflictError:
                if await self._happened(attempt):
                    return
                await delete_quietly(self._stores, attempt.files)
                raise
            except IndeterminateError:
                # The swap names what it expects, so to try it again is to ask whether it happened.
                if number == 2:
                    raise
                is_doubtful = True
            except (UnavailableError, NotFoundError) as error:
                # This try did not happen; an earlier one may have.
                if is_doubtful:
                    raise _unknown(self._location, error) from error
                raise
            await self.pause(number)

    async def _happened(self, attempt: Attempt) -> bool:
        """Whether a swap that was refused is ours all the same: a lost reply, and others have committed since."""
        from storage.tables.iceberg.attempt import is_ancestor

        try:
            location = await self._pointer.read()
            if location is None or location == attempt.metadata_location:
                return location is not None
            return is_ancestor(await self._stores.get(location), attempt)
        except (UnavailableError, NotFoundError) as error:
            raise _unknown(self._location, error) from error


def _unknown(location: str, error: FirnlineError) -> IndeterminateError:
    return IndeterminateError(
        "a commit may have happened; load the table and look for it", table=location, reason=error.message
    )


async def _import_library() -> None:
    """Import pyiceberg beside the event loop: it takes a second, in which nothing else would be answered."""
    await asyncio.to_thread(importlib.import_module, "storage.tables.iceberg.restore")


async def commit_attempts(writer: IcebergWriter, make: Any) -> Committed:
    """Try ``make(metadata location) -> Attempt`` until its swap wins; what ``make`` raises ends it."""
    for number in range(1, ATTEMPTS_MAX + 1):
        location = await writer.metadata_location()
        attempt: Attempt = await make(location)
        if attempt.metadata_location == location:
            return Committed(attempt.snapshot_id, attempt.timestamp_ms, number)
        try:
            await writer.publish(attempt, location)
        except ConflictError as error:
            if number == ATTEMPTS_MAX:
                raise ConflictError(
                    "other writers committed to the table all the time; try again", attempts=number
                ) from error
            await writer.pause(number)
            continue
        return Committed(attempt.snapshot_id, attempt.timestamp_ms, number)
    raise AssertionError("unreachable")


def watermark_of(properties: Mapping[str, str], log: str) -> int:
    """Return a table's watermark from its properties."""
    text = properties.get(WATERMARK + log, "0")
    if not text.isdigit():
        raise InvalidError("the table's watermark is no number", property=WATERMARK + log, value=text[:80])
    return int(text)
