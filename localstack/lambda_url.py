"""A function behind HTTP, as its Function URL: requests become events (payload 2.0), answers responses."""

from __future__ import annotations

import base64
import binascii
import json
import uuid
from typing import Any, Protocol

from aiohttp import web
from lambda_environment import Answer

__all__ = ["event_of", "response_of", "url_app"]

_BYTES_MAX = 6 << 20
_TEXT = ("text/", "application/json", "application/xml", "application/javascript", "application/x-ndjson")


class Invokes(Protocol):
    """What runs functions."""

    async def invoke(self, name: str, event: bytes) -> Answer:
        """Run a function."""
        ...


def url_app(front: Invokes, name: str, throttled: type[Exception]) -> web.Application:
    """Return the app of a function's URL."""

    async def handle(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if len(body) > _BYTES_MAX:
            return web.json_response({"Message": "Request Too Long"}, status=413)
        event = json.dumps(event_of(request, body)).encode()
        if len(event) > _BYTES_MAX:
            return web.json_response({"Message": "Request Too Long"}, status=413)
        try:
            answer = await front.invoke(name, event)
        except throttled:
            return web.json_response({"Message": "Too Many Requests"}, status=429)
        except ConnectionError:
            return web.json_response({"Message": "Internal Server Error"}, status=502)
        if answer.failed:
            return web.json_response({"Message": "Internal Server Error"}, status=502)
        return response_of(answer.payload)

    app = web.Application(client_max_size=64 << 20)
    app.router.add_route("*", "/{path:.*}", handle)
    return app


def event_of(request: web.Request, body: bytes) -> dict[str, Any]:
    """Return the event of a request."""
    headers: dict[str, str] = {}
    for key, value in request.headers.items():
        if key.lower() != "cookie":
            headers[key.lower()] = f"{headers[key.lower()]},{value}" if key.lower() in headers else value
    binary = not request.content_type.startswith(_TEXT)
    cookies = request.headers.get("Cookie")
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": request.raw_path.partition("?")[0],
        "rawQueryString": request.raw_path.partition("?")[2],
        "headers": headers,
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "local",
            "domainName": request.host,
            "domainPrefix": "local",
            "http": {
                "method": request.method,
                "path": request.path,
                "protocol": "HTTP/1.1",
                "sourceIp": request.remote or "127.0.0.1",
                "userAgent": headers.get("user-agent", ""),
            },
            "requestId": str(uuid.uuid4()),  # noqa: TID251 - as AWS makes them
            "routeKey": "$default",
            "stage": "$default",
            "time": "01/Jan/2026:00:00:00 +0000",
            "timeEpoch": 1767225600000,
        },
        "isBase64Encoded": binary and bool(body),
    }
    if cookies:
        event["cookies"] = [each.strip() for each in cookies.split(";")]
    if body:
        event["body"] = base64.b64encode(body).decode() if binary else body.decode("utf-8", "replace")
    return event


def response_of(payload: bytes) -> web.Response:
    """Return the response that an answer stands for."""
    try:
        found = json.loads(payload)
        body = found.get("body") or ""
        data = base64.b64decode(body, validate=True) if found.get("isBase64Encoded") else body.encode()
        headers = {
            key: str(value) for key, value in found.get("headers", {}).items() if key.lower() != "content-length"
        }
        response = web.Response(status=int(found["statusCode"]), body=data, headers=headers)
    except (ValueError, TypeError, KeyError, AttributeError, binascii.Error):
        return web.json_response({"Message": "Internal Server Error"}, status=502)
    for cookie in found.get("cookies", []):
        response.headers.add("Set-Cookie", cookie)
    return response
