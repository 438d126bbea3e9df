"""Events of AWS API Gateway, as a function receives them."""

from __future__ import annotations

import base64
from typing import Any

__all__ = ["event_of"]


def event_of(method: str, path: str, body: bytes) -> dict[str, Any]:
    """Return the event that API Gateway (payload version 2.0) would send."""
    path, _, query = path.partition("?")
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": {"content-type": "application/json", "host": "x", "x-request-id": "same"},
        "requestContext": {"http": {"method": method, "path": path, "sourceIp": "127.0.0.1"}, "stage": "$default"},
        "body": base64.b64encode(body).decode(),
        "isBase64Encoded": True,
    }
