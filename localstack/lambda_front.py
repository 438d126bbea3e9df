"""AWS Lambda on this machine: functions under AWS's own emulators, behind the HTTP interface that boto3 speaks.

    python localstack/lambda_front.py --port 9001 --function firnline-worker=functions.aws.worker,concurrency=4
    python localstack/lambda_front.py --port 9001 --config functions.json --url firnline-query=9002

``--function NAME=HANDLER[,memory_mb=N][,timeout_s=N][,concurrency=N]`` gives a function the ``FIRN_``, ``AWS_`` and
``OTEL_`` variables of this process. ``--config`` names a JSON file, ``{"functions": {NAME: {"handler": …,
"environment": {…}, …}}}``, with the members of `lambda_environment.Function`; such a function sees the variables of
its ``environment`` only. ``--url NAME=PORT`` serves a function as its Function URL would (`lambda_url`). Port 0 takes
a free one. Prints a line for each URL, and at last ``listening on http://…``; SIGTERM and SIGINT end it and all that
it started. Nothing is started for a function before its first invocation, and nothing is left ``--idle`` seconds after
its last.

What it has of Lambda: synchronous and ``Event`` invocations; 429 ``TooManyRequestsException`` past a function's
concurrency; 413 past 6 MiB (1 MiB for events); answers past 6 MiB, exceptions, crashes, timeouts and too much memory as
``X-Amz-Function-Error``; environments that are frozen between invocations and killed without notice; a function's
configuration and concurrency, and the account's. What it has not: credentials are not looked at, so it listens on the
loopback only; ``REPORT`` lines do not tell the memory that was used. ``GET /_front`` shows the environments and their
processes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import uuid
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from lambda_environment import Answer, Environment, Function
from lambda_rie import EmulatorMissingError, emulator
from lambda_url import url_app

BYTES_MAX = 6 << 20
EVENT_BYTES_MAX = 1 << 20
_ACCOUNT_CONCURRENCY = 1000
_LOOK_S = 1.0
_PREFIXES = ("FIRN_", "AWS_", "OTEL_")


class ThrottledError(Exception):
    """All environments of a function are at work."""


class Front:
    """The functions, and their environments as they are needed."""

    def __init__(self, functions: Mapping[str, Function], binary: Path, idle_s: float) -> None:
        self.functions = dict(functions)
        ports: set[int] = set()
        self.environments = {
            name: [Environment(function, binary, number, ports) for number in range(function.concurrency)]
            for name, function in functions.items()
        }
        self._idle_s = idle_s
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))
        self._background: set[asyncio.Task[None]] = set()

    async def invoke(self, name: str, event: bytes) -> Answer:
        """Run a function. Raises `ThrottledError` and `ConnectionError`."""
        environment = self._idle(name)
        if environment is None:
            raise ThrottledError
        environment.busy = True
        # Not given up with its caller: Lambda lets an invocation run to its end.
        running = asyncio.ensure_future(environment.invoke(self._session, event))
        running.add_done_callback(lambda _done: self._ended(environment))
        return await asyncio.shield(running)

    def invoke_later(self, name: str, event: bytes) -> None:
        """Run a function, once it has an environment that is idle."""

        async def run() -> None:
            while True:
                try:
                    await self.invoke(name, event)
                    return
                except ThrottledError:
                    await asyncio.sleep(0.05)
                except ConnectionError as error:
                    print(error, file=sys.stderr, flush=True)
                    return

        task = asyncio.create_task(run())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def reap(self) -> None:
        """Stop what nobody used for long, until cancelled."""
        while True:
            await asyncio.sleep(min(_LOOK_S, self._idle_s))
            now_s = asyncio.get_running_loop().time()
            for each in self._all():
                if not each.busy and each.pid is not None and now_s - each.used_s > self._idle_s:
                    await each.stop()

    async def close(self) -> None:
        """End everything."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*(each.close() for each in self._all()))
        await self._session.close()

    def shown(self) -> dict[str, Any]:
        """Return what runs."""
        return {
            name: [
                {"number": each.number, "pid": each.pid, "runtime_pids": each.runtime_pids(), "busy": each.busy,
                 "starts": each.n_starts, "invocations": each.n_invocations}
                for each in environments
            ]
            for name, environments in self.environments.items()
        }  # fmt: skip

    def _all(self) -> list[Environment]:
        return [each for environments in self.environments.values() for each in environments]

    def _idle(self, name: str) -> Environment | None:
        """Return an environment to run in: one that is warm, and was used last, if there is one."""
        idle = [each for each in self.environments[name] if not each.busy]
        return max(idle, key=lambda each: (each.pid is not None, each.used_s, -each.number), default=None)

    def _ended(self, environment: Environment) -> None:
        environment.busy, environment.used_s = False, asyncio.get_running_loop().time()


