"""The demo lake's data: TPC-H as Parquet by tpchgen-cli, and from it a Delta and an Iceberg table with a history.

Everything lies under ``<lake>/data``. The folder is made once; one that was left half made, or that has been moved
(Iceberg's metadata names its files by absolute path), is made again.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.errors import InternalError, InvalidError

__all__ = ["make_data"]

_NOTE = "demo.json"
_FORGOTTEN_CUSTOMER = 1
_FIRST_LOAD = "first_load"
_PARTS = 4


def make_data(lake: Path, scale: float, say: Callable[[str], None]) -> Path:
    """Return the folder of the demo's data, made if it is not there; ``say`` hears of each step.

    Raises `InvalidError` if the folder holds something else, or a package that makes the data is missing.
    """
    data = lake.resolve() / "data"
    note = {"demo": 1, "scale": scale, "path": str(data)}
    found = _read_note(data)
    if found == note:
        return data
    if data.exists() and found is None:
        raise InvalidError("this folder was not made by the demo; give another with --lake", folder=str(data))
    _check_packages()
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    _write_note(data, {"demo": 1, "state": "being made"})
    _parquet(data / "parquet", scale, say)
    _delta(data / "parquet" / "orders.parquet", data / "delta" / "orders", say)
    _iceberg(data / "parquet" / "customer.parquet", data / "iceberg", say)
    _write_note(data, note)
    return data


def _check_packages() -> None:
    missing = [name for name in ("deltalake", "pyiceberg", "sqlalchemy", "fastavro") if find_spec(name) is None]
    if missing:
        raise InvalidError("the demo writes tables with other packages: pip install 'firnline[all]'", missing=missing)


def _read_note(data: Path) -> object:
    try:
        return json.loads((data / _NOTE).read_text())
    except (OSError, ValueError):
        return None


def _write_note(data: Path, note: object) -> None:
    (data / _NOTE).write_text(json.dumps(note) + "\n")


def _parquet(folder: Path, scale: float, say: Callable[[str], None]) -> None:
    say(f"TPC-H at scale {scale:g} as Parquet, by tpchgen-cli")
    _generate(folder, scale, ["--tables", "lineitem", "--parts", str(_PARTS)])
    _generate(folder, scale, ["--tables", "customer,nation,orders,region"])


def _generate(folder: Path, scale: float, options: list[str]) -> None:
    program = shutil.which("tpchgen-cli", path=str(Path(sys.executable).parent)) or shutil.which("tpchgen-cli")
    if program is None:
        raise InvalidError("the demo's data is made by tpchgen-cli; install it: pip install 'firnline[all]'")
    command = [program, "parquet", "--quiet", "--scale-factor", str(scale), "--output-dir", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InternalError("tpchgen-cli failed", said=done.stderr.strip()[-500:])


def _delta(source: Path, folder: Path, say: Callable[[str], None]) -> None:
    """Write three versions: the orders before 1998; with 1998; without those of one customer."""
    from deltalake import DeltaTable, write_deltalake

    say("orders as a Delta table: partitioned by year, three versions")
    orders = _plain(pq.read_table(source))
    orders = orders.append_column("o_orderyear", pc.cast(pc.year(orders["o_orderdate"]), pa.int32()))
    late = pc.equal(orders["o_orderyear"], 1998)
    write_deltalake(str(folder), orders.filter(pc.invert(late)), partition_by=["o_orderyear"])
    write_deltalake(str(folder), orders.filter(late), mode="append", partition_by=["o_orderyear"])
    DeltaTable(str(folder)).delete(f"o_custkey = {_FORGOTTEN_CUSTOMER}")


def _iceberg(source: Path, folder: Path, say: Callable[[str], None]) -> None:
    """Write two snapshots, the first tagged: the customers with an even key; all."""
    say("customer as an Iceberg table: partitioned by segment, two snapshots, a tag")
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pyiceberg.catalog.sql import SqlCatalog
        from pyiceberg.transforms import IdentityTransform

        customers = _plain(pq.read_table(source))
        even = pc.equal(pc.bit_wise_and(customers["c_custkey"], 1), 0)
        catalog = SqlCatalog("demo", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}")
        catalog.create_namespace("demo")
        table = catalog.create_table("demo.customer", customers.schema, location=f"file://{folder}/customer")
        with table.update_spec() as spec:
            spec.add_field("c_mktsegment", IdentityTransform(), "c_mktsegment")
        table.append(customers.filter(even))
        first = table.current_snapshot()
        if first is not None:
            table.manage_snapshots().create_tag(first.snapshot_id, _FIRST_LOAD).commit()
        table.append(customers.filter(pc.invert(even)))
        catalog.close()


def _plain(table: pa.Table) -> pa.Table:
    """Return the table with plain strings and without the field ids of the file it was read from."""
    fields = [pa.field(each.name, pa.string() if _is_text(each.type) else each.type) for each in table.schema]
    return table.cast(pa.schema(fields))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_string_view(kind) or pa.types.is_large_string(kind))
