"""How kernels are compiled, and where their machine code is found: `kernel` is numba's ``njit`` with a cache of ours.

1. Machine code that was made at build time (`functions.kernels.precompile`) lies beside the kernels, in
   ``compiled/<CPU>/``, and is read there, from a place that may be read-only and for sources of any age: numba compares
   their hashes. The best CPU of `CPUS` that this machine can run is taken, and numba is told to compile for the same.
2. What is not there is compiled, and kept where numba keeps such things (``__pycache__``, the user's cache folder).
   Where nothing can be written, it is compiled for this process; numba alone would refuse to.
3. Who names a CPU to numba (``NUMBA_CPU_NAME``) gets numba's own ways.
"""

# numba has no types of its own that say what its caches and its settings are.
# mypy: disable-error-code="no-untyped-call,attr-defined,import-untyped,assignment"
from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from llvmlite import binding
from numba.core import caching, config

__all__ = ["COMPILED", "CPUS", "kernel"]

COMPILED = Path(__file__).with_name("compiled")
CPUS: dict[str, frozenset[str]] = {
    "x86-64-v3": frozenset(
        "avx avx2 bmi bmi2 cx16 f16c fma lzcnt movbe popcnt sahf sse3 sse4.1 sse4.2 ssse3 xsave".split(" ")  # noqa: SIM905
    ),
    "generic": frozenset(),
}
"""LLVM's name of a CPU → the features that a machine must have to run its code; the best first."""


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator: `numba.njit` with ``options``, its machine code cached as this module says."""

    _built()  # before numba makes its first function, when it fixes what CPU it compiles for

    def compiled(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(**options)(function)
        if dispatcher is not function:  # it is, where numba was told not to compile (NUMBA_DISABLE_JIT)
            dispatcher._cache = _Caches(function)
        return dispatcher

    return compiled


class _BuildPlace(caching._SourceFileBackedLocatorMixin, caching._CacheLocator):
    """Where the build left a kernel's code; numba only ever reads it."""

    def __init__(self, py_func: Any, py_file: str, folder: Path) -> None:
        self._py_file, self._lineno, self._folder = py_file, py_func.__code__.co_firstlineno, folder

    def get_cache_path(self) -> str:
        return str(self._folder)

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> _BuildPlace | None:
        folder = _built()
        return cls(py_func, py_file, folder) if folder is not None else None


class _BuildCacheImpl(caching.CompileResultCacheImpl):
    _locator_classes = (_BuildPlace,)


class _BuildCache(caching.FunctionCache):
    _impl_class = _BuildCacheImpl


class _Caches(caching._Cache):
    """The build's cache of a kernel, then numba's own; either may not be there."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._build = _BuildCache(function) if _built() is not None else None
        try:
            self._own = caching.FunctionCache(function)
        except RuntimeError:  # no place can be written
            self._own = None

    @property
    def cache_path(self) -> str | None:
        first = self._build or self._own
        return None if first is None else str(first.cache_path)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        for each in (self._build, self._own):
            found = None if each is None else each.load_overload(sig, target_context)
            if found is not None:
                return found
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        if self._own is not None:
            with contextlib.suppress(OSError):  # a full disk: the kernel is compiled all the same
                self._own.save_overload(sig, data)

    def enable(self) -> None:
        """Do nothing: these caches are on."""

    def disable(self) -> None:
        self._build = self._own = None

    def flush(self) -> None:
        if self._own is not None:
            self._own.flush()


@cache
def _built() -> Path | None:
    """Return the folder of code that this machine can run, and tell numba which CPU that is for."""
    if config.CPU_NAME is not None or not COMPILED.is_dir():
        return None
    here = {name for name, has in binding.get_host_cpu_features().items() if has}
    for name, needed in CPUS.items():
        if needed <= here and (COMPILED / name).is_dir():
            config.CPU_NAME, config.CPU_FEATURES = name, ""
            return COMPILED / name
    return None
