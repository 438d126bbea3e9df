"""The HTTP service as an AWS Lambda function: Mangum turns API Gateway events into requests to the same app object."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from mangum import Mangum

__all__ = ["lambda_handler"]

_TEXT_TYPES = ["text/", "application/json", "application/problem+json", "application/x-ndjson"]


def lambda_handler(app: FastAPI) -> Callable[[dict[str, Any], Any], dict[str, Any]]:
    """Return the function that Lambda calls with an event and a context.

    The platform buffers an answer whole, so every error has its own status; binary formats travel as base64. Open the
    app with ``AppSettings(background=False)``: nothing runs between two invocations.
    """
    adapter: Callable[[dict[str, Any], Any], dict[str, Any]] = Mangum(app, lifespan="off", text_mime_types=_TEXT_TYPES)
    return adapter
