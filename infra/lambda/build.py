"""Builds the slim zip of the query worker for AWS Lambda: ``make lambda-zip``.

    python infra/lambda/build.py [--python 3.13] [--arch x86_64|arm64] [--to build/lambda-zip]

The zip has what ``functions.aws.worker`` needs to run pieces of queries, and nothing else: storage, catalog, functions
and the settings, with what uv.lock pins for the base install. Libraries lose what no worker loads (a test runs the
worker without it), and their debuggers' names; Python files are compiled. It ends with a check of the unzipped size
against Lambda's limit. The same input gives the same zip.

Lambda's own ``python3.11`` has glibc 2.26, which pyarrow's wheels do not load with: take python3.12 or newer. The
interpreter of that version has to be on this machine, to compile for it. For another architecture wheels are taken
for it, and ``llvm-strip`` is needed.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
UNZIPPED_BYTES_MAX = 262_144_000
"""Of a function's code with all its layers."""
_PACKAGES = ("storage", "catalog", "functions")
_PUBLIC = ("__init__.py", "settings.py", "settings_text.py")
"""Of the package ``firnline``: where the environment is read."""
_UNUSED = (
    # Arrow Flight, file systems of its own, Substrait and Gandiva from Python, Hadoop: we read through obstore.
    "pyarrow/libarrow_flight.so*", "pyarrow/libarrow_python_flight.so*", "pyarrow/_flight.*", "pyarrow/flight.py",
    "pyarrow/libarrow_s3.so*", "pyarrow/_s3fs.*", "pyarrow/_gcsfs.*", "pyarrow/_azurefs.*", "pyarrow/_hdfs.*",
    "pyarrow/_substrait.*", "pyarrow/substrait.py", "pyarrow/libarrow_substrait.so*",
    "pyarrow/libarrow_gcs.so*", "pyarrow/libarrow_azure.so*",
    "pyarrow/libarrow_python_parquet_encryption.so*", "pyarrow/_parquet_encryption.*",
    "pyarrow/_dataset_parquet_encryption.*", "pyarrow/_feather.*", "pyarrow/_cuda*", "pyarrow/jvm.py",
    # What C++ programs are built with, and tests.
    "pyarrow/include", "pyarrow/src", "pyarrow/tests", "pyarrow/includes", "pyarrow/conftest.py",
    "pyarrow/libarrow_python.so", "pyarrow/libarrow_python.so.*.*", "pyarrow/_pyarrow_cpp_tests.*",
    "numpy/f2py", "numpy/_core/include", "numpy/_core/lib", "numpy/**/tests", "numpy/distutils", "numpy/typing/tests",
    "numpy/_pyinstaller", "numpy/random", "numpy/polynomial", "numpy/fft", "numpy/testing",
    "numpy/_core/_umath_tests.*", "numpy/_core/_simd.*", "numpy/_core/_operand_flag_tests.*",
    "numpy/_core/_rational_tests.*", "numpy/_core/_struct_ufunc_tests.*", "numpy/_core/_multiarray_tests.*",
    # zstandard runs on its C backend.
    "zstandard/_cffi.*", "zstandard/backend_cffi.py", "zstandard/backend_rust.*",
    "bin", "**/__pycache__", "**/*.pyi", "**/*.pyx", "**/*.pxd", "**/*.pxi", "**/*.h", "**/*.a", "**/*.lib",
)  # fmt: skip
_LINKED_IN_VAIN = "libarrow_substrait.so.*"
"""What Arrow's Python names as needed in each of its libraries, and calls in none that is kept."""
_STRIPPED = ("pyarrow/*.so*", "obstore/*.so", "zstandard/*.so", "pyroaring*.so", "datafusion/*.so")
"""Not numpy's libraries: what auditwheel has changed is not loaded any more after ``strip``."""
_PLATFORMS = {"x86_64": "x86_64-manylinux_2_28", "arm64": "aarch64-manylinux_2_28"}
_TIME = (1980, 1, 1, 0, 0, 0)


def build(folder: Path, python: str, arch: str) -> Path:
    """Build into ``folder``/python and return the zip beside it; `report` has the sizes. Raises `SystemExit`."""
    uv = _uv()
    interpreter = interpreter_of(python)
    code = folder / f"python{python}-{arch}"
    shutil.rmtree(code, ignore_errors=True)
    code.mkdir(parents=True)
    _install(uv, python, arch, code, folder)
    for package in _PACKAGES:
        shutil.copytree(_ROOT / package, code / package, ignore=shutil.ignore_patterns("__pycache__", "README.md"))
    (code / "firnline").mkdir()
    for name in _PUBLIC:
        shutil.copy(_ROOT / "firnline" / name, code / "firnline" / name)
    _unlink(code)
    _prune(code)
    _strip(code, arch)
    _compress_blas(code)
    compiled = [interpreter, "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash"]
    _said([*compiled, "-s", str(code), "-p", "/var/task", str(code)], "the bytecode could not be compiled")
    return _zip(code)


def _install(uv: str, python: str, arch: str, code: Path, folder: Path) -> None:
    wanted = folder / "requirements.txt"
    export = ["export", "--frozen", "--quiet", "--no-dev", "--no-emit-project", "--no-header", "--no-annotate"]
    _said([uv, *export, "--output-file", str(wanted)], "uv.lock could not be read")
    _said(
        [uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:",
         "--link-mode", "copy", "--python", sys.executable,
         "--python-version", python, "--python-platform", _PLATFORMS[arch],
         "--target", str(code), "--requirements", str(wanted)],
        "the packages could not be installed",
    )  # fmt: skip


