"""One log verified: every slot of its chain, its seals, its base, and the journal beside it."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pyarrow as pa

from functions.check_report import Finding
from storage.blobs import Blobs
from storage.errors import CorruptError, FirnlineError, NotFoundError
from storage.log import Position, Record
from storage.log.chain import FIRST_SLOT, load_base
from storage.log.journal import read_journal
from storage.log.records import decode_record
from storage.log.segments import Segment, decode_segment, slot_key, slot_of, slots_prefix

__all__ = ["CheckedLog", "JournalFile", "Stored", "check_log"]

_AT_ONCE = 8
_COPY = "restore the blob from a copy of the bucket; without one, the rows in it are lost"


@dataclass(frozen=True, slots=True)
class Stored:
    """A record as far as its table is concerned."""

    sequence: int
    schema_id: int


@dataclass
class CheckedLog:
    """What was found of one log.

    base : the first sequence that must be readable
    end : the sequence after the last record in the object store or the journal; None if it cannot be told
    records : table id → its readable records, in order
    """

    findings: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    base: int = 0
    end: int | None = 0
    records: dict[str, list[Stored]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JournalFile:
    """A journal on this machine, and the name by which it knows its log."""

    path: Path
    name: str


async def check_log(
    blobs: Blobs, log: str, epoch: int, journal: JournalFile | None, *, deep: bool = False
) -> CheckedLog:
    """Verify the log under the prefix ``log``; what is wrong becomes a finding. ``epoch`` is the catalog's last one."""
    found = CheckedLog()
    try:
        found.base, _etag = await load_base(blobs, log)
    except CorruptError as error:
        found.findings.append(
            Finding("error", f"{log}/base", str(error), "put it again with the catalog's folded mark")
        )
    slots = await _list(blobs, log, found)
    segments = await _load_all(blobs, log, slots, found, deep=deep)
    _check_chain(log, slots, segments, found)
    _check_seals(log, slots, segments, found)
    if slots and segments.get(slots[-1]) is None:
        found.end = None
    elif slots:
        found.end = segments[slots[-1]].next_slot.sequence  # type: ignore[union-attr]
    if slots and slots[-1].epoch > epoch:
        what = f"the log's last epoch is {slots[-1].epoch}, the catalog's {epoch}: the catalog is older than the log"
        found.findings.append(
            Finding("warning", log, what, "the next writer mends it; look why the catalog was set back")
        )
    if found.end is not None and found.end < found.base:
        what = f"the log ends at {found.end}, before its base {found.base}"
        found.findings.append(Finding("error", log, what, _COPY))
    if journal is not None:
        await _check_journal(journal, found, deep=deep)
    return found


async def _list(blobs: Blobs, log: str, found: CheckedLog) -> list[Position]:
    slots = []
    async for meta in blobs.list(slots_prefix(log)):
        try:
            slots.append(slot_of(log, meta.key))
        except CorruptError as error:
            found.findings.append(Finding("error", meta.key, error.message, "move it away"))
        found.counts["log_bytes"] += meta.size
    return slots


async def _load_all(
    blobs: Blobs, log: str, slots: list[Position], found: CheckedLog, *, deep: bool
) -> dict[Position, Segment | None]:
    """Load every slot: None for one that is damaged. One that was swept meanwhile is missing."""
    loaded: dict[Position, Segment | None] = {}
    for start in range(0, len(slots), _AT_ONCE):
        part = slots[start : start + _AT_ONCE]
        for slot, data in zip(
            part, await asyncio.gather(*(_get(blobs, log, slot, found) for slot in part)), strict=True
        ):
            if data is None:
                continue
            key = slot_key(log, slot)
            try:
                segment = decode_segment(data, slot, key)
            except FirnlineError as error:
                loaded[slot] = None
                found.findings.append(Finding("error", key, str(error), _COPY))
                continue
            loaded[slot] = segment
            found.counts["seals" if segment.sealed_by else "segments"] += 1
            _index(segment, key, found, deep=deep)
    return loaded


async def _get(blobs: Blobs, log: str, slot: Position, found: CheckedLog) -> bytes | None:
    key = slot_key(log, slot)
    try:
        data, _meta = await blobs.get(key)
    except NotFoundError:
        return None
    except FirnlineError as error:
        found.findings.append(Finding("error", key, str(error), "make the store readable and check again"))
        return None
    return data


