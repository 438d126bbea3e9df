"""A watch that outlives its stream: when a member dies, it goes on at another behind the last revision it yielded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import grpc.aio

from catalog.kv.etcd_errors import final_error
from catalog.kv.etcd_members import Members
from catalog.kv.etcd_stubs import load_etcdrpc
from storage.clock import Clock
from storage.errors import NotFoundError

__all__ = ["watch_forever"]

_PAUSE_MAX_S = 1.0


async def watch_forever(
    members: Members, clock: Clock, start: bytes, limit: bytes, start_revision: int
) -> AsyncGenerator[Any, None]:
    """Yield etcd's events on keys [start, limit) from ``start_revision``, each once, in order.

    Raises `NotFoundError` when the revision to go on from has been compacted, `ForbiddenError` when the user may not
    read the range. Anything else is waited out.
    """
    cursor, n_failures = start_revision, 0
    while True:
        try:
            async with aclosing(_responses(members, start, limit, cursor)) as responses:
                async for response in responses:
                    n_failures = 0
                    _raise_if_cancelled(response)
                    for event in response.events:
                        yield event
                    cursor = _behind(response, cursor)
        except grpc.aio.AioRpcError as error:
            details = error.details() or ""
            members.forget_token(details)
            final = final_error(error.code().name, details)
            if final is not None:
                raise final from error
        n_failures += 1
        await asyncio.sleep(clock.uniform(0.5, 1) * min(_PAUSE_MAX_S, 0.025 * 2 ** min(n_failures, 8)))


async def _responses(members: Members, start: bytes, limit: bytes, cursor: int) -> AsyncGenerator[Any, None]:
    """Yield the responses of one stream until it ends; a member that does not answer is passed over."""
    member = members.current()
    if not await member.is_ready(members.try_timeout_s):
        members.move_on(member)
        return
    rpc = load_etcdrpc()
    create = rpc.WatchCreateRequest(key=start, range_end=limit, start_revision=cursor, progress_notify=True)
    stream = member.watches.Watch(metadata=await members.metadata())
    try:
        async with asyncio.timeout(members.try_timeout_s * 4):
            await stream.write(rpc.WatchRequest(create_request=create))
            response = await stream.read()
        while response is not grpc.aio.EOF:
            yield response
            response = await stream.read()
    except (grpc.aio.AioRpcError, TimeoutError, asyncio.InvalidStateError) as error:
        members.move_on(member)
        if isinstance(error, grpc.aio.AioRpcError):
            raise
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # Nobody cancelled this task: the channel was closed under the stream.
    finally:
        stream.cancel()


def _raise_if_cancelled(response: Any) -> None:
    if not response.canceled:
        return
    if response.compact_revision:
        raise NotFoundError(
            "the changes since this revision have been compacted; read the range again",
            oldest=response.compact_revision,
        )
    final = final_error("CANCELLED", response.cancel_reason)
    if final is not None:
        raise final


def _behind(response: Any, cursor: int) -> int:
    """Return the revision to resume at. A response without events tells progress, unless it opens or ends a stream."""
    if response.events:
        return max(cursor, int(response.events[-1].kv.mod_revision) + 1)
    if response.created or response.canceled:
        return cursor
    return max(cursor, int(response.header.revision) + 1)
