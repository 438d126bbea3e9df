"""Makes the package etcd3 importable with today's protobuf, without touching it or the process.

etcd3 0.12.0, the last release, carries stubs that protoc wrote before 3.19. Protobuf 4 and later refuse to run them
("Descriptors cannot be created directly"), but each stub also carries its file descriptor in serialized form, which
every protobuf reads. So: take those bytes from the stubs' compiled code without running it, build the message classes
from them, and register the result under the stubs' module names before etcd3 imports them.

The descriptors live in a pool of their own: "kv.proto" and "rpc.proto" in the default pool would clash with any other
etcd client in the process. No environment variable is needed, and C++/upb parsing is kept. Found to work with
protobuf 4 to 7 on Python 3.11 to 3.13.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.internal import enum_type_wrapper

from storage.errors import UnsupportedError

__all__ = ["load_etcdrpc"]

_STUBS = ("kv", "auth", "rpc")
"""In order of dependence."""


def load_etcdrpc() -> Any:
    """Return the module ``etcd3.etcdrpc``. Raises `UnsupportedError` when etcd3 is not installed."""
    if "etcd3" not in sys.modules:
        spec = find_spec("etcd3")
        if spec is None or not spec.submodule_search_locations:
            raise UnsupportedError("etcd needs the package etcd3; install firnline[etcd]")
        folder = Path(spec.submodule_search_locations[0]) / "etcdrpc"
        pool = descriptor_pool.DescriptorPool()
        for stub in _STUBS:
            name = f"etcd3.etcdrpc.{stub}_pb2"
            pool.AddSerializedFile(_serialized(name, folder / f"{stub}_pb2.py", f"{stub}.proto"))
            sys.modules[name] = _module(name, pool.FindFileByName(f"{stub}.proto"))
    return importlib.import_module("etcd3.etcdrpc")


def _serialized(module: str, path: Path, proto: str) -> bytes:
    """Return the serialized descriptor among the constants of a stub's code; it begins with the file's name."""
    code = SourceFileLoader(module, str(path)).get_code(module)
    start = f"\n{chr(len(proto))}{proto}"
    found = [item for item in (code.co_consts if code else ()) if isinstance(item, str) and item.startswith(start)]
    if len(found) != 1:
        raise UnsupportedError("this release of etcd3 is laid out differently; install etcd3==0.12.0", path=str(path))
    return found[0].encode("latin1")


def _module(name: str, file: Any) -> ModuleType:
    """Return a module with the file's messages and enums, as protoc would have written it."""
    module = ModuleType(name)
    names: dict[str, Any] = {"DESCRIPTOR": file}
    for message, descriptor in file.message_types_by_name.items():
        names[message] = message_factory.GetMessageClass(descriptor)
    for enum, descriptor in file.enum_types_by_name.items():
        names[enum] = enum_type_wrapper.EnumTypeWrapper(descriptor)
        names.update((value.name, value.number) for value in descriptor.values)
    module.__dict__.update(names)
    return module