def _unlink(code: Path) -> None:
    """Have Arrow's libraries load without the one that they name in vain: it takes 4 MB and a moment."""
    from elf import forget  # type: ignore[import-not-found]

    names = [path.name for path in (code / "pyarrow").glob(_LINKED_IN_VAIN)]
    for path in (code / "pyarrow").glob("*.so*"):
        for name in names:
            forget(path, name)


def _prune(code: Path) -> None:
    for pattern in _UNUSED:
        for path in sorted(code.glob(pattern), reverse=True):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.exists():
                path.unlink()
    for folder in code.glob("*.dist-info/sboms"):
        shutil.rmtree(folder)
    for path in code.glob("*.dist-info/*"):
        # Versions are asked for by name; licences stay; the rest is for installers.
        if path.name != "METADATA" and path.is_file():
            path.unlink()


def _strip(code: Path, arch: str) -> None:
    own = platform.machine() == ("x86_64" if arch == "x86_64" else "aarch64")
    tool = shutil.which("strip") if own else None
    tool = tool or shutil.which("llvm-strip")
    if tool is None:
        raise SystemExit("lambda-zip: strip (binutils) or llvm-strip is needed: names for debuggers take 30 MB")
    for pattern in _STRIPPED:
        for path in code.glob(pattern):
            if not path.is_symlink():
                _said([tool, "--strip-unneeded", str(path)], f"{path.name} could not be stripped")


def _compress_blas(code: Path) -> None:
    """Put numpy's OpenBLAS aside in a form that takes a fifth of the room; `blas` loads it."""
    from zstandard import ZstdCompressor

    for path in (code / "numpy.libs").glob("libscipy_openblas*.so"):
        path.with_suffix(".zst").write_bytes(ZstdCompressor(level=15).compress(path.read_bytes()))
        path.unlink()
        shutil.copy(Path(__file__).parent / "blas.py", code / "numpy" / "_distributor_init_local.py")


def _zip(code: Path) -> Path:
    """Pack the folder, files in order and without times; links have become files."""
    found = code.with_name(f"firnline-worker-{code.name}.zip")
    with zipfile.ZipFile(found, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for path in _files(code):
            entry = zipfile.ZipInfo(str(path.relative_to(code)), _TIME)
            entry.external_attr = 0o755 << 16 if ".so" in path.name else 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())
    return found


def report(code: Path, archive: Path) -> dict[str, object]:
    """Return the sizes: of the zip, of all that is in it, and of its largest parts."""
    parts: dict[str, int] = {}
    for path in _files(code):
        top = path.relative_to(code).parts[0]
        parts[top] = parts.get(top, 0) + path.stat().st_size
    largest = dict(sorted(parts.items(), key=lambda each: -each[1])[:8])
    return {"zip": archive.name, "zip_bytes": archive.stat().st_size, "unzipped_bytes": sum(parts.values()),
            "limit_bytes": UNZIPPED_BYTES_MAX, "largest": largest}  # fmt: skip


def _files(code: Path) -> Iterator[Path]:
    return (path for path in sorted(code.rglob("*")) if path.is_file())


def interpreter_of(python: str) -> str:
    """Return an interpreter of a version. Raises `SystemExit`."""
    pyenv = sorted(Path.home().glob(f".pyenv/versions/{python}.*/bin/python"), reverse=True)
    for each in [shutil.which(f"python{python}"), *map(str, pyenv)]:
        if each is None:
            continue
        done = subprocess.run([each, "--version"], capture_output=True, text=True, check=False)
        if not done.returncode and done.stdout.startswith(f"Python {python}."):
            return each
    raise SystemExit(f"lambda-zip: there is no python{python} on this machine to compile with; choose another --python")


def _uv() -> str:
    own = _ROOT / ".tools" / "bin" / "uv"
    found = str(own) if own.exists() else shutil.which("uv")
    if found is None:
        raise SystemExit("lambda-zip: uv is needed; make setup installs it")
    return found


def _said(command: list[str], failure: str) -> str:
    """Run a command and return what it said. Raises `SystemExit` with ``failure``."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=_ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"lambda-zip: {failure}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout.strip()


def main(arguments: list[str]) -> None:
    """Build as the command line says, and print the sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="3.13", choices=("3.12", "3.13"))
    own = "x86_64" if platform.machine() == "x86_64" else "arm64"
    parser.add_argument("--arch", default=own, choices=tuple(_PLATFORMS))
    parser.add_argument("--to", type=Path, default=_ROOT / "build" / "lambda-zip")
    options = parser.parse_args(arguments)
    archive = build(options.to, options.python, options.arch)
    found = report(options.to / f"python{options.python}-{options.arch}", archive)
    print(json.dumps(found, indent=2))
    if int(str(found["unzipped_bytes"])) > UNZIPPED_BYTES_MAX:
        raise SystemExit(f"lambda-zip: Lambda takes {UNZIPPED_BYTES_MAX} bytes unzipped")


if __name__ == "__main__":
    main(sys.argv[1:])
