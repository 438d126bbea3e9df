"""The HTTP service as an AWS Lambda function: Mangum turns API Gateway events into requests to the same app object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from mangum import Mangum
from starlette.types import ASGIApp

from service.large_answers import TEXT_TYPES
from storage.errors import InvalidError

__all__ = ["lambda_handler"]


def lambda_handler(app: ASGIApp) -> Callable[[dict[str, Any], Any], dict[str, Any]]:
    """Return the function that Lambda calls with an event and a context.

    The platform buffers an answer whole, so every error has its own status; binary formats travel as base64. Open the
    app with ``AppSettings(background=False)``: nothing runs between two invocations. The function raises `InvalidError`
    for an event that is no HTTP request, a WebSocket's among them.
    """
    adapter: Any = Mangum(cast(Any, app), lifespan="off", text_mime_types=list(TEXT_TYPES))

    def handle(event: dict[str, Any], context: Any) -> dict[str, Any]:
        event = _without_stage(event)
        try:
            _ = adapter.infer(event, context).scope
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
            raise InvalidError(
                "this function answers HTTP events, of a Function URL or API Gateway, and nothing else"
            ) from None
        answer: dict[str, Any] = adapter(event, context)
        return answer

    return handle


def _without_stage(event: dict[str, Any]) -> dict[str, Any]:
    """Return the event without its API's stage before its path.

    An HTTP API with a stage of a name says it in the path, as a REST API does not; ``$default`` is never said.
    """
    context = event.get("requestContext")
    if not isinstance(context, Mapping) or "version" not in event or context.get("stage", "$default") == "$default":
        return event
    prefix = f"/{context['stage']}"
    # Version 2.0 of the event has the path twice, and 1.0 once.
    event = {name: _after(prefix, text) if name in ("rawPath", "path") else text for name, text in event.items()}
    request = context.get("http")
    if isinstance(request, Mapping):
        request = {name: _after(prefix, text) if name == "path" else text for name, text in request.items()}
        event["requestContext"] = {**context, "http": request}
    return event


def _after(prefix: str, path: Any) -> Any:
    if not isinstance(path, str) or not (path == prefix or path.startswith(prefix + "/")):
        return path
    return path[len(prefix) :] or "/"
