"""The objects of the stack's S3 API across its restarts.

Neither moto nor LocalStack's free edition keeps objects on disk. So the stack writes them to one archive before it ends
the S3 API, and reads them back before anything else is started. A bucket named `_MARK` tells an S3 API that was filled
from one that was started anew after it was killed, whose objects are lost. Times of change and metadata are not kept.
"""

from __future__ import annotations

import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

__all__ = ["fill", "is_filled", "save"]

_MARK = "firnline-stack"


def _client(url: str) -> Any:
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=5, read_timeout=20, retries={"max_attempts": 3}, s3={"addressing_style": "path"}, proxies={}
    )
    return boto3.client("s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="test",
                        aws_secret_access_key="test", config=config)  # fmt: skip


def is_filled(url: str) -> bool:
    """Whether the S3 API at ``url`` was filled since it started."""
    return any(bucket["Name"] == _MARK for bucket in _client(url).list_buckets().get("Buckets", ()))


def fill(url: str, bucket: str, archive: Path) -> int:
    """Make the bucket, put the archive's objects if there is one, and say that it is filled. Returns how many."""
    s3, n_objects = _client(url), 0
    made = {each["Name"] for each in s3.list_buckets().get("Buckets", ())}
    if bucket not in made:
        s3.create_bucket(Bucket=bucket)
    if archive.exists():
        with tarfile.open(archive) as members:
            for member in members:
                name, _, key = member.name.partition("/")
                if name not in made | {bucket}:
                    s3.create_bucket(Bucket=name)
                    made.add(name)
                content = members.extractfile(member)
                if key and content is not None:
                    s3.put_object(Bucket=name, Key=key, Body=content.read())
                    n_objects += 1
    s3.create_bucket(Bucket=_MARK)
    return n_objects


def save(url: str, archive: Path) -> int:
    """Write every object of every bucket to the archive, which is replaced once all are in it. Returns how many.

    Raises `OSError` where it cannot be written; what was there of it before is there still.
    """
    draft = archive.with_suffix(".draft")
    try:
        n_objects = _write(url, draft)
        draft.replace(archive)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return n_objects


def _write(url: str, draft: Path) -> int:
    s3, n_objects = _client(url), 0
    with tarfile.open(draft, "w", format=tarfile.PAX_FORMAT) as members:
        for bucket in (each["Name"] for each in s3.list_buckets().get("Buckets", ())):
            if bucket == _MARK:
                continue
            pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
            members.addfile(_folder(bucket))
            for key in (each["Key"] for page in pages for each in page.get("Contents", ())):
                body = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
                info = tarfile.TarInfo(f"{bucket}/{key}")
                info.size = len(body)
                members.addfile(info, BytesIO(body))
                n_objects += 1
    return n_objects


def _folder(bucket: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(bucket)
    info.type = tarfile.DIRTYPE
    return info
