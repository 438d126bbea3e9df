"""Proves of an image, from inside: every module loads, and nothing is compiled at run time: no bytecode, no kernel.

Exits with 1 and says what is wrong, else prints what it took. The image's build ends with it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import shutil
import sys
import tempfile
import time
from pathlib import Path

PACKAGES = ("storage", "catalog", "functions", "service", "firnline")
NOT_HERE = {"ray", "tpchgen_cli"}
"""Packages that the image does not have: Ray has images of its own, and the demo makes its data at home."""
STATEMENTS = (
    "CREATE TABLE t USING delta ORDER BY (id) AS SELECT value AS id, md5(CAST(value AS VARCHAR)) AS name, "
    "CAST(value % 97 AS DOUBLE) AS x, to_timestamp(value * 60) AS ts FROM generate_series(1, 20000)",
    "CREATE INDEX i ON t (id) USING learned",
    "CREATE INDEX j ON t (name) USING locator",
    "SELECT x FROM t WHERE id = 77",
    "SELECT x FROM t WHERE name = md5('77')",
    "SELECT count(*), sum(x) FROM t GROUP BY id % 7",
    "SELECT time_bucket(INTERVAL '7 minutes', ts) AS b, count(*) FROM t GROUP BY b",
    "SELECT time_bucket(INTERVAL '1 month', ts, to_timestamp(0)) AS b, count(*) FROM t GROUP BY b",
    "SELECT b, v FROM gap_fill((SELECT time_bucket(INTERVAL '2 hours', ts) AS b, avg(x) AS v FROM t "
    "WHERE id % 5000 = 1 GROUP BY b), 'b', '2 hours', fill => 'linear') AS g",
    "SELECT b, v FROM gap_fill((SELECT time_bucket(INTERVAL '2 hours', ts) AS b, max(x) AS v FROM t "
    "WHERE id % 5000 = 1 GROUP BY b), 'b', '2 hours', fill => 'locf') AS g",
    "SELECT l2_distance([1.0, 2.0], [x, 3.0]), l2_squared_distance([1.0, 2.0], [x, 3.0]) FROM t",
    "UPDATE t SET x = 1 WHERE id < 10",
    "OPTIMIZE t",
)


def main() -> int:
    """Run every check."""
    failures = [*load_all()]
    failures += run_kernels()
    failures += without_bytecode()
    failures += unwanted()
    for each in failures:
        print(f"wrong in this image: {each}", file=sys.stderr)
    return 1 if failures else 0


def load_all() -> list[str]:
    """Import every module of the product."""
    started, n, failures = time.perf_counter(), 0, []
    for package in PACKAGES:
        for found in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            try:
                importlib.import_module(found.name)
                n += 1
            except ModuleNotFoundError as error:
                if (error.name or "").partition(".")[0] not in NOT_HERE:
                    failures.append(f"{found.name} does not load: {error}")
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told
                failures.append(f"{found.name} does not load: {type(error).__name__}: {error}")
    for name in ("awslambdaric", "mangum", "aioboto3", "opentelemetry.sdk.trace"):
        importlib.import_module(name)
    print(f"loaded {n} modules of the product in {time.perf_counter() - started:.2f} s")
    return failures


def run_kernels() -> list[str]:
    """Use the kernels as statements do, and each with every type that the product calls it with."""
    from numba.core import config, event

    from firnline import connect
    from functions.kernels.precompile import main as precompile

    started = time.perf_counter()
    with event.install_recorder("numba:compile") as made:
        folder = tempfile.mkdtemp()
        with connect(f"{folder}/lake") as lake:
            for statement in STATEMENTS:
                lake.sql(statement)
            lake.lookup("t", list(range(1000)), by="id")
            lake.lookup("t", [f"{key:032x}" for key in range(1000)], by="name")
        shutil.rmtree(folder)
    functions = {each.data["dispatcher"].py_func for _, each in made.buffer}
    ours = sorted(each.__qualname__ for each in functions if each.__module__.startswith(PACKAGES))
    print(f"ran {len(STATEMENTS)} statements in {time.perf_counter() - started:.2f} s, kernels for {config.CPU_NAME}")
    failures = [f"the kernel {name} was compiled at run time" for name in ours]
    if precompile(["--check"]):
        failures.append("kernels were compiled at run time")
    return failures


def without_bytecode() -> list[str]:
    """Name the loaded modules that have no compiled bytecode."""
    sources = [module.__spec__ for module in list(sys.modules.values()) if getattr(module, "__spec__", None)]
    slow = [
        spec.origin for spec in sources
        if spec.origin and spec.origin.endswith(".py") and not (spec.cached and Path(spec.cached).exists())
    ]  # fmt: skip
    mine = [each for each in slow if Path(each) != Path(__file__)]
    print(f"{len(sources) - len(mine)} of {len(sources)} loaded modules are machine code or have compiled bytecode")
    return [f"no compiled bytecode: {each}" for each in sorted(mine)]


def unwanted() -> list[str]:
    """Name what an image of a service has no use for, and rights that it should not have."""
    failures = [f"{name} is in the image" for name in ("pip", "cc", "gcc", "make", "uv") if shutil.which(name)]
    failures += [f"the module {name} is in the image" for name in ("pip", "pytest") if importlib.util.find_spec(name)]
    if os.getuid() == 0:
        failures.append("it runs as root")
    failures += [f"{place} can be written" for place in sys.path if place and os.access(place, os.W_OK)]
    return failures


if __name__ == "__main__":
    sys.exit(main())
