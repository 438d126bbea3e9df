"""One bucket through obstore: its stores, and bounded, jittered tries of one call.

obstore's own retries are off: they would repeat a conditional put blindly, and take clock and chance from elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

from obstore.store import S3Store

from storage.blobs.s3_credentials import ChainCredentials, StaticCredentials
from storage.blobs.s3_errors import OBSTORE_ERRORS, Failure, Target, classify
from storage.blobs.s3_options import S3Options
from storage.clock import Clock
from storage.errors import IndeterminateError

__all__ = ["FailedTry", "S3Client"]

_PAUSE_FIRST_S = 0.05
_PAUSE_MAX_S = 2.0
_READ_WHOLE_TIMEOUT_S = 3600
_WRITE_BYTES_PER_S_MIN = 1 << 20
T = TypeVar("T")


class FailedTry(Exception):  # noqa: N818 — never leaves storage.blobs
    """One try failed; the caller decides what that means."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure.error))
        self.failure = failure


class S3Client:
    """Signs and sends requests to one bucket."""

    def __init__(self, bucket: str, options: S3Options, clock: Clock) -> None:
        self.bucket = bucket
        self.clock = clock
        self.attempts_max = options.attempts_max
        self._options = options
        self._endpoint = options.endpoint_of(bucket)
        static = options.anonymous or options.access_key_id is not None
        self._credentials = StaticCredentials(options) if static else ChainCredentials(bucket, clock)
        # A read may go on for as long as bytes arrive.
        self.reader = self._open(
            timeout_s=_READ_WHOLE_TIMEOUT_S, read_timeout=timedelta(milliseconds=options.request_timeout_ms)
        )
        self._writers: dict[int, S3Store] = {}

    def writer(self, n_bytes: int) -> S3Store:
        """The store to put ``n_bytes`` through: its requests time out later the more there is to send."""
        n_bytes_max = 1 << max(n_bytes, _WRITE_BYTES_PER_S_MIN).bit_length()
        if n_bytes_max not in self._writers:
            timeout_s = self._options.request_timeout_ms / 1000 + n_bytes_max / _WRITE_BYTES_PER_S_MIN
            self._writers[n_bytes_max] = self._open(timeout_s=timeout_s, read_timeout=None)
        return self._writers[n_bytes_max]

    def _open(self, *, timeout_s: float, read_timeout: timedelta | None) -> S3Store:
        client_options = {
            "allow_http": self._endpoint.startswith("http://"),
            "connect_timeout": timedelta(milliseconds=self._options.connect_timeout_ms),
            "timeout": timedelta(seconds=timeout_s),
        }
        if read_timeout is not None:
            client_options["read_timeout"] = read_timeout
        return S3Store(
            self.bucket,
            config={
                "endpoint": self._endpoint,
                "aws_endpoint_url_s3": self._endpoint,
                "region": self._options.region or "us-east-1",
                "virtual_hosted_style_request": self._options.virtual_hosted,
                "skip_signature": self._options.anonymous,
                "disable_bulk_delete": True,
            },
            client_options=client_options,  # type: ignore[arg-type]
            retry_config={"max_retries": 0},
            credential_provider=self._credentials,  # type: ignore[arg-type]
        )

    async def once(self, key: str | None, act: Callable[[], Awaitable[T]]) -> T:
        """Try once. Raises `FailedTry`."""
        try:
            return await act()
        except OBSTORE_ERRORS as error:
            raise FailedTry(self.failure_of(error, key)) from error

    def failure_of(self, error: Exception, key: str | None) -> Failure:
        """What ``error`` of a request about ``key`` means."""
        return classify(error, Target(self.bucket, self._endpoint, key), self._credentials.failure)

    async def call(self, key: str | None, act: Callable[[], Awaitable[T]], *, writes: bool = False) -> T:
        """Try until it works, fails for good, or the tries are used up; ``act`` must be safe to repeat.

        Raises the failure's error; `IndeterminateError` instead of `UnavailableError` if it ``writes`` and a try
        may have happened.
        """
        unknown = False
        for n_tries in range(1, self.attempts_max + 1):
            try:
                return await self.once(key, act)
            except FailedTry as failed:
                unknown = unknown or failed.failure.kind == "unknown"
                if failed.failure.kind not in ("not_done", "unknown") or n_tries == self.attempts_max:
                    error = failed.failure.error
                    if writes and unknown:
                        raise IndeterminateError(f"{error.message}; it may have happened", **error.facts) from failed
                    raise error from failed.__cause__
            await self.pause(n_tries)
        raise AssertionError("attempts_max is at least 1")

    async def pause(self, n_tries: int) -> None:
        """Wait before another try: exponential, with full jitter."""
        await asyncio.sleep(self.clock.uniform(0, min(_PAUSE_MAX_S, _PAUSE_FIRST_S * 2**n_tries)))
