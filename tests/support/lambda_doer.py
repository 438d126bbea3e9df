"""`tests.support.task_workers.Doer` as a Lambda function: handler ``tests.support.lambda_doer.handler``."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from functions.invoke.lambda_event import answer_of, message_of
from storage.blobs.open import open_blobs
from storage.blobs.s3_options import S3Options
from storage.clock import SystemClock
from storage.stores import Stores
from tests.support.task_workers import Doer

__all__ = ["handler"]

_loop = asyncio.new_event_loop()
_doer = Doer()
_stores = Stores(partial(open_blobs, s3=S3Options(), clock=SystemClock()))


def handler(event: dict[str, Any], _context: object) -> dict[str, str]:
    """Do what a message says."""
    return _loop.run_until_complete(_answer(event))


async def _answer(event: dict[str, Any]) -> dict[str, str]:
    return answer_of(await _doer.run(await message_of(event, _stores)))
