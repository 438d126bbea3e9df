"""DataFusion's own S3 clients, one a bucket, with the endpoint and credentials that `S3Blobs` uses.

DataFusion takes only fixed credentials, so temporary ones are handed to it anew before they end.
"""

from __future__ import annotations

import asyncio

from datafusion import SessionContext
from datafusion.object_store import AmazonS3

from storage.blobs.s3_options import S3Options
from storage.clock import Clock
from storage.errors import UnsupportedError

__all__ = ["BucketClients"]

RENEW_BEFORE_MS = 120_000


class BucketClients:
    """Registers buckets with a session, when first asked and again before their credentials end."""

    def __init__(self, context: SessionContext, options: S3Options, clock: Clock) -> None:
        self._context, self._options, self._clock = context, options, clock
        self._valid_until_ms: dict[str, float] = {}

    def open(self, bucket: str) -> None:
        """Make ``s3://bucket`` readable. Call from a thread without an event loop. Raises `ForbiddenError` when no
        credentials are found."""
        if self._clock.now_ms() < self._valid_until_ms.get(bucket, 0):
            return
        # Imported here: a session over local files does without.
        from storage.blobs.s3_credentials import ChainCredentials, StaticCredentials

        options = self._options
        if options.anonymous or options.virtual_hosted:
            raise UnsupportedError("the query engine takes neither anonymous nor virtual-hosted access", bucket=bucket)
        provider = StaticCredentials(options) if options.access_key_id else ChainCredentials(bucket, self._clock)
        credential = asyncio.run(provider())
        store = AmazonS3(
            bucket_name=bucket,
            region=options.region or "us-east-1",
            access_key_id=credential["access_key_id"],
            secret_access_key=credential["secret_access_key"],
            session_token=credential["token"],
            endpoint=options.endpoint,
            allow_http=(options.endpoint or "").startswith("http://"),
        )
        self._context.register_object_store("s3://", store, host=bucket)
        ends = credential["expires_at"]
        self._valid_until_ms[bucket] = ends.timestamp() * 1000 - RENEW_BEFORE_MS if ends else float("inf")
