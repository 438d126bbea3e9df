"""Credentials for S3, asked for when the first request is signed. The only module that imports botocore."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any, TypedDict

from storage.blobs.s3_options import S3Options
from storage.clock import Clock
from storage.errors import FirnlineError, ForbiddenError, UnsupportedError

__all__ = ["ChainCredentials", "Credential", "StaticCredentials"]

# botocore renews temporary credentials 15 minutes before they end, so what it hands out lives at least so long.
_CHAIN_LIFETIME_MS = 14 * 60 * 1000


class Credential(TypedDict):
    """What obstore signs with (its ``S3Credential``)."""

    access_key_id: str
    secret_access_key: str
    token: str | None
    expires_at: datetime | None


class StaticCredentials:
    """The key pair of the options; the process's own environment has no say."""

    failure: FirnlineError | None = None

    def __init__(self, options: S3Options) -> None:
        self._credential: Credential = {
            "access_key_id": options.access_key_id or "",
            "secret_access_key": options.secret_access_key or "",
            "token": options.session_token,
            "expires_at": None,
        }

    async def __call__(self) -> Credential:
        return self._credential


class ChainCredentials:
    """Botocore's standard chain, looked up in a thread: environment, web identity, profile files, container, instance.

    failure : why the last look-up failed, since obstore keeps only its text
    """

    def __init__(self, bucket: str, clock: Clock) -> None:
        self.failure: FirnlineError | None = None
        self._bucket = bucket
        self._clock = clock
        self._found: Any = None

    async def __call__(self) -> Credential:
        try:
            self.failure = None
            return await asyncio.to_thread(self._look_up)
        except FirnlineError as error:
            self.failure = error
            raise

    def _look_up(self) -> Credential:
        try:
            import botocore.session
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError:
            raise UnsupportedError(
                "looking up aws credentials needs boto3; install firnline[s3], or set AWS_ACCESS_KEY_ID and"
                " AWS_SECRET_ACCESS_KEY",
                bucket=self._bucket,
            ) from None
        try:
            if self._found is None:
                self._found = botocore.session.Session().get_credentials()
            frozen = self._found.get_frozen_credentials() if self._found is not None else None
        except (BotoCoreError, ClientError) as error:
            raise ForbiddenError(
                "the aws credentials chain failed; check the profile, the role or the web identity token",
                bucket=self._bucket,
                reason=str(error),
            ) from error
        if frozen is None or not frozen.access_key:
            raise ForbiddenError(
                "no aws credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile or role",
                bucket=self._bucket,
            )
        expires = datetime.fromtimestamp((self._clock.now_ms() + _CHAIN_LIFETIME_MS) / 1000, UTC)
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": expires,
        }
