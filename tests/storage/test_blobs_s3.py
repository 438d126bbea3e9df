"""S3 in particular: what a failure is called, what is tried again, and what a lost reply turns into."""

from __future__ import annotations

import asyncio
import http.client
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit
from uuid import uuid4

import pytest

from benchmarks.http_server import Request, Response
from benchmarks.s3_facade import S3Facade, serve
from benchmarks.s3_listing import list_objects, xml_error
from storage.blobs.ranges import coalesce
from storage.blobs.s3 import S3Blobs
from storage.blobs.s3_options import S3Options
from storage.clock import SystemClock
from storage.errors import (
    ConflictError,
    FirnlineError,
    ForbiddenError,
    IndeterminateError,
    InvalidError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)
from storage.stores import Stores
from tests.support.moto import create_bucket, free_port, moto_endpoint, moto_options

__all__ = ["moto_endpoint"]

pytestmark = pytest.mark.anyio


@pytest.fixture
def facade(tmp_path: Path) -> S3Facade:
    (tmp_path / "bucket").mkdir()
    return S3Facade(tmp_path, SystemClock())


@asynccontextmanager
async def opened(facade: S3Facade, **options: object) -> AsyncIterator[S3Blobs]:
    async with serve(facade) as endpoint:
        yield S3Blobs("bucket", moto_options(endpoint, **options), HastyClock())


class HastyClock(SystemClock):
    """Every pause is as short as it may be."""

    def uniform(self, low: float, high: float) -> float:
        return low


def script(method: str, faults: Iterable[str | None]) -> Callable[[Request], str | None]:
    """A fault for each request of ``method`` in turn, and none when the script has ended."""
    remaining = iter(faults)
    return lambda request: next(remaining, None) if request.method == method else None


HAPPENED = ["drop after", "after 500 InternalError", "after 503 "]
DID_NOT = ["drop before", "500 InternalError", "503 SlowDown", "503 ", "409 ConditionalRequestConflict", "429 Busy"]


@pytest.mark.parametrize("fault", HAPPENED + DID_NOT)
async def test_a_conditional_put_is_decided_whatever_became_of_its_reply(facade: S3Facade, fault: str) -> None:
    async with opened(facade) as blobs:
        facade.fault = script("PUT", [fault])
        created = await blobs.put("head", b"1", if_absent=True)
        assert (await blobs.head("head")).etag == created.etag
        facade.fault = script("PUT", [fault])
        replaced = await blobs.put("head", b"2", if_match=created.etag)
        assert (await blobs.get("head")) == (b"2", await blobs.head("head"))
        assert (await blobs.head("head")).etag == replaced.etag
        facade.fault = script("PUT", [fault])
        await blobs.put("head", b"3")
        assert (await blobs.get("head"))[0] == b"3"


async def test_a_put_that_a_proxy_repeated_is_not_a_conflict_with_itself(facade: S3Facade) -> None:
    class Repeating(S3Facade):
        def act(self, request: Request) -> Response | None:
            if request.method == "PUT":
                super().act(request)
            return super().act(request)

    repeating = Repeating(facade._root, SystemClock())
    async with opened(repeating) as blobs:
        created = await blobs.put("head", b"1", if_absent=True)
        await blobs.put("head", b"2", if_match=created.etag)
        assert (await blobs.get("head"))[0] == b"2"


async def test_two_puts_of_equal_content_still_have_one_winner(facade: S3Facade) -> None:
    async with opened(facade) as blobs:
        await blobs.put("lock", b"same", if_absent=True)
        facade.fault = script("PUT", ["drop before"])
        with pytest.raises(ConflictError):
            await blobs.put("lock", b"same", if_absent=True)


def overtaken(facade: S3Facade, theirs: Request, *, happens: bool) -> Callable[[Request], str | None]:
    """A fault that loses the reply to the next put, done or not, and lets another client's request come after it."""

    def fault(request: Request) -> str | None:
        if request.method != "PUT":
            return None
        facade.fault = None
        if happens:
            facade.act(request)
        facade.act(theirs)
        return "drop before"

    return fault


