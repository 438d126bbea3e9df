"""Compile the kernels at build time: ``python -m functions.kernels.precompile [--cpu NAME] [--into DIR] [--check]``.

`SIGNATURES` says with which types the product calls each kernel; what is not listed is compiled when first called.
A build runs this once for each CPU that its machines may have; `functions.kernels.compiled` finds the outcome.
"""

# mypy: disable-error-code="attr-defined"
from __future__ import annotations

import argparse
import importlib
import itertools
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ["SIGNATURES", "main"]

SIGNATURES: dict[str, tuple[str, ...]] = {
    "fuse.assign_slots": ("u8[] u4[] u4[] u1[] i8 i8 i8 i8",),
    "fuse.find_values": ("u8[]? u8[]? u8 i8 i8 i8 i8",),
    "fuse.order_keys": ("u8[]? u4[]? u8 i8 i8",),
    "fuse.peel_slots": ("u8[] i8 i8",),
    "gap_fill.interpolate": ("f8[]? i8[] i8[] i8[] i8[]",),
    "gap_fill.known_after": ("i8[] b1[] i8",),
    "gap_fill.known_before": ("i8[] b1[] i8",),
    "gap_fill.place_rows": ("i8[] i8[] i8 i8",),
    "hashing.hash_strings": ("u1[]? i8[]",),
    "hashing.mix_words": ("u8[]?",),
    "pla.fit_segments": ("u8[]? i8",),
    "pla.predict_positions": ("u8[]? u8[] f8[] f8[] i8", "u8[]? u8[]! f8[]! f8[]! i8"),
    "time_bucket.bucket_by_length": ("i8[]? i8 i8",),
    "time_bucket.bucket_by_months": ("i8[]? i8 i8",),
    "time_bucket.month_starts": ("i8 i8 i8 i8",),
    "vectors.cosine_distance": ("f8[]? f8[]? i8[]", "f4[]? f4[]? i8[]"),
    "vectors.l2_distance": ("f8[]? f8[]? i8[]", "f4[]? f4[]? i8[]"),
    "vectors.l2_squared_distance": ("f8[]? f8[]? i8[]", "f4[]? f4[]? i8[]"),
}
"""Kernel → types of its arguments as NumPy writes them; ``[]``: an array, ``[]!``: a read-only one, ``[]?``: either."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command. Return 1 if ``--check`` finds a kernel that would be compiled at run time."""
    from functions.kernels.compiled import COMPILED, CPUS

    parser = argparse.ArgumentParser(prog="python -m functions.kernels.precompile", description=__doc__)
    machine = platform.machine() in ("x86_64", "AMD64")
    parser.add_argument("--cpu", choices=list(CPUS), default="x86-64-v3" if machine else "generic")
    parser.add_argument("--into", type=Path, default=COMPILED, help="the folder compiled/ beside the kernels")
    parser.add_argument("--only", nargs="+", default=[], metavar="MODULE", help="these of functions.kernels")
    parser.add_argument("--check", action="store_true", help="compile nothing; fail if a kernel would be compiled")
    given = parser.parse_args(arguments)
    names = [each for each in SIGNATURES if not given.only or each.split(".")[0] in given.only]
    if given.check:
        return _check(names)
    n, seconds = _compile(names, given.cpu, given.into)
    print(f"compiled {n} signatures of {len(names)} kernels for {given.cpu} in {seconds:.1f} s: {given.into}")
    return 0


def _compile(names: Sequence[str], cpu: str, into: Path) -> tuple[int, float]:
    """Fill ``into/<cpu>`` anew."""
    from numba.core import config

    started = time.perf_counter()
    # Before a kernel is imported: a CPU that is named keeps what an earlier build left out of the way.
    config.CPU_NAME, config.CPU_FEATURES = cpu, ""
    with tempfile.TemporaryDirectory() as folder:
        config.CACHE_DIR = folder
        n = sum(1 for _ in _loaded(names))
        shutil.rmtree(into / cpu, ignore_errors=True)
        (into / cpu).mkdir(parents=True)
        for made in Path(folder).rglob("*.nb[ic]"):
            shutil.copyfile(made, into / cpu / made.name)
    return n, time.perf_counter() - started


def _check(names: Sequence[str]) -> int:
    """Load every kernel, and say how long that took and which were compiled."""
    started = time.perf_counter()
    n, missed = 0, []
    for name, dispatcher in _loaded(names):
        n += 1
        if dispatcher.stats.cache_misses:
            missed.append(name)
    seconds = time.perf_counter() - started
    print(f"loaded {n - len(missed)} of {n} signatures of kernels in {seconds:.2f} s")
    if missed:
        print(f"compiled here, not by the build: {', '.join(sorted(set(missed)))}", file=sys.stderr)
    return 1 if missed else 0


def _loaded(names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield (name, dispatcher) after each signature was loaded or compiled."""
    for name in names:
        module, function = name.split(".")
        dispatcher = getattr(importlib.import_module(f"functions.kernels.{module}"), function)
        for signature in SIGNATURES[name]:
            for types in _types(signature):
                dispatcher.compile(types)
                yield name, dispatcher


def _types(signature: str) -> list[tuple[Any, ...]]:
    """Return numba's types for a row of `SIGNATURES`."""
    import numpy as np
    from numba import from_dtype, types

    choices = []
    for text in signature.split():
        number, _, kind = text.partition("[]")
        scalar = from_dtype(np.dtype(number))
        if "[]" not in text:
            choices.append([scalar])
            continue
        readonly = {"": (False,), "!": (True,), "?": (False, True)}[kind]
        choices.append([types.Array(scalar, 1, "C", readonly=each) for each in readonly])
    return list(itertools.product(*choices))


if __name__ == "__main__":
    sys.exit(main())
