"""How to reach an S3 API. Values only: constructing them reads no environment and imports no library."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

from storage.errors import InvalidError

__all__ = ["S3Options"]

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_LOOPBACK_NAMES = {"localhost", "ip6-localhost"}


@dataclass(frozen=True, slots=True)
class S3Options:
    """Where the store is, who asks, and how long to wait.

    endpoint : URL of an S3-compatible store; None for AWS in ``region``
    region : None means us-east-1
    access_key_id, secret_access_key, session_token : static credentials. Without a key, botocore's standard chain is
        asked on first use: environment, web identity, shared files, container, instance
    anonymous : send no credentials at all, for public buckets
    allow_http : plain http towards a host that is not loopback
    virtual_hosted : the bucket is part of the host name, not of the path
    connect_timeout_ms : until a connection stands
    request_timeout_ms : a read that receives nothing for so long fails; a write may take so long plus a second for
        each MiB
    attempts_max : tries of one call, the first included
    """

    endpoint: str | None = None
    region: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    anonymous: bool = False
    allow_http: bool = False
    virtual_hosted: bool = False
    connect_timeout_ms: int = 3_000
    request_timeout_ms: int = 30_000
    attempts_max: int = 4

    def __post_init__(self) -> None:
        """Raise `InvalidError` for values that could not work, and for plain http that nobody allowed."""
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise InvalidError("give both the access key id and the secret access key, or neither")
        for name in ("connect_timeout_ms", "request_timeout_ms", "attempts_max"):
            if getattr(self, name) < 1:
                raise InvalidError("this s3 option must be at least 1", option=name, value=getattr(self, name))
        if self.endpoint is not None:
            self._check_endpoint(self.endpoint)

    def _check_endpoint(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidError("the s3 endpoint must be an http:// or https:// URL", endpoint=endpoint)
        if parts.scheme == "http" and not self.allow_http and not _is_loopback(parts.hostname):
            raise InvalidError(
                "plain http to a host other than this one sends data in the clear; use https, or allow http explicitly",
                endpoint=endpoint,
            )

    def endpoint_of(self, bucket: str) -> str:
        """The URL under which the bucket's requests go, without the bucket in its path.

        Raises `InvalidError` for a name that could lead a URL elsewhere.
        """
        if not _BUCKET.fullmatch(bucket) or ".." in bucket:
            raise InvalidError("not a valid bucket name", bucket=repr(bucket))
        region = self.region or "us-east-1"
        parts = urlsplit(self.endpoint or f"https://s3.{region}.amazonaws.com")
        host = f"{bucket}.{parts.netloc}" if self.virtual_hosted else parts.netloc
        return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() in _LOOPBACK_NAMES