def their_put(key: str, base: str) -> Request:
    condition = {"if-none-match": "*"} if base == "absent" else {"if-match": base} if base != "any" else {}
    tags = {"x-amz-meta-firn-put": "theirs", "x-amz-meta-firn-base": base}
    return Request("PUT", f"/bucket/{key}", {}, {**condition, **tags}, b"theirs")


async def test_a_race_that_is_lost_for_certain_is_a_conflict_though_the_reply_was_lost(facade: S3Facade) -> None:
    async with opened(facade) as blobs:
        base = await blobs.put("head", b"base")
        facade.fault = overtaken(facade, their_put("head", base.etag.strip('"')), happens=False)
        with pytest.raises(ConflictError):
            await blobs.put("head", b"ours", if_match=base.etag)
        facade.fault = overtaken(facade, their_put("created", "absent"), happens=False)
        with pytest.raises(ConflictError):
            await blobs.put("created", b"ours", if_absent=True)
        assert (await blobs.get("created"))[0] == b"theirs"


@pytest.mark.parametrize("happens", [True, False])
async def test_what_another_may_have_overwritten_or_deleted_is_indeterminate(facade: S3Facade, happens: bool) -> None:
    async with opened(facade) as blobs:
        base = await blobs.put("head", b"base")
        for theirs in (their_put("head", "any"), Request("DELETE", "/bucket/head", {}, {})):
            facade.fault = overtaken(facade, theirs, happens=happens)
            with pytest.raises(IndeterminateError, match="key=head"):
                await blobs.put("head", b"ours", if_match=base.etag)
            base = await blobs.put("head", b"base")
        facade.fault = overtaken(facade, their_put("created", "any"), happens=happens)
        with pytest.raises(IndeterminateError, match="key=created"):
            await blobs.put("created", b"ours", if_absent=True)


async def test_a_store_that_keeps_no_metadata_is_read_back_by_content(facade: S3Facade) -> None:
    def forgetful(request: Request) -> str | None:
        if request.method != "PUT":
            return None
        facade.fault = None
        facade.act(Request("PUT", request.path, request.query, {}, request.body))
        return "drop before"

    async with opened(facade) as blobs:
        facade.fault = forgetful
        await blobs.put("created", b"ours", if_absent=True)
        assert (await blobs.get("created"))[0] == b"ours"


async def test_a_store_that_wants_if_match_without_quotes_is_understood(tmp_path: Path, facade: S3Facade) -> None:
    class Unquoted(S3Facade):
        def _answer(self, request: Request) -> Response:
            quoted = request.headers.get("if-match", "").startswith('"')
            return xml_error(412, "PreconditionFailed") if quoted else super()._answer(request)

    async with opened(Unquoted(tmp_path, SystemClock())) as blobs:
        first = await blobs.put("head", b"1")
        await blobs.put("head", b"2", if_match=first.etag)
        with pytest.raises(ConflictError):
            await blobs.put("head", b"3", if_match=first.etag)


async def test_a_put_whose_replies_all_get_lost_is_indeterminate_when_nothing_can_be_read(facade: S3Facade) -> None:
    facade.fault = lambda request: "drop after"
    async with opened(facade, attempts_max=2) as blobs:
        with pytest.raises(IndeterminateError, match="read it back"):
            await blobs.put("head", b"1", if_absent=True)
        with pytest.raises(IndeterminateError):
            await blobs.delete("head")


@pytest.mark.parametrize("fault", ["503 SlowDown", "429 TooManyRequests"])
async def test_a_put_that_certainly_did_not_happen_is_unavailable(facade: S3Facade, fault: str) -> None:
    facade.fault = lambda request: fault
    async with opened(facade, attempts_max=3) as blobs:
        with pytest.raises(UnavailableError, match=r"slow down.*bucket=bucket key=head"):
            await blobs.put("head", b"1", if_absent=True)
    assert facade.counts["PUT"] == 3


