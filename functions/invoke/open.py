"""`open_invoker`: where tasks run, from the text of ``FIRN_FUNCTIONS``. The only place where a backend is chosen.

=========================  ===========================================================================================
``inline``                 this process
``processes``              worker processes of this machine, one for each core; ``processes:4``: four
``http://``, ``https://``  workers behind a URL: ``firn worker``, a Knative service
``lambda:NAME``            an AWS Lambda function: its name, ``NAME:ALIAS`` or ARN
``ray``                    Ray, started on this machine; ``ray://HOST:PORT`` or ``ray:HOST:PORT``: a cluster that runs
=========================  ===========================================================================================
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from functions.invoke import Invoker, InvokerLimits
from functions.invoke.worker import OpenTasks
from storage.clock import Clock
from storage.errors import InvalidError
from storage.stores import Stores

__all__ = ["InvokerOptions", "open_invoker"]


@dataclass(frozen=True)
class InvokerOptions:
    """What some backends are told beside the text.

    concurrency : tasks at once; 0: as many as the backend has places for
    memory_bytes : that a worker process may hold; 0: no limit
    stores, lake : where messages that are too large for a Lambda event lie meanwhile; None: they are refused
    endpoint, region : of AWS's Lambda; None: AWS's own
    ca_file : PEM file of the CA that signed an https worker's certificate; None: the system's
    secret : that messages are signed with, so that workers behind a URL know beforehand whose they are; none: they read
        shorter ones only (`functions.admission`)
    """

    concurrency: int = 0
    memory_bytes: int = 0
    stores: Stores | None = None
    lake: str | None = None
    endpoint: str | None = None
    region: str | None = None
    ca_file: str | None = None
    secret: bytes = field(default=b"", repr=False)


async def open_invoker(
    url: str, open_tasks: OpenTasks | None, clock: Clock, options: InvokerOptions | None = None
) -> Invoker:
    """Return the invoker; who opened it closes it.

    Parameters
    ----------
    open_tasks : what runs tasks on this machine or in Ray; workers behind a URL and Lambda functions have their own

    Raises
    ------
    InvalidError : the text says no place, or a library that it needs is not installed
    """
    options = options or InvokerOptions()
    if url.startswith(("http://", "https://")):
        from functions.invoke.http import HttpInvoker

        return HttpInvoker(url, clock, concurrency=options.concurrency, ca_file=options.ca_file, secret=options.secret)
    kind, _, rest = url.partition(":")
    if kind == "lambda":
        return await _lambda(rest, clock, options)
    if open_tasks is None and kind in ("inline", "processes", "ray"):
        raise InvalidError("nothing is said of what runs tasks there", functions=url)
    if kind == "inline" and not rest:
        assert open_tasks is not None
        from functions.invoke.inline import InlineInvoker

        return InlineInvoker(open_tasks, InvokerLimits(concurrency=options.concurrency or _cores()))
    if kind == "processes":
        assert open_tasks is not None
        from functions.invoke.processes import ProcessInvoker, process_settings

        n_processes = _count(url, rest) or options.concurrency
        return ProcessInvoker(open_tasks, clock, process_settings(n_processes, memory_bytes=options.memory_bytes))
    if kind == "ray":
        assert open_tasks is not None
        from functions.invoke.ray_ import open_ray

        address = url if url.startswith("ray://") else rest
        return await open_ray(open_tasks, address, concurrency=options.concurrency)
    raise InvalidError(
        "tasks run nowhere of that name; write inline, processes:N, https://…, lambda:NAME or ray", functions=url
    )


async def _lambda(name: str, clock: Clock, options: InvokerOptions) -> Invoker:
    from functions.invoke.lambda_ import open_lambda

    if not name:
        raise InvalidError("the Lambda function has no name; write lambda:NAME", functions="lambda:")
    return await open_lambda(
        name, clock, stores=options.stores, lake=options.lake, endpoint=options.endpoint, region=options.region,
        concurrency=options.concurrency,
    )  # fmt: skip


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _count(url: str, text: str) -> int:
    if text and not (text.isdecimal() and 0 < int(text) <= 1000):
        raise InvalidError("write a number of processes from 1 to 1000, such as processes:4", functions=url)
    return int(text or 0)
