"""API tokens: made once, stored hashed, refused without a reason."""

import hashlib
import json

import pytest

from catalog.kv import Put
from catalog.kv.memory import MemoryKV
from catalog.tokens import TOKEN_PREFIX, Token, create_token, list_tokens, revoke_token, verify_token
from storage.errors import CorruptError, InvalidError, NotFoundError, UnauthenticatedError
from tests.support.clock import ManualClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def kv(clock: ManualClock) -> MemoryKV:
    return MemoryKV(clock)


@pytest.mark.parametrize("role", ["reader", "writer", "admin"])
async def test_a_token_is_verified_with_its_role_and_name(kv: MemoryKV, clock: ManualClock, role: str) -> None:
    token_id, presented = await create_token(kv, clock, role, "nightly job")
    assert await verify_token(kv, clock, presented) == Token(token_id, role, "nightly job", clock.now_ms(), None)


async def test_a_token_names_its_id_and_holds_256_random_bits(kv: MemoryKV, clock: ManualClock) -> None:
    token_id, presented = await create_token(kv, clock, "reader", "a")
    prefix, shown_id, secret = presented.split("_")
    assert (prefix, shown_id) == ("firn", token_id)
    assert len(bytes.fromhex(secret)) == 32
    assert (await create_token(kv, clock, "reader", "a"))[1].split("_")[2] != secret


async def test_only_a_hash_of_the_secret_is_stored(kv: MemoryKV, clock: ManualClock) -> None:
    token_id, presented = await create_token(kv, clock, "reader", "a")
    secret = presented.split("_")[2]
    entries, _revision = await kv.range("")
    assert [entry.key for entry in entries] == [TOKEN_PREFIX + token_id]
    assert secret.encode() not in entries[0].value
    assert json.loads(entries[0].value)["sha256"] == hashlib.sha256(secret.encode()).hexdigest()


async def test_every_wrong_token_gets_the_same_answer(kv: MemoryKV, clock: ManualClock) -> None:
    token_id, presented = await create_token(kv, clock, "admin", "a")
    expiring_id, expiring = await create_token(kv, clock, "admin", "b", expires_in_s=10)
    revoked_id, revoked = await create_token(kv, clock, "admin", "c")
    await revoke_token(kv, revoked_id)
    clock.advance(10_000)
    other_secret = expiring.split("_")[2]
    wrong = [
        "",
        "firn",
        presented[:-1],
        presented + "0",
        presented + "\n",
        presented.upper(),
        presented[:-1] + ("0" if presented[-1] != "0" else "1"),
        f"firn_{token_id}_{other_secret}",
        f"firn_{'0' * 16}_{presented.split('_')[2]}",
        f"firn_../{token_id}_{other_secret}",
        "ü" * 100,
        "x" * 100_000,
        expiring,
        revoked,
    ]
    messages = set()
    for token in wrong:
        with pytest.raises(UnauthenticatedError) as caught:
            await verify_token(kv, clock, token)
        messages.add(str(caught.value))
    assert len(messages) == 1
    assert (await verify_token(kv, clock, presented)).token_id == token_id
    assert expiring_id not in messages.pop()


async def test_a_token_is_good_until_it_expires(kv: MemoryKV, clock: ManualClock) -> None:
    _token_id, presented = await create_token(kv, clock, "reader", "a", expires_in_s=1.5)
    clock.advance(1_499)
    assert (await verify_token(kv, clock, presented)).expires_ms == clock.now_ms() + 1
    clock.advance(1)
    with pytest.raises(UnauthenticatedError):
        await verify_token(kv, clock, presented)


async def test_tokens_are_listed_oldest_first_without_their_secrets(kv: MemoryKV, clock: ManualClock) -> None:
    created = []
    for name in ("first", "second", "third"):
        created.append(await create_token(kv, clock, "reader", name))
        clock.advance(1)
    tokens = await list_tokens(kv)
    assert [token.name for token in tokens] == ["first", "second", "third"]
    assert all(presented.split("_")[2] not in repr(tokens) for _token_id, presented in created)


async def test_revoking_an_unknown_token_is_not_found(kv: MemoryKV, clock: ManualClock) -> None:
    with pytest.raises(NotFoundError, match="no such token"):
        await revoke_token(kv, "0" * 16)
    token_id, _presented = await create_token(kv, clock, "reader", "a")
    await revoke_token(kv, token_id)
    with pytest.raises(NotFoundError):
        await revoke_token(kv, token_id)


@pytest.mark.parametrize(
    ("role", "name", "expires_in_s"),
    [
        ("root", "a", None),
        ("reader", "", None),
        ("reader", "  ", None),
        ("reader", "a\nb", None),
        ("reader", "x" * 101, None),
        ("reader", "a", 0),
        ("reader", "a", -1),
        ("reader", "a", float("nan")),
        ("reader", "a", float("inf")),
    ],
)
async def test_a_token_that_makes_no_sense_is_refused(
    kv: MemoryKV, clock: ManualClock, role: str, name: str, expires_in_s: float | None
) -> None:
    with pytest.raises(InvalidError):
        await create_token(kv, clock, role, name, expires_in_s)
    assert await list_tokens(kv) == []


@pytest.mark.parametrize("stored", [b"", b"{}", b"[]", b'{"version": 2, "role": "admin"}', b"\xff"])
async def test_a_damaged_token_is_reported_and_can_be_revoked(kv: MemoryKV, clock: ManualClock, stored: bytes) -> None:
    token_id, presented = await create_token(kv, clock, "reader", "a")
    await kv.txn({}, [Put(TOKEN_PREFIX + token_id, stored)])
    with pytest.raises(CorruptError, match=token_id):
        await verify_token(kv, clock, presented)
    await revoke_token(kv, token_id)


async def test_the_stored_form_of_version_1_is_still_read(kv: MemoryKV, clock: ManualClock) -> None:
    golden = (
        b'{"version": 1, "role": "writer", "name": "etl", "sha256":'
        b' "60e05bd1b195af2f94112fa7197a5c88289058840ce7c6df9693756bc6250f55",'
        b' "created_ms": 1700000000000, "expires_ms": null}'
    )
    await kv.txn({}, [Put(TOKEN_PREFIX + "0123456789abcdef", golden)])
    token = await verify_token(kv, clock, "firn_0123456789abcdef_" + "0" * 64)
    assert token == Token("0123456789abcdef", "writer", "etl", 1_700_000_000_000, None)