async def test_reads_are_tried_again_and_no_more_often_than_allowed(facade: S3Facade) -> None:
    async with opened(facade, attempts_max=4) as blobs:
        await blobs.put("blob", b"content")
        for call in (lambda: blobs.get("blob"), lambda: blobs.get_range("blob", 0, 1)):
            facade.fault = script("GET", ["drop before", "500 InternalError", "503 SlowDown"])
            await call()
        facade.counts.clear()
        facade.fault = lambda request: "503 SlowDown"
        with pytest.raises(UnavailableError):
            await blobs.get("blob")
        assert facade.counts["GET"] == 4


@pytest.mark.parametrize("seed", range(20))
async def test_concurrent_writers_over_a_bad_network_commit_each_entry_as_often_as_they_were_told(
    facade: S3Facade, seed: int
) -> None:
    dice = random.Random(seed)
    faults = [None, None, None, "drop before", "drop after", "after 500 InternalError", "503 SlowDown"]
    async with opened(facade, attempts_max=6) as blobs:
        await blobs.put("head", b"")
        facade.fault = lambda request: dice.choice(faults)
        done, unknown, lost = set(), set(), set()

        async def write(entry: bytes) -> None:
            try:
                data, meta = await blobs.get("head")
                await blobs.put("head", data + entry, if_match=meta.etag)
                done.add(entry)
            except (ConflictError, UnavailableError):
                lost.add(entry)
            except IndeterminateError:
                unknown.add(entry)

        for n in range(4):
            await asyncio.gather(*(write(b"%d.%d;" % (n, writer)) for writer in range(3)))
        facade.fault = None
        committed = (await blobs.get("head"))[0].split(b";")[:-1]
    entries = [entry + b";" for entry in committed]
    assert len(set(entries)) == len(entries)
    assert done <= set(entries) <= done | unknown
    assert not lost & set(entries)


async def test_the_bucket_is_named_when_there_is_none(moto_endpoint: str) -> None:
    blobs = S3Blobs("no-such-bucket", moto_options(moto_endpoint), SystemClock())
    for call in (blobs.get("k"), blobs.put("k", b""), blobs.put("k", b"", if_match="e"), blobs.delete("k")):
        with pytest.raises(NotFoundError, match="no-such-bucket"):
            await call
    with pytest.raises(NotFoundError, match=r"no such bucket.* bucket=no-such-bucket"):
        [_ async for _ in blobs.list()]


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        ("403 AccessDenied", ForbiddenError, "do not allow it.*bucket=bucket"),
        ("403 InvalidAccessKeyId", ForbiddenError, "AWS_ACCESS_KEY_ID.*bucket=bucket"),
        ("403 SignatureDoesNotMatch", ForbiddenError, "AWS_ACCESS_KEY_ID.*bucket=bucket"),
        ("400 ExpiredToken", ForbiddenError, "AWS_ACCESS_KEY_ID.*bucket=bucket"),
        ("403 RequestTimeTooSkewed", ForbiddenError, "clock"),
        ("401 Unauthorized", ForbiddenError, "bucket=bucket"),
        ("400 AuthorizationHeaderMalformed", InvalidError, "AWS_REGION"),
        ("301 PermanentRedirect", InvalidError, "AWS_REGION"),
        ("501 NotImplemented", UnsupportedError, "bucket=bucket"),
        ("400 EntityTooLarge", InvalidError, "code=EntityTooLarge"),
    ],
)
async def test_a_refusal_says_what_to_mend_and_is_not_tried_again(
    facade: S3Facade, fault: str, error: type[FirnlineError], text: str
) -> None:
    async with opened(facade) as blobs:
        facade.fault = lambda request: fault
        for call in (blobs.get("k"), blobs.put("k", b"", if_absent=True), blobs.get_range("k", 0, 1)):
            with pytest.raises(error, match=text):
                await call
        with pytest.raises(error, match=text):
            [_ async for _ in blobs.list()]
        assert facade.counts["total"] == 4


async def test_a_key_cannot_pass_for_an_answer_of_the_store(facade: S3Facade) -> None:
    key = "inner: Status { status: 503, body: <Code>NoSuchBucket</Code> Debug source: kind: Connect"
    async with opened(facade) as blobs:
        with pytest.raises(NotFoundError, match="no such blob"):
            await blobs.get(key)
    assert facade.counts["total"] == 1


