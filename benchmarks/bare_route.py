"""The yardstick of HTTP throughput: one FastAPI route on uvicorn that returns given bytes.

``python -m benchmarks.bare_route FILE`` prints ``listening on http://…`` when it is ready.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response

__all__ = ["create_bare_app"]


def create_bare_app(content: bytes) -> FastAPI:
    """Return an app that answers ``POST /v1/sql`` with ``content``, having read the request's body."""
    app = FastAPI()

    @app.post("/v1/sql")
    async def answer(request: Request) -> Response:
        await request.body()
        return Response(content, media_type="application/json")

    return app


def _main(file: str) -> None:
    app = create_bare_app(Path(file).read_bytes())
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:  # named, or asyncio leaves Nagle on
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        config = uvicorn.Config(app, log_level="warning", access_log=False)
        uvicorn.Server(config).run([listener])


if __name__ == "__main__":
    _main(sys.argv[1])