def _index(segment: Segment, key: str, found: CheckedLog, *, deep: bool) -> None:
    """Note the records of a segment, if they must be readable."""
    for index, data in enumerate(segment.records):
        sequence = segment.slot.sequence + index
        if sequence >= found.base:
            _note(data, sequence, key, found, deep=deep)


def _note(data: bytes, sequence: int, where: str, found: CheckedLog, *, deep: bool) -> None:
    try:
        record = decode_record(data, where)
        if deep:
            _read_rows(record)
    except (FirnlineError, pa.ArrowException) as error:
        found.findings.append(Finding("error", f"{where} record {sequence}", str(error), _COPY))
        return
    found.counts["records"] += 1
    found.records.setdefault(record.table_id, []).append(Stored(sequence, record.schema_id))


def _read_rows(record: Record) -> None:
    with pa.ipc.open_stream(record.body) as reader:
        reader.read_all().validate(full=True)


def _check_chain(log: str, slots: list[Position], segments: dict[Position, Segment | None], found: CheckedLog) -> None:
    """Follow the chain from the base; a slot that is missing while a later one exists is a gap."""
    if not slots:
        if found.base:
            what = f"the log has no slots, and must be readable from {found.base}"
            found.findings.append(Finding("error", log, what, _COPY))
        return
    starts = [slot for slot in slots if slot.sequence <= found.base]
    if not starts:
        what = f"the log begins at {slots[0].sequence}, and must be readable from {found.base}"
        found.findings.append(Finding("error", slot_key(log, FIRST_SLOT), what, _COPY))
    slot = next((each for each in starts if each.sequence == starts[-1].sequence), slots[0])
    on_chain = set()
    while slot <= slots[-1]:
        segment = segments.get(slot)
        on_chain.add(slot)
        if segment is not None:
            slot = segment.next_slot
            continue
        if slot not in segments and slot.sequence >= found.base:
            found.findings.append(
                Finding("error", slot_key(log, slot), "the log has a gap: this slot is missing", _COPY)
            )
        # Damaged or missing: go on behind it.
        behind = [each for each in slots if each > slot]
        if not behind:
            return
        slot = behind[0]
    found.counts["slots_outside"] += sum(slot not in on_chain and slot.sequence >= found.base for slot in slots)


def _check_seals(log: str, slots: list[Position], segments: dict[Position, Segment | None], found: CheckedLog) -> None:
    """The last slot of every epoch but the newest is the seal that names the next epoch; seals are never deleted."""
    if not slots:
        return
    last_of = {slot.epoch: slot for slot in slots}
    epochs = sorted(last_of)
    named = {finding.where for finding in found.findings}
    if epochs[0] != 0 and slot_key(log, FIRST_SLOT) not in named:
        found.findings.append(Finding("error", slot_key(log, FIRST_SLOT), "the log's first seal is missing", _COPY))
    for epoch, following in pairwise(epochs):
        segment = segments.get(last_of[epoch])
        if segment is None or segment.sealed_by == following:
            continue
        missing = slot_key(log, segment.next_slot)
        if missing in named:
            continue
        what = f"the seal of epoch {epoch} by epoch {following} is missing: an old writer could come back"
        found.findings.append(Finding("error", missing, what, _COPY))


async def _check_journal(journal: JournalFile, found: CheckedLog, *, deep: bool) -> None:
    name = str(journal.path)
    try:
        contents = await asyncio.to_thread(read_journal, journal.path, journal.name)
    except FirnlineError as error:
        remedy = "restore it from a copy; without one, what was acknowledged with fsync and not uploaded is lost"
        found.findings.append(Finding("error", name, str(error), remedy))
        return
    if contents is None or found.end is None:
        return
    for entry in contents.entries:
        for index, data in enumerate(entry.records):
            if entry.first.sequence + index >= found.end:
                found.counts["journal_records"] += 1
                _note(data, entry.first.sequence + index, name, found, deep=deep)
    if contents.entries:
        found.end = max(found.end, contents.entries[-1].limit)
