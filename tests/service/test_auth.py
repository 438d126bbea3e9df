"""Tokens on HTTP requests: who gets in, for how long a token is remembered, and whose statement it is."""

from collections.abc import AsyncIterator

import pytest

from catalog.kv.memory import MemoryKV
from catalog.tokens import create_token, revoke_token, verify_token
from service.auth import ANONYMOUS, Auth, Caller
from storage.clock import SystemClock
from storage.errors import UnauthenticatedError
from tests.support.http_server import Serving, serving

pytestmark = pytest.mark.anyio
CLOCK = SystemClock()
KV = MemoryKV(CLOCK)


class HandClock(SystemClock):
    """A clock whose seconds are turned by hand."""

    now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s


async def verify(presented: str) -> Caller:
    token = await verify_token(KV, CLOCK, presented)
    return Caller(token.role, token.token_id)


def scope_of(authorization: str) -> dict[str, object]:
    return {"type": "http", "headers": [(b"authorization", authorization.encode("latin-1"))]}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Serving]:
    async with serving(verify=verify) as server:
        yield server


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize(
    "header", [{}, {"Authorization": "Basic eDp5"}, {"Authorization": "Bearer"}, bearer("firn_x"), bearer("a" * 9999)]
)
async def test_without_a_right_token_every_route_but_health_is_closed(server: Serving, header: dict[str, str]) -> None:
    for method, path in (("POST", "/v1/sql"), ("GET", "/v1/tables"), ("GET", "/v1/statements/x"), ("GET", "/metrics")):
        response = await server.client.request(method, path, headers=header, json={"sql": "SELECT 1"})
        assert response.status_code == 401
        assert response.json()["title"] == "UnauthenticatedError"
        assert response.headers["www-authenticate"].startswith("Bearer")
    for path in ("/healthz", "/readyz", "/openapi.json"):
        assert (await server.client.get(path, headers=header)).status_code == 200


async def test_a_body_is_not_read_before_the_token_is_checked(server: Serving) -> None:
    response = await server.client.post("/v1/sql", content=b"not json")
    assert response.status_code == 401


async def test_a_token_opens_and_a_statement_belongs_to_it(server: Serving) -> None:
    tokens = [(await create_token(KV, CLOCK, role, role))[1] for role in ("reader", "writer", "admin")]
    asked = {"sql": "SELECT 1 AS a"}
    for mode in ("sync", "async"):
        answer = await server.client.post("/v1/sql", json=asked | {"mode": mode}, headers=bearer(tokens[0]))
        assert answer.status_code in (200, 202)
        path = f"/v1/statements/{answer.headers['x-statement-id']}"
        statuses = [(await server.client.get(path, headers=bearer(token))).status_code for token in tokens]
        assert statuses == [200, 403, 200]
        assert (await server.client.delete(path, headers=bearer(tokens[1]))).status_code == 403


async def test_a_token_is_remembered_for_seconds_and_no_longer() -> None:
    token_id, token = await create_token(KV, CLOCK, "reader", "short")
    clock = HandClock()
    auth = Auth(verify, clock, cache_s=5)
    assert (await auth.caller(scope_of(f"Bearer {token}"))).role == "reader"
    await revoke_token(KV, token_id)
    clock.now_s = 4.9
    assert (await auth.caller(scope_of(f"bearer {token}"))).role == "reader"
    clock.now_s = 5.1
    with pytest.raises(UnauthenticatedError):
        await auth.caller(scope_of(f"Bearer {token}"))


async def test_where_no_tokens_are_asked_for_everybody_is_an_administrator() -> None:
    assert await Auth(None, CLOCK, 5).caller(scope_of("Bearer whatever")) is ANONYMOUS