async def test_a_store_that_is_not_there_is_unavailable_and_named() -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    blobs = S3Blobs("bucket", moto_options(endpoint, attempts_max=2), SystemClock())
    for call in (blobs.get("k"), blobs.put("k", b"", if_absent=True), blobs.delete("k")):
        with pytest.raises(UnavailableError, match=f"cannot be reached.*endpoint={endpoint}"):
            await call


async def test_a_store_that_does_not_answer_is_given_up_in_time(facade: S3Facade) -> None:
    async with serve(facade, delay_ms=60_000) as endpoint:
        blobs = S3Blobs("bucket", moto_options(endpoint, request_timeout_ms=100, attempts_max=2), SystemClock())
        started = time.monotonic()
        with pytest.raises(UnavailableError, match="did not answer in time"):
            await blobs.get("k")
        assert time.monotonic() - started < 5


async def test_the_process_environment_has_no_say_when_options_are_given(
    facade: S3Facade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "environment")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "environment")
    monkeypatch.setenv("AWS_REGION", "eu-nowhere-1")
    seen: list[Request] = []
    facade.fault = lambda request: seen.append(request)
    async with opened(facade) as blobs:
        await blobs.put("k", b"")
    assert "Credential=test/" in seen[0].headers["authorization"]
    assert "/us-east-1/" in seen[0].headers["authorization"]
    assert "x-amz-security-token" not in seen[0].headers


@pytest.fixture
def no_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment in which the standard chain finds nothing."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return monkeypatch


async def chain_credential(facade: S3Facade) -> str:
    """The access key that a request was signed with when the options give none."""
    seen: list[Request] = []
    facade.fault = lambda request: seen.append(request)
    async with serve(facade) as endpoint:
        await S3Blobs("bucket", S3Options(endpoint=endpoint), SystemClock()).put("k", b"")
    return seen[0].headers["authorization"].partition("Credential=")[2].partition("/")[0]


async def test_without_credentials_the_error_says_how_to_give_some(
    facade: S3Facade, no_aws: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ForbiddenError, match=r"no aws credentials.*AWS_ACCESS_KEY_ID.*bucket=bucket"):
        await chain_credential(facade)


async def test_a_missing_profile_is_an_error_and_no_trace(facade: S3Facade, no_aws: pytest.MonkeyPatch) -> None:
    no_aws.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ForbiddenError, match="nobody"):
        await chain_credential(facade)