def routes(front: Front) -> list[web.RouteDef]:
    """Return what boto3's Lambda client asks for."""
    face = _Face(front)
    return [
        web.post("/2015-03-31/functions/{name}/invocations", face.invoke),
        web.get("/2015-03-31/functions/{name}/configuration", face.configuration),
        web.get("/2019-09-30/functions/{name}/concurrency", face.concurrency),
        web.get("/2016-08-19/account-settings", face.account),
        web.get("/2016-08-19/account-settings/", face.account),
        web.get("/_front", face.shown),
    ]


class _Face:
    """Answers for a front as AWS's Lambda does."""

    def __init__(self, front: Front) -> None:
        self._front = front

    def _named(self, request: web.Request) -> str | None:
        given = request.match_info["name"]
        if given.startswith("arn:"):
            given = given.split(":")[6]
        name = given.partition(":")[0]
        return name if name in self._front.functions else None

    async def invoke(self, request: web.Request) -> web.StreamResponse:
        name, later = self._named(request), request.headers.get("X-Amz-Invocation-Type") == "Event"
        body = await request.read()
        if name is None:
            return _missing(request)
        most = EVENT_BYTES_MAX if later else BYTES_MAX
        if len(body) > most:
            said = f"Request must be smaller than {most} bytes for the InvokeFunction operation"
            return _error(413, "RequestTooLargeException", said)
        try:
            json.loads(body or b"{}")
        except ValueError as error:
            return _error(400, "InvalidRequestContentException", f"Could not parse request body into json: {error}")
        if later:
            self._front.invoke_later(name, body or b"{}")
            return web.Response(status=202, headers=_ids())
        try:
            answer = await self._front.invoke(name, body or b"{}")
        except ThrottledError:
            facts = {"Reason": "ReservedFunctionConcurrentInvocationLimitExceeded"}
            return _error(429, "TooManyRequestsException", "Rate Exceeded.", {"Retry-After": "1"}, facts)
        except ConnectionError as error:
            return _error(500, "ServiceException", str(error))
        failed = {"X-Amz-Function-Error": "Unhandled"} if answer.failed else {}
        headers = {**_ids(), **failed, "X-Amz-Executed-Version": "$LATEST"}
        return web.Response(body=answer.payload, content_type="application/json", headers=headers)

    async def configuration(self, request: web.Request) -> web.StreamResponse:
        name = self._named(request)
        if name is None:
            return _missing(request)
        function = self._front.functions[name]
        arn = f"arn:aws:lambda:us-east-1:000000000000:function:{name}"
        return web.json_response({
            "FunctionName": name, "FunctionArn": arn, "Handler": function.handler, "MemorySize": function.memory_mb,
            "Timeout": function.timeout_s, "State": "Active", "LastUpdateStatus": "Successful", "PackageType": "Zip",
            "Version": "$LATEST", "Runtime": f"python3.{sys.version_info.minor}",
        })  # fmt: skip

    async def concurrency(self, request: web.Request) -> web.StreamResponse:
        name = self._named(request)
        if name is None:
            return _missing(request)
        return web.json_response({"ReservedConcurrentExecutions": self._front.functions[name].concurrency})

    async def account(self, _request: web.Request) -> web.StreamResponse:
        reserved = sum(each.concurrency for each in self._front.functions.values())
        return web.json_response({"AccountLimit": {
            "ConcurrentExecutions": _ACCOUNT_CONCURRENCY,
            "UnreservedConcurrentExecutions": _ACCOUNT_CONCURRENCY - reserved,
        }})  # fmt: skip

    async def shown(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response(self._front.shown())


def _ids() -> dict[str, str]:
    return {"x-amzn-RequestId": str(uuid.uuid4())}  # noqa: TID251 - what it names is never read again


def _missing(request: web.Request) -> web.Response:
    arn = f"arn:aws:lambda:us-east-1:000000000000:function:{request.match_info['name']}"
    return _error(404, "ResourceNotFoundException", f"Function not found: {arn}")


def _error(
    status: int, code: str, said: str, headers: Mapping[str, str] | None = None, facts: Mapping[str, str] | None = None
) -> web.Response:
    body = {"Type": "User" if status < 500 else "Service", "message": said, **(facts or {})}
    return web.json_response(body, status=status, headers={"x-amzn-ErrorType": code, **_ids(), **(headers or {})})


def of_config(document: Mapping[str, Any]) -> dict[str, Function]:
    """Return the functions of a configuration. Raises `ValueError` for a member that there is not."""
    known = {each.name for each in fields(Function)} - {"name"}
    found = {}
    for name, given in document["functions"].items():
        if unknown := set(given) - known:
            raise ValueError(f"function {name} has no {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}")
        found[name] = Function(
            name, **{**given, **({"command": tuple(given["command"])} if "command" in given else {})}
        )
    return found


def of_text(text: str, environ: Mapping[str, str]) -> Function:
    """Return the function of ``NAME=HANDLER,member=number…``. Raises `ValueError`."""
    name, _, rest = text.partition("=")
    handler, *members = rest.split(",")
    numbers = {key: int(value) for key, _, value in (each.partition("=") for each in members)}
    if not (name and handler) or set(numbers) - {"memory_mb", "timeout_s", "concurrency"}:
        raise ValueError(f"write NAME=HANDLER[,memory_mb=N][,timeout_s=N][,concurrency=N], not {text}")
    passed = {key: value for key, value in environ.items() if key.startswith(_PREFIXES)}
    return Function(name, handler, environment=passed, **numbers)


async def serve(options: argparse.Namespace, functions: Mapping[str, Function], binary: Path) -> None:
    """Serve until a signal."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    front = Front(functions, binary, options.idle)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(front.close)
        app = web.Application(client_max_size=64 << 20)
        app.add_routes(routes(front))
        apps = [(app, options.port, "listening on {}")]
        for text in options.url:
            name, _, port = text.partition("=")
            apps.append((url_app(front, name, ThrottledError), int(port), f"url of {name} is {{}}"))
        lines = []
        for each, port, line in apps:
            runner = web.AppRunner(each, access_log=None, shutdown_timeout=0.5)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", port).start()
            lines.append(line.format(f"http://127.0.0.1:{runner.addresses[0][1]}"))
        reaping = asyncio.create_task(front.reap())
        stack.callback(reaping.cancel)
        print(*reversed(lines), sep="\n", flush=True)
        await stop.wait()


def main(arguments: list[str]) -> None:
    """Run the front as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=9001)
    parser.add_argument("--config", type=Path, help="JSON file of functions")
    parser.add_argument("--function", action="append", default=[], metavar="NAME=HANDLER,…")
    parser.add_argument("--url", action="append", default=[], metavar="NAME=PORT")
    parser.add_argument("--idle", type=float, default=300.0, metavar="SECONDS")
    parser.add_argument("--emulator", type=Path, help="AWS's emulator; else it is downloaded into build/ once")
    options = parser.parse_args(arguments)
    try:
        functions = of_config(json.loads(options.config.read_text())) if options.config else {}
        functions |= {each.name: each for each in (of_text(text, os.environ) for text in options.function)}  # noqa: TID251
        unknown = {text.partition("=")[0] for text in options.url} - set(functions)
        if unknown or not functions:
            raise ValueError(f"there is no such function: {', '.join(unknown)}" if unknown else "name some functions")
        binary = options.emulator or emulator()
    except (ValueError, OSError, EmulatorMissingError) as error:
        sys.exit(f"lambda_front: {error}")
    asyncio.run(serve(options, functions, binary))


if __name__ == "__main__":
    main(sys.argv[1:])
