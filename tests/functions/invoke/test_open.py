"""`functions.invoke.open`: where tasks run, from one setting."""

from __future__ import annotations

import subprocess
import sys

import pytest

from functions.invoke.open import InvokerOptions, open_invoker
from storage.clock import SystemClock
from storage.errors import InvalidError
from tests.support.task_workers import open_doer

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("url", "name", "concurrency"),
    [
        ("inline", "inline", 5),
        ("processes:3", "processes", 3),
        ("processes", "processes", 5),
        ("http://localhost:8081", "http", 5),
        ("https://workers.example.com/below", "http", 5),
        ("lambda:firnline-worker:live", "lambda", 5),
    ],
)
async def test_the_setting_chooses_the_backend(
    monkeypatch: pytest.MonkeyPatch, url: str, name: str, concurrency: int
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    invoker = await open_invoker(url, open_doer(), SystemClock(), InvokerOptions(concurrency=5))
    assert (invoker.name, invoker.limits.concurrency) == (name, concurrency)
    await invoker.close()


@pytest.mark.parametrize(
    "url", ["", "nowhere", "inline:2", "processes:0", "processes:x", "processes:-1", "lambda:", "http://", "ftp://x"]
)
async def test_a_setting_that_says_no_place_is_refused(url: str) -> None:
    with pytest.raises(InvalidError):
        await open_invoker(url, open_doer(), SystemClock())


@pytest.mark.parametrize("url", ["inline", "processes", "ray"])
async def test_this_machine_must_be_told_what_runs_tasks(url: str) -> None:
    with pytest.raises(InvalidError, match="what runs tasks"):
        await open_invoker(url, None, SystemClock())


def test_no_platforms_library_is_imported_before_it_is_chosen() -> None:
    code = (
        "import sys, functions.invoke.open, functions.invoke.lambda_, functions.invoke.ray_\n"
        "print([name for name in ('ray', 'aioboto3', 'aiobotocore', 'botocore', 'aiohttp') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
