"""Tasks and replies on the wire: what is signed comes back as it was, and nothing else is ever believed."""

from __future__ import annotations

import hmac
import itertools
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions import signed
from functions.tasks import Page, Reply, Task, decode_reply, decode_task, encode_reply, encode_task
from storage.errors import CorruptError, FirnlineError, ForbiddenError, InvalidError, TooLargeError

SECRET = b"a secret that only coordinators and workers know"
NOW_MS = 1_700_000_000_000
GOLDEN = Path(__file__).parents[1] / "golden" / "tasks"
PAGES = (
    Page(3, 11, "ab" * 32, 0, b"hello world"),
    Page(9, 70_000, "cd" * 32, 4, None, "s3://lake/_firnline/results/1700000060000-s1/1.0-1-0.arrow"),
)
TASK = Task(
    kind="aggregate",
    statement_id="s1",
    id="2.7",
    body={"partition": 7, "exchange": {"kind": "hash", "keys": [0, 2], "n_buckets": 3}},
    payload=b"\x0a\x00plan",
    inputs={"stage_1": PAGES, "stage_0": ()},
    deadline_ms=NOW_MS + 60_000,
    inline_bytes_max=4096,
    results="s3://lake/_firnline/results/1700000060000-s1/",
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    attempt=2,
    memory_bytes=1 << 30,
)
REPLY = Reply(
    statement_id="s1",
    task_id="2.7",
    attempt=2,
    pages=PAGES,
    usage={"wall_ms": 12.5, "cpu_ms": 10.0, "requests": 3, "bytes_scanned": 4096, "cold": 1},
    body={"files": ["a.parquet"]},
)
FAILED = Reply("s1", "2.7", 2, error=CorruptError("a data file cannot be decoded", file="s3://lake/t/a").to_wire())


def plain(task: Task) -> Task:
    return replace(task, inputs={name: tuple(pages) for name, pages in task.inputs.items()})


def resealed(header: dict[str, Any], payload: bytes = b"", magic: bytes = b"FNTK", version: int = 1) -> bytes:
    """A message that someone with the secret wrote by hand."""
    text = json.dumps(header).encode()
    content = magic + version.to_bytes(2, "little") + len(text).to_bytes(4, "little") + text + payload
    return content + hmac.digest(SECRET, content, "sha256")


def test_a_task_comes_back_as_it_was_sent() -> None:
    assert plain(decode_task(encode_task(TASK, SECRET), SECRET, NOW_MS)) == plain(TASK)


def test_a_reply_comes_back_as_it_was_sent() -> None:
    for reply in (REPLY, FAILED):
        found = decode_reply(encode_reply(reply, SECRET), SECRET, TASK)
        assert replace(found, pages=tuple(found.pages)) == replace(reply, pages=tuple(reply.pages))


@given(
    body=st.dictionaries(
        st.text(max_size=8), st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5)
    ),
    payload=st.binary(max_size=100),
    data=st.lists(st.binary(max_size=50), max_size=4),
)
def test_any_body_payload_and_pages_come_back(body: dict[str, Any], payload: bytes, data: list[bytes]) -> None:
    pages = tuple(Page(1, len(each), "00", place, each) for place, each in enumerate(data))
    task = replace(TASK, body=body, payload=payload, inputs={"leaf": pages})
    assert plain(decode_task(encode_task(task, SECRET), SECRET, NOW_MS)) == plain(task)


def test_a_task_that_is_not_signed_with_our_secret_is_refused() -> None:
    message = encode_task(TASK, b"another secret")
    with pytest.raises(ForbiddenError, match="FIRN_TASK_SECRET"):
        decode_task(message, SECRET, NOW_MS)
    with pytest.raises(ForbiddenError):
        decode_task(encode_task(TASK, SECRET)[:-32] + bytes(32), SECRET, NOW_MS)


