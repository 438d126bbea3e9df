"""Handlers of AWS Lambda functions: ``service.aws.endpoint`` and ``service.aws.compactor``.

They are made of the environment's settings by their first event, so that a setting that is missing or wrong is said in
one line by every event, and not by a process that does not start. The worker is ``functions.aws.worker``.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from typing import Any

from functions import tracing
from functions.lambda_settings import function_settings
from service import components as _components  # noqa: F401 - before the first event: while the environment starts
from service.lambda_compactor import LambdaCompactor
from service.lambda_endpoint import Context, LambdaEndpoint
from service.logs import configure_logs

__all__ = ["compactor", "endpoint"]


def endpoint(event: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """Answer an HTTP event of a Function URL or API Gateway. Raises `InvalidError` for others, and without a lake."""
    try:
        return _endpoint().handle(event, context)
    finally:
        tracing.flush()  # nothing runs between two events


def compactor(event: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """Make one pass of compaction. Raises `UnavailableError` that names what could not be compacted."""
    try:
        return _compactor().handle(event, context)
    finally:
        tracing.flush()


@functools.cache
def _endpoint() -> LambdaEndpoint:
    return LambdaEndpoint(_opening().serve_settings(_settings()))


@functools.cache
def _compactor() -> LambdaCompactor:
    settings = _settings()
    return LambdaCompactor(_opening().engine_settings(settings.lake, settings))


def _settings() -> Any:
    configure_logs("info")
    return function_settings()


def _opening() -> Any:
    # By name: Lambda starts this module, and the settings are laid out in a layer above it.
    return importlib.import_module("firnline.opening")
