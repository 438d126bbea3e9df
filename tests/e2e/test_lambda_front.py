"""Lambda on this machine: what boto3 sees of functions under AWS's own emulators is what it sees of AWS."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aioboto3
import httpx
import pytest
from aiobotocore.config import AioConfig

from tests.support.lambda_local import LocalLambda, local_lambda

pytestmark = pytest.mark.e2e


def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    """Wait for a condition."""
    ends_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < ends_s
        time.sleep(0.02)


_HANDLER = """
import os, threading, time

ticks = []
def tick():
    while True:
        ticks.append(1)
        time.sleep(0.02)
threading.Thread(target=tick, daemon=True).start()

def handler(event, context):
    what = event.get("do") if isinstance(event, dict) else None
    if what == "sleep":
        time.sleep(event["s"])
    if what == "raise":
        raise KeyError("gone")
    if what == "exit":
        os._exit(3)
    if what == "big":
        return "x" * event["n"]
    if what == "fill":
        held = bytearray(event["n"])
        for at in range(0, len(held), 4096):
            held[at] = 1
        time.sleep(5)
    if what == "file":
        open(event["path"], "w").close()
    if what == "http":
        return {"statusCode": 201, "body": "aGk=", "isBase64Encoded": True, "headers": {"x-a": "b"}, "cookies": ["a=1"]}
    if what == "measure":
        return {"n": len(event["x"])}
    if what == "count":
        return {"ticks": len(ticks), "now": time.monotonic()}
    return {"pid": os.getpid(), "left_ms": context.get_remaining_time_in_millis(), "event": event,
            "memory": context.memory_limit_in_mb, "name": context.function_name, "secret": os.environ.get("SECRET")}

def echo(event, context):
    return {"statusCode": 200, "body": __import__("json").dumps(event)}
"""


def ended(pid: int) -> bool:
    """Tell whether a process is gone, or waits only to be collected by the machine's first process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalLambda]:
    folder = tmp_path_factory.mktemp("functions")
    (folder / "app.py").write_text(textwrap.dedent(_HANDLER))
    shared = {"handler": "app.handler", "code": str(folder), "memory_mb": 256, "timeout_s": 2}
    functions = {
        "one": {**shared, "concurrency": 1, "environment": {"SECRET": "given"}},
        "two": {**shared, "concurrency": 2, "timeout_s": 30},
        "echo": {**shared, "handler": "app.echo", "concurrency": 1},
    }
    with local_lambda(folder, functions) as found:
        yield found


def test_an_answer_comes_with_what_lambda_says_of_the_function(here: LocalLambda) -> None:
    answer, failed = here.invoke("one", {"a": [1, "é"]})
    assert failed is None
    assert answer["event"] == {"a": [1, "é"]}
    assert (answer["memory"], answer["name"], answer["secret"]) == ("256", "one", "given")
    assert 0 < answer["left_ms"] <= 2000
    assert here.invoke("one", {})[0]["pid"] == answer["pid"]
    client = here.client()
    configuration = client.get_function_configuration(FunctionName="one")
    assert (configuration["Handler"], configuration["MemorySize"], configuration["Timeout"]) == ("app.handler", 256, 2)
    arn = configuration["FunctionArn"]
    assert client.invoke(FunctionName=f"{arn}:live", Payload=b"{}")["StatusCode"] == 200
    assert client.get_function_concurrency(FunctionName="two")["ReservedConcurrentExecutions"] == 2


def test_an_exception_is_a_function_error(here: LocalLambda) -> None:
    answer, failed = here.invoke("one", {"do": "raise"})
    assert failed == "Unhandled"
    assert (answer["errorType"], answer["errorMessage"]) == ("KeyError", "'gone'")


def test_a_function_that_dies_is_started_anew(here: LocalLambda) -> None:
    before = here.invoke("one", {})[0]["pid"]
    answer, failed = here.invoke("one", {"do": "exit"})
    assert (failed, answer["errorType"]) == ("Unhandled", "Runtime.ExitError")
    assert "exit status 3" in answer["errorMessage"]
    assert here.invoke("one", {})[0]["pid"] != before


def test_a_function_that_is_killed_or_takes_too_much_memory_ends_alone(here: LocalLambda) -> None:
    answer, failed = here.invoke("two", {"do": "fill", "n": 400 << 20})
    assert (failed, answer["errorType"]) == ("Unhandled", "Runtime.ExitError")
    assert "killed" in answer["errorMessage"]
    assert here.invoke("two", {})[1] is None


def test_a_function_that_takes_too_long_is_ended_at_its_time(here: LocalLambda) -> None:
    started = time.monotonic()
    answer, failed = here.invoke("one", {"do": "sleep", "s": 20})
    assert failed == "Unhandled"
    assert "timed out after 2.00 seconds" in answer["errorMessage"]
    assert time.monotonic() - started < 10
    assert here.invoke("one", {})[1] is None