def test_a_secret_is_replaced_in_three_steps_and_every_neighbour_believes_every_other() -> None:
    steps = [b"old", b"old,new", b"new,old", b"new"]
    for before, after in itertools.pairwise(steps):
        for coordinator, worker in [(before, after), (after, before)]:
            decode_task(encode_task(TASK, coordinator), worker, NOW_MS)
            decode_reply(encode_reply(REPLY, worker), coordinator, TASK)
    with pytest.raises(ForbiddenError):
        decode_task(encode_task(TASK, b"old"), b"new", NOW_MS)
    with pytest.raises(InvalidError, match="FIRN_TASK_SECRET"):
        encode_task(TASK, b",")


def test_a_task_past_its_deadline_is_refused() -> None:
    message = encode_task(TASK, SECRET)
    decode_task(message, SECRET, TASK.deadline_ms)
    with pytest.raises(ForbiddenError, match="expired"):
        decode_task(message, SECRET, TASK.deadline_ms + 1)
    decode_task(encode_task(replace(TASK, deadline_ms=0), SECRET), SECRET, 2 * NOW_MS)


def test_without_a_secret_nothing_is_signed_and_nothing_is_believed() -> None:
    with pytest.raises(InvalidError, match="FIRN_TASK_SECRET"):
        encode_task(TASK, b"")
    with pytest.raises(InvalidError, match="FIRN_TASK_SECRET"):
        decode_task(encode_task(TASK, SECRET), b"", NOW_MS)


def test_a_reply_is_never_taken_for_a_task_nor_a_task_for_a_reply() -> None:
    with pytest.raises(InvalidError, match="no task"):
        decode_task(encode_reply(REPLY, SECRET), SECRET, NOW_MS)
    with pytest.raises(CorruptError):
        decode_reply(encode_task(TASK, SECRET), SECRET, TASK)


@pytest.mark.parametrize("change", [{"statement_id": "s2"}, {"task_id": "2.8"}, {"attempt": 3}])
def test_the_reply_to_another_task_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(CorruptError, match="another task"):
        decode_reply(encode_reply(replace(REPLY, **change), SECRET), SECRET, TASK)


@pytest.mark.parametrize("kind", ["task", "reply"])
def test_whatever_is_flipped_or_cut_off_is_a_clear_error(kind: str) -> None:
    message = encode_task(TASK, SECRET) if kind == "task" else encode_reply(REPLY, SECRET)
    chance = random.Random(5)

    def read(data: bytes) -> None:
        decode_task(data, SECRET, NOW_MS) if kind == "task" else decode_reply(data, SECRET, TASK)

    damaged = [message[: chance.randrange(len(message))] for _ in range(200)] + [message + b"x", b""]
    for _ in range(1000):
        place, bit = chance.randrange(len(message)), 1 << chance.randrange(8)
        damaged.append(message[:place] + bytes([message[place] ^ bit]) + message[place + 1 :])
    for data in damaged:
        with pytest.raises(FirnlineError) as caught:
            read(data)
        assert isinstance(caught.value, (InvalidError, CorruptError))


def test_what_someone_with_the_secret_wrote_wrongly_is_a_clear_error() -> None:
    good: dict[str, Any] = {"kind": "scan", "statement_id": "s", "id": "0.0"}
    decode_task(resealed(good), SECRET, NOW_MS)
    wrong: list[Any] = [
        [], "x", {}, good | {"kind": "shell"}, good | {"kind": ["scan"]}, good | {"id": ""}, good | {"id": 5},
        good | {"id": "x" * 300}, good | {"body": 3}, good | {"inputs": []}, good | {"inputs": {"a": 3}},
        good | {"inputs": {"a": [{}]}}, good | {"deadline_ms": -1}, good | {"deadline_ms": "soon"},
        good | {"attempt": True}, good | {"results": None}, good | {"parts": [10]}, good | {"parts": [-1]},
        good | {"inputs": {"a": [{"rows": 1, "bytes": 1, "checksum": "x"}]}},
        good | {"inputs": {"a": [{"rows": 1, "bytes": 1, "checksum": "x", "part": 9}]}},
    ]  # fmt: skip
    for header in wrong:
        with pytest.raises(InvalidError):
            decode_task(resealed(header), SECRET, NOW_MS)
    nested = b'{"kind": ' + b"[" * 100_000 + b"}"
    content = b"FNTK" + (1).to_bytes(2, "little") + len(nested).to_bytes(4, "little") + nested
    with pytest.raises(InvalidError, match="no JSON"):
        decode_task(content + hmac.digest(SECRET, content, "sha256"), SECRET, NOW_MS)


