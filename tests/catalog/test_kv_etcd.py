"""What needs no server: the rebuilt stubs of etcd3, and what etcd's errors mean."""

import subprocess
import sys
from pathlib import Path

import pytest

from catalog.kv.etcd_errors import did_not_happen, final_error, is_from_etcd, token_is_stale
from catalog.kv.etcd_members import EtcdOptions
from catalog.kv.etcd_stubs import load_etcdrpc
from storage.errors import (
    CorruptError,
    FirnlineError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)

ROOT = Path(__file__).parents[2]


def run(code: str) -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT)


def test_the_stubs_build_messages_that_travel() -> None:
    rpc = load_etcdrpc()
    request = rpc.TxnRequest(compare=[rpc.Compare(key=b"k", target=rpc.Compare.MOD, mod_revision=7)])
    assert rpc.TxnRequest.FromString(request.SerializeToString()) == request
    assert rpc.NOSPACE == rpc.AlarmType.Value("NOSPACE") == 1


def test_etcd3_imports_unmodified_once_its_stubs_are_loaded() -> None:
    run("from catalog.kv.etcd_stubs import load_etcdrpc; load_etcdrpc(); import etcd3; assert etcd3.client")


def test_the_stubs_leave_the_default_descriptor_pool_and_the_parser_alone() -> None:
    run(
        "from google.protobuf import descriptor_pool\n"
        "from google.protobuf.internal import api_implementation\n"
        "from catalog.kv.etcd_stubs import load_etcdrpc\n"
        "rpc = load_etcdrpc()\n"
        "assert load_etcdrpc() is rpc\n"
        "assert api_implementation.Type() == 'upb'\n"
        "for name in ('kv.proto', 'auth.proto', 'rpc.proto'):\n"
        "    try: descriptor_pool.Default().FindFileByName(name)\n"
        "    except KeyError: continue\n"
        "    raise AssertionError(name)\n"
    )


@pytest.mark.parametrize(
    ("code", "details", "expected"),
    [
        ("OUT_OF_RANGE", "etcdserver: mvcc: required revision has been compacted", NotFoundError),
        ("NOT_FOUND", "etcdserver: requested lease not found", NotFoundError),
        ("INVALID_ARGUMENT", "etcdserver: request is too large", InvalidError),
        ("INVALID_ARGUMENT", "etcdserver: authentication failed, invalid user ID or password", ForbiddenError),
        ("INVALID_ARGUMENT", "etcdserver: user name is empty", ForbiddenError),
        ("PERMISSION_DENIED", "etcdserver: permission denied", ForbiddenError),
        ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded", UnavailableError),
        ("DATA_LOSS", "etcdserver: unrecoverable", CorruptError),
    ],
)
def test_an_error_that_will_not_go_away_is_raised(code: str, details: str, expected: type[FirnlineError]) -> None:
    error = final_error(code, details)
    assert type(error) is expected
    assert details in str(error)


@pytest.mark.parametrize(
    ("code", "details", "happened_not"),
    [
        ("UNAVAILABLE", "etcdserver: no leader", True),
        ("RESOURCE_EXHAUSTED", "etcdserver: too many requests", True),
        ("UNAUTHENTICATED", "etcdserver: invalid auth token", True),
        ("INVALID_ARGUMENT", "etcdserver: revision of auth store is old", True),
        ("UNAVAILABLE", "etcdserver: request timed out", False),
        ("UNAVAILABLE", "etcdserver: leader changed", False),
        ("UNAVAILABLE", "Socket closed", False),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", False),
        ("UNKNOWN", "something new", False),
        ("INTERNAL", "", False),
    ],
)
def test_an_error_that_may_pass_is_sent_again_and_doubted_unless_known(
    code: str, details: str, happened_not: bool
) -> None:
    assert final_error(code, details) is None
    assert did_not_happen(details) is happened_not


def test_what_a_member_says_is_a_sign_of_life_and_what_grpc_says_of_it_is_none() -> None:
    assert is_from_etcd("etcdserver: no leader")
    assert is_from_etcd("etcdserver: leader changed")
    assert not is_from_etcd("Deadline Exceeded")
    assert not is_from_etcd("failed to connect to all addresses; last error: Connection refused")


def test_only_a_stale_token_asks_for_another() -> None:
    assert token_is_stale("etcdserver: invalid auth token")
    assert not token_is_stale("etcdserver: permission denied")


@pytest.mark.parametrize("namespace", ["", "a/b", "a!txn", "a b", "é", "x" * 65])
def test_a_namespace_that_could_reach_into_another_is_refused(namespace: str) -> None:
    with pytest.raises(InvalidError, match="etcd namespace"):
        EtcdOptions(namespace=namespace)