async def test_credentials_come_from_the_standard_chain(
    facade: S3Facade, no_aws: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = file\naws_secret_access_key = secret\n")
    assert await chain_credential(facade) == "file"
    no_aws.setenv("AWS_ACCESS_KEY_ID", "environment")
    no_aws.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert await chain_credential(facade) == "environment"


async def test_credentials_come_from_a_web_identity(
    facade: S3Facade, no_aws: pytest.MonkeyPatch, tmp_path: Path, moto_endpoint: str
) -> None:
    (tmp_path / "token").write_text("a token of the cluster's")
    no_aws.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    no_aws.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/reader")
    no_aws.setenv("AWS_ENDPOINT_URL_STS", moto_endpoint)
    no_aws.setenv("AWS_REGION", "us-east-1")
    assert (await chain_credential(facade)).startswith("ASIA")


async def test_an_anonymous_request_is_not_signed(facade: S3Facade) -> None:
    seen: list[Request] = []
    facade.fault = lambda request: seen.append(request)
    async with serve(facade) as endpoint:
        await S3Blobs("bucket", S3Options(endpoint=endpoint, anonymous=True), SystemClock()).put("k", b"")
    assert "authorization" not in seen[0].headers


def test_local_blobs_load_no_s3_library_and_static_keys_no_botocore() -> None:
    code = """
import sys
from storage.blobs.open import open_blobs, S3Options
from storage.clock import SystemClock
open_blobs("file://", s3=S3Options(), clock=SystemClock())
assert not {"obstore", "botocore", "boto3", "pyarrow", "numpy"} & set(sys.modules)
open_blobs("s3://bucket", s3=S3Options(), clock=SystemClock())
assert "obstore" in sys.modules and "botocore" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def put_raw(endpoint: str, bucket: str, key: str) -> None:
    """Create an empty object under any name, as other programs do."""
    connection = http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=10)
    connection.request("PUT", f"/{bucket}/{quote(key)}", headers={"Content-Length": "0"})
    assert connection.getresponse().status == 200
    connection.close()


async def test_folder_markers_of_other_programs_are_not_blobs(moto_endpoint: str) -> None:
    bucket = f"markers-{uuid4().hex}"
    create_bucket(moto_endpoint, bucket)
    for key in ("folder/", "folder/below/", "folder/below/blob", "folder-2", "empty", "twice", "twice-2", "twice/"):
        put_raw(moto_endpoint, bucket, key)
    blobs = S3Blobs(bucket, moto_options(moto_endpoint), SystemClock())
    expected = ["empty", "folder-2", "folder/below/blob", "twice", "twice-2"]
    assert [meta.key async for meta in blobs.list()] == expected
    assert [meta.key async for meta in blobs.list("folder/")] == ["folder/below/blob"]


async def test_a_key_that_no_path_can_name_is_reported(moto_endpoint: str) -> None:
    bucket = f"odd-{uuid4().hex}"
    create_bucket(moto_endpoint, bucket)
    put_raw(moto_endpoint, bucket, "a//b")
    blobs = S3Blobs(bucket, moto_options(moto_endpoint), SystemClock())
    with pytest.raises(InvalidError, match=r"a//b.*bucket=odd"):
        [_ async for _ in blobs.list()]


async def test_a_listing_asks_for_as_many_pages_as_it_must(facade: S3Facade, tmp_path: Path) -> None:
    (tmp_path / "bucket" / "log").mkdir()
    names = [f"log/{n:05}" for n in range(2300)]
    for name in names:
        (tmp_path / "bucket" / name).write_bytes(b"x")
    async with opened(facade) as blobs:
        assert [meta.key async for meta in blobs.list("log/")] == names
        assert facade.counts["LIST"] == 3
        facade.counts.clear()
        assert [meta.key async for meta in blobs.list("log/", start_after="log/02290")] == names[2291:]
        assert [meta.key async for meta in blobs.list("log/0100")] == names[1000:1010]
        assert facade.counts["LIST"] <= 3
        facade.fault = script("GET", [None, "drop before", "503 SlowDown", None, "drop before"])
        assert [meta.key async for meta in blobs.list("log/")] == names
    assert facade.counts["PUT"] == 0


async def test_near_ranges_are_one_request_and_far_ones_are_not(facade: S3Facade) -> None:
    async with opened(facade) as blobs:
        await blobs.put("blob", bytes(4 << 20))
        await blobs.get_ranges("blob", [(0, 100), (50_000, 50_100), (10, 20)])
        assert facade.counts["GET"] == 1
        await blobs.get_ranges("blob", [(0, 100), (3 << 20, (3 << 20) + 100)])
        assert facade.counts["GET"] == 3
        await blobs.get_range("blob", 7, 7)
        assert (facade.counts["GET"], facade.counts["HEAD"]) == (3, 1)


async def test_exact_ranges_are_one_request_each_all_at_once_and_of_one_version(facade: S3Facade) -> None:
    headers: list[str | None] = []

    def note(request: Request) -> None:
        headers.append(request.headers.get("if-match"))

    async with opened(facade) as blobs:
        etag = (await blobs.put("blob", bytes(4 << 20))).etag
        facade.counts.clear()
        facade.fault = note
        stores = Stores(lambda _root: blobs)
        ranges = [(n * 100, n * 100 + 50) for n in range(20)]
        assert await stores.get_ranges("s3://b/blob", [*ranges, (9, 9)], if_match=etag, exact=True) == [
            bytes(50)
        ] * 20 + [b""]
        assert (facade.counts["total"], stores.count.requests, stores.count.bytes) == (20, 20, 1000)
        assert headers == [etag] * 20
        await stores.get_ranges("s3://b/blob", ranges, if_match=etag)
        assert (facade.counts["total"], stores.count.requests) == (21, 21)
        assert await stores.get_range_with_etag("s3://b/blob", 0, 5, if_match=etag) == (bytes(5), etag)
        assert (facade.counts["total"], stores.count.requests) == (22, 22)
        facade.fault = script("GET", ["503 SlowDown", "drop before", None])
        assert await blobs.get_ranges("blob", [(0, 5)], if_match=etag, exact=True) == [bytes(5)]
        facade.fault = None
        await blobs.put("blob", b"another")
        with pytest.raises(ConflictError):
            await stores.get_ranges("s3://b/blob", [(0, 5)], if_match=etag, exact=True)


def test_ranges_are_joined_when_they_touch_overlap_or_lie_near() -> None:
    assert coalesce([(5, 9), (0, 5), (20, 30), (22, 25), (3, 3)], 0) == [(0, 9), (20, 30)]
    assert coalesce([(0, 5), (15, 20), (31, 40)], 10) == [(0, 20), (31, 40)]
    assert coalesce([], 10) == []


@pytest.mark.parametrize("expires_s", [0, -1, 7 * 24 * 3600 + 1])
async def test_a_presigned_url_lives_a_second_to_a_week(expires_s: int) -> None:
    blobs = S3Blobs("bucket", moto_options("http://127.0.0.1:1"), SystemClock())
    with pytest.raises(InvalidError, match="seven days"):
        await blobs.presign("blob", expires_s=expires_s)


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://localhost", "http://[::1]:9", "https://s3.example"])
def test_an_endpoint_is_https_or_on_this_host(endpoint: str) -> None:
    assert S3Options(endpoint=endpoint).endpoint == endpoint


@pytest.mark.parametrize("endpoint", ["http://s3.example", "http://10.0.0.1:9000", "http://127.0.0.1.example"])
def test_plain_http_to_another_host_must_be_allowed(endpoint: str) -> None:
    with pytest.raises(InvalidError, match="allow http explicitly"):
        S3Options(endpoint=endpoint)
    assert S3Options(endpoint=endpoint, allow_http=True).endpoint == endpoint


@pytest.mark.parametrize(
    "options",
    [
        {"endpoint": "s3.example"},
        {"endpoint": "ftp://s3.example"},
        {"endpoint": "https://"},
        {"access_key_id": "key"},
        {"secret_access_key": "secret"},
        {"attempts_max": 0},
        {"request_timeout_ms": 0},
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InvalidError):
        S3Options(**options)  # type: ignore[arg-type]


def test_options_show_no_secret() -> None:
    options = S3Options(access_key_id="key", secret_access_key="hidden-secret", session_token="hidden-token")
    assert "hidden" not in repr(options)


@pytest.mark.parametrize(
    ("options", "endpoint"),
    [
        (S3Options(), "https://s3.us-east-1.amazonaws.com"),
        (S3Options(region="eu-west-1"), "https://s3.eu-west-1.amazonaws.com"),
        (S3Options(region="eu-west-1", virtual_hosted=True), "https://bkt.s3.eu-west-1.amazonaws.com"),
        (S3Options(endpoint="https://store.example:9/path/"), "https://store.example:9/path"),
        (S3Options(endpoint="https://store.example:9", virtual_hosted=True), "https://bkt.store.example:9"),
    ],
)
def test_the_endpoint_follows_region_and_addressing(options: S3Options, endpoint: str) -> None:
    assert options.endpoint_of("bkt") == endpoint


async def test_a_listing_in_pages_that_are_short_is_whole(
    facade: S3Facade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "benchmarks.s3_facade.list_objects",
        lambda bucket, folder, query: list_objects(bucket, folder, {**query, "max-keys": "7"}),
    )
    keys = [f"x/{number:03}" for number in range(50)]
    async with opened(facade) as blobs:
        for key in keys:
            await blobs.put(key, b"1")
        facade.counts.clear()
        assert [meta.key async for meta in blobs.list("x/")] == keys
    assert facade.counts["LIST"] == 8
