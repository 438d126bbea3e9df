"""The stored form of a segment, in `functions.index.sections`; whatever is read is checked before it is used."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from functions.index.fuse_map import FuseMap
from functions.index.keyspace import COLUMNS_MAX, ColumnSpace, KeySpace
from functions.index.learned import Learned, Run
from functions.index.locator import Locator
from functions.index.ordinals import type_of
from functions.index.piecewise import PiecewiseLinear
from functions.index.places import MAPS_MAX, Places
from functions.index.sections import pack_sections, unpack_sections
from functions.index.segment import Segment
from functions.index.several import Several
from storage.errors import CorruptError
from storage.tables.slices import pack, unpack

__all__ = ["decode", "encode", "model_bytes"]

_Sections = dict[str, np.ndarray]
_ARITY = 4
"""Slots of a hash in a `FuseMap`."""
_RUN_ARRAYS = ("files", "smallest", "greatest", "first_rows")
_SPACE_NUMBERS = ("smallest", "greatest", "dropped", "shift")
_MODEL_ARRAYS = ("first_keys", "slopes", "intercepts")


def encode(segment: Segment) -> bytes:
    """Return the stored form of a segment."""
    header: dict[str, Any] = {
        "kind": segment.kind,
        "types": list(segment.types),
        "keys": segment.n_keys,
        "space": [
            {**{name: getattr(column, name) for name in _SPACE_NUMBERS}, "prefix": column.prefix.hex()}
            for column in (segment.space.columns if segment.space else ())
        ],
    }
    sections: _Sections = {
        "paths": _text(segment.paths),
        "etags": _text(segment.etags),
        "sizes": np.asarray(segment.sizes, np.int64),
        "layouts": np.frombuffer(pack(segment.layouts), np.uint8),
    }
    match segment.model:
        case Learned() as model:
            _add_learned(model, header, sections)
        case Locator() as model:
            _add_locator(model, header, sections)
        case None:
            pass
    return pack_sections(header, sections)


def _text(values: Sequence[str]) -> np.ndarray:
    return np.frombuffer(json.dumps(list(values), separators=(",", ":")).encode(), np.uint8)


def _add_places(places: Places, header: dict[str, Any], sections: _Sections) -> None:
    header["places"] = places.n_places
    header["maps"] = [
        {
            "shape": list(map(int, found.shape)),
            "fingerprint_bits": found.fingerprint_bits,
            "value_bits": found.value_bits,
            "n": found.n,
        }
        for found in places.maps
    ]
    for at, found in enumerate(places.maps):
        sections[f"map_{at}"] = found.words
    sections["several_hashes"] = places.several.hashes
    sections["several_counts"] = np.diff(places.several.firsts)
    sections["several_places"] = places.several.places


def _add_learned(model: Learned, header: dict[str, Any], sections: _Sections) -> None:
    header["runs"] = [
        {"files": len(run.files), "lines": len(run.model.first_keys), "error": run.model.error} for run in model.runs
    ]
    for name in _RUN_ARRAYS:
        sections[f"run_{name}"] = _joined([getattr(run, name) for run in model.runs])
    sections["run_rows"] = _joined([np.diff(run.firsts) for run in model.runs])
    for name in _MODEL_ARRAYS:
        sections[f"line_{name}"] = _joined([getattr(run.model, name) for run in model.runs])
    if model.filter is not None:
        _add_places(model.filter, header, sections)


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.empty(0, np.int64)


def _add_locator(model: Locator, header: dict[str, Any], sections: _Sections) -> None:
    _add_places(model.places, header, sections)
    sections["block_files"] = np.diff(model.block_files, prepend=0)
    sections["block_starts"] = model.block_starts
    sections["block_rows"] = model.block_limits - model.block_starts


def decode(data: bytes) -> Segment:
    """Return the segment of `encode`. Raises `CorruptError`."""
    header, sections = unpack_sections(data)
    try:
        return _segment(header, sections)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise CorruptError("a segment of an index does not hold what it should", reason=repr(error)) from error


def _segment(header: Mapping[str, Any], sections: _Sections) -> Segment:
    kind, types = header["kind"], tuple(map(str, header["types"]))
    for name in types:
        type_of(name)
    paths, etags, sizes = _strings(sections["paths"]), _strings(sections["etags"]), sections["sizes"]
    layouts = unpack(sections["layouts"].tobytes())
    _check(len(paths) == len(etags) == len(sizes) == len(layouts), "files")
    spaces = tuple(map(_column_space, header["space"]))
    _check(0 < len(types) <= COLUMNS_MAX and len(spaces) in (0, len(types)), "columns")
    _check(not spaces or spaces[0].shift >= 0, "columns")
    model: Learned | Locator | None = None
    if spaces:
        model = _learned(header, sections, len(paths)) if kind == "learned" else _locator(header, sections, len(paths))
    _check(kind in ("learned", "locator"), "kind")
    segment = Segment(
        kind, types, paths, sizes.astype(np.int64), etags, layouts, int(header["keys"]), 0,
        model.error if isinstance(model, Learned) else 0, KeySpace(spaces) if spaces else None, model,
    )  # fmt: skip
    return replace(segment, n_bytes=model_bytes(segment) + layouts.n_bytes)


def model_bytes(segment: Segment) -> int:
    """Return the bytes that the models and the names of the files take in memory."""
    names = sum(map(len, segment.paths)) + sum(map(len, segment.etags)) + int(segment.sizes.nbytes)
    return names + (segment.model.n_bytes if segment.model else 0)


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise CorruptError("parts of a segment of an index do not fit each other", part=what)


def _strings(section: np.ndarray) -> list[str]:
    values = json.loads(section.tobytes())
    _check(isinstance(values, list) and all(isinstance(value, str) for value in values), "names")
    found: list[str] = values
    return found


def _column_space(stored: Mapping[str, Any]) -> ColumnSpace:
    space = ColumnSpace(
        int(stored["smallest"]), int(stored["greatest"]), bytes.fromhex(stored["prefix"]), int(stored["dropped"]),
        int(stored["shift"]),
    )  # fmt: skip
    _check(0 <= space.smallest <= space.greatest < 1 << 128, "columns")
    _check(0 <= space.dropped <= 128 and -1 <= space.shift <= 64, "columns")
    return space


def _map(stored: Mapping[str, Any], words: np.ndarray) -> FuseMap:
    seed, length, count = map(int, stored["shape"])
    found = FuseMap(
        words, (seed, length, count), int(stored["fingerprint_bits"]), int(stored["value_bits"]), int(stored["n"])
    )
    if found.n == 0:
        return found
    width = found.fingerprint_bits + found.value_bits
    slots = length * (count + _ARITY - 1)
    _check(found.n > 0 and words.dtype == np.uint64 and 0 <= seed < 1 << 64, "map")
    _check(0 < length <= 1 << 32 and not length & (length - 1) and count > 0 and length * count <= 1 << 32, "map")
    _check(min(found.fingerprint_bits, found.value_bits) >= 0 and 0 < width <= 57, "map")
    # The last slot, and the word behind that in which it may end.
    _check((slots - 1) * width // 64 + 1 < len(words), "map")
    return found


def _places(header: Mapping[str, Any], sections: _Sections, n_places: int) -> Places:
    _check(header["places"] == n_places and 0 < len(header["maps"]) <= MAPS_MAX, "places")
    maps = tuple(_map(stored, sections[f"map_{at}"]) for at, stored in enumerate(header["maps"]))
    return Places(maps, _several(sections, n_places), n_places)


def _several(sections: _Sections, n_places: int) -> Several:
    hashes, counts, places = (sections[f"several_{name}"] for name in ("hashes", "counts", "places"))
    _check(len(hashes) == len(counts) and bool((counts > 0).all()), "several")
    firsts = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
    _check(int(firsts[-1]) == len(places) and bool((places < n_places).all()), "several")
    return Several(hashes.astype(np.uint64, copy=False), firsts, places)


def _learned(header: Mapping[str, Any], sections: _Sections, n_files: int) -> Learned:
    runs: list[Run] = []
    files_of, lines_of = _cutter(sections), _cutter(sections)
    for stored in header["runs"]:
        n, m = int(stored["files"]), int(stored["lines"])
        _check(n > 0 and m > 0, "runs")
        files, smallest, greatest, first_rows = (files_of(f"run_{name}", n) for name in _RUN_ARRAYS)
        rows = files_of("run_rows", n)
        first_keys, slopes, intercepts = (lines_of(f"line_{name}", m) for name in _MODEL_ARRAYS)
        _check(bool(((files >= 0) & (files < n_files) & (rows > 0) & (first_rows >= 0)).all()), "runs")
        _check(bool((smallest <= greatest).all() and (smallest[1:] >= greatest[:-1]).all()), "runs")
        _check(bool((first_keys[1:] > first_keys[:-1]).all() and np.isfinite(slopes).all()), "lines")
        firsts = np.concatenate(([0], np.cumsum(rows, dtype=np.int64)))
        _check(bool(((intercepts >= 0) & (intercepts <= firsts[-1])).all() and (slopes >= 0).all()), "lines")
        model = PiecewiseLinear(first_keys, slopes, intercepts, int(firsts[-1]), int(stored["error"]))
        runs.append(Run(files, smallest, greatest, first_rows, firsts, model))
    return Learned(tuple(runs), _places(header, sections, len(runs)) if "maps" in header else None)


def _cutter(sections: _Sections) -> Callable[[str, int], np.ndarray]:
    """Return a function that cuts the next ``n`` off a section; it fails where there are fewer."""
    used: dict[str, int] = {}

    def cut(name: str, n: int) -> np.ndarray:
        start = used.get(name, 0)
        used[name] = start + n
        part = sections[name][start : start + n]
        _check(len(part) == n, name)
        return part

    return cut


def _locator(header: Mapping[str, Any], sections: _Sections, n_files: int) -> Locator:
    files = np.cumsum(sections["block_files"], dtype=np.int64)
    starts, rows = sections["block_starts"], sections["block_rows"]
    _check(len(files) == len(starts) == len(rows), "blocks")
    _check(bool(((files >= 0) & (files < n_files) & (starts >= 0) & (rows > 0)).all()), "blocks")
    return Locator(_places(header, sections, len(files)), files, starts, starts + rows)