def test_a_header_that_claims_more_than_the_message_has_is_refused() -> None:
    content = b"FNTK" + (1).to_bytes(2, "little") + (1 << 31).to_bytes(4, "little") + b"{}"
    with pytest.raises(InvalidError, match="longer than the task"):
        decode_task(content + hmac.digest(SECRET, content, "sha256"), SECRET, NOW_MS)


def test_an_old_coordinators_task_with_fewer_fields_gets_the_defaults() -> None:
    old = decode_task(resealed({"kind": "scan", "statement_id": "s", "id": "0.0"}, b"plan"), SECRET, NOW_MS)
    assert old == Task("scan", "s", "0.0", {}, b"plan")


def test_a_newer_coordinators_task_with_unknown_fields_runs_unless_it_must_know_them() -> None:
    newer = {"kind": "scan", "statement_id": "s", "id": "0.0", "colour": "red", "limits": {"gpu": 1}}
    assert decode_task(resealed(newer), SECRET, NOW_MS).id == "0.0"
    assert decode_task(resealed(newer | {"must": ["attempt"]}), SECRET, NOW_MS).id == "0.0"
    with pytest.raises(InvalidError, match=r"deploy workers before coordinators fields=colour version=1"):
        decode_task(resealed(newer | {"must": ["colour"]}), SECRET, NOW_MS)


@pytest.mark.parametrize("version", [0, 2, 65535])
def test_a_task_of_a_version_that_is_not_read_names_both(version: int) -> None:
    message = resealed({"kind": "scan", "statement_id": "s", "id": "0.0"}, version=version)
    with pytest.raises(InvalidError, match=rf"version={version} reads=1\.\.1"):
        decode_task(message, SECRET, NOW_MS)


def test_what_is_no_json_value_is_refused_where_it_is_encoded() -> None:
    for body in ({"a": b"bytes"}, {"a": float("nan")}, {"a": {1, 2}}):
        with pytest.raises(InvalidError, match="JSON values"):
            encode_task(replace(TASK, body=body), SECRET)


def test_a_message_past_its_bound_is_refused_where_it_is_encoded_and_where_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    message = encode_task(TASK, SECRET)
    monkeypatch.setattr(signed, "MESSAGE_BYTES_MAX", 100)
    with pytest.raises(TooLargeError):
        encode_task(TASK, SECRET)
    with pytest.raises(TooLargeError):
        decode_task(message, SECRET, NOW_MS)


def test_tasks_and_replies_of_version_1_are_read_as_they_were_written() -> None:
    assert plain(decode_task((GOLDEN / "task-1.fntk").read_bytes(), SECRET, NOW_MS)) == plain(TASK)
    for name, reply in (("reply-1.fnrs", REPLY), ("error-1.fnrs", FAILED)):
        found = decode_reply((GOLDEN / name).read_bytes(), SECRET, TASK)
        assert replace(found, pages=tuple(found.pages)) == replace(reply, pages=tuple(reply.pages))


def test_what_is_written_now_is_what_version_1_is() -> None:
    assert encode_task(TASK, SECRET) == (GOLDEN / "task-1.fntk").read_bytes()
    assert encode_reply(REPLY, SECRET) == (GOLDEN / "reply-1.fnrs").read_bytes()
