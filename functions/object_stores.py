"""DataFusion's own S3 client for a bucket, configured as `S3Blobs` is."""

from __future__ import annotations

from datafusion import SessionContext
from datafusion.object_store import AmazonS3

from storage.blobs.s3_options import S3Options

__all__ = ["register_bucket"]


def register_bucket(context: SessionContext, bucket: str, options: S3Options) -> None:
    """Make ``s3://bucket`` readable by the session."""
    store = AmazonS3(
        bucket_name=bucket,
        region=options.region,
        access_key_id=options.access_key_id,
        secret_access_key=options.secret_access_key,
        session_token=options.session_token,
        endpoint=options.endpoint,
        allow_http=options.allow_http,
    )
    context.register_object_store("s3://", store, host=bucket)
