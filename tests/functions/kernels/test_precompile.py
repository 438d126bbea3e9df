"""Kernels that a build compiled are loaded at run time, wherever nothing can be written."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from functions.kernels.compiled import CPUS
from functions.kernels.precompile import SIGNATURES

ROOT = Path(__file__).parents[3]
PACKAGES = ("firnline", "service", "functions", "catalog", "storage")
CALLS = """
import json, numba, numpy
from numba.core import config, event
with event.install_recorder("numba:compile") as compiled:
    from functions.kernels.hashing import hash_strings, mix_words
    from functions.kernels.fuse import peel_slots
    words = numpy.arange(9, dtype=numpy.uint64)
    words.flags.writeable = False
    mix_words(words)
    offsets = numpy.array([0, 3], numpy.int64)
    hash_strings(numpy.frombuffer(b"abc", numpy.uint8), offsets)
    {more}
made = {each[1].data["dispatcher"].py_func for each in compiled.buffer}
ours = sorted(each.__name__ for each in made if each.__module__.startswith("functions."))
print(json.dumps([config.CPU_NAME, ours]))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages with the kernels of one module compiled, and no place for numba's own cache."""
    root = tmp_path_factory.mktemp("product")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "compiled"))
    for cpu in CPUS:
        done = python(root, "-m", "functions.kernels.precompile", "--cpu", cpu, "--only", "hashing")
        assert "compiled 4 signatures of 2 kernels" in done.stdout, done.stderr
    shutil.rmtree(root / "functions/kernels/__pycache__", ignore_errors=True)
    (root / "functions/kernels/__pycache__").write_text("no folder: root could write to one")
    return root


def python(root: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    environ = kept | {"HOME": "/proc/none", "XDG_CACHE_HOME": "/proc/none", "PYTHONDONTWRITEBYTECODE": "1"} | variables
    return subprocess.run(
        [sys.executable, *arguments], cwd=root, env=environ, capture_output=True, text=True, timeout=200, check=False
    )


def calls(root: Path, more: str = "", **variables: str) -> str:
    done = python(root, "-c", CALLS.replace("{more}", more), **variables)
    assert not done.returncode, done.stderr
    return done.stdout.strip()


def test_kernels_of_the_build_are_loaded_and_not_compiled(built: Path) -> None:
    assert calls(built) == '["x86-64-v3", []]'
    check = python(built, "-m", "functions.kernels.precompile", "--check", "--only", "hashing")
    assert (check.returncode, check.stderr) == (0, "")
    assert "loaded 4 of 4 signatures" in check.stdout


def test_a_kernel_that_the_build_did_not_compile_is_compiled_where_nothing_can_be_written(built: Path) -> None:
    assert calls(built, "peel_slots(numpy.arange(4, dtype=numpy.uint64), 4, 1)") == '["x86-64-v3", ["peel_slots"]]'
    check = python(built, "-m", "functions.kernels.precompile", "--check", "--only", "hashing", "gap_fill")
    assert check.returncode == 1
    assert "compiled here, not by the build: gap_fill.interpolate" in check.stderr


def test_a_machine_without_the_features_of_a_cpu_takes_the_code_for_every_machine(built: Path) -> None:
    other = 'from functions.kernels import compiled\ncompiled.CPUS["x86-64-v3"] |= {"none-has-this"}\n'
    script = other + CALLS.replace("{more}", "")
    done = python(built, "-c", script)
    assert done.stdout.strip() == '["generic", []]', done.stderr


def test_who_names_a_cpu_to_numba_gets_numbas_own_cache(built: Path) -> None:
    assert calls(built, NUMBA_CPU_NAME="generic") == '["generic", ["hash_strings", "mix_words"]]'


def test_every_kernel_that_the_product_calls_is_compiled_by_a_build() -> None:
    called = set()
    for name in PACKAGES:
        for path in (ROOT / name).rglob("*.py"):
            if path.parent.name == "kernels":
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("functions.kernels."):
                    called |= {f"{str(node.module).rpartition('.')[2]}.{each.name}" for each in node.names}
    vectors = {"vectors.cosine_distance", "vectors.l2_distance", "vectors.l2_squared_distance"}
    # `functions.sql_functions` takes the vectors' kernels by name.
    assert called | vectors == set(SIGNATURES)