def test_an_answer_past_six_megabytes_is_refused(here: LocalLambda) -> None:
    answer, failed = here.invoke("two", {"do": "big", "n": (6 << 20) + 200})
    assert (failed, answer["errorType"]) == ("Unhandled", "Function.ResponseSizeTooLarge")
    assert len(here.invoke("two", {"do": "big", "n": (6 << 20) - 2})[0]) == (6 << 20) - 2


def test_an_event_past_six_megabytes_is_refused_and_one_below_arrives_whole(here: LocalLambda) -> None:
    client = here.client()
    with pytest.raises(client.exceptions.RequestTooLargeException):
        client.invoke(FunctionName="echo", Payload=json.dumps("x" * (6 << 20)))
    n = (6 << 20) - 40
    assert here.invoke("two", {"do": "measure", "x": "x" * n}) == ({"n": n}, None)
    with pytest.raises(client.exceptions.InvalidRequestContentException):
        client.invoke(FunctionName="echo", Payload=b"{")
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.invoke(FunctionName="nobody", Payload=b"{}")


def test_more_at_once_than_it_may_is_throttled(here: LocalLambda) -> None:
    async def ask() -> list[Any]:
        config = AioConfig(retries={"total_max_attempts": 1})
        session = aioboto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1")
        async with session.client("lambda", endpoint_url=here.url, config=config) as client:

            async def one() -> Any:
                try:
                    found = await client.invoke(FunctionName="two", Payload=b'{"do": "sleep", "s": 1.5}')
                    async with found["Payload"] as stream:
                        return json.loads(await stream.read())["pid"]
                except client.exceptions.TooManyRequestsException as error:
                    return error.response["ResponseMetadata"]["HTTPStatusCode"]

            return await asyncio.gather(*(one() for _ in range(3)))

    found = asyncio.run(ask())
    assert found.count(429) == 1
    assert len(set(found)) == 3


def test_an_asynchronous_event_is_taken_at_once_and_run(here: LocalLambda, tmp_path: Path) -> None:
    done = tmp_path / "done"
    event = json.dumps({"do": "file", "path": str(done)}).encode()
    found = here.client().invoke(FunctionName="one", InvocationType="Event", Payload=event)
    assert found["StatusCode"] == 202
    until(done.exists)


def test_nothing_runs_between_two_invocations(here: LocalLambda) -> None:
    first, _ = here.invoke("one", {"do": "count"})
    time.sleep(1)
    second, _ = here.invoke("one", {"do": "count"})
    assert second["now"] - first["now"] > 1
    assert second["ticks"] - first["ticks"] < 20


def test_an_emulator_that_is_killed_is_a_service_error_and_started_anew(here: LocalLambda) -> None:
    here.invoke("echo", {})
    [environment] = here.environments("echo")
    os.kill(environment["pid"], signal.SIGKILL)
    until(lambda: here.environments("echo")[0]["pid"] is None)
    assert here.invoke("echo", {})[1] is None
    asked = threading.Timer(0.5, lambda: os.kill(here.environments("one")[0]["pid"], signal.SIGKILL))
    asked.start()
    client = here.client()
    with pytest.raises(client.exceptions.ServiceException):
        client.invoke(FunctionName="one", Payload=b'{"do": "sleep", "s": 1.5}')
    assert here.invoke("one", {})[1] is None


def test_a_url_makes_events_of_requests_and_responses_of_answers(here: LocalLambda) -> None:
    url = here.urls["echo"]
    found = httpx.post(f"{url}/a%20b/c?x=1&x=2", json={"q": 1}, headers={"cookie": "k=v"}, trust_env=False)
    event = found.json()
    assert (event["version"], event["rawPath"], event["rawQueryString"]) == ("2.0", "/a%20b/c", "x=1&x=2")
    assert event["requestContext"]["http"]["method"] == "POST"
    assert (json.loads(event["body"]), event["isBase64Encoded"], event["cookies"]) == ({"q": 1}, False, ["k=v"])
    binary = httpx.put(url, content=b"\xff\x00", headers={"content-type": "application/x-any"}, trust_env=False).json()
    assert (binary["body"], binary["isBase64Encoded"]) == ("/wA=", True)
    assert httpx.get(here.urls["one"], trust_env=False).status_code == 502  # its answer is no response


def test_all_of_it_ends_with_the_front(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(textwrap.dedent(_HANDLER))
    functions = {"one": {"handler": "app.handler", "code": str(tmp_path), "concurrency": 1}}
    with local_lambda(tmp_path, functions, "--idle", "0.3") as here:
        first = here.invoke("one", {})[0]["pid"]
        until(lambda: here.environments("one")[0]["pid"] is None)
        until(lambda: ended(first))
        second = here.invoke("one", {})[0]["pid"]
    until(lambda: ended(second))
