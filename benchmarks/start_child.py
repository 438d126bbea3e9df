"""What `benchmarks.functions_start` measures: a Lambda environment up to its first answer.

Run by its path, with the role and a file of its event. Prints what that took as a line of JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time


class Context:
    """What Lambda says of an invocation."""

    memory_limit_in_mb = "1769"
    function_name = "cold"
    function_version = "$LATEST"
    invoked_function_arn = "arn:aws:lambda:us-east-1:000000000000:function:cold"
    aws_request_id = "cold"

    def get_remaining_time_in_millis(self) -> int:
        """Return a minute."""
        return 60_000


def cpu_s() -> float:
    """Return the CPU seconds of this process since it began, all threads, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main(handler: str, path: str) -> None:
    """Import the handler, give it the event twice, and print the times."""
    module, _, name = handler.rpartition(".")
    handle = getattr(importlib.import_module(module), name)
    imported = cpu_s()
    with open(path) as file:
        event = json.load(file)
    answer = handle(event, Context())
    found = {"import_cpu_s": imported, "cpu_s": cpu_s(), "at": time.monotonic()}
    again = time.perf_counter()
    handle(event, Context())
    found["again_s"] = time.perf_counter() - again
    found["status"] = answer.get("statusCode", 200)
    with open("/proc/self/status") as status:  # getrusage has the peak of the process that started this one
        found["peak_rss_bytes"] = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    print("\n" + json.dumps(found), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
